"""Siamese networks: trained to tell whether two examples are of one class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.inner import positive
from fastmeta.algorithms.learner import features
from fastmeta.algorithms.matching import best_of_class, members
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import expected
from fastmeta.kernels import pairwise_distance
from fastmeta.trace import Array

__all__ = ["Siamese"]

OBJECTIVES = ("contrastive", "weighted-l1")


class Siamese(MetricLearner):
    """Siamese network: every query with every support example is a pair, of one class or of two; the best match tells the class.

    Pairs of one class and pairs of two count half each, whatever the number of classes.  The similarity of a pair is, for

    - "contrastive": minus its Euclidean distance d; the loss is d^2 for one class, max(0, margin - d)^2 for two.
    - "weighted-l1": abs(a - b) w + b, the logit of being of one class, with the binary cross-entropy.  w and b are learned, the
      meta-parameters {"model", "w" [features], "b"}.

    Outputs are the largest similarity within each class.

    Args:
        model: an embedding ``model(params, x) -> [n, features]``; for "weighted-l1" one that says ``model.outputs``, its features.
        objective: "contrastive" or "weighted-l1".
        margin: of the contrastive loss, above 0.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Hadsell, Chopra, LeCun 2006, equation 4 (contrastive, times 2); Koch, Zemel, Salakhutdinov 2015 (weighted L1).

    >>> from fastmeta.models import MLP
    >>> learner = Siamese(MLP((2, 8, 4)), objective="weighted-l1")
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> learner.predict(adapted, x).argmax(axis=1)
    array([0, 1])
    """

    def __init__(
        self, model: Callable[..., Any], objective: str = "contrastive", margin: float = 1.0, ways: int | None = None, batch_norm: str = "batch"
    ):
        super().__init__(model, ways, batch_norm)
        if objective not in OBJECTIVES:
            raise expected(self._name, f"objective one of {', '.join(OBJECTIVES)}", repr(objective))
        self.objective = objective
        self.margin = positive(self._name, "margin", margin)

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters; weighted differences start as minus their mean."""
        weights = super().init(seed)
        if self.objective == "contrastive":
            return weights
        n = features(self._name, "model", self.model)
        return {"model": weights, "w": np.full(n, -1.0 / n, np.float32), "b": np.zeros((), np.float32)}

    def _weights(self, params: Any) -> Any:
        return params if self.objective == "contrastive" else params["model"]

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> tuple[Array, Array]:
        return z, members(y, classes)

    def _similarities(self, params: Any, z: Array, support: Array) -> Array:
        if self.objective == "contrastive":
            return fa.negative(pairwise_distance(z, support, metric="euclidean"))
        apart = fa.abs(fa.subtract(fa.expand_dims(z, axis=1), support))
        return fa.add(fa.matmul(apart, params["w"]), params["b"])

    def _logits(self, params: Any, task: tuple[Array, Array], z: Array) -> Array:
        support, of_class = task
        return best_of_class(self._similarities(params, z, support), of_class)

    def _objective(self, params: Any, task: tuple[Array, Array], z: Array, y: Array) -> tuple[Array, Array]:
        support, of_class = task
        s = self._similarities(params, z, support)
        if self.objective == "contrastive":
            one, two = fa.square(s), fa.square(fa.relu(fa.add(s, self.margin)))
        else:
            one, two = nn.softplus(fa.negative(s)), nn.softplus(s)
        same = fa.take(fa.permute_dims(of_class, (1, 0)), y, axis=0)
        value = fa.add(_mean_where(same, one), _mean_where(fa.logical_not(same), two))
        return fa.multiply(value, 0.5), best_of_class(s, of_class)


def _mean_where(on: Array, x: Array) -> Array:
    """The mean of x where ``on``; 0 if that is nowhere."""
    weights = fa.astype(on, dtype=x.dtype)
    return fa.divide(fa.sum(fa.multiply(x, weights)), fa.maximum(fa.sum(weights), 1.0))
