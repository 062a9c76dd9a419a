"""Prototypical networks: the nearest class mean in a learned space, also with unlabelled examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta.algorithms.inner import positive
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import expected, whole
from fastmeta.kernels import pairwise_distance, prototypes
from fastmeta.trace import Array

__all__ = ["METRICS", "ProtoNet", "SemiSupervisedProtoNet"]

METRICS = ("sqeuclidean", "euclidean", "cosine", "dot", "l1")  # those without a scale


class ProtoNet(MetricLearner):
    """Prototypical network: a query's logits are minus its distances to the class means of the embedded support set.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` with ``model.init(seed)``, or any such function.
        metric: "sqeuclidean" (the paper's), "euclidean", "cosine", "dot" or "l1"; see `fastmeta.kernels.pairwise_distance`.
        temperature: by which distances are divided, above 0.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

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

    def __init__(
        self, model: Callable[..., Any], metric: str = "sqeuclidean", temperature: float = 1.0, ways: int | None = None, batch_norm: str = "batch"
    ):
        super().__init__(model, ways, batch_norm)
        self.metric = one_metric(self._name, metric)
        self.temperature = positive(self._name, "temperature", temperature)

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        return prototypes(z, y, n_way=len(classes))

    def _logits(self, params: Any, task: Array, z: Array) -> Array:
        return fa.multiply(pairwise_distance(z, task, metric=self.metric), -1.0 / self.temperature)


class SemiSupervisedProtoNet(ProtoNet):
    """Prototypical network whose prototypes are refined by unlabelled examples: those of the support set with the label -1.

    In each of ``refinements`` rounds of soft k-means every unlabelled example counts for each class by the probability that
    the prototypes give it, a labelled one for its class with weight 1, and prototypes are the weighted means.

    Args:
        model, metric, temperature, ways, batch_norm: as for `ProtoNet`.
        refinements: rounds, at least 0 (then unlabelled examples are ignored).

    Errors: as for `ProtoNet`; ValueError for labels below -1.
    Source: Ren et al. 2018, section 3.1.1 (soft k-means, one round).

    >>> import numpy as np
    >>> from fastmeta.algorithms.frozen import Frozen
    >>> learner = SemiSupervisedProtoNet(Frozen())
    >>> x, y = np.array([[0.0], [4.0], [0.2], [6.0]], np.float32), np.array([0, 1, -1, -1])
    >>> learner.adapt((), x, y)[1].round(2)
    array([[0.1],
           [5. ]], dtype=float32)
    """

    _least_label = -1

    def __init__(
        self, model: Callable[..., Any], metric: str = "sqeuclidean", temperature: float = 1.0, refinements: int = 1,
        ways: int | None = None, batch_norm: str = "batch",
    ):  # fmt: skip
        super().__init__(model, metric, temperature, ways, batch_norm)
        self.refinements = whole(self._name, "refinements", refinements, least=0)

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        labelled = fa.one_hot(y, len(classes), dtype=z.dtype)  # of -1: zeros
        without = fa.expand_dims(fa.astype(fa.less(y, 0), dtype=z.dtype), axis=1)
        means = _weighted_means(z, labelled)
        for _ in range(self.refinements):
            soft = fa.softmax(self._logits(params, means, z), axis=1)
            means = _weighted_means(z, fa.add(labelled, fa.multiply(soft, without)))
        return means


def _weighted_means(z: Array, weights: Array) -> Array:
    """z [n, D] averaged with weights [n, classes]: [classes, D]."""
    return fa.divide(fa.einsum("nc,nd->cd", weights, z), fa.expand_dims(fa.sum(weights, axis=0), axis=1))


def one_metric(where: str, metric: str) -> str:
    """The metric, if it is a known one without a scale."""
    if metric not in METRICS:
        raise expected(where, f"metric one of {', '.join(METRICS)}", repr(metric))
    return metric
