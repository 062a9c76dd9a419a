"""What learners share that make of a support set, as a set, what predicts the queries: no inner loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.algorithms.learner import Learner, Loss, examples, functions, no_steps
from fastmeta.compile import jit
from fastmeta.errors import expected
from fastmeta.loops import map_tasks
from fastmeta.trace import Array

__all__ = ["SetLearner", "encoded"]


class SetLearner(Learner):
    """A learner that makes of a support set what predicts its task's queries, in one pass through networks that all tasks share.

    A subclass writes `init`, `_fit`, what it makes of a support set, `_outputs`, what that predicts, and `_objective`, the loss.
    If `_fit` sees the support set through `encoded` only, the order of support examples does not matter, and any number will do.

    >>> from fastmeta import nn
    >>> class Mean(SetLearner):
    ...     '''Predicts the mean target, times a learned number.'''
    ...     def init(self, seed=0):
    ...         return np.float32(1.0)
    ...     def _fit(self, params, x, y):
    ...         return params * fa.mean(y, axis=0)
    ...     def _outputs(self, task, x):
    ...         return fa.broadcast_to(task, (x.shape[0], *task.shape))
    ...     def _objective(self, outputs, y):
    ...         value = nn.mse(outputs, y)
    ...         return value, {"loss": value, "outputs": outputs}
    >>> learner, x = Mean(), np.ones((2, 3, 1), np.float32)
    >>> (loss, aux), gradient = learner.value_and_grad(np.float32(2.0), (x, x, x, x))
    >>> float(loss), float(gradient), learner.adapt(np.float32(2.0), x[0], x[0])
    (1.0, 2.0, array([2.], dtype=float32))
    """

    def __init__(self, **nets: Callable[..., Any]):
        functions(self._name, **nets)
        self._adapting = jit(lambda params, *support: self._fit(*self._given(params, support)))
        self._predicting = jit(self._outputs)
        self._measuring = map_tasks(lambda params, episode: self.loss(params, episode)[1], in_axes=(None, 0))

    def loss(self, params: Any, episode: Any) -> Loss:
        """Query loss of one task, traced.  ``aux``: "loss" (the same), "outputs", and "accuracy" for classification."""
        params, support_x, support_y, query_x, query_y = self._given(params, self._parts(episode))
        examples(self._name, "query", query_x, query_y)
        return self._objective(self._outputs(self._fit(params, support_x, support_y), query_x), query_y)

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """What `predict` needs for one task.

        The support set is x [n, ...] and y [n, ...], as two arguments, a pair, or an episode whose support is taken.
        """
        no_steps(self._name, steps)
        return self._adapting(params, *self._support(support))

    def predict(self, adapted: Any, x: Array, state: Any = ()) -> Array:
        """The outputs for x [n, ...]."""
        return self._predicting(adapted, self._examples(x))

    def measure(self, params: Any, episodes: Any, steps: int | None = None, state: Any = ()) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" [tasks, 1], and for classification "accuracies" alike; there are no inner steps."""
        no_steps(self._name, steps)
        aux = self._measuring(params, self._parts(episodes))
        return {many: aux[one][:, None] for one, many in (("loss", "losses"), ("accuracy", "accuracies")) if one in aux}

    # -- one task, traced

    @abstractmethod
    def _fit(self, params: Any, x: Array, y: Array) -> Any:
        """What is made of the support set x [n, ...] with targets y [n, ...]."""

    @abstractmethod
    def _outputs(self, task: Any, x: Array) -> Any:
        """What is predicted for x [n, ...]."""

    @abstractmethod
    def _objective(self, outputs: Any, y: Array) -> Loss:
        """The loss of the outputs for targets y [n, ...], and ``aux``."""


def encoded(where: str, encoder: Callable[..., Any], params: Any, x: Array, y: Array) -> Array:
    """The mean [1, features] over a set of the encoder's outputs for x [n, ...] and float targets y [n, ...] side by side, both flat.

    Source: Zaheer et al. 2017.
    """
    examples(where, "support", x, y)
    if np.dtype(y.dtype).kind != "f":
        raise expected(where, "float targets", y.dtype, TypeError, "Give labels as fm.one_hot(labels, ways)")
    n = x.shape[0]
    both = fa.concat([fa.reshape(x, (n, -1)), fa.reshape(y, (n, -1))], axis=1)
    return fa.mean(encoder(params, both), axis=0, keepdims=True)
