"""Model-agnostic meta-learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import Learner, Loss, accuracy, examples, quadruple
from fastmeta.compile import jit, map_tasks, scan, value_and_grad
from fastmeta.errors import expected
from fastmeta.optim import clip_by_global_norm
from fastmeta.trace import Array
from fastmeta.tree import prefix, tree_map

__all__ = ["MAML"]


class MAML(Learner):
    """MAML: parameters from which a few steps of gradient descent on the support set give a small query loss.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``, or any such function (then start from your own
            parameters instead of `init`).
        loss: ``loss(outputs, targets) -> scalar``, the mean over examples, of both the inner and the outer problem.
        inner_lr: the inner learning rate, or a tree of them, a prefix of the parameters' tree; 0 keeps a part as it is.
        inner_steps: inner steps in training, at least 1.
        order: 2 for the exact meta-gradient, 1 to treat inner gradients as constants (FOMAML).
        inner_clip: the largest global norm of an inner gradient; None for no limit.

    Errors: TypeError or ValueError naming the argument, at construction.
    Source: Finn, Abbeel, Levine 2017, algorithms 1 to 3.

    >>> from fastmeta.models import MLP
    >>> learner = MAML(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.01)
    >>> params = learner.init(seed=0)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(params, (x, np.sin(x), x, np.sin(x)))
    >>> aux["inner_losses"].shape, gradient[0]["w"].shape
    ((2, 1), (1, 8))
    >>> adapted = learner.adapt(params, x[0], np.sin(x[0]), steps=5)
    >>> learner.predict(adapted, x[0]).shape
    (10, 1)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: Any = 0.01,
        inner_steps: int = 1,
        order: int = 2,
        inner_clip: float | None = None,
    ):
        for name, value in (("model", model), ("loss", loss)):
            if not callable(value):
                raise expected("MAML", f"{name} a function", type(value).__name__, TypeError)
        rates = optree.tree_leaves(inner_lr, none_is_leaf=True)
        for rate in rates:
            if isinstance(rate, bool) or not isinstance(rate, (int, float, np.floating, np.integer)):
                raise expected("MAML", "inner_lr a number or a tree of numbers", repr(rate), TypeError)
            if not math.isfinite(rate) or rate < 0:
                raise expected("MAML", "inner_lr above 0", rate)
        if not any(rates):
            raise expected("MAML", "inner_lr above 0", inner_lr)
        if isinstance(order, bool) or order not in (1, 2):
            raise expected("MAML", "order 1 or 2", repr(order))
        self.model = model
        self.loss_function = loss
        self.inner_lr = inner_lr
        self.inner_steps = _steps(inner_steps, 1)
        self.order = order
        self.inner_clip = inner_clip
        self._clip = None if inner_clip is None else clip_by_global_norm(inner_clip)
        self._adapting: dict[int, Callable[..., Any]] = {}
        self._measuring: dict[int, Callable[..., Any]] = {}
        self._predicting = jit(lambda adapted, x: self.model(adapted, x))

    def init(self, seed: int = 0) -> Any:
        """Fresh parameters of the model."""
        params = self.model.init(seed)  # type: ignore[attr-defined]  # our models have it, plain functions start elsewhere
        prefix("MAML inner_lr", self.inner_lr, params)
        return params

    def loss(self, params: Any, episode: Any) -> Loss:
        """Query loss after ``inner_steps`` of one task, traced.

        ``aux``: "loss" (the same), "inner_losses" [inner_steps] (support loss before each step), "outputs" of the model
        for the query set, and for classification "accuracy".
        """
        support_x, support_y, query_x, query_y = self._parts(episode)
        adapted, inner = self._descend(params, support_x, support_y, self.inner_steps)
        outputs = self.model(adapted, query_x)
        value = self.loss_function(outputs, query_y)
        aux = {"loss": value, "inner_losses": inner, "outputs": outputs}
        share = accuracy(outputs, query_y)
        return value, aux if share is None else aux | {"accuracy": share}

    def adapt(self, params: Any, *support: Any, steps: int | None = None) -> Any:
        """Parameters after ``steps`` (``inner_steps`` if None) on the support set of one task.

        The support set is x [n, ...] and y [n, ...], as two arguments, a pair, or an episode whose support is taken.
        """
        x, y = _support(support)
        k = self.inner_steps if steps is None else _steps(steps, 0)
        if k == 0:
            return params
        if k not in self._adapting:
            self._adapting[k] = jit(lambda p, x, y: self._descend(p, x, y, k)[0])
        return self._adapting[k](params, x, y)

    def predict(self, adapted: Any, x: Array) -> Array:
        """The model's outputs for x [n, ...]."""
        return self._predicting(adapted, x)

    def measure(self, params: Any, episodes: Any, steps: int | None = None) -> dict[str, NDArray[Any]]:
        """Per task: query "losses" [tasks, steps + 1] before and after every inner step, "inner_losses" [tasks, steps],
        and for classification "accuracies" [tasks, steps + 1]."""
        k = self.inner_steps if steps is None else _steps(steps, 0)
        if k not in self._measuring:
            self._measuring[k] = map_tasks(lambda p, e: self._trajectory(p, e, k), in_axes=(None, 0))
        result: dict[str, NDArray[Any]] = self._measuring[k](params, quadruple("MAML", episodes))
        return result

    def __repr__(self) -> str:
        return (
            f"MAML({self.model!r}, inner_lr={self.inner_lr}, inner_steps={self.inner_steps}, order={self.order}, "
            f"inner_clip={self.inner_clip})"
        )

    # -- one task, traced

    def _descend(self, params: Any, x: Array, y: Array, steps: int) -> tuple[Any, Array]:
        """The adapted parameters and the support loss before each step."""
        examples("MAML", "support", x, y)
        if steps == 1:
            adapted, value = self._step(params, x, y)
            return adapted, fa.reshape(value, (1,))
        result: tuple[Any, Array] = scan(lambda p, _: self._step(p, x, y), params, length=steps)
        return result

    def _step(self, params: Any, x: Array, y: Array) -> tuple[Any, Array]:
        value, grads = value_and_grad(lambda p: self.loss_function(self.model(p, x), y))(params)
        if self.order == 1:
            grads = tree_map(fa.stop_gradient, grads)
        if self._clip is not None:
            grads, _ = self._clip.update(grads)
        leaves, tree = optree.tree_flatten(params)
        rates = prefix("MAML inner_lr", self.inner_lr, params)
        moved = [
            p if rate == 0 else fa.subtract(p, fa.multiply(g, float(rate)))
            for p, g, rate in zip(leaves, optree.tree_leaves(grads), rates, strict=True)
        ]
        return optree.tree_unflatten(tree, moved), value

    def _trajectory(self, params: Any, episode: Any, steps: int) -> dict[str, Array]:
        support_x, support_y, query_x, query_y = self._parts(episode)
        examples("MAML", "support", support_x, support_y)

        def queried(p: Any) -> dict[str, Array]:
            outputs = self.model(p, query_x)
            share = accuracy(outputs, query_y)
            out = {"losses": self.loss_function(outputs, query_y)}
            return out if share is None else out | {"accuracies": share}

        def step(p: Any, _: None) -> tuple[Any, dict[str, Array]]:
            after, value = self._step(p, support_x, support_y)
            return after, queried(p) | {"inner_losses": value}

        if steps == 0:
            return {name: fa.reshape(v, (1,)) for name, v in queried(params).items()}
        adapted, before = scan(step, params, length=steps)
        last = queried(adapted)
        return {name: fa.concat([v, fa.reshape(last[name], (1,))]) if name in last else v for name, v in before.items()}

    def _parts(self, episode: Any) -> tuple[Any, Any, Any, Any]:
        parts = quadruple("MAML", episode)
        examples("MAML", "query", parts[2], parts[3])
        return parts


def _steps(steps: Any, least: int) -> int:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise expected("MAML", "inner steps a whole number", f"{steps!r} ({type(steps).__name__})", TypeError)
    if steps < least:
        raise expected("MAML", f"inner steps at least {least}", steps)
    return int(steps)


def _support(support: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(support) == 1 and isinstance(support[0], tuple):
        support = support[0][:2] if len(support[0]) == 4 else support[0]
    if len(support) != 2:
        raise expected("MAML", "a support set (x, y)", f"{len(support)} arguments", TypeError)
    return support[0], support[1]
