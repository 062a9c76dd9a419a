"""Array functions that are a few others: no kernel and no rule of their own."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta.array.arguments import Axis, array_function, axis_of, static_integers
from fastmeta.array.numeric import (
    abs,
    add,
    cos,
    divide,
    equal,
    exp,
    floor,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    logical_not,
    multiply,
    negative,
    not_equal,
    sign,
    sin,
    sqrt,
    subtract,
    where,
    zeros_like,
)
from fastmeta.array.reduction import sum, var
from fastmeta.array.shaping import broadcast_to, reshape
from fastmeta.errors import expected
from fastmeta.ops import shape as sh
from fastmeta.program import Var
from fastmeta.trace import Array, located

# -- elementwise


def ceil(x: Array) -> Array:
    """The smallest integer not below x, as a float; derivative 0.

    >>> ceil(np.array([-1.5, 1.5, 2.0]))
    array([-1.,  2.,  2.])
    """
    return negative(floor(negative(x)))


def round(x: Array) -> Array:
    """The whole number nearest to x, the even one of two, as a float; derivative 0.

    >>> round(np.array([0.5, 1.5, 2.6, -2.5]))
    array([ 0.,  2.,  3., -2.])
    """
    size = abs(x)  # x + 0.5 may be rounded itself; what is above the floor of |x| is exact
    low = floor(size)
    rest, odd = subtract(size, low), not_equal(multiply(floor(multiply(low, 0.5)), 2.0), low)
    up = where(odd, greater_equal(rest, 0.5), greater(rest, 0.5))
    return multiply(where(up, add(low, 1.0), low), sign(x))


def reciprocal(x: Array) -> Array:
    """1 / x.

    >>> reciprocal(np.array([4, 0]))
    array([0.25,  inf], dtype=float32)
    """
    return divide(1.0, x)


def log2(x: Array) -> Array:
    """The logarithm to base 2.

    >>> log2(np.array([8.0, 0.0]))
    array([  3., -inf])
    """
    return multiply(log(x), 1 / math.log(2))


def log10(x: Array) -> Array:
    """The logarithm to base 10.

    >>> log10(np.array([100.0, 0.0])).round(4)
    array([  2., -inf])
    """
    return multiply(log(x), 1 / math.log(10))


def logaddexp(x: Array, y: Array) -> Array:
    """log(e ** x + e ** y), safe for large |x| and |y|.

    >>> logaddexp(np.array([0.0, 1000.0]), np.array([0.0, 1000.0]))
    array([6.93147181e-01, 1.00069315e+03])
    """
    d = subtract(x, y)
    same = not_equal(d, d)  # equal infinities; NaN stays NaN
    d = where(same, 0.0, d)
    first = greater_equal(d, 0.0)  # either form is the whole function: derivatives of any order hold where they meet
    return where(same, add(x, y), add(where(first, x, y), log1p(exp(where(first, negative(d), d)))))


def root(d: Array) -> Array:
    """The square root of what is not negative, with derivative 0 at 0."""
    zero = less_equal(d, 0.0)
    return where(zero, 0.0, sqrt(where(zero, 1.0, d)))


def tan(x: Array) -> Array:
    """The tangent of x in radians.

    >>> tan(np.array([0.0, np.pi / 4])).round(4)
    array([0., 1.])
    """
    return divide(sin(x), cos(x))


def isnan(x: Array) -> Array:
    """x is not a number, as bool.

    >>> isnan(np.array([1.0, np.nan, np.inf]))
    array([False,  True, False])
    """
    return not_equal(x, x)


def isinf(x: Array) -> Array:
    """x is infinite, as bool.

    >>> isinf(np.array([1.0, np.nan, -np.inf]))
    array([False, False,  True])
    """
    return equal(abs(x), math.inf)


def isfinite(x: Array) -> Array:
    """x is neither infinite nor NaN, as bool.

    >>> isfinite(np.array([1.0, np.nan, -np.inf]))
    array([ True, False, False])
    """
    return less(abs(x), math.inf)


# -- reductions


def any(x: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Some element over ``axis`` (all axes if None) is not 0, as bool; False of none.

    >>> any(np.array([[0, 0], [0, 2]]), axis=1)
    array([False,  True])
    """
    return greater(sum(not_equal(x, zeros_like(x)), axis=axis, keepdims=keepdims), 0)


