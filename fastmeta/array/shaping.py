"""Functions that move values and never change them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod as product
from numbers import Real
from typing import Any

import numpy as np

from fastmeta.array.arguments import (
    Axis,
    array_function,
    array_operand,
    axes_of,
    axis_of,
    common_dtype,
    converted,
    graph_of,
    several,
    static_integers,
)
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import shape as sh
from fastmeta.program import Shape, Var
from fastmeta.trace import Array, located


@array_function
def _reshape(x: Any, *, shape: Shape) -> Var:
    rest = product(n for n in shape if n != -1)
    if shape.count(-1) == 1 and rest > 0 and array_operand("reshape", x).size % rest == 0:
        shape = tuple(x.size // rest if n == -1 else n for n in shape)
    return sh.reshape(x, shape)


def reshape(x: Array, shape: int | Sequence[int]) -> Array:
    """x with another shape of as many elements, in row-major order; one length may be -1.

    Errors: ValueError for another number of elements.

    >>> reshape(np.array([1, 2, 3, 4, 5, 6]), (2, -1))
    array([[1, 2, 3],
           [4, 5, 6]], dtype=int32)
    """
    return _reshape(x, shape=static_integers("reshape", shape))


def permute_dims(x: Array, axes: Sequence[int]) -> Array:
    """x with its axes in another order.

    >>> permute_dims(np.ones((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return _permute(x, axes=static_integers("permute_dims", axes, "axes"))


@array_function
def _permute(x: Any, *, axes: tuple[int, ...]) -> Var:
    n = len(array_operand("permute_dims", x).shape)
    perm = tuple(a + n if a < 0 else a for a in axes)
    if sorted(perm) != list(range(n)):
        raise expected("permute_dims", f"a permutation of the {n} axes of {x.shape}", axes)
    return sh.permute(x, perm)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """x repeated to ``shape`` by NumPy's rules.

    >>> broadcast_to(np.array([[1], [2]]), (2, 3))
    array([[1, 1, 1],
           [2, 2, 2]], dtype=int32)
    """
    return _broadcast_to(x, shape=static_integers("broadcast_to", shape))


@array_function
def _broadcast_to(x: Any, *, shape: Shape) -> Var:
    if any(n < 0 for n in shape):
        raise expected("broadcast_to", "lengths of at least 0", shape)
    return sh.broadcast_to(array_operand("broadcast_to", x), shape)


def expand_dims(x: Array, axis: int | tuple[int, ...] = 0) -> Array:
    """x with a new axis of length 1 at ``axis``, or at each of several: places among the axes of the result.

    >>> expand_dims(np.ones((2, 3)), -1).shape, expand_dims(np.ones((2, 3)), (0, 2)).shape
    ((2, 3, 1), (1, 2, 1, 3))
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    n = np.ndim(x) + len(axes)
    if not all(isinstance(a, int | np.integer) and -n <= a < n for a in axes) or len({a % n for a in axes}) < len(axes):
        raise located(expected("expand_dims", f"an axis in {-n}..{n - 1}" if len(axes) == 1 else f"different axes in {-n}..{n - 1}", axis))
    rest, new = iter(np.shape(x)), {a % n for a in axes}
    return reshape(x, [1 if a in new else next(rest) for a in range(n)])


@array_function
def squeeze(x: Any, *, axis: Axis) -> Var:
    """x without the given axes of length 1.

    Errors: ValueError for an axis of another length.

    >>> squeeze(np.ones((1, 3, 1)), axis=0).shape, squeeze(np.ones((1, 3, 1)), axis=(0, 2)).shape
    ((3, 1), (3,))
    """
    axes = axes_of("squeeze", x, axis)
    if any(x.shape[a] != 1 for a in axes):
        raise expected("squeeze", "axes of length 1", f"axis {axis} of {x.shape}")
    return sh.reshape(x, tuple(n for a, n in enumerate(x.shape) if a not in axes))


@array_function
def concat(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list joined along an existing axis; of several dtypes the result has the one that `add` would give.

    >>> concat([np.ones((2, 1)), np.zeros((2, 2))], axis=1)
    array([[1., 0., 0.],
           [1., 0., 0.]])
    >>> concat([np.array([1]), np.array([0.5])])
    array([1. , 0.5])
    """
    ys = [array_operand("concat", x) for x in several("concat", xs)]
    dtype = common_dtype("concat", ys)
    a = axis_of("concat", ys[0], axis)
    return sh.concat(tuple(sh.cast(y, dtype) for y in ys), a)


@array_function
def stack(xs: Any, *, axis: int = 0) -> Var:
    """The arrays of a list, all of one shape, joined along a new axis.

    >>> stack([np.array([1, 2]), np.array([3, 4])], axis=1)
    array([[1, 3],
           [2, 4]], dtype=int32)
    """
    g = graph_of("stack", several("stack", xs))
    dtype = common_dtype("stack", xs)
    ys = [converted(x, dtype, g) for x in xs]
    for y in ys:
        if y.shape != ys[0].shape:
            raise expected("stack", f"arrays of one shape, {ys[0].shape}", y.shape)
    n = len(ys[0].shape) + 1
    if not isinstance(axis, int | np.integer) or not -n <= axis < n:
        raise expected("stack", f"an axis in {-n}..{n - 1}", axis)
    shape = list(ys[0].shape)
    shape.insert(axis % n, 1)
    return sh.concat(tuple(sh.reshape(y, tuple(shape)) for y in ys), axis % n)


@array_function
def flip(x: Any, *, axis: Axis = None) -> Var:
    """x with the order of its elements reversed along ``axis`` (all axes if None).

    >>> flip(np.array([[1, 2], [3, 4]]), axis=1)
    array([[2, 1],
           [4, 3]], dtype=int32)
    """
    return array_operand("flip", x).graph.emit(sh.FLIP, (x,), (axes_of("flip", x, axis),))


def pad(x: Array, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """x with ``widths[a] = (before, after)`` more elements along each axis, all equal to ``value``.

    >>> pad(np.array([[1, 2]]), [(0, 1), (1, 0)], value=9)
    array([[9, 1, 2],
           [9, 9, 9]], dtype=int32)
    """
    return _pad(x, widths=widths, value=value)


@array_function
def _pad(x: Any, *, widths: Sequence[tuple[int, int]], value: float) -> Var:
    pairs = [(w,) if isinstance(w, int) else tuple(w) for w in widths] if isinstance(widths, list | tuple) else []
    if len(pairs) != len(array_operand("pad", x).shape) or any(
        len(p) != 2 or not all(isinstance(n, int | np.integer) and n >= 0 for n in p) for p in pairs
    ):  # fmt: skip
        raise expected("pad", f"{len(x.shape)} pairs (before, after) of lengths of at least 0", widths)
    if not isinstance(value, Real):
        raise expected("pad", "value a number", repr(value), TypeError)
    low, high = tuple(int(a) for a, _ in pairs), tuple(int(b) for _, b in pairs)
    zero = (0,) * len(low)
    y = sh.pad(x, low, high, zero)
    if value == 0.0:
        return y
    inside = sh.pad(x.graph.const(True, x.shape, "bool"), low, high, zero)
    return ew.where(inside, y, value)
