"""What learners that read the support set as a sequence share: no inner loop, a fixed number of classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import nn
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.errors import expected
from fastmeta.trace import Array

__all__ = ["SequenceLearner"]


class SequenceLearner(MetricLearner):
    """A learner that reads embedded support examples with their labels, one after the other, in the order of their rows.

    The network has an output for each class, so that training and tests have ``ways`` classes, neither more nor fewer.  Queries
    are read each on its own, after the support set.  Meta-parameters are {"model", ...}.

    The order of rows is part of the input: a network that always sees class 0 first learns places instead of labels.  Samplers
    give examples class by class; `fastmeta.data.Shuffled` gives them an order drawn for each task.

    >>> learner = fm.SNAIL(fm.models.MLP((4, 8)), ways=3, shots=1)
    >>> isinstance(learner, SequenceLearner), sorted(learner.init(seed=0))
    (True, ['blocks', 'model', 'out'])
    """

    ways: int

    def __init__(self, model: Callable[..., Any], ways: int, batch_norm: str = "batch"):
        if ways is None:
            raise expected(self._name, "ways, the number of classes: the network has an output for each", None, TypeError)
        super().__init__(model, ways, batch_norm)

    def check(self, episodes: Any) -> None:
        """Refuses tasks of another number of classes than ``ways``; warns of support sets that all come class by class."""
        super().check(episodes)
        y = np.asarray(self._parts(episodes)[1])
        if self.ways != 1 and (np.diff(y) >= 0).all():
            hint = "A network that knows classes by their place has not learned to read labels: fm.data.Shuffled(sampler) draws an order"
            raised = expected(self._name, "support examples in random order", f"class by class in all {len(y)} tasks", RuntimeWarning, hint)
            warnings.warn(raised, stacklevel=4)

    def _weights(self, params: Any) -> Any:
        return params["model"]

    def _count(self, support_y: Any, query_y: Any = None) -> range:
        classes = super()._count(support_y, query_y)
        if len(classes) != self.ways:
            raise expected(self._name, f"tasks of {self.ways} classes, as ways says", len(classes))
        return classes


def dense(rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, Any]:
    """Parameters of a linear layer, float32: normal weights of deviation 1 / sqrt(inputs), biases 0."""
    w = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
    return {"w": w.astype(np.float32), "b": np.zeros(outputs, np.float32)}


def linear(layer: Any, x: Array) -> Array:
    """x [..., inputs] through a layer of such parameters: [..., outputs]."""
    return nn.linear(x, layer["w"], layer["b"])
