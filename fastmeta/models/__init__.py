"""Models: ``init(seed) -> params`` and ``model(params, x, mode="batch", step=None) -> output``, without hidden state."""

from fastmeta.models.conv4 import Conv4
from fastmeta.models.mlp import MLP
from fastmeta.models.relation import RelationEncoder, RelationModule

__all__ = ["MLP", "Conv4", "RelationEncoder", "RelationModule"]
