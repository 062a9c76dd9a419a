"""Weight generators: a classifier's weights for new classes, made from their examples and from weights that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.algorithms.frozen import unit_rows
from fastmeta.algorithms.learner import features
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import whole
from fastmeta.kernels import pairwise_distance, prototypes
from fastmeta.trace import Array

__all__ = ["WeightGenerator"]


class WeightGenerator(MetricLearner):
    """Few-shot weight generator: it makes a weight vector for each class, and a query's logits are scaled cosines with them.

    A class's weights are, with z its support embeddings, of length 1, and * elementwise,

        phi_avg * mean(z) + phi_att * mean(softmax(attention_scale cos(z query, keys)) bases)

    so that a class of few examples borrows from the weights of the ``bases`` that it resembles, of length 1 too.  Meta-parameters: {"model",
    "bases" [bases, features], "keys" [bases, features], "query" [features, features], "phi_avg" [features], "phi_att" [features],
    "scale", "attention_scale"}.  In the paper bases are the weights of a classifier of the training classes, which a first stage
    trains; here they are learned class weights that all tasks share, trained through the episodes like the rest.  Whoever has a
    first stage puts its weights there.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` that says ``model.outputs``, its features.
        bases: the number of base weights, at least 1; in the paper that of training classes.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Gidaris and Komodakis 2018, sections 3.1 and 3.2; the start (scales of 10, ``query`` the identity) is that of its
    released code.

    >>> from fastmeta.models import MLP
    >>> learner = WeightGenerator(MLP((2, 8, 4)), bases=16)
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> _, weights, _ = adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> weights.shape, learner.predict(adapted, x).shape
    ((2, 4), (2, 2))
    """

    def __init__(self, model: Callable[..., Any], bases: int, ways: int | None = None, batch_norm: str = "batch"):
        super().__init__(model, ways, batch_norm)
        self.bases = whole(self._name, "bases", bases)

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model, and of the generator."""
        n = features(self._name, "model", self.model)
        rng = np.random.default_rng([seed, 1])  # another stream than the model's
        bases, keys = (rng.standard_normal((2, self.bases, n)) / np.sqrt(n)).astype(np.float32)
        one, ten = np.ones(n, np.float32), np.full((), 10.0, np.float32)
        return {
            "model": super().init(seed), "bases": bases, "keys": keys, "query": np.eye(n, dtype=np.float32),
            "phi_avg": one, "phi_att": one.copy(), "scale": ten, "attention_scale": ten.copy(),
        }  # fmt: skip

    def _weights(self, params: Any) -> Any:
        return params["model"]

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        z = unit_rows(z)
        near = fa.multiply(_cosines(fa.matmul(z, params["query"]), params["keys"]), params["attention_scale"])
        attended = fa.matmul(fa.softmax(near, axis=1), unit_rows(params["bases"]))
        each = fa.add(fa.multiply(z, params["phi_avg"]), fa.multiply(attended, params["phi_att"]))
        return prototypes(each, y, n_way=len(classes))  # both means in one: they are linear

    def _logits(self, params: Any, task: Array, z: Array) -> Array:
        return fa.multiply(_cosines(z, task), params["scale"])


def _cosines(x: Array, y: Array) -> Array:
    """The cosines [n, m] of the rows of x [n, D] and y [m, D]; 0 with a row of zeros."""
    return fa.subtract(1.0, pairwise_distance(x, y, metric="cosine"))
