"""Indexing by positions: known ones and computed ones."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from fastmeta.array.arguments import (
    array_function,
    array_operand,
    axis_of,
    common_dtype,
    converted,
    dtype_name,
    graph_of,
    integer_operand,
    ordered,
    shown,
)
from fastmeta.array.creation import arange
from fastmeta.array.shaping import permute_dims, reshape
from fastmeta.errors import expected, whole
from fastmeta.ops import elementwise as ew
from fastmeta.ops import index as ix
from fastmeta.ops import shape as sh
from fastmeta.ops.order import ARGSORT
from fastmeta.program import Var
from fastmeta.trace import Array, Tracer, as_array, located, running


def take(x: Array, indices: Array, axis: int | None = None) -> Array:
    """The slices of x at int32 ``indices`` along ``axis`` (0 if x has one axis); an index outside 0..n-1 raises IndexError.

    Constants, that is numbers, lists and in a trace NumPy's arrays, may count from the end.
    Errors: TypeError for other indices than integers, a mask for instance; ValueError without ``axis`` for more than one axis.

    >>> take(np.array([1.0, 2.0, 3.0]), [0, -1])
    array([1., 3.])
    """
    shape, a = np.shape(x), 0 if axis is None else axis
    constant = isinstance(indices, int | list | tuple) or isinstance(indices, np.ndarray) and running.trace is not None
    if constant and isinstance(a, int) and -len(shape) <= a < len(shape):
        indices = _from_start(_listed(indices), shape[a])
    return _take(x, indices, axis=axis)


@array_function
def _take(x: Any, indices: Any, *, axis: int | None) -> Var:
    if axis is None and len(array_operand("take", x).shape) != 1:
        raise expected("take", "axis to be given for more than one axis", x.shape)
    a = axis_of("take", x, 0 if axis is None else axis)
    idx = integer_operand("take", x.graph.const(indices, (), "i32") if type(indices) is int else indices)
    flat = sh.reshape(idx, tuple(idx.size if i == a else 1 for i in range(len(x.shape))))
    out = ix.gather(x, flat, a)
    return sh.reshape(out, (*x.shape[:a], *idx.shape, *x.shape[a + 1 :]))


@array_function
def take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Var:
    """``out[.., j, ..] = x[.., indices[.., j, ..], ..]`` along ``axis``; other axes of the indices match x's or are 1.

    Errors: IndexError, when it runs, for an index outside 0..n-1; TypeError for other indices than integers.

    >>> x = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    >>> take_along_axis(x, argsort(x))
    array([[1., 2., 3.],
           [0., 4., 5.]])
    >>> take_along_axis(x, np.array([[0], [2]]))
    array([[3.],
           [4.]])
    """
    a = axis_of("take_along_axis", x, axis)
    return ix.gather(x, integer_operand("take_along_axis", indices), a)


@array_function
def scatter_add(x: Any, indices: Any, updates: Any, *, axis: int = 0) -> Var:
    """x with ``updates`` slices added at 1-D int32 ``indices`` along ``axis``; equal indices add up.

    Errors: IndexError, when it runs, for an index outside 0..n-1; TypeError for updates of another dtype than x.

    >>> scatter_add(np.zeros(3), np.array([0, 2, 2]), np.array([1.0, 2.0, 3.0]))
    array([1., 0., 5.])
    >>> scatter_add(np.zeros((2, 3)), np.array([1]), 1.0)
    array([[0., 0., 0.],
           [1., 1., 1.]])
    """
    a = axis_of("scatter_add", x, axis)
    if len(integer_operand("scatter_add", indices).shape) != 1:
        raise expected("scatter_add", "indices of one axis", indices.shape)
    graph_of("scatter_add", [x, updates])
    if common_dtype("scatter_add", [x, updates]) != x.dtype:
        raise expected("scatter_add", f"updates of dtype {x.dtype}", shown(updates), TypeError)
    shape = (*x.shape[:a], indices.size, *x.shape[a + 1 :])
    u = sh.broadcast_to(converted(updates, x.dtype, x.graph), shape, "scatter_add")
    flat = sh.reshape(indices, tuple(indices.size if i == a else 1 for i in range(len(x.shape))))
    return ew.add(x, ix.scatter_add(u, flat, a, x.shape[a]))


@array_function
def _one_hot(labels: Any, *, n: int, dtype: str) -> Var:
    integer_operand("one_hot", labels, "labels")
    shape = (*labels.shape, n)
    classes = sh.broadcast(labels.graph.array(np.arange(n, dtype=np.int32)), shape, (len(shape) - 1,))
    hit = ew.apply(ew.EQUAL, sh.broadcast(labels, shape, tuple(range(len(labels.shape)))), classes)
    return sh.cast(hit, dtype)


def one_hot(labels: Array, n: int, *, dtype: Any = np.float32) -> Array:
    """[..., n] with 1 at each label and 0 elsewhere; a label outside 0..n-1 gives zeros.

    Errors: TypeError for labels that are not integers.

    >>> one_hot(np.array([2, 0, 3]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise located(expected("one_hot", "n a whole number of at least 0", repr(n)))
    return _one_hot(labels, n=int(n), dtype=dtype_name("one_hot", dtype))


@array_function
def argsort(x: Any, *, axis: int = -1, descending: bool = False) -> Var:
    """The int32 indices that sort x along ``axis``; of equal values the first comes first, NaN comes last.

    Errors: TypeError for bools.

    >>> argsort(np.array([2.0, np.nan, 1.0, 2.0])), argsort(np.array([2.0, np.nan, 1.0, 2.0]), descending=True)
    (array([2, 0, 3, 1], dtype=int32), array([0, 3, 2, 1], dtype=int32))
    """
    a = axis_of("argsort", x, axis)
    return ordered("argsort", x).graph.emit(ARGSORT, (x,), (a, x.shape[a], builtins.bool(descending)))


@array_function
def sort(x: Any, *, axis: int = -1, descending: bool = False) -> Var:
    """x sorted along ``axis``, NaN last; derivatives follow the values to their places.

    Errors: TypeError for bools.

    >>> sort(np.array([[3, 1], [2, 4]])), sort(np.array([3, 1, 2]), descending=True)
    (array([[1, 3],
           [2, 4]], dtype=int32), array([3, 2, 1], dtype=int32))
    """
    a = axis_of("sort", x, axis)
    return ix.gather(x, ordered("sort", x).graph.emit(ARGSORT, (x,), (a, x.shape[a], builtins.bool(descending))), a)


def top_k(x: Array, k: int, *, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    """The k largest (or smallest) values along ``axis`` in order, and their int32 indices; ties and NaN as in `argsort`.

    Errors: ValueError for a k above the number of values; TypeError for bools.

    >>> top_k(np.array([1.0, 5.0, 3.0], np.float32), 2)
    (array([5., 3.], dtype=float32), array([1, 2], dtype=int32))
    """
    indices = _first(x, k=k, axis=axis, largest=largest)
    return take_along_axis(x, indices, axis=axis), indices


@array_function
def _first(x: Any, *, k: int, axis: int, largest: bool) -> Var:
    a = axis_of("top_k", x, axis)
    k = whole("top_k", "k", k, 0)
    if k > x.shape[a]:
        raise expected("top_k", f"k of at most the {x.shape[a]} values along axis {axis}", k)
    return ordered("top_k", x).graph.emit(ARGSORT, (x,), (a, k, builtins.bool(largest)))


def getitem(x: Array, key: Any) -> Array:
    """x[key] for integers, slices, ``...``, None, integer arrays and constant masks, by NumPy's rules."""
    try:
        return _getitem(x, key)
    except (TypeError, IndexError, ValueError) as error:
        raise located(error) from error.__cause__


def _getitem(x: Array, key: Any) -> Array:
    given = [k for part in (key if isinstance(key, tuple) else (key,)) for k in _known(part)]
    keys, ndim = given, len(x.shape)
    used = builtins.sum(k is not None and k is not Ellipsis for k in keys)
    if used > ndim or builtins.sum(k is Ellipsis for k in keys) > 1:
        raise expected("index", f"at most {ndim} indices and one ... for {x.shape}", f"{len(keys)} indices", IndexError)
    dots = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    fill = [slice(None)] * (ndim - used)
    keys = [*keys[:dots], *fill, *keys[dots + 1 :]] if dots is not None else [*keys, *fill]
    basic = [slice(None) if _is_array(k) else k for k in keys]
    out = _basic(x, keys=tuple(("s", k.start, k.stop, k.step) if isinstance(k, slice) else k for k in basic))
    arrays = [k for k in keys if _is_array(k)]
    if not arrays:
        return out
    left = [k for k in keys if not isinstance(k, int)]
    at = [i for i, k in enumerate(left) if _is_array(k)]
    among = [i for i, k in enumerate(given) if isinstance(k, int) or _is_array(k)]
    if among[-1] - among[0] >= len(among):  # others between them: NumPy moves the arrays' axes to the front
        out = permute_dims(out, (*at, *[a for a in range(len(left)) if a not in at]))
        at = list(range(len(at)))
    return _points(out, arrays, at[0])


class Mask(NamedTuple):
    """The places where a constant mask is true along one of its axes, and its length there."""

    places: np.ndarray
    length: int


def _is_array(k: Any) -> bool:
    return isinstance(k, Tracer | np.ndarray | Mask)


def _known(k: Any) -> list[Any]:
    """NumPy's integers as Python's, lists as arrays, a mask as one array for each of its axes."""
    k = _listed(k)
    if isinstance(k, np.ndarray) and k.dtype == bool and k.ndim:
        return [Mask(places, n) for places, n in zip(np.nonzero(k), k.shape, strict=True)]
    return [int(k) if isinstance(k, np.integer) else k]


def _listed(k: Any) -> Any:
    """A list or tuple of integers or bools as an array."""
    if not isinstance(k, list | tuple):
        return k
    return as_array(k) if k else np.zeros(0, np.int32)


def _points(x: Array, arrays: list[Any], axis: int) -> Array:
    """x[.., i, j, .., :] for arrays i, j .. that index the axes from ``axis`` on: one element for each of their common places."""
    shape = np.shape(x)
    lengths = shape[axis : axis + len(arrays)]
    places = [_inside(k, n, many=len(arrays) > 1) for k, n in zip(arrays, lengths, strict=True)]
    try:
        np.broadcast_shapes(*map(np.shape, places))
    except ValueError:
        raise expected("index", "arrays that broadcast together", " and ".join(str(np.shape(k)) for k in places), IndexError) from None
    flat = places[0]
    for k, n in zip(places[1:], lengths[1:], strict=True):
        flat = flat * n + k
    return take(reshape(x, (*shape[:axis], math.prod(lengths), *shape[axis + len(arrays) :])), flat, axis=axis)


def _inside(k: Any, n: int, many: bool) -> Any:
    """Known indices, checked and from the start; of ``many`` computed ones each is checked by a look into 0..n-1 when it runs."""
    if isinstance(k, Mask):
        if k.length != n:
            raise expected("index", f"a mask of length {n}", k.length, IndexError)
        return k.places
    if not isinstance(k, np.ndarray):
        return take(arange(n), k) if many else k
    if k.dtype.kind not in "iu":
        raise expected("index", "integers, slices, ..., None or an integer array", f"an array of {k.dtype}", TypeError)
    if k.size and not (-n <= k.min() and k.max() < n):
        raise expected("index", f"indices in {-n}..{n - 1}", k[(k < -n) | (k >= n)][0], IndexError)
    return _from_start(k, n)


def _from_start(k: Any, n: int) -> Any:
    """Known indices that count from the end, from the start."""
    if isinstance(k, np.ndarray) and k.dtype.kind in "iu":
        k = k.astype(np.int64)  # n, and places among all elements, may need more than the bits of k
        return np.where((-n <= k) & (k < 0), k + n, k)
    return k + n if type(k) is int and -n <= k < 0 else k


@array_function
def _basic(x: Any, *, keys: tuple[Any, ...]) -> Var:
    start, stop, step, shape, flipped = [], [], [], [], []
    a = 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        n = x.shape[a]
        if isinstance(k, tuple):
            if k[3] == 0 or any(v is not None and not hasattr(v, "__index__") for v in k[1:]):
                raise expected("index", "a slice of integers with a step other than 0", ":".join(map(str, k[1:])), TypeError)
            lo, hi, s = slice(*k[1:]).indices(n)
            count = len(range(lo, hi, s))
            if s < 0:
                flipped.append(a)
                lo, s = lo + (count - 1) * s if count else 0, -s
            start.append(lo if count else 0)
            stop.append(lo + (count - 1) * s + 1 if count else 0)
            step.append(s)
            shape.append(count)
        elif isinstance(k, int) and not isinstance(k, builtins.bool):
            if not -n <= k < n:
                raise expected("index", f"an index in {-n}..{n - 1} for axis {a} of {x.shape}", k, IndexError)
            start.append(k % n)
            stop.append(k % n + 1)
            step.append(1)
        else:
            raise expected("index", "integers, slices, ..., None or an integer array", repr(k), TypeError)
        a += 1
    y = sh.cut(x, tuple(start), tuple(stop), tuple(step))
    if flipped:
        y = y.graph.emit(sh.FLIP, (y,), (tuple(flipped),))
    return sh.reshape(y, tuple(shape))
