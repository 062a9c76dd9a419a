"""Optimisers and schedules as pure functions: ``init(params) -> state``, ``update(grads, state, params) -> (updates, state)``.

They are made of array functions only, so they run on plain arrays, inside a compiled meta-step, and inside an inner
loop that is differentiated again.  A schedule is a function of the step (0 at the first update).

>>> import numpy as np
>>> rule = chain(clip_by_global_norm(10.0), adam(linear(1e-2, 1e-3, steps=100)))
>>> params = {"w": np.ones(2, np.float32)}
>>> state = rule.init(params)
>>> updates, state = rule.update({"w": np.array([3.0, -4.0], np.float32)}, state, params)
>>> np.round(apply_updates(params, updates)["w"], 4)
array([0.99, 1.01], dtype=float32)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree

from fastmeta import array as fa
from fastmeta.errors import expected
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = [
    "Adam", "Momentum", "Optimizer", "adam", "apply_updates", "chain", "clip_by_global_norm", "constant", "cosine",
    "global_norm", "linear", "sgd", "step_decay",
]  # fmt: skip

Schedule = Callable[[Array], Array]


class Optimizer(NamedTuple):
    """A pair of pure functions, see the module; any such pair is an optimiser.

    >>> signs = Optimizer(lambda params: (), lambda grads, state, params=None: (tree_map(lambda g: -0.1 * fa.sign(g), grads), state))
    >>> signs.update({"w": np.array([2.0, -3.0])}, signs.init(None))
    ({'w': array([-0.1,  0.1])}, ())
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


class Adam(NamedTuple):
    """State of `adam`: the number of updates so far (int32 scalar) and both moments, trees like the parameters.

    >>> adam(0.1).init(np.ones(2))
    Adam(count=array(0, dtype=int32), mean=array([0., 0.]), square=array([0., 0.]))
    """

    count: Any
    mean: Any
    square: Any


class Momentum(NamedTuple):
    """State of `sgd`: the number of updates so far (int32 scalar) and the velocity (() without momentum).

    >>> sgd(0.1).init(np.ones(2)), sgd(0.1, momentum=0.9).init(np.ones(2)).velocity
    (Momentum(count=array(0, dtype=int32), velocity=()), array([0., 0.]))
    """

    count: Any
    velocity: Any


# -- schedules


def constant(value: float) -> Schedule:
    """``value`` at every step.

    Errors of all schedules: TypeError for what is no number; ValueError for one that is not finite, and for ``steps`` or ``every`` below 1.

    >>> constant(0.5)(7)
    0.5
    """
    value = _number("constant", "value", value)
    return lambda step: value


