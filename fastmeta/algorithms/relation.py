"""Relation networks: the comparison itself is learned."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import functions, initial
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import expected
from fastmeta.trace import Array

__all__ = ["RelationNet"]


class RelationNet(MetricLearner):
    """Relation network: a second net scores each pair of a class and a query, and the scores meet 1 or 0 in mean squared error.

    A class is the sum of the embeddings of its support examples.  A pair is both embeddings side by side in their last axis, so
    that vectors and maps [h, w, channels] do alike.  Outputs are scores before the sigmoid.  Meta-parameters: {"model", "relation"}.

    Args:
        model: an embedding ``model(params, x) -> [n, ..., features]`` with ``model.init(seed)``.
        relation: ``relation(params, pairs [m, ..., 2 features]) -> [m, 1]`` with ``relation.init(seed)``.
        ways: classes of a training task; needed in a trainer only, elsewhere they are counted.

    Errors: TypeError or ValueError naming the argument, a class without support example, or a label out of range.
    Source: Sung et al. 2018, equations 1 and 2; K shots are summed, section 3.2.

    >>> from fastmeta.models import MLP
    >>> learner = RelationNet(MLP((2, 8, 4)), MLP((8, 8, 1)))
    >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
    >>> adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> learner.predict(adapted, x).shape
    (2, 2)
    """

    def __init__(self, model: Callable[..., Any], relation: Callable[..., Any], ways: int | None = None):
        super().__init__(model, ways)
        functions(self._name, relation=relation)
        self.relation: Any = relation  # a callable; ours have init

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters of both nets; the second from a seed of its own."""
        return {"model": super().init(seed), "relation": initial(self._name, self.relation, seed, 1)}

    def _weights(self, params: Any) -> Any:
        return params["model"]

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        return fa.scatter_add(np.zeros((len(classes), *z.shape[1:]), z.dtype), y, z)

    def _logits(self, params: Any, task: Array, z: Array) -> Array:
        n, ways, each = z.shape[0], task.shape[0], z.shape[1:]
        pairs = [fa.broadcast_to(fa.expand_dims(a, axis=k), (n, ways, *each)) for k, a in enumerate((task, z))]
        flat = fa.reshape(fa.concat(pairs, axis=-1), (n * ways, *each[:-1], 2 * each[-1]))
        scores = self.relation(params["relation"], flat)
        if prod(scores.shape) != n * ways:
            raise expected(self._name, f"one score for each of {n * ways} pairs", f"shape {list(scores.shape)}")
        return fa.reshape(scores, (n, ways))

    def _objective(self, params: Any, task: Array, z: Array, y: Array) -> tuple[Array, Array]:
        outputs = self._logits(params, task, z)
        return nn.mse(fa.sigmoid(outputs), fa.one_hot(y, outputs.shape[1], dtype=outputs.dtype)), outputs
