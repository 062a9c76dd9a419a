"""Reptile: the meta-gradient is the way back from the adapted weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.inner import InnerLoop, positive
from fastmeta.algorithms.learner import Loss
from fastmeta.errors import expected, whole
from fastmeta.optim import Optimizer, adam, sgd
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["Reptile"]

RULES: dict[str, Callable[[float], Optimizer]] = {"sgd": sgd, "adam": lambda lr: adam(lr, b1=0.0)}


class Reptile(InnerLoop):
    """Reptile: moves the parameters towards where inner training on each task ends.

    Its meta-gradient is the mean over tasks of ``params - adapted``, not the gradient of `loss`: with ``optim.sgd`` the
    outer rate is Reptile's interpolation step.  The inner rule starts anew for every task (the paper's code keeps Adam's
    second moments from task to task), and the query set only measures.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``, or any such function.
        loss: ``loss(outputs, targets) -> scalar``, of the inner problem and of the measured loss.
        inner_lr: the rate of the inner rule.
        inner_steps: inner steps in training; with one step of "sgd" this is joint training on all tasks.
        inner_rule: "sgd", or "adam" with beta1 = 0.
        inner_batch: support examples in an inner step, in training and in tests; the whole set if None, or if it has no
            more.  See below.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    A batch of b of n support rows takes every (n / b)-th, rounded up, and the next starts one row further on: no row comes
    again before all have come, and where b does not divide n a batch may hold the last rows and the first.  Nothing is
    drawn.  Rows that come class by class, as from `fastmeta.data`, make batches with every class, as evenly as b allows;
    rows in random order make random ones; classes that alternate may make batches of one class.

    Errors: TypeError or ValueError naming the argument.
    Source: Nichol, Achiam, Schulman 2018, algorithm 2 (batched).

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = Reptile(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.02, inner_steps=8)
    >>> params, x = learner.init(seed=0), np.linspace(-1, 1, 10, dtype=np.float32).reshape(1, 10, 1)
    >>> _, gradient = learner.value_and_grad(params, (x, np.sin(x), x, np.sin(x)))
    >>> adapted = learner.adapt(params, x[0], np.sin(x[0]))
    >>> np.allclose(gradient[1]["w"], params[1]["w"] - adapted[1]["w"])
    True

    Two inner steps on half of the support set each:

    >>> halves = Reptile(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.02, inner_steps=2, inner_batch=5)
    >>> once = halves.adapt(params, x[0, ::2], np.sin(x[0, ::2]), steps=1)
    >>> twice = halves.adapt(once, x[0, 1::2], np.sin(x[0, 1::2]), steps=1)
    >>> np.allclose(halves.adapt(params, x[0], np.sin(x[0]))[0]["w"], twice[0]["w"])
    True
    """

    order = 1

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: float = 1e-3,
        inner_steps: int = 5,
        inner_rule: str = "sgd",
        inner_batch: int | None = None,
        batch_norm: str = "batch",
    ):
        self.inner_lr = positive(self._name, "inner_lr", inner_lr)
        if inner_rule not in list(RULES):
            raise expected(self._name, f"inner_rule {' or '.join(map(repr, RULES))}", repr(inner_rule))
        super().__init__(model, loss, inner_steps, batch_norm)
        self.inner_rule = inner_rule
        self.inner_batch = None if inner_batch is None else whole(self._name, "inner_batch", inner_batch, 1)

    def task_gradient(self, params: Any, episode: Any, *phase: Any) -> tuple[Loss, Any]:
        """((query loss after the inner steps, aux), params - adapted) of one task, traced; ``aux`` as in `loss`."""
        params, support_x, support_y, query_x, query_y = self._task(params, episode)
        adapted, seen, _ = self._descend(params, support_x, support_y, self.inner_steps)
        value, aux = self._queried(adapted, query_x, query_y, self.inner_steps)
        return (value, self._told(aux, seen)), tree_map(fa.subtract, params, adapted)

    def _rule(self, params: Any) -> Optimizer:
        return RULES[self.inner_rule](self.inner_lr)
