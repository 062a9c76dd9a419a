"""ES-MAML: meta-learning by search, without derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.inner import InnerLoop, positive
from fastmeta.algorithms.learner import Loss
from fastmeta.errors import expected, whole
from fastmeta.loops import map_tasks
from fastmeta.optim import Optimizer, sgd
from fastmeta.trace import Array
from fastmeta.tree import shown, tree_map

__all__ = ["ESMAML"]


class ESMAML(InnerLoop):
    """ES-MAML: what MAML finds by derivatives, found by trying: the loss is computed, never differentiated.

    Both gradients, that of an inner step and the meta-gradient, are estimates by evolution strategies: the mean over random
    directions d of (f(p + sigma d) - f(p - sigma d)) / (2 sigma) d, unbiased for f smoothed over sigma.  So the loss may be
    any function, as the share of wrong answers, which is flat wherever it has a derivative.

    The directions of the meta-gradient are drawn anew for each meta-step, by ``seed`` and step, and are the same for all tasks:
    they are what `phase` gives, and without it those of step 0.  The directions of the inner steps are drawn once, by ``seed``
    (in the paper anew for each): the same in every step, task and test, so that weights are found from which these very
    directions lead to a small loss.  Such weights are for learners of the same ``seed`` and ``inner_directions``.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``; a function without, only where no `phase` is asked.
        loss: ``loss(outputs, targets) -> scalar``, the mean over examples, of both the inner and the outer problem.
        inner_lr: the inner learning rate.
        inner_steps: inner steps in training, at least 1.
        sigma: how far to try, in units of the parameters, above 0; large enough that a loss of steps differs.
        directions: of a meta-gradient, at least 1; each costs two inner loops.
        inner_directions: of an inner step, at least 1; each costs two support losses.  None for the exact gradient there, of a
            loss that has one: far cheaper where the inner steps need many directions.
        seed: of all directions, at least 0.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    Memory: the directions, each as large as the parameters; a task tries them one by one.
    Errors: TypeError or ValueError naming the argument; for directions that do not fit the parameters, at first use.
    Source: Song, Gao, Yang, Choromanski, Pacchiano, Tang 2020, section 3.2 and algorithm 3, with antithetic pairs.

    >>> from fastmeta.models import MLP
    >>> def wrong(outputs, labels):
    ...     return 1.0 - nn.accuracy(outputs, labels)
    >>> learner = ESMAML(MLP((2, 8, 2)), loss=wrong, inner_lr=1.0, sigma=0.3)
    >>> x, y = np.eye(2, dtype=np.float32).reshape(1, 2, 2), np.array([[0, 1]], np.int32)
    >>> params = learner.init(seed=0)
    >>> (loss, aux), gradient = learner.value_and_grad(params, (x, y, x, y), *learner.phase(step=0))
    >>> gradient[0]["w"].shape, bool((gradient[0]["w"] != 0).any())
    ((2, 8), True)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        sigma: float = 0.05,
        directions: int = 16,
        inner_directions: int | None = 16,
        seed: int = 0,
        batch_norm: str = "batch",
    ):
        self.inner_lr = positive(self._name, "inner_lr", inner_lr)
        super().__init__(model, loss, inner_steps, batch_norm)
        self.sigma = positive(self._name, "sigma", sigma)
        self.directions = whole(self._name, "directions", directions, 1)
        self.inner_directions = (
            None if inner_directions is None else whole(self._name, "inner_directions", inner_directions, 1)
        )
        self.seed = whole(self._name, "seed", seed, 0)

    def phase(self, step: int) -> tuple[Any, ...]:
        """(the directions of the meta-gradient at meta-step ``step``,): a tree like the parameters, of [directions, ...]."""
        return (self._drawn(self._like, step),)

    def task_gradient(self, params: Any, episode: Any, directions: Any = None) -> tuple[Loss, Any]:
        """((query loss, aux), estimated gradient) of one task, traced; the loss is that of ``params``, ``aux`` as in `loss`."""
        along = self._drawn(params, 0) if directions is None else directions
        self._fitting(along, params)
        return self.loss(params, episode), searched(lambda p: self.loss(p, episode)[0], params, along, self.sigma)

    @functools.cached_property
    def _like(self) -> Any:
        """Parameters, for their shapes."""
        if not callable(getattr(self.model, "init", None)):
            hint = "A function may have one as an attribute"
            got = type(self.model).__name__
            raise expected(self._name, "a model with init(seed), by which directions have shapes", got, TypeError, hint)
        return self.init()

    def _drawn(self, params: Any, step: int) -> Any:
        return normal(np.random.default_rng([self.seed, 1, step]), self.directions, params)

    def _fitting(self, directions: Any, params: Any) -> None:
        """Refuses directions that do not fit the parameters."""
        want, got = optree.tree_structure(params), optree.tree_structure(directions)
        if want != got:
            raise expected(self._name, f"directions of structure {shown(want)}", shown(got))
        for p, d in zip(optree.tree_leaves(params), optree.tree_leaves(directions), strict=True):
            if np.shape(d)[1:] != np.shape(p) or not np.shape(d):
                shape = ", ".join(map(str, ["directions", *np.shape(p)]))
                raise expected(self._name, f"directions of shape [{shape}]", list(np.shape(d)))

    def _support_gradient(self, weights: Any, x: Array, y: Array, taken: Any) -> tuple[tuple[Array, Any], Any]:
        if self.inner_directions is None:
            return super()._support_gradient(weights, x, y, taken)
        along = normal(np.random.default_rng([self.seed, 2]), self.inner_directions, weights)
        gradient = searched(lambda w: self._support_loss(w, x, y, taken)[0], weights, along, self.sigma)
        return self._support_loss(weights, x, y, taken), gradient

    def _rule(self, params: Any) -> Optimizer:
        return sgd(self.inner_lr)


def searched(f: Callable[[Any], Array], params: Any, directions: Any, sigma: float) -> Any:
    """The gradient of f at ``params``, estimated: the mean over directions d of (f(params + sigma d) - f(params - sigma d)) / (2 sigma) d.

    ``directions``: a tree like ``params`` with a leading axis, along which they are tried one by one.  Exact for quadratic f and
    directions with mean d d^T = I.
    Source: Song et al. 2020, section 3.1 (antithetic estimator of the Gaussian smoothing); Nesterov and Spokoiny 2017.

    >>> basis = np.sqrt(2.0) * np.eye(2)
    >>> searched(lambda p: fa.sum(fa.square(p)), np.array([3.0, -1.0]), basis, sigma=0.1).round(6)
    array([ 6., -2.])
    """
    directions = tree_map(lambda p, d: fa.astype(d, dtype=p.dtype), params, directions)
    count = optree.tree_leaves(directions)[0].shape[0]

    def tried(direction: Any, way: float) -> Array:
        return f(tree_map(lambda p, d: fa.add(p, fa.multiply(d, way)), params, direction))

    def slope(direction: Any) -> Array:
        return fa.multiply(fa.subtract(tried(direction, sigma), tried(direction, -sigma)), 0.5 / (sigma * count))

    slopes = map_tasks(slope)(directions)
    return tree_map(lambda d: fa.tensordot(slopes, d, axes=1), directions)


def normal(rng: np.random.Generator, count: int, params: Any) -> Any:
    """Standard normal numbers [count, ...] for every array of ``params``, float32."""
    return tree_map(lambda p: rng.standard_normal((count, *np.shape(p)), np.float32), params)
