"""Elimination: how the planner finds inverses and determinants of symmetric positive definite matrices, by a kernel or in a loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.linalg import INVERSE, positive_definite, square
from fastmeta.ops.reduce import total
from fastmeta.ops.shape import broadcast
from fastmeta.ops.structure import Loop, loop
from fastmeta.program import DTYPES, Graph, Primitive, Program, Shape, Var


def _eliminated(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x,), (pivots,) = ins, at
    square("elimination", x)
    return x.shape[:-1] if pivots else x.shape, x.dtype


def _np_eliminated(x: np.ndarray, pivots: bool) -> np.ndarray:
    if not pivots:
        return INVERSE.evaluate(x)
    good = positive_definite(x)[..., None]
    factors = np.linalg.cholesky(np.where(good[..., None], x, np.eye(x.shape[-1], dtype=x.dtype)))
    return np.where(good, np.diagonal(factors, axis1=-2, axis2=-1) ** 2, np.asarray(np.nan, x.dtype))


def eliminate(x: Var, determinants: bool = False) -> Var:
    """The inverses of matrices [b, n, n], or the logarithms of their determinants [b], in other primitives: a loop of Gauss-Jordan
    steps, each on all; a pivot of rounding only gives NaN."""
    b, n, _ = whole = x.shape
    vector = (b, n)
    numbers = np.arange(n, dtype=np.int32)

    def chosen(x: Var, at: Var, axis: int) -> Var:
        return total(ew.where(broadcast(at, x.shape, (axis,)), x, 0.0), (axis,))

    g = Graph()
    least, a, k = g.input(vector, x.dtype), g.input(whole, x.dtype), g.input((), "i32")
    here = ew.apply(ew.EQUAL, broadcast(k, (n,), ()), g.array(numbers))
    column, row = chosen(a, here, 2), chosen(a, here, 1)
    pivot = chosen(row, here, 1)
    pivot = ew.where(ew.apply(ew.GREATER, pivot, chosen(least, here, 1)), pivot, float("nan"))
    row = ew.divide(ew.where(broadcast(here, vector, (1,)), 1.0, row), broadcast(pivot, vector, (0,)))
    rows = broadcast(row, whole, (0, 2))
    others = ew.where(broadcast(here, whole, (2,)), 0.0, a)
    others = ew.subtract(others, ew.multiply(broadcast(column, whole, (0, 1)), rows))
    body = Program([least, a, k], [ew.where(broadcast(here, whole, (1,)), rows, others), *([pivot] if determinants else [])], g)

    g = x.graph
    diagonal = total(ew.where(broadcast(g.array(np.eye(n, dtype=bool)), whole, (1, 2)), x, 0.0), (2,))
    least = ew.multiply(ew.apply(ew.ABS, diagonal), n * float(np.finfo(DTYPES[x.dtype]).eps))
    results = loop(g, Loop(body, 1, 1, 1, int(determinants), 0, n), (least, x, g.array(numbers)))
    return total(ew.apply(ew.LOG, results[1]), (0,)) if determinants else results[0]


# The inverses of matrices [b, n, n], or the pivots [b, n] by which they are found, where there is a kernel.
ELIMINATION = Primitive("elimination", _eliminated, _np_eliminated)
