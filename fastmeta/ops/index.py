"""Indexing by integers computed at run time: gather and its transpose, scatter-add.

Both take an index of the rank of the result, whose axes other than ``axis`` are those of the data or 1 (repeated).
Indices are checked at run time by every backend: 0 <= index < n.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import Primitive, Shape, Var


def gather(x: Var, index: Var, axis: int) -> Var:
    """``out[.., j, ..] = x[.., index[.., j, ..], ..]`` along ``axis``."""
    return x.graph.emit(GATHER, (x, index), (axis,))


def scatter_add(x: Var, index: Var, axis: int, n: int) -> Var:
    """``out[.., index[.., j, ..], ..] += x[.., j, ..]`` into zeros of length n along ``axis``."""
    return x.graph.emit(SCATTER_ADD, (x, index), (axis, n))


def _check(name: str, x: Var, index: Var, axis: int) -> None:
    if index.dtype != "i32":
        raise expected(name, "an i32 index", index.dtype, TypeError)
    if len(index.shape) != len(x.shape) or not 0 <= axis < len(x.shape) or any(
        b not in (1, a) for i, (a, b) in enumerate(zip(x.shape, index.shape, strict=True)) if i != axis
    ):  # fmt: skip
        raise expected(name, f"an index that matches {x.shape} but for axis {axis}", index.shape)


def _gather(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x, index), (axis,) = ins, at
    _check("take", x, index, axis)
    return (*x.shape[:axis], index.shape[axis], *x.shape[axis + 1 :]), x.dtype


def _scatter(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x, index), (axis, n) = ins, at
    _check("scatter_add", x, index, axis)
    if index.shape[axis] != x.shape[axis]:
        raise expected("scatter_add", f"an index of length {x.shape[axis]} along axis {axis}", index.shape)
    return (*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype


class BadIndex(IndexError):
    """An index outside 0..bound-1, with the task in which the oracle met it (-1 outside tasks)."""

    def __init__(self, index: int, bound: int) -> None:
        super().__init__(f"{index} is outside 0..{bound - 1}")
        self.index, self.bound, self.task = index, bound, -1


def _bounds(index: np.ndarray, n: int) -> None:
    bad = index[(index < 0) | (index >= n)]
    if bad.size:
        raise BadIndex(int(bad[0]), n)


def _np_gather(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    _bounds(index, x.shape[axis])
    shape = [index.shape[axis] if a == axis else n for a, n in enumerate(x.shape)]
    return np.take_along_axis(x, np.broadcast_to(index, shape), axis)


def _np_scatter(x: np.ndarray, index: np.ndarray, axis: int, n: int) -> np.ndarray:
    _bounds(index, n)
    out = np.zeros([n if a == axis else m for a, m in enumerate(x.shape)], x.dtype)
    where: list[Any] = list(np.indices(x.shape, sparse=True))
    where[axis] = np.broadcast_to(index, x.shape)
    np.add.at(out, tuple(where), x)
    return out


GATHER = Primitive(
    "take", _gather, _np_gather, linear=(0,),
    transpose=lambda i, ct, v: scatter_add(ct, v.ins[1], v.attrs[0], v.ins[0].shape[v.attrs[0]]),
    samples=(("f(4,3) i4(2,1)", (0,)), ("f(3,4) i4(3,2)", (1,)), ("f(2,4,3) i4(1,5,1)", (1,)), ("i(4,) i4(3,)", (0,))),
)  # fmt: skip
SCATTER_ADD = Primitive(
    "scatter_add", _scatter, _np_scatter, linear=(0,),
    transpose=lambda i, ct, v: gather(ct, v.ins[1], v.attrs[0]),
    samples=(("f(2,3) i4(2,1)", (0, 4)), ("f(3,2) i4(3,2)", (1, 4)), ("f(2,5,3) i4(1,5,1)", (1, 4))),
)  # fmt: skip
