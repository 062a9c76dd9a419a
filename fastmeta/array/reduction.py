"""Reductions, cumulative sums and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod as product
from typing import Any

from fastmeta.array.arguments import (
    Axis,
    array_function,
    array_operand,
    axes_of,
    axis_of,
    counted,
    floats_of,
    ordered,
    shown,
)
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import shape as sh
from fastmeta.ops.index import gather
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, spread, total
from fastmeta.program import FLOATS, Primitive, Var
from fastmeta.trace import Array


def _keep(x: Var, y: Var, axes: tuple[int, ...], keepdims: bool) -> Var:
    return sh.reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape))) if keepdims else y


@array_function
def sum(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The sum over ``axis`` (all axes if None); bools are counted.

    >>> sum(np.ones((2, 3)), axis=0), sum(np.array([True, True]))
    (array([2., 2., 2.]), array(2, dtype=int32))
    >>> sum(np.ones((2, 3, 4)), axis=(0, 2), keepdims=True).shape
    (1, 3, 1)
    """
    axes = axes_of("sum", x, axis)
    x = counted(x)
    return _keep(x, total(x, axes), axes, keepdims)


@array_function
def mean(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The mean over ``axis`` (all axes if None); integers and bools are averaged as float32.

    Errors: ValueError of no elements.

    >>> mean(np.array([[1, 2], [3, 4]]), axis=0)
    array([2., 3.], dtype=float32)
    """
    axes = axes_of("mean", x, axis)
    x = floats_of(x)
    n = product(x.shape[a] for a in axes)
    if n == 0:
        raise expected("mean", "at least one element", x.shape)
    return _keep(x, ew.multiply(total(x, axes), 1.0 / n), axes, keepdims)


@array_function
def var(x: Any, *, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> Var:
    """The variance over ``axis``: squared deviations, in two passes, over their number less ``correction``; integers and bools as float32.

    Errors: ValueError of no more elements than ``correction``.

    >>> var(np.array([1.0, 3.0])), var(np.array([1.0, 3.0]), correction=1)
    (array(1.), array(2.))
    """
    axes = axes_of("var", x, axis)
    x = floats_of(x)
    n = product(x.shape[a] for a in axes)
    if n == 0 or n <= correction:
        raise expected("var", f"more than {correction} elements" if correction else "at least one element", x.shape)
    d = ew.subtract(x, spread(ew.multiply(total(x, axes), 1.0 / n), x.shape, axes))
    return _keep(x, ew.multiply(total(ew.multiply(d, d), axes), 1.0 / (n - correction)), axes, keepdims)


@array_function
def median(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The middle one of the sorted elements over ``axis`` (all axes if None), the mean of the middle two of an even number.

    NaN propagates; integers and bools as float32.
    Errors: ValueError of no elements.

    >>> median(np.array([[3.0, 1.0, 2.0], [4.0, 0.0, 9.0]]), axis=1)
    array([2., 4.])
    """
    axes = axes_of("median", x, axis)
    x = floats_of(x)
    left = tuple(a for a in range(len(x.shape)) if a not in axes)
    n, shape = product(x.shape[a] for a in axes), tuple(x.shape[a] for a in left)
    if n == 0:
        raise expected("median", "at least one element", x.shape)
    rows = sh.reshape(sh.permute(x, (*left, *axes)), (*shape, n))
    order = x.graph.emit(ARGSORT, (rows,), (len(shape), n, False))

    def mean_of(first: int, last: int) -> Var:
        places = sh.cut(order, (*(0,) * len(shape), first), (*shape, last + 1), (1,) * len(rows.shape))
        return ew.multiply(total(gather(rows, places, len(shape)), (len(shape),)), 1.0 / (last + 1 - first))

    largest = mean_of(n - 1, n - 1)  # NaN where one is
    return _keep(x, ew.where(ew.apply(ew.EQUAL, largest, largest), mean_of((n - 1) // 2, n // 2), largest), axes, keepdims)


OF_NONE = "\n\nErrors: ValueError of no elements; TypeError for bools.\n\n"


def _extreme(name: str, op: Primitive, example: str) -> Callable[..., Array]:
    def f(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
        axes = axes_of(name, x, axis)
        return _keep(x, x.graph.emit(op, (ordered(name, x),), (axes,)), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The {name}imum over ``axis`` (all axes if None); ties share the derivative equally; NaN propagates.{OF_NONE}{example}"
    return array_function(f)


max = _extreme("max", MAX, ">>> fm.grad(max)(np.array([1.0, 3.0, 3.0]))\narray([0. , 0.5, 0.5])")
min = _extreme("min", MIN, ">>> min(np.array([[1.0, 4.0], [3.0, np.nan]]), axis=1)\narray([ 1., nan])")


def _position(name: str, op: Primitive, example: str) -> Callable[..., Array]:
    def f(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Var:
        x = ordered(name, array_operand(name, x))
        if isinstance(axis, tuple):
            raise expected(name, "one axis or None", axis, TypeError)
        if axis is None:
            flat = x.graph.emit(op, (sh.reshape(x, (x.size,)),), (0,))
            return sh.reshape(flat, (1,) * len(x.shape)) if keepdims else flat
        axes = axes_of(name, x, axis)
        return _keep(x, x.graph.emit(op, (x,), axes), axes, keepdims)

    f.__name__ = name
    f.__doc__ = f"The int32 index of the first {name[3:]}imum along ``axis`` (of the flat array if None).{OF_NONE}{example}"
    return array_function(f)


argmax = _position("argmax", ARGMAX, ">>> argmax(np.array([[1, 3, 3], [4, 2, 0]])), argmax(np.array([[1, 3, 3], [4, 2, 0]]), axis=1)\n(array(3, dtype=int32), array([1, 0], dtype=int32))")
argmin = _position("argmin", ARGMIN, ">>> argmin(np.array([[2, 1], [0, 0]]), axis=1)\narray([1, 0], dtype=int32)")


@array_function
def prod(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """The product over ``axis`` (all axes if None) of numbers, bools as integers; its derivative is exact at zeros, to any order.

    >>> prod(np.array([[1, 2], [3, 4]]), axis=1)
    array([ 2, 12], dtype=int32)
    >>> fm.grad(prod)(np.array([0.0, 2.0, 3.0]))
    array([6., 0., 0.])
    """
    axes = axes_of("prod", x, axis)
    x = counted(x)
    left = tuple(a for a in range(len(x.shape)) if a not in axes)
    shape = tuple(x.shape[a] for a in left)
    n = product(x.shape[a] for a in axes)
    y = sh.reshape(sh.permute(x, (*axes, *left)), (n, *shape))
    if n == 0:
        return _keep(x, x.graph.const(1, shape, x.dtype), axes, keepdims)
    zero, one = (0,) * len(shape), (1,) * (len(shape) + 1)
    while n > 1:  # by halves: log2(n) products
        h = n // 2
        low = sh.cut(y, (0, *zero), (h, *shape), one)
        high = sh.cut(y, (h, *zero), (2 * h, *shape), one)
        both = x.graph.emit(ew.MULTIPLY, (low, high))
        y = sh.concat((both, sh.cut(y, (2 * h, *zero), (n, *shape), one)), 0) if n % 2 else both
        n = h + n % 2
    return _keep(x, sh.reshape(y, shape), axes, keepdims)


@array_function
def cumulative_sum(x: Any, *, axis: int | None = None) -> Var:
    """The running sum along ``axis`` (which may be left out for one axis only).

    >>> cumulative_sum(np.array([[1, 2, 3], [4, 5, 6]]), axis=1)
    array([[ 1,  3,  6],
           [ 4,  9, 15]], dtype=int32)
    """
    if axis is None and len(array_operand("cumulative_sum", x).shape) != 1:
        raise expected("cumulative_sum", "axis to be given for more than one axis", x.shape)
    a = axis_of("cumulative_sum", x, 0 if axis is None else axis)
    return x.graph.emit(CUMSUM, (counted(x),), (a, False))


@array_function
def cumulative_prod(x: Any, *, axis: int | None = None) -> Var:
    """The running product along ``axis`` (which may be left out for one axis only); its derivative is exact at zeros, to any order.

    >>> cumulative_prod(np.array([1.0, 2.0, 3.0]))
    array([1., 2., 6.])
    """
    if axis is None and len(array_operand("cumulative_prod", x).shape) != 1:
        raise expected("cumulative_prod", "axis to be given for more than one axis", x.shape)
    a = axis_of("cumulative_prod", x, 0 if axis is None else axis)
    y, n, k = counted(x), x.shape[a], 1

    def part(start: int, stop: int) -> Var:
        zero, one = (0,) * len(x.shape), (1,) * len(x.shape)
        return sh.cut(y, (*zero[:a], start, *zero[a + 1 :]), (*x.shape[:a], stop, *x.shape[a + 1 :]), one)

    while k < n:  # of the last 1, 2, 4 .. elements: log2(n) products
        y = sh.concat((part(0, k), ew.multiply(part(k, n), part(0, n - k))), a)
        k *= 2
    return y


@array_function
def logsumexp(x: Any, *, axis: Axis = None, keepdims: bool = False) -> Var:
    """log(sum(exp(x))) over ``axis``, safe for large x.

    Errors: TypeError for other dtypes than float.

    >>> logsumexp(np.array([[0.0, 0.0], [1000.0, 1000.0]]), axis=1)
    array([6.93147181e-01, 1.00069315e+03])
    """
    axes = axes_of("logsumexp", x, axis)
    top, shifted = _shifted("logsumexp", x, axes)
    s = ew.add(ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes)), top)
    return _keep(x, s, axes, keepdims)


@array_function
def softmax(x: Any, *, axis: int = -1) -> Var:
    """exp(x) / sum(exp(x)) along ``axis``, safe for large x.

    Errors: TypeError for other dtypes than float.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, -np.inf]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    axes = axes_of("softmax", x, axis)
    e = ew.apply(ew.EXP, _shifted("softmax", x, axes)[1])
    return ew.divide(e, spread(total(e, axes), x.shape, axes))


@array_function
def log_softmax(x: Any, *, axis: int = -1) -> Var:
    """log(softmax(x)) along ``axis``, safe for large x.

    Errors: TypeError for other dtypes than float.

    >>> log_softmax(np.array([0.0, 1000.0]))
    array([-1000.,     0.])
    """
    axes = axes_of("log_softmax", x, axis)
    shifted = _shifted("log_softmax", x, axes)[1]
    s = ew.apply(ew.LOG, total(ew.apply(ew.EXP, shifted), axes))
    return ew.subtract(shifted, spread(s, x.shape, axes))


def _shifted(where: str, x: Var, axes: tuple[int, ...]) -> tuple[Var, Var]:
    """The maximum, as a constant and 0 where it is not finite, and x minus it."""
    if x.dtype not in FLOATS:
        raise expected(where, "a float array", shown(x), TypeError)
    top = x.graph.emit(sh.STOP_GRADIENT, (x.graph.emit(MAX, (x,), (axes,)),))
    top = ew.where(ew.apply(ew.LESS, ew.apply(ew.ABS, top), float("inf")), top, 0.0)
    return top, ew.subtract(x, spread(top, x.shape, axes))
