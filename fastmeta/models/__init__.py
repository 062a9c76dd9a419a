"""Models: ``init(seed) -> params`` and ``model(params, x, mode="batch", step=None) -> output``, without hidden state."""

from fastmeta.models.conv4 import Conv4
from fastmeta.models.mlp import MLP
from fastmeta.models.resnet12 import ResNet12

__all__ = ["MLP", "Conv4", "ResNet12"]
