"""Norms, diagonals and linear equations."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.array.arguments import Axis, array_function, array_operand, floats_of, static_integers
from fastmeta.array.composed import root
from fastmeta.array.numeric import abs, multiply, square
from fastmeta.array.product import inverse, matmul
from fastmeta.array.reduction import max, sum
from fastmeta.array.shaping import expand_dims
from fastmeta.errors import expected
from fastmeta.ops import shape as sh
from fastmeta.program import Var
from fastmeta.trace import Array, located


def norm(x: Array, axis: Axis = None, *, keepdims: bool = False, ord: float = 2) -> Array:
    """The norm over ``axis`` (all axes if None): the root of the sum of squares, or with ``ord`` 1 the sum and with infinity the largest of |x|.

    The derivative is 0 where the root is 0.
    Errors: ValueError for another ``ord``.

    >>> norm(np.array([[3.0, 4.0], [0.0, 0.0]]), axis=1)
    array([5., 0.])
    """
    x = _floats(x)
    if ord == 2:
        return root(sum(square(x), axis=axis, keepdims=keepdims))
    if ord not in (1, float("inf")):
        raise located(expected("norm", "ord 1, 2 or infinity", repr(ord)))
    return (sum if ord == 1 else max)(abs(x), axis=axis, keepdims=keepdims)


@array_function
def _floats(x: Any) -> Var:
    """Integers as floats, whose squares do not overflow."""
    return floats_of(array_operand("norm", x))


def solve(a: Array, b: Array) -> Array:
    """The solution x of a x = b for symmetric positive definite matrices a [.., n, n]; b is a vector [n] or matrices [.., n, k].

    It is `inverse` (a) times b: NaN where that is NaN.
    Errors: those of `inverse` and `matmul`.

    >>> solve(np.array([[2.0, 0.0], [0.0, 4.0]]), np.array([2.0, 2.0]))
    array([1. , 0.5])
    """
    return matmul(inverse(a), b)


def outer(x: Array, y: Array) -> Array:
    """All products of the elements of two vectors: [n, m].

    >>> outer(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([[3., 4.],
           [6., 8.]])
    """
    if np.ndim(x) != 1 or np.ndim(y) != 1:
        raise located(expected("outer", "two vectors", f"shapes {np.shape(x)} and {np.shape(y)}"))
    return multiply(expand_dims(x, 1), y)


@array_function
def diagonal(x: Any, *, offset: int = 0) -> Var:
    """The diagonals of matrices [.., m, n], ``offset`` places above the main one: every (n + 1)th element of the rows put one after the other.

    >>> diagonal(np.array([[1, 2, 3], [4, 5, 6]]), offset=1)
    array([2, 6], dtype=int32)
    """
    if len(array_operand("diagonal", x).shape) < 2:
        raise expected("diagonal", "at least two axes", x.shape)
    (k,) = static_integers("diagonal", offset, "an offset")
    *lead, m, n = x.shape
    start, count = (k, min(m, n - k)) if k >= 0 else (-k * n, min(m + k, n))
    start, stop = (start, start + (count - 1) * (n + 1) + 1) if count > 0 else (0, 0)
    zeros, ones = (0,) * len(lead), (1,) * len(lead)
    return sh.cut(sh.reshape(x, (*lead, m * n)), (*zeros, start), (*lead, stop), (*ones, n + 1))


def diag(x: Array, k: int = 0) -> Array:
    """The k-th diagonal of a matrix, or a square matrix of zeros with the vector x on it.

    >>> diag(np.array([1.0, 2.0]))
    array([[1., 0.],
           [0., 2.]])
    """
    if np.ndim(x) not in (1, 2):
        raise located(expected("diag", "a vector or a matrix", f"shape {np.shape(x)}"))
    return diagonal(x, offset=k) if np.ndim(x) == 2 else _on_diagonal(x, k=k)


@array_function
def _on_diagonal(x: Any, *, k: int) -> Var:
    """The transpose of `diagonal`: zeros between the elements, and rows made of it."""
    (k,) = static_integers("diag", k, "a diagonal")
    n = x.size + (k if k >= 0 else -k)
    start = k if k >= 0 else -k * n
    length = (x.size - 1) * (n + 1) + 1 if x.size else 0
    return sh.reshape(sh.pad(x, (start,), (n * n - start - length,), (n,)), (n, n))


def trace(x: Array, *, offset: int = 0) -> Array:
    """The sums of the diagonals of matrices [.., m, n].

    >>> trace(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array(5.)
    """
    return sum(diagonal(x, offset=offset), axis=-1)
