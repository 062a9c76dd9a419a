"""MAML++: learned rates per array and step, a loss of every step, and first order at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import Loss
from fastmeta.algorithms.rates import LearnedRates, Shape
from fastmeta.errors import expected, whole
from fastmeta.optim import Optimizer
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["MAMLPlusPlus"]

ORDERS = {"first": 1, "second": 2}


class MAMLPlusPlus(LearnedRates):
    """MAML with remedies for its instability.

    - Every array of weights has a learned inner rate for each inner step: the meta-parameters are {"weights", "rates"},
      the rates a tree like the weights with arrays [inner_steps].  Steps beyond these use the last rate.
    - The loss is a weighted sum of the query losses after every inner step.  The weights start equal and move in a
      straight line to the last step alone, over the first ``multi_loss`` meta-steps.
    - The first ``first_order`` meta-steps take inner gradients as constants.
    - ``batch_norm`` "per_step" gives each number of inner steps taken, 0 to ``inner_steps``, its own statistics, and its own
      learned scale and shift (which only the outer loop moves: no later step uses those of an earlier one).

    `phase` says both for a meta-step: the loss weights, which are data, and the order, for which it is compiled; a trainer
    asks it at every step.  Without it, `loss` is that of the end of training.

    Args:
        model: ``model(weights, x) -> outputs`` with ``model.init(seed)``, or any such function.
        loss: ``loss(outputs, targets) -> scalar``, of both the inner and the outer problem.
        inner_lr: what every rate starts from.
        inner_steps: inner steps in training, at least 1.
        multi_loss: meta-steps until the loss is that of the last inner step; 0 for that from the start.
        first_order: meta-steps of first order; 0 for exact gradients from the start.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    Errors: TypeError or ValueError naming the argument; the same for rates that do not fit the weights, at first use.
    Source: Antoniou, Edwards, Storkey 2019, section 4 (multi-step loss, derivative-order annealing, learned rates,
    per-step batch norm).

    >>> from fastmeta.models import MLP
    >>> learner = MAMLPlusPlus(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.01, inner_steps=2, multi_loss=100, first_order=10)
    >>> learner.phase(0), learner.phase(50), learner.phase(100)
    (((0.5, 0.5), 'first'), ((0.25, 0.75), 'second'), (None, 'second'))
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> params, tasks = learner.init(seed=0), (x, np.sin(x), x, np.sin(x))
    >>> (loss, aux), gradient = learner.value_and_grad(params, tasks, *learner.phase(50))
    >>> gradient["rates"][0]["w"].shape
    (2,)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        multi_loss: int = 5000,
        first_order: int = 0,
        batch_norm: str = "batch",
    ):
        super().__init__(model, loss, inner_lr, inner_steps, batch_norm)
        self.multi_loss = whole(self._name, "multi_loss", multi_loss, 0)
        self.first_order = whole(self._name, "first_order", first_order, 0)

    def phase(self, step: int) -> tuple[Any, ...]:
        """(weights of the query losses after every inner step, or None for the last alone; "first" or "second")."""
        order = "first" if step < self.first_order else "second"
        if step >= self.multi_loss:
            return None, order
        share = (1.0 - step / self.multi_loss) / self.inner_steps
        return (share,) * (self.inner_steps - 1) + (1.0 - share * (self.inner_steps - 1),), order

    def loss(self, params: Any, episode: Any, weights: Sequence[Any] | None = None, order: str = "second") -> Loss:
        """The query losses after every inner step of one task, weighted as `phase` says, traced.

        ``aux`` as in `MAML`; "loss" is the weighted sum, "outputs" and "accuracy" are those after the last step.
        """
        if order not in ORDERS:
            raise expected(self._name, f"order {' or '.join(map(repr, ORDERS))}", repr(order))
        if weights is not None and len(weights) != self.inner_steps:
            raise expected(self._name, f"{self.inner_steps} weights of losses", len(weights))
        params, support_x, support_y, query_x, query_y = self._task(params, episode)

        def watch(w: Any, taken: Any) -> Any:
            return () if weights is None else self._queried(w, query_x, query_y, taken)[0]

        last, seen, losses = self._descend(params, support_x, support_y, self.inner_steps, watch, ORDERS[order])
        value, aux = self._queried(last, query_x, query_y, self.inner_steps)
        if weights is not None:
            value = fa.sum(fa.multiply(fa.stack(weights), losses))
        return value, self._told(aux, seen) | {"loss": value}

    def _start(self, seed: int) -> Any:
        if self.batch_norm != "per_step":
            return super()._start(seed)
        return self.model.init(seed, steps=self.inner_steps)

    def _rates_shape(self, shape: Shape) -> Shape:
        return (self.inner_steps,)

    def _rule(self, params: Any) -> Optimizer:
        rates = self._rates(params)

        def update(grads: Any, count: Any, weights: Any) -> tuple[Any, Any]:
            at = fa.minimum(count, self.inner_steps - 1)
            return tree_map(lambda g, r: fa.multiply(g, fa.negative(fa.take(r, at))), grads, rates), fa.add(count, 1)

        return Optimizer(lambda weights: np.zeros((), np.int32), update)
