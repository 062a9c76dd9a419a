"""Models: ``init(seed) -> params`` and ``model(params, x, mode="batch", step=None, state=None) -> output``, without hidden state.

``init_state()`` makes the statistics of batch norm for the modes "running" and "per_step".
"""

from fastmeta.models.conv4 import Conv4
from fastmeta.models.mlp import MLP
from fastmeta.models.resnet12 import ResNet12

__all__ = ["MLP", "Conv4", "ResNet12"]
