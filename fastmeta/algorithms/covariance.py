"""Classes as ellipsoids: Mahalanobis distances with covariances shrunk towards the task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.algorithms.inner import positive
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.kernels import prototypes
from fastmeta.loops import map_tasks
from fastmeta.trace import Array

__all__ = ["CovarianceNet"]


class CovarianceNet(MetricLearner):
    """The head of simple CNAPS: a query's logits are minus half its squared Mahalanobis distances to the class means.

    The covariance of class k with n examples is s S_k + (1 - s) S + ridge I with the shrinkage s = n / (n + 1), S_k the sample
    covariance of the class (0 for one example) and S that of the whole support set: positive definite whatever the support.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` with ``model.init(seed)``, or any such function.
        ridge: beta of the paper, above 0; 1 there.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Bateni et al. 2020, equations 1 and 2.

    >>> from fastmeta.algorithms.frozen import Frozen
    >>> learner = CovarianceNet(Frozen(), ridge=0.01)
    >>> x = np.array([[-3, 0], [3, 0], [0, 1], [0, 2]], np.float32)  # wide and flat, narrow and high
    >>> adapted = learner.adapt((), x, np.array([0, 0, 1, 1]))
    >>> learner.predict(adapted, np.array([[2.5, 0.8]], np.float32)).argmax()
    np.int64(0)
    """

    def __init__(self, model: Callable[..., Any], ridge: float = 1.0, ways: int | None = None, batch_norm: str = "batch"):
        super().__init__(model, ways, batch_norm)
        self.ridge = positive(self._name, "ridge", ridge)

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> tuple[Array, Array]:
        ways = len(classes)
        means = prototypes(z, y, n_way=ways)
        weights = fa.permute_dims(fa.one_hot(y, ways, dtype=z.dtype), (1, 0))
        count = fa.reshape(fa.sum(weights, axis=1), (ways, 1, 1))
        own = fa.subtract(z, fa.take(means, y, axis=0))
        products = fa.matmul(fa.permute_dims(fa.multiply(fa.expand_dims(weights, axis=2), own), (0, 2, 1)), own)
        of_class = fa.divide(products, fa.maximum(fa.subtract(count, 1.0), 1.0))
        all_ = fa.subtract(z, fa.mean(z, axis=0))
        of_task = fa.multiply(fa.matmul(fa.permute_dims(all_, (1, 0)), all_), 1.0 / max(z.shape[0] - 1, 1))
        share = fa.divide(count, fa.add(count, 1.0))
        mixed = fa.add(fa.multiply(of_class, share), fa.multiply(of_task, fa.subtract(1.0, share)))
        # Inverted here, once for a support set, whatever the number of predictions.
        return means, fa.inverse(fa.add(mixed, self.ridge * np.eye(z.shape[1], dtype=z.dtype)))

    def _logits(self, params: Any, task: tuple[Array, Array], z: Array) -> Array:
        squares = map_tasks(_mahalanobis, in_axes=(None, 0, 0))(z, *task)
        return fa.multiply(fa.permute_dims(squares, (1, 0)), -0.5)


def _mahalanobis(z: Array, mean: Array, inverse: Array) -> Array:
    """The squared distances of the rows z [n, D] from the mean of one class, by its inverse covariance [D, D]."""
    apart = fa.subtract(z, mean)
    return fa.sum(fa.multiply(fa.matmul(apart, inverse), apart), axis=1)
