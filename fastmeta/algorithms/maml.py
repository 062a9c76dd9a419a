"""Model-agnostic meta-learning, exact and to first order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.inner import InnerLoop
from fastmeta.errors import expected
from fastmeta.optim import Optimizer, clip_by_global_norm
from fastmeta.trace import Array
from fastmeta.tree import prefix

__all__ = ["FOMAML", "MAML"]


class MAML(InnerLoop):
    """MAML: parameters from which a few steps of gradient descent on the support set give a small query loss.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``, or any such function (then start from your own
            parameters instead of `init`).
        loss: ``loss(outputs, targets) -> scalar``, the mean over examples, of both the inner and the outer problem.
        inner_lr: the inner learning rate, or a tree of them, a prefix of the parameters' tree; 0 keeps a part as it is.
        inner_steps: inner steps in training, at least 1.
        order: 2 for the exact meta-gradient, 1 to treat inner gradients as constants (FOMAML).
        inner_clip: the largest global norm of an inner gradient; None for no limit.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

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
        batch_norm: str = "batch",
    ):
        rates = optree.tree_leaves(inner_lr, none_is_leaf=True)
        for rate in rates:
            if isinstance(rate, bool) or not isinstance(rate, (int, float, np.floating, np.integer)):
                raise expected(self._name, "inner_lr a number or a tree of numbers", repr(rate), TypeError)
            if not math.isfinite(rate) or rate < 0:
                raise expected(self._name, "inner_lr above 0", rate)
        if not any(rates):
            raise expected(self._name, "inner_lr above 0", inner_lr)
        if isinstance(order, bool) or order not in (1, 2):
            raise expected(self._name, "order 1 or 2", repr(order))
        self.inner_lr = inner_lr
        super().__init__(model, loss, inner_steps, batch_norm)
        self.order = order
        self.inner_clip = inner_clip
        self._clip = None if inner_clip is None else clip_by_global_norm(inner_clip)

    def init(self, seed: int = 0) -> Any:
        """Fresh parameters of the model."""
        params = super().init(seed)
        self._rates(params)
        return params

    def _rates(self, params: Any) -> list[float]:
        """The inner rate of every leaf; 0 keeps it as it is."""
        return [float(rate) for rate in prefix(f"{self._name} inner_lr", self.inner_lr, params)]

    def _rule(self, params: Any) -> Optimizer:
        rates = self._rates(params)

        def update(grads: Any, state: Any, weights: Any) -> tuple[Any, Any]:
            if self._clip is not None:
                grads, _ = self._clip.update(grads)
            leaves, tree = optree.tree_flatten(grads)
            moves = [fa.multiply(g, -rate) if rate else fa.zeros_like(g) for g, rate in zip(leaves, rates, strict=True)]
            return optree.tree_unflatten(tree, moves), state

        return Optimizer(lambda weights: (), update)


class FOMAML(MAML):
    """First-order MAML: `MAML` with inner gradients taken as constants, so that no second derivative is computed.

    Args and errors: those of `MAML`, without ``order``.
    Source: Finn, Abbeel, Levine 2017, section 5.2.

    >>> from fastmeta.models import MLP
    >>> learner = FOMAML(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.01, inner_steps=5)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> gradient[0]["w"].shape
    (1, 8)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: Any = 0.01,
        inner_steps: int = 1,
        inner_clip: float | None = None,
        batch_norm: str = "batch",
    ):
        super().__init__(model, loss, inner_lr, inner_steps, order=1, inner_clip=inner_clip, batch_norm=batch_norm)
