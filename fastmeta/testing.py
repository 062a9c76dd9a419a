"""Checks of derivatives by central differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from fastmeta.compile import jit
from fastmeta.errors import expected
from fastmeta.gradients import jvp, vjp
from fastmeta.trace import as_array

Floats = list[np.ndarray]
MODES = ("fwd", "rev")


def check_grads(
    f: Callable[..., Any], args: Sequence[Any], *, order: int = 2, modes: Sequence[str] = MODES,
    rtol: float = 1e-6, atol: float = 1e-6, eps: float = 1e-5, seed: int = 0,
) -> None:  # fmt: skip
    """Checks the derivatives of f at args, up to ``order``, against central differences in float64.

    Forward mode is compared with (f(x + eps t) - f(x - eps t)) / 2 eps along a random direction t, reverse mode with its
    product with a random cotangent; the same check then runs on each of these derivatives as a function of x.  Keep args
    clear of kinks: at a corner of ``abs`` or ``relu`` a difference is not a derivative.

    Args:
        f: a function over pytrees of arrays.
        args: its positional arguments; floats are converted to float64 and differentiated, all else is held fixed.
        order: the highest order of derivative, at least 1.
        modes: "fwd", "rev" or both; with both every mixed derivative is checked.
        rtol, atol: a difference up to ``atol + rtol * |expected|`` passes.
        eps: the step of the differences along a direction of unit normal entries.
        seed: of the random directions.

    Raises:
        AssertionError: naming the derivative, the result and both values.
        ValueError: for an order below 1, other modes, or no float among args.

    >>> import fastmeta as fm
    >>> check_grads(lambda x, y: fm.sum(fm.sin(x) * y), (np.ones(3), np.arange(3.0)))
    >>> check_grads(lambda x: fm.stop_gradient(x) * x, (2.0,), modes=("fwd",))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: [check_grads] expected 0.50... for result 0 of fwd (seed 0), got 0.25...
    """
    if order < 1:
        raise expected("check_grads", "an order of at least 1", order)
    if not modes or not set(modes) <= set(MODES):
        raise expected("check_grads", "modes among 'fwd' and 'rev'", modes)
    point_tree: Any = tuple(args)
    leaves, tree = optree.tree_flatten(point_tree, none_is_leaf=True)
    at = [k for k, x in enumerate(leaves) if type(x) is float or getattr(x, "dtype", np.dtype(int)).kind == "f"]
    if not at:
        raise expected("check_grads", "at least one float argument", "none")

    def flat(*floats: Any) -> list[Any]:
        full = list(leaves)
        for k, x in zip(at, floats, strict=True):
            full[k] = x
        results = optree.tree_leaves(f(*optree.tree_unflatten(tree, full)))
        return [y for y in results if getattr(y, "dtype", np.dtype(int)).kind == "f"]

    point = [as_array(leaves[k]).astype(np.float64) for k in at]
    _check(flat, point, order, tuple(modes), "", (rtol, atol, eps), np.random.default_rng(seed), seed)


def _check(
    f: Callable[..., list[Any]], x: Floats, order: int, modes: tuple[str, ...], done: str,
    tolerance: tuple[float, float, float], rng: np.random.Generator, seed: int,
) -> None:  # fmt: skip
    rtol, atol, eps = tolerance
    run = jit(f)
    t = [rng.standard_normal(a.shape) for a in x]
    ahead, behind = (run(*[a + s * eps * d for a, d in zip(x, t, strict=True)]) for s in (1, -1))
    slope = [(a - b) / (2 * eps) for a, b in zip(ahead, behind, strict=True)]
    ct = [rng.standard_normal(s.shape) for s in slope]

    def forward(*y: Any) -> list[Any]:
        return list(jvp(f, y, t)[1])

    def reverse(*y: Any) -> list[Any]:
        return list(vjp(f, *y)[1](ct))

    for mode in modes:
        derivative = forward if mode == "fwd" else reverse
        name = f"{mode} of {done}" if done else mode
        got, want = jit(derivative)(*x), slope
        if mode == "rev":
            got, want = [_dot(got, t)], [_dot(ct, slope)]
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            if not np.allclose(g, w, rtol, atol, equal_nan=True):
                raise expected("check_grads", f"{w} for result {k} of {name} (seed {seed})", g, AssertionError)
        if order > 1:
            _check(derivative, x, order - 1, modes, name, tolerance, rng, seed)


def _dot(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(np.sum(a * b) for a, b in zip(xs, ys, strict=True)))