def linear(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` at step 0 in a straight line to ``end`` at step ``steps``, and ``end`` from there on.

    Errors: see `constant`.

    >>> float(linear(1.0, 0.0, steps=4)(1))
    0.75
    """
    a, b, n = _number("linear", "start", start), _number("linear", "end", end), _steps("linear", steps)
    return lambda step: fa.add(fa.multiply(_passed(step, n), b - a), a)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` at step 0 along half a cosine to ``end`` at step ``steps``, and ``end`` from there on.

    Source: Loshchilov and Hutter 2017, equation 5, one period.
    Errors: see `constant`.

    >>> round(float(cosine(1.0, 0.0, steps=4)(2)), 6)
    0.5
    """
    a, b, n = _number("cosine", "start", start), _number("cosine", "end", end), _steps("cosine", steps)
    half = 0.5 * (a - b)
    return lambda step: fa.add(fa.multiply(fa.cos(fa.multiply(_passed(step, n), math.pi)), half), b + half)


def step_decay(start: float, factor: float, every: int) -> Schedule:
    """``start`` times ``factor`` once for every ``every`` steps that have passed; ``factor`` in (0, 1].

    Errors: see `constant`; ValueError for another factor.

    >>> float(step_decay(1.0, 0.5, every=10)(25))
    0.25
    """
    a, n = _number("step_decay", "start", start), _steps("step_decay", every)
    if not 0.0 < _number("step_decay", "factor", factor) <= 1.0:
        raise expected("step_decay", "a factor in (0, 1]", factor)
    log = math.log(factor)

    def rate(step: Array) -> Array:
        drops = fa.floor(fa.multiply(fa.add(step, 0.5), 1.0 / n))  # the half: no rounding at whole multiples of n
        return fa.multiply(fa.exp(fa.multiply(drops, log)), a)

    return rate


def _passed(step: Array, n: int) -> Array:
    """The share of ``n`` steps that has passed, at most 1, as a float."""
    return fa.minimum(fa.multiply(step, 1.0 / n), 1.0)


# -- optimisers


def sgd(lr: float | Schedule, momentum: float = 0.0) -> Optimizer:
    """Gradient descent, ``p - lr * v`` with ``v = momentum * v + g``; as torch.optim.SGD.

    Errors: ValueError for a rate that is not positive and finite or a momentum outside [0, 1).

    >>> rule = sgd(0.1)
    >>> rule.update({"w": 2.0}, rule.init({"w": 1.0}), {"w": 1.0})[0]
    {'w': array(-0.2, dtype=float32)}
    """
    rate = _rate("sgd", lr)
    if not 0.0 <= _number("sgd", "momentum", momentum) < 1.0:
        raise expected("sgd", "momentum in [0, 1)", momentum)

    def init(params: Any) -> Momentum:
        return Momentum(np.zeros((), np.int32), tree_map(_zeros, params) if momentum else ())

    def update(grads: Any, state: Momentum, params: Any = None) -> tuple[Any, Momentum]:
        velocity = state.velocity
        if momentum:
            velocity = tree_map(lambda v, g: fa.add(fa.multiply(v, momentum), g), velocity, grads)
        along = velocity if momentum else grads
        updates = _per_dtype(along, state.count, lambda v, t: fa.multiply(v, -rate(t)))
        return updates, Momentum(fa.add(state.count, 1), velocity)

    return Optimizer(init, update)


def adam(
    lr: float | Schedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, eps_root: float = 0.0
) -> Optimizer:
    """Adam, ``p - lr * m / (sqrt(v + eps_root) + eps)`` with both moments corrected for their start at zero.

    Safe to differentiate through: where a second moment is exactly zero its root has derivative zero, not infinity.
    The update is then still as steep as 1 / eps; as an inner rule take a larger eps (1e-3, say).

    Errors: ValueError for a rate or eps that is not positive and finite, or a decay outside [0, 1).
    Source: Kingma and Ba 2015, algorithm 1; same steps as torch.optim.Adam (with eps_root = 0).

    >>> rule = adam(0.1)
    >>> params = {"w": np.ones(1)}
    >>> updates, state = rule.update({"w": np.array([2.0])}, rule.init(params), params)
    >>> updates["w"].round(6), int(state.count)
    (array([-0.1]), 1)
    """
    rate = _rate("adam", lr)
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0.0 <= _number("adam", name, value) < 1.0:
            raise expected("adam", f"{name} in [0, 1)", value)
    if _number("adam", "eps", eps) <= 0.0:
        raise expected("adam", "eps above 0", eps)
    if _number("adam", "eps_root", eps_root) < 0.0:
        raise expected("adam", "eps_root at least 0", eps_root)

    def init(params: Any) -> Adam:
        return Adam(np.zeros((), np.int32), tree_map(_zeros, params), tree_map(_zeros, params))

    def update(grads: Any, state: Adam, params: Any = None) -> tuple[Any, Adam]:
        mean = tree_map(lambda m, g: fa.add(fa.multiply(m, b1), fa.multiply(g, 1.0 - b1)), state.mean, grads)
        square = tree_map(
            lambda v, g: fa.add(fa.multiply(v, b2), fa.multiply(fa.square(g), 1.0 - b2)), state.square, grads
        )

        def factors(t: Array) -> tuple[Array, Array]:
            done = fa.add(t, 1.0)
            return fa.divide(-rate(t), _unbias(b1, done)), fa.divide(1.0, _unbias(b2, done))

        def step(moments: tuple[Array, Array], scales: tuple[Array, Array]) -> Array:
            m, v = moments
            root = _root(fa.add(fa.multiply(v, scales[1]), eps_root) if eps_root else fa.multiply(v, scales[1]))
            return fa.divide(fa.multiply(m, scales[0]), fa.add(root, eps))

        leaves, tree = optree.tree_flatten(mean)
        pairs = list(zip(leaves, optree.tree_leaves(square), strict=True))
        by_dtype = {kind: factors(_count(state.count, kind)) for kind in {_dtype(m) for m in leaves}}
        updates = optree.tree_unflatten(tree, [step(p, by_dtype[_dtype(p[0])]) for p in pairs])
        return updates, Adam(fa.add(state.count, 1), mean, square)

    return Optimizer(init, update)


def clip_by_global_norm(max_norm: float) -> Optimizer:
    """Scales the whole gradient so that its Euclidean norm is at most ``max_norm``; differentiable at zero too.

    Errors: ValueError for a norm that is not positive and finite.
    Source: Pascanu, Mikolov, Bengio 2013, algorithm 1.

    >>> rule = clip_by_global_norm(1.0)
    >>> rule.update([np.float32(3), np.float32(4)], rule.init(None))[0]
    [array(0.6, dtype=float32), array(0.8, dtype=float32)]
    """
    if _number("clip_by_global_norm", "max_norm", max_norm) <= 0.0:
        raise expected("clip_by_global_norm", "max_norm above 0", max_norm)
    limit = max_norm * max_norm

    def update(grads: Any, state: Any = (), params: Any = None) -> tuple[Any, Any]:
        total = _sum_of_squares(grads)
        above = fa.greater(total, limit)
        scale = fa.where(above, fa.multiply(fa.rsqrt(fa.where(above, total, limit)), max_norm), 1.0)
        return tree_map(lambda g: fa.multiply(g, scale), grads), state

    return Optimizer(lambda params: (), update)


def chain(*rules: Optimizer) -> Optimizer:
    """Rules one after the other, each on the updates of the one before; the state is the tuple of their states.

    Errors: TypeError for none, or for what is no `Optimizer`; ValueError for a state of another number of rules.

    >>> rule = chain(clip_by_global_norm(1.0), sgd(0.5))
    >>> rule.update([np.float32(4)], rule.init([np.float32(0)]))[0]
    [array(-0.5, dtype=float32)]
    """
    if not rules or not all(isinstance(rule, Optimizer) for rule in rules):
        raise expected("chain", "one optimiser or more", [type(rule).__name__ for rule in rules], TypeError)

    def init(params: Any) -> Any:
        return tuple(rule.init(params) for rule in rules)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if len(state) != len(rules):
            raise expected("chain", f"a state of {len(rules)} rules", len(state))
        states = []
        for rule, old in zip(rules, state, strict=True):
            grads, new = rule.update(grads, old, params)
            states.append(new)
        return grads, tuple(states)

    return Optimizer(init, update)


def apply_updates(params: Any, updates: Any) -> Any:
    """``params + updates``, leaf by leaf.

    Errors: ValueError for trees of different structure.

    >>> apply_updates([np.float32(1)], [np.float32(-0.5)])
    [array(0.5, dtype=float32)]
    """
    return tree_map(fa.add, params, updates)


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all leaves together; its derivative at zero is zero.

    Errors: ValueError for a tree without arrays.

    >>> global_norm([np.float32(3), np.float32(4)])
    array(5., dtype=float32)
    """
    return _root(_sum_of_squares(tree))


# -- parts


def _sum_of_squares(tree: Any) -> Array:
    leaves = optree.tree_leaves(tree)
    if not leaves:
        raise expected("global_norm", "at least one array", "an empty tree")
    total = fa.sum(fa.square(_array(leaves[0])))
    for leaf in leaves[1:]:
        total = fa.add(total, fa.sum(fa.square(_array(leaf))))
    return total


def _root(v: Array) -> Array:
    """sqrt(v), with derivative 0 instead of infinity at v = 0."""
    zero = fa.equal(v, 0.0)
    return fa.where(zero, 0.0, fa.sqrt(fa.where(zero, 1.0, v)))


def _unbias(decay: float, t: Array) -> Array:
    """1 - decay ** t, without cancellation for a decay near 1."""
    return fa.negative(fa.expm1(fa.multiply(t, math.log(decay)))) if decay > 0.0 else fa.ones_like(t)


def _per_dtype(tree: Any, count: Array, f: Callable[[Array, Array], Array]) -> Any:
    return tree_map(lambda x: f(x, _count(count, _dtype(x))), tree)


def _count(count: Array, dtype: Any) -> Array:
    return fa.astype(count, dtype=dtype)


def _array(x: Array) -> Array:
    return np.asarray(x, np.float32) if type(x) in (float, int) else x


def _dtype(x: Array) -> Any:
    return np.dtype(np.float32) if type(x) in (float, int) else x.dtype


def _zeros(x: Array) -> Array:
    return np.zeros(x.shape, x.dtype) if hasattr(x, "shape") else np.zeros((), np.float32)


def _rate(where: str, lr: float | Schedule) -> Schedule:
    if callable(lr):
        return lr
    if _number(where, "lr", lr) <= 0.0:
        raise expected(where, "lr above 0 or a schedule", lr)
    value = float(lr)
    return lambda step: fa.multiply(fa.ones_like(step), value)


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise expected(where, f"{name} a number", f"{value!r} ({type(value).__name__})", TypeError)
    if not math.isfinite(value):
        raise expected(where, f"{name} finite", value)
    return float(value)


def _steps(where: str, steps: Any) -> int:
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise expected(where, "steps a whole number", f"{steps!r} ({type(steps).__name__})", TypeError)
    if steps < 1:
        raise expected(where, "steps at least 1", steps)
    return int(steps)
