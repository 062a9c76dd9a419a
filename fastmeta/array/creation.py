"""New arrays: of float32 where no dtype is given, and constants of the program inside a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta.array.arguments import dtype_name, static_integers
from fastmeta.array.numeric import astype
from fastmeta.array.shaping import broadcast_to
from fastmeta.errors import expected, whole
from fastmeta.program import DTYPES
from fastmeta.trace import Array, Tracer, located, narrow, running


def zeros(shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
    """Zeros of a shape, a tuple or one length.

    >>> zeros(2), zeros((1, 2), np.int32)
    (array([0., 0.], dtype=float32), array([[0, 0]], dtype=int32))
    """
    return _filled("zeros", shape, 0, dtype)


def ones(shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
    """Ones of a shape, a tuple or one length.

    >>> ones(2), ones((1, 2), bool)
    (array([1., 1.], dtype=float32), array([[ True,  True]]))
    """
    return _filled("ones", shape, 1, dtype)


def full(shape: int | Sequence[int], value: Array, dtype: Any = None) -> Array:
    """An array whose every element is ``value``, a number or an array of one; without ``dtype`` of its dtype, float32 for a float.

    Errors: OverflowError for an integer beyond 32 bits.

    >>> full(2, 0.5)
    array([0.5, 0.5], dtype=float32)
    """
    if type(value) not in (float, int, bool):
        return broadcast_to(value if dtype is None else astype(value, dtype=dtype), _lengths("full", shape))
    return _filled("full", shape, value, {float: np.float32, int: np.int32, bool: bool}[type(value)] if dtype is None else dtype)


def eye(rows: int, columns: int | None = None, k: int = 0, dtype: Any = np.float32) -> Array:
    """A matrix with ones on its k-th diagonal and zeros elsewhere; square if only ``rows`` is given.

    >>> eye(2, 3, k=1)
    array([[0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    m, n = _lengths("eye", (rows, rows if columns is None else columns))
    (k,) = static_integers("eye", k, "a diagonal")
    return _constant(np.eye(m, n, k, _dtype("eye", dtype)))


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Array:
    """The numbers from ``start``, 0 where only one number is given, to before ``stop``; integers of integers, else float32.

    Errors: TypeError for numbers that are not known while tracing; ValueError for a step of 0.

    >>> arange(3), arange(1, 2, 0.5)
    (array([0, 1, 2], dtype=int32), array([1. , 1.5], dtype=float32))
    """
    start, stop = (0, start) if stop is None else (start, stop)
    numbers = _numbers("arange", start, stop, step)
    if step == 0:
        raise located(expected("arange", "a step other than 0", step))
    default = np.int32 if all(isinstance(x, int) for x in numbers) else np.float32
    return _constant(narrow(np.arange(*numbers)).astype(_dtype("arange", default if dtype is None else dtype)))


def linspace(start: float, stop: float, num: int, *, dtype: Any = np.float32, endpoint: bool = True) -> Array:
    """``num`` numbers at equal distances from ``start`` to ``stop``, this included with ``endpoint``.

    Errors: TypeError for numbers that are not known while tracing.

    >>> linspace(0, 1, 3)
    array([0. , 0.5, 1. ], dtype=float32)
    """
    first, last = _numbers("linspace", start, stop)
    return _constant(np.linspace(first, last, whole("linspace", "num", num, 0), endpoint).astype(_dtype("linspace", dtype)))


def _filled(where: str, shape: Any, value: float, dtype: Any) -> Array:
    """One number everywhere: inside a trace it takes no memory."""
    lengths, name, t = _lengths(where, shape), dtype_name(where, dtype), running.trace
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise located(expected(where, "integers that fit in 32 bits", value, OverflowError))
    with np.errstate(over="ignore"):  # a float32 that is too large is infinite
        number = DTYPES[name].type(value)
    return np.full(lengths, number) if t is None else Tracer(t.graph.const(number.item(), lengths, name), t)


def _constant(x: np.ndarray) -> Array:
    t = running.trace
    return x if t is None else Tracer(t.lift(x), t)


def _dtype(where: str, dtype: Any) -> np.dtype[Any]:
    return DTYPES[dtype_name(where, dtype)]


def _lengths(where: str, shape: Any) -> tuple[int, ...]:
    lengths = static_integers(where, shape)
    if any(n < 0 for n in lengths):
        raise located(expected(where, "lengths of at least 0", lengths))
    return lengths


def _numbers(where: str, *xs: Any) -> list[Any]:
    """Numbers known while tracing, NumPy's as Python's."""
    xs = tuple(x.item() if isinstance(x, np.number) else x for x in xs)
    if not all(type(x) in (int, float) and math.isfinite(x) for x in xs):
        raise located(expected(where, "finite numbers known while tracing", xs, TypeError))
    return list(xs)
