"""The inner loop of learners that adapt to a task by a few steps down the gradient of its support loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.algorithms.learner import Learner, Loss, accuracy, examples, quadruple
from fastmeta.compile import jit, map_tasks, scan, value_and_grad
from fastmeta.errors import expected, whole
from fastmeta.optim import Optimizer, apply_updates
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["InnerLoop"]


class InnerLoop(Learner):
    """A learner whose tasks take ``inner_steps`` with an inner rule, starting from weights that all tasks share.

    A subclass writes `_rule`, the `fastmeta.optim.Optimizer` of one task's inner steps as a function of the
    meta-parameters, so that whatever is learned about the steps is differentiated like the weights; and `_weights` if
    the meta-parameters hold more than the weights.

    >>> from fastmeta import nn, optim
    >>> from fastmeta.models import MLP
    >>> class Momentum(InnerLoop):
    ...     '''MAML with momentum in its inner loop.'''
    ...     def _rule(self, params):
    ...         return optim.sgd(0.01, momentum=0.5)
    >>> learner = Momentum(MLP((1, 8, 1)), nn.mse, inner_steps=3)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> aux["inner_losses"].shape, gradient[0]["w"].shape
    ((2, 3), (1, 8))
    """

    order = 2  # 1 treats inner gradients as constants

    def __init__(self, model: Callable[..., Any], loss: Callable[[Array, Array], Array], inner_steps: int):
        for name, value in (("model", model), ("loss", loss)):
            if not callable(value):
                raise expected(self._name, f"{name} a function", type(value).__name__, TypeError)
        self.model = model
        self.loss_function = loss
        self.inner_steps = whole(self._name, "inner steps", inner_steps, 1)
        self._adapting: dict[int, Callable[..., Any]] = {}
        self._measuring: dict[int, Callable[..., Any]] = {}
        self._predicting = jit(lambda adapted, x: self.model(adapted, x))

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the model."""
        return self.model.init(seed)  # type: ignore[attr-defined]  # our models have it; plain functions start elsewhere

    def loss(self, params: Any, episode: Any) -> Loss:
        """Query loss after ``inner_steps`` of one task, traced.

        ``aux``: "loss" (the same), "inner_losses" [inner_steps] (support loss before each step), "outputs" of the model
        for the query set, and for classification "accuracy".
        """
        support_x, support_y, query_x, query_y = self._parts(episode)
        weights, inner, _ = self._descend(params, support_x, support_y, self.inner_steps)
        value, aux = self._queried(weights, query_x, query_y)
        return value, aux | {"inner_losses": inner}

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """The model's weights after ``steps`` (``inner_steps`` if None) on the support set of one task.

        The support set is x [n, ...] and y [n, ...], as two arguments, a pair, or an episode whose support is taken.
        """
        x, y = self._support(support)
        k = self._steps(steps)
        if k == 0:
            return self._weights(params)
        if k not in self._adapting:
            self._adapting[k] = jit(lambda p, x, y: self._descend(p, x, y, k)[0])
        return self._adapting[k](params, x, y)

    def predict(self, adapted: Any, x: Array) -> Array:
        """The model's outputs for x [n, ...]."""
        return self._predicting(adapted, x)

    def measure(self, params: Any, episodes: Any, steps: int | None = None) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" [tasks, steps + 1] before and after every inner step, "inner_losses" [tasks, steps],
        and for classification "accuracies" [tasks, steps + 1]."""
        k = self._steps(steps)
        if k not in self._measuring:
            self._measuring[k] = map_tasks(lambda p, e: self._trajectory(p, e, k), in_axes=(None, 0))
        result: dict[str, NDArray[Any]] = self._measuring[k](params, quadruple(self._name, episodes))
        return result

    @property
    def _name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        options = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in ("model", "loss_function")}
        return f"{self._name}({', '.join([repr(self.model), *(f'{k}={v!r}' for k, v in options.items())])})"

    # -- one task, traced

    @abstractmethod
    def _rule(self, params: Any) -> Optimizer:
        """The rule of the inner steps of one task."""

    def _weights(self, params: Any) -> Any:
        """The model's weights among the meta-parameters: where every task starts."""
        return params

    def _descend(
        self, params: Any, x: Array, y: Array, steps: int, watch: Callable[[Any], Any] = lambda weights: (),
        order: int | None = None,
    ) -> tuple[Any, Array, Any]:  # fmt: skip
        """The adapted weights, the support loss before each step [steps], and ``watch(weights)`` after each, stacked."""
        examples(self._name, "support", x, y)
        rule, first = self._rule(params), (order or self.order) == 1

        def step(carry: Any, _: None) -> tuple[Any, Any]:
            weights, state = carry
            value, grads = self._support_gradient(weights, x, y)
            updates, state = rule.update(tree_map(fa.stop_gradient, grads) if first else grads, state, weights)
            weights = apply_updates(weights, updates)
            return (weights, state), (value, watch(weights))

        start = self._weights(params)
        carry = (start, rule.init(start))
        if steps == 1:
            (weights, _), seen = step(carry, None)
            inner, watched = tree_map(_first_axis, seen)
        else:
            (weights, _), (inner, watched) = scan(step, carry, length=steps)
        return weights, inner, watched

    def _support_gradient(self, weights: Any, x: Array, y: Array) -> tuple[Array, Any]:
        result: tuple[Array, Any] = value_and_grad(lambda w: self.loss_function(self.model(w, x), y))(weights)
        return result

    def _queried(self, weights: Any, x: Array, y: Array) -> Loss:
        """The query loss, and what `loss` tells beside it of the query set."""
        outputs = self.model(weights, x)
        value = self.loss_function(outputs, y)
        aux = {"loss": value, "outputs": outputs}
        share = accuracy(outputs, y)
        return value, aux if share is None else aux | {"accuracy": share}

    def _trajectory(self, params: Any, episode: Any, steps: int) -> dict[str, Array]:
        support_x, support_y, query_x, query_y = self._parts(episode)
        examples(self._name, "support", support_x, support_y)

        def watch(weights: Any) -> dict[str, Array]:
            aux = self._queried(weights, query_x, query_y)[1]
            return {many: aux[one] for one, many in (("loss", "losses"), ("accuracy", "accuracies")) if one in aux}

        before = tree_map(_first_axis, watch(self._weights(params)))
        if steps == 0:
            return before
        _, inner, after = self._descend(params, support_x, support_y, steps, watch)
        return {name: fa.concat([before[name], after[name]]) for name in before} | {"inner_losses": inner}

    # -- arguments

    def _parts(self, episode: Any) -> tuple[Any, Any, Any, Any]:
        parts = quadruple(self._name, episode)
        examples(self._name, "query", parts[2], parts[3])
        return parts

    def _support(self, support: tuple[Any, ...]) -> tuple[Any, Any]:
        if len(support) == 1 and isinstance(support[0], tuple):
            support = support[0][:2] if len(support[0]) == 4 else support[0]
        if len(support) != 2:
            raise expected(self._name, "a support set (x, y)", f"{len(support)} arguments", TypeError)
        return support[0], support[1]

    def _steps(self, steps: int | None) -> int:
        return self.inner_steps if steps is None else whole(self._name, "inner steps", steps, 0)


def _first_axis(x: Array) -> Array:
    return fa.expand_dims(x, axis=0)


def positive(where: str, name: str, value: Any) -> float:
    """``value`` as a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise expected(where, f"{name} a number", repr(value), TypeError)
    if not math.isfinite(value) or value <= 0:
        raise expected(where, f"{name} above 0", value)
    return float(value)
