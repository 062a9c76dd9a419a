"""The engine's building blocks of episodes: one task, also inside a trace, or a leading task axis, all tasks in one native call.

>>> sorted(METRICS)  # the names that ``metric=`` takes
['cosine', 'dot', 'euclidean', 'l1', 'mahalanobis', 'rbf', 'sqeuclidean', 'sqmahalanobis']
"""

from fastmeta.kernels.adaptation import gradient_steps, hvp
from fastmeta.kernels.distance import METRICS, pairwise_distance
from fastmeta.kernels.episode import attention, nearest, proto_loss, prototypes

__all__ = ["METRICS", "attention", "gradient_steps", "hvp", "nearest", "pairwise_distance", "proto_loss", "prototypes"]
