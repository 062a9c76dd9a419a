"""Rows of the table: reading and writing at places that indices tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.interop.torch.shapes import cat, cut
from fastmeta.interop.torch.table import refuse, row
from fastmeta.trace import Array

# -- reading


@row("embedding.default")
def embedding(w: Array, indices: Array, padding: int = -1, by_frequency: bool = False, sparse: bool = False) -> Array:
    """Rows of w; the row ``padding`` takes part in no derivative."""
    if by_frequency or sparse:
        raise refuse("scale_grad_by_freq=True" if by_frequency else "sparse=True, gradients are dense")
    rows = fa.take(w, indices, axis=0)
    return rows if padding < 0 else fa.where(fa.expand_dims(fa.equal(indices, padding), axis=-1), fa.stop_gradient(rows), rows)


@row("index_select.default")
def index_select(x: Array, axis: int, indices: Array) -> Array:
    return fa.take(x, fa.reshape(indices, (-1,)), axis=axis)


@row("gather.default")
def gather(x: Array, axis: int, indices: Array, **_: Any) -> Array:
    """The indices may be of fewer places along the other axes."""
    return fa.take_along_axis(_corner(x, indices.shape, axis), indices, axis=axis)


@row("take_along_dim.default")
def take_along_dim(x: Array, indices: Array, axis: int | None = None) -> Array:
    if axis is None:
        return fa.take(fa.reshape(x, (-1,)), fa.reshape(indices, (-1,)), axis=0)
    shape = [max(n, m) for n, m in zip(x.shape, indices.shape, strict=True)]
    shape[axis] = x.shape[axis]
    return fa.take_along_axis(fa.broadcast_to(x, shape), indices, axis=axis)


@row("index.Tensor")
def index(x: Array, indices: Sequence[Any]) -> Array:
    """x at one array of indices, or at several for axes next to each other; a negative index counts from the end."""
    axes = [a for a, k in enumerate(indices) if k is not None]
    if any(indices[a].dtype == np.bool_ for a in axes):
        raise refuse("a mask of bools, whose result has a length that depends on values (where(mask, x, 0) has not)")
    if axes[-1] - axes[0] >= len(axes):
        raise refuse("indices with other axes between them")
    sizes = [x.shape[a] for a in axes]
    flat = fa.reshape(x, (*x.shape[: axes[0]], -1, *x.shape[axes[-1] + 1 :]))
    return fa.take(flat, _place([indices[a] for a in axes], sizes), axis=axes[0])


def _place(indices: Sequence[Array], sizes: Sequence[int]) -> Array:
    """Indices of several axes as those of one, row-major; what is out of range becomes -1, which is refused at run time."""
    place, inside = np.int32(0), np.True_
    for k, n in zip(indices, sizes, strict=True):
        k = fa.where(fa.less(k, 0), fa.add(k, n), k)
        inside = fa.logical_and(inside, fa.logical_and(fa.greater_equal(k, 0), fa.less(k, n)))
        place = fa.add(fa.multiply(place, n), k)
    return fa.where(inside, place, -1)


def _corner(x: Array, shape: Sequence[int], axis: int) -> Array:
    """As much of x along all axes but one as there are indices."""
    return x[tuple(slice(None) if a == axis % len(shape) else slice(n) for a, n in enumerate(shape))]


@row("one_hot.default")
def one_hot(x: Array, n: int) -> Array:
    return fa.one_hot(x, n, dtype=np.int32)


# -- writing


@row("index_add.default")
def index_add(x: Array, axis: int, indices: Array, values: Array, *, alpha: float = 1) -> Array:
    values = values if alpha == 1 else fa.multiply(values, alpha)
    return fa.scatter_add(x, fa.reshape(indices, (-1,)), values, axis=axis)


@row("scatter_add.default")
def scatter_add(x: Array, axis: int, indices: Array, values: Array) -> Array:
    """x as one row, to which every value is added at its place."""
    grid: list[Array] = list(np.indices(indices.shape, dtype=np.int32, sparse=True))
    grid[axis] = fa.where(fa.less(indices, 0), x.shape[axis], indices)  # none counts from the end here
    values = fa.reshape(values[tuple(slice(n) for n in indices.shape)], (-1,))
    flat = fa.scatter_add(fa.reshape(x, (-1,)), fa.reshape(_place(grid, x.shape), (-1,)), values, axis=0)
    return fa.reshape(flat, x.shape)


@row("scatter.value")
def scatter_value(x: Array, axis: int, indices: Array, value: float) -> Array:
    """One value at all places told."""
    one = np.ones(tuple(indices.shape), x.dtype)
    return fa.where(fa.greater(scatter_add(fa.zeros_like(x), axis, indices, one), 0), value, x)


@row("slice_scatter.default")
def slice_scatter(x: Array, part: Array, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Array:
    """x with ``part`` in place of a slice."""
    if step != 1:
        raise refuse(f"a slice of step {step}")
    (first, last, _) = slice(start, stop).indices(x.shape[axis])
    return cat([cut(x, axis, 0, first), part, cut(x, axis, max(first, last))], axis)


@row("select_scatter.default")
def select_scatter(x: Array, part: Array, axis: int, at: int) -> Array:
    at %= x.shape[axis]
    return slice_scatter(x, fa.expand_dims(part, axis=axis % len(x.shape)), axis, at, at + 1)


@row("index_fill.int_Scalar")
def index_fill(x: Array, axis: int, indices: Array, value: float) -> Array:
    count = fa.scatter_add(np.zeros(x.shape[axis], np.int32), fa.reshape(indices, (-1,)), 1, axis=0)
    return fa.where(fa.reshape(fa.greater(count, 0), (-1, *[1] * (len(x.shape) - 1 - axis % len(x.shape)))), value, x)
