"""Prototypical networks: the nearest class mean in a learned space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import expected
from fastmeta.kernels import pairwise_distance, prototypes
from fastmeta.trace import Array

__all__ = ["ProtoNet"]

METRICS = ("sqeuclidean", "euclidean", "cosine", "dot", "l1")


class ProtoNet(MetricLearner):
    """Prototypical network: a query's logits are minus its distances to the class means of the embedded support set.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` with ``model.init(seed)``, or any such function.
        metric: "sqeuclidean" (the paper's), "euclidean", "cosine", "dot" or "l1".
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Snell, Swersky, Zemel 2017, equations 1 and 2.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = ProtoNet(MLP((2, 16, 4)))
    >>> params = learner.init(seed=0)
    >>> adapted = learner.adapt(params, np.array([[0, 0], [5, 5]], np.float32), np.array([0, 1]))
    >>> learner.predict(adapted, np.array([[5, 4]], np.float32)).argmax()
    np.int64(1)
    """

    def __init__(self, model: Callable[..., Any], metric: str = "sqeuclidean", ways: int | None = None):
        super().__init__(model, ways)
        if metric not in METRICS:
            raise expected(self._name, f"metric one of {', '.join(METRICS)}", repr(metric))
        self.metric = metric

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        return prototypes(z, y, n_way=len(classes))

    def _logits(self, params: Any, task: Array, z: Array) -> Array:
        return fa.negative(pairwise_distance(z, task, metric=self.metric))