def all(x: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """No element over ``axis`` (all axes if None) is 0, as bool; True of none.

    >>> all(np.array([[1, 0], [1, 2]]), axis=1)
    array([False,  True])
    >>> all(np.zeros(0))
    array(True)
    """
    return logical_not(any(equal(x, zeros_like(x)), axis=axis, keepdims=keepdims))


def std(x: Array, axis: Axis = None, *, keepdims: bool = False, correction: float = 0) -> Array:
    """The standard deviation over ``axis``, the root of `var`; its derivative is infinite where that is 0.

    >>> std(np.array([0.0, 2.0, 4.0]), correction=1)
    array(2.)
    """
    return sqrt(var(x, axis=axis, keepdims=keepdims, correction=correction))


def vecdot(x: Array, y: Array, axis: int = -1) -> Array:
    """The sum of products along an axis, the others broadcast.

    >>> vecdot(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    return sum(multiply(x, y), axis=axis)


# -- shapes


def matrix_transpose(x: Array) -> Array:
    """x [..., m, n] with its last two axes exchanged.

    >>> fm.matrix_transpose(np.ones((5, 2, 3))).shape
    (5, 3, 2)
    """
    return moveaxis(x, -1, -2)


@array_function
def moveaxis(x: Any, *, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Var:
    """x with one axis, or several, at another place, the others in their order.

    >>> moveaxis(np.ones((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    >>> moveaxis(np.ones((2, 3, 4)), (0, 1), (1, 0)).shape
    (3, 2, 4)
    """
    from_, to = ([axis_of("moveaxis", x, a) for a in (axes if isinstance(axes, tuple) else (axes,))] for axes in (source, destination))
    if len(from_) != len(to) or len({*from_}) < len(from_) or len({*to}) < len(to):
        raise expected("moveaxis", "as many different sources as destinations", f"{source} and {destination}")
    axes = [k for k in range(len(x.shape)) if k not in from_]
    for at, axis in sorted(zip(to, from_, strict=True)):
        axes.insert(at, axis)
    return sh.permute(x, tuple(axes))


def unstack(x: Array, axis: int = 0) -> tuple[Array, ...]:
    """The arrays that `stack` joined along ``axis``.

    >>> unstack(np.array([[1, 2], [3, 4]]), axis=1)
    (array([1, 3], dtype=int32), array([2, 4], dtype=int32))
    """
    return tuple(moveaxis(x, axis, 0))


def roll(x: Array, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None = None) -> Array:
    """x shifted along an axis, or several, by a number of places that is known while tracing; what leaves at the end enters at the start.

    Without an axis its elements are shifted in row-major order.
    Errors: TypeError for a shift that is not known while tracing.

    >>> roll(np.array([0, 1, 2, 3]), 1)
    array([3, 0, 1, 2], dtype=int32)
    """
    if axis is None:
        return reshape(_roll(reshape(x, (-1,)), shift=shift, axis=0), np.shape(x))
    axes, shifts = (v if isinstance(v, tuple) else (v,) for v in (axis, shift))
    if len(shifts) not in (1, len(axes)):
        raise located(expected("roll", "a shift for each axis", f"{shift} for {axis}"))
    for a, by in zip(axes, shifts * (len(axes) if len(shifts) == 1 else 1), strict=True):
        x = _roll(x, shift=by, axis=a)
    return x


@array_function
def _roll(x: Any, *, shift: Any, axis: int) -> Var:
    a = axis_of("roll", x, axis)
    by, *more = static_integers("roll", shift, "a shift")
    if more:
        raise expected("roll", "one shift for one axis", shift)
    n = x.shape[a]
    at = n - by % n if n else 0

    def piece(start: int, stop: int) -> Var:
        whole, step = (0,) * len(x.shape), (1,) * len(x.shape)
        return sh.cut(x, (*whole[:a], start, *whole[a + 1 :]), (*x.shape[:a], stop, *x.shape[a + 1 :]), step)

    return sh.concat((piece(at, n), piece(0, at)), a)


@array_function
def repeat(x: Any, *, times: int, axis: int) -> Var:
    """Each element along an axis ``times`` times in a row.

    >>> repeat(np.array([1, 2]), 2, axis=0)
    array([1, 1, 2, 2], dtype=int32)
    """
    a = axis_of("repeat", x, axis)
    (n,) = static_integers("repeat", times, "a number of times")
    before, after = x.shape[: a + 1], x.shape[a + 1 :]
    each = sh.broadcast_to(sh.reshape(x, (*before, 1, *after)), (*before, n, *after))
    return sh.reshape(each, (*x.shape[:a], x.shape[a] * n, *after))


def tile(x: Array, times: int | Sequence[int]) -> Array:
    """x as often as ``times`` says for each axis, side by side.

    >>> tile(np.array([1, 2]), 2)
    array([1, 2, 1, 2], dtype=int32)
    """
    counts = static_integers("tile", times, "numbers of times")
    shape = np.shape(x)
    shape, counts = (1,) * (len(counts) - len(shape)) + shape, (1,) * (len(shape) - len(counts)) + counts
    apart = [m for n in shape for m in (1, n)]
    wide = [m for pair in zip(counts, shape, strict=True) for m in pair]
    return reshape(broadcast_to(reshape(x, apart), wide), [k * n for k, n in zip(counts, shape, strict=True)])


def meshgrid(*xs: Array, indexing: str = "xy") -> tuple[Array, ...]:
    """The coordinates of a grid whose axes are vectors: each vector repeated along the axes of the others.

    By ``indexing`` "ij" the vectors are the axes in their order; by "xy" the first two are exchanged, as columns and rows.
    Errors: ValueError for what is no vector.

    >>> meshgrid(np.array([1, 2, 3]), np.array([4, 5]))[0]
    array([[1, 2, 3],
           [1, 2, 3]], dtype=int32)
    """
    if indexing not in ("xy", "ij"):
        raise located(expected("meshgrid", "indexing 'xy' or 'ij'", repr(indexing)))
    shapes = [np.shape(x) for x in xs]
    if not builtins.all(len(shape) == 1 for shape in shapes):
        raise located(expected("meshgrid", "vectors", f"shapes {', '.join(map(str, shapes))}"))
    axes = list(range(len(xs)))
    if indexing == "xy":
        axes[:2] = axes[:2][::-1]
    lengths = [shapes[a][0] for a in axes]
    return tuple([broadcast_to(reshape(x, [n if b == a else 1 for b, n in enumerate(lengths)]), lengths) for x, a in zip(xs, axes, strict=True)])


def tril(x: Array, k: int = 0) -> Array:
    """x [..., m, n] with zeros above the diagonal k.

    >>> tril(np.ones((2, 2)))
    array([[1., 0.],
           [1., 1.]])
    """
    return _triangle("tril", x, lambda m, n: np.tri(m, n, k, bool))


def triu(x: Array, k: int = 0) -> Array:
    """x [..., m, n] with zeros below the diagonal k.

    >>> triu(np.ones((2, 3)), 1)
    array([[0., 1., 1.],
           [0., 0., 1.]])
    """
    return _triangle("triu", x, lambda m, n: ~np.tri(m, n, k - 1, bool))


def _triangle(name: str, x: Array, mask: Any) -> Array:
    shape = np.shape(x)
    if len(shape) < 2:
        raise located(expected(name, "at least two axes", shape))
    return where(mask(*shape[-2:]), x, zeros_like(x))
