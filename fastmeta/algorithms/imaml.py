"""Implicit MAML: the meta-gradient at the solution of a damped inner problem, whatever path led there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.inner import InnerLoop, positive
from fastmeta.algorithms.learner import Loss
from fastmeta.errors import whole
from fastmeta.gradients import hvp, value_and_grad
from fastmeta.loops import scan
from fastmeta.optim import Optimizer, global_norm
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["IMAML"]


class IMAML(InnerLoop):
    """iMAML: the inner problem is support loss + damping / 2 * ||weights - params||^2, solved by gradient descent.

    The meta-gradient of a task is (I + H / damping)^-1 times the query gradient at the adapted weights, H the Hessian
    of the support loss there (the paper's system, without the further damping of its released code).  It is exact where
    the inner problem is solved, and found by a fixed number of conjugate-gradient iterations, so that its memory does
    not grow with the inner steps.  A task stops, alone, when it is solved or meets a direction of no positive curvature.

    ``aux["residual"]`` tells per task how well its system was solved: ||g - (I + H / damping) z|| / ||g||, 0 for an exact
    solution z, 1 for z = 0.  It may exceed 1 on the way where H / damping is large: take more iterations or damping.
    A trainer warns of tasks with 1 or more.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``, or any such function.
        loss: ``loss(outputs, targets) -> scalar``, of both the inner and the outer problem.
        inner_lr: the inner learning rate; below 2 / (damping + the largest curvature).
        inner_steps: inner steps in training, at least 1.
        damping: lambda of the paper, above 0.
        iterations: of conjugate gradients, at least 1.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    Errors: TypeError or ValueError naming the argument.
    Source: Rajeswaran, Finn, Kakade, Levine 2019, lemma 1 and algorithms 1 and 2.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = IMAML(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.05, iterations=20)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> bool((aux["residual"] < 1e-3).all())
    True
    """

    order = 1

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: float = 0.1,
        inner_steps: int = 16,
        damping: float = 2.0,
        iterations: int = 5,
        batch_norm: str = "batch",
    ):
        self.inner_lr = positive(self._name, "inner_lr", inner_lr)
        super().__init__(model, loss, inner_steps, batch_norm)
        self.damping = positive(self._name, "damping", damping)
        self.iterations = whole(self._name, "iterations", iterations, 1)

    def task_gradient(self, params: Any, episode: Any, *phase: Any) -> tuple[Loss, Any]:
        """((query loss, aux), implicit gradient) of one task, traced; ``aux`` as in `loss`, and "residual"."""
        params, support_x, support_y, query_x, query_y = self._task(params, episode)
        steps = self.inner_steps
        weights, seen, _ = self._descend(params, support_x, support_y, steps)
        query = value_and_grad(lambda w: self._queried(w, query_x, query_y, steps), has_aux=True)
        (value, aux), gradient = query(weights)
        curvature = hvp(lambda w: self.loss_function(self._outputs(w, support_x, steps)[0], support_y))

        def product(v: Any) -> Any:
            return tree_map(lambda a, h: fa.add(a, fa.multiply(h, 1.0 / self.damping)), v, curvature(weights, v))

        solution, residual = conjugate_gradients(product, gradient, self.iterations)
        return (value, self._told(aux, seen) | {"residual": residual}), solution

    def _rule(self, params: Any) -> Optimizer:
        def move(gradient: Array, weight: Array, centre: Array) -> Array:
            pull = fa.multiply(fa.subtract(weight, centre), self.damping)
            return fa.multiply(fa.add(gradient, pull), -self.inner_lr)

        def update(grads: Any, state: Any, weights: Any) -> tuple[Any, Any]:
            return tree_map(move, grads, weights, params), state

        return Optimizer(lambda weights: (), update)


def conjugate_gradients(product: Callable[[Any], Any], b: Any, iterations: int) -> tuple[Any, Array]:
    """An approximate z with ``product(z) = b``, of a symmetric positive definite product, and ||b - product(z)|| / ||b||.

    It starts at 0 and stays where it is once the residual is zero or the curvature in its direction not positive; NaN
    goes on, so that it shows.  b and z are trees of float arrays, b = 0 has residual 0.
    Source: Hestenes and Stiefel 1952; Nocedal and Wright 2006, algorithm 5.2.

    >>> import numpy as np
    >>> a = np.array([[3.0, 1.0], [1.0, 2.0]])
    >>> z, residual = conjugate_gradients(lambda v: fa.matmul(a, v), np.array([1.0, 0.0]), iterations=2)
    >>> np.round(z, 6), bool(residual < 1e-12)
    (array([ 0.4, -0.2]), True)
    """

    def step(carry: Any, _: None) -> tuple[Any, None]:
        z, r, p, rr = carry
        image = product(p)
        curvature = _dot(p, image)
        on = fa.logical_not(fa.logical_or(fa.less_equal(rr, 0.0), fa.less_equal(curvature, 0.0)))
        length = fa.where(on, fa.divide(rr, fa.where(on, curvature, 1.0)), 0.0)
        z = tree_map(lambda a, d: fa.add(a, fa.multiply(d, length)), z, p)
        r = tree_map(lambda a, d: fa.subtract(a, fa.multiply(d, length)), r, image)
        after = fa.where(on, _dot(r, r), 0.0)
        turn = fa.divide(after, fa.where(on, rr, 1.0))
        return (z, r, tree_map(lambda a, d: fa.add(a, fa.multiply(d, turn)), r, p), after), None

    start = (tree_map(fa.zeros_like, b), b, b, _dot(b, b))
    (z, _, _, _), _ = scan(step, start, length=iterations)
    size = global_norm(b)
    zero = fa.equal(size, 0.0)
    rest = global_norm(tree_map(fa.subtract, b, product(z)))
    return z, fa.where(zero, 0.0, fa.divide(rest, fa.where(zero, 1.0, size)))


def _dot(a: Any, b: Any) -> Array:
    total, *rest = [
        fa.sum(fa.multiply(x, y)) for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    ]
    for part in rest:
        total = fa.add(total, part)
    return total
