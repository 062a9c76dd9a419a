"""Meta-SGD: the inner rate of every single weight is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.rates import LearnedRates, Shape
from fastmeta.optim import Optimizer
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["MetaSGD"]


class MetaSGD(LearnedRates):
    """Meta-SGD: MAML whose inner step is ``weights - rates * gradient``, with a learned rate for every weight.

    The meta-parameters are {"weights", "rates"}, two trees of one structure and shapes; rates may become negative.

    Args:
        model: ``model(weights, x) -> outputs`` with ``model.init(seed)``, or any such function.
        loss: ``loss(outputs, targets) -> scalar``, of both the inner and the outer problem.
        inner_lr: what every rate starts from.
        inner_steps: inner steps in training, at least 1.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    Errors: TypeError or ValueError naming the argument; the same for rates that do not fit the weights, at first use.
    Source: Li, Zhou, Chen, Li 2017, algorithm 1.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = MetaSGD(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.01)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> gradient["rates"][0]["w"].shape
    (1, 8)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        batch_norm: str = "batch",
    ):
        super().__init__(model, loss, inner_lr, inner_steps, batch_norm)

    def _rates_shape(self, shape: Shape) -> Shape:
        return shape

    def _rule(self, params: Any) -> Optimizer:
        rates = self._rates(params)

        def update(grads: Any, state: Any, weights: Any) -> tuple[Any, Any]:
            return tree_map(lambda g, r: fa.negative(fa.multiply(r, g)), grads, rates), state

        return Optimizer(lambda weights: (), update)
