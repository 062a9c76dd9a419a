"""Rows of the table: sums, means, extremes, spreads, norms and orders along axes."""

from __future__ import annotations

import math
from typing import Any

from fastmeta import array as fa
from fastmeta.array.composed import root
from fastmeta.interop.torch.table import axes_of, converted, refuse, row
from fastmeta.trace import Array

# -- sums


@row("mean.dim", "mean.default")
def mean(x: Array, axes: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Array:
    return fa.mean(converted(x, dtype), axis=axes_of(x, axes), keepdims=keepdims)


@row("sum.dim_IntList", "sum.default")
def total(x: Array, axes: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Array:
    return fa.sum(converted(x, dtype), axis=axes_of(x, axes), keepdims=keepdims)


@row("prod.default", "prod.dim_int")
def product(x: Array, axes: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Array:
    return fa.prod(converted(x, dtype), axis=axes_of(x, axes), keepdims=keepdims)


@row("cumsum.default")
def cumsum(x: Array, axis: int, *, dtype: Any = None) -> Array:
    return fa.cumulative_sum(converted(x, dtype), axis=axis)


@row("cumprod.default")
def cumprod(x: Array, axis: int, *, dtype: Any = None) -> Array:
    return fa.cumulative_prod(converted(x, dtype), axis=axis)


@row("logsumexp.default")
def logsumexp(x: Array, axes: Any, keepdims: bool = False) -> Array:
    return fa.logsumexp(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("softmax.int", "_softmax.default")
def softmax(x: Array, axis: int, dtype: Any = None) -> Array:
    return fa.softmax(converted(x, dtype or None), axis=axis)


@row("log_softmax.int", "_log_softmax.default")
def log_softmax(x: Array, axis: int, dtype: Any = None) -> Array:
    return fa.log_softmax(converted(x, dtype or None), axis=axis)


@row("any.default", "any.dim", "any.dims")
def some(x: Array, axes: Any = None, keepdims: bool = False) -> Array:
    return fa.any(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("all.default", "all.dim", "all.dims")
def every(x: Array, axes: Any = None, keepdims: bool = False) -> Array:
    return fa.all(x, axis=axes_of(x, axes), keepdims=keepdims)


# -- extremes and order


@row("amax.default", "max.default")
def amax(x: Array, axes: Any = (), keepdims: bool = False) -> Array:
    """Ties share the derivative."""
    return fa.max(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("amin.default", "min.default")
def amin(x: Array, axes: Any = (), keepdims: bool = False) -> Array:
    return fa.min(x, axis=axes_of(x, axes), keepdims=keepdims)


for _name, _place in {"max": fa.argmax, "min": fa.argmin}.items():

    @row(f"{_name}.dim")
    def extreme(x: Array, axis: int, keepdims: bool = False, place: Any = _place) -> tuple[Array, Array]:
        """The first of the extremes along an axis, which has the whole derivative, and where it is."""
        at = place(x, axis=axis, keepdims=True)
        y = fa.take_along_axis(x, at, axis=axis)
        return (y, at) if keepdims else (fa.squeeze(y, axis=axis), fa.squeeze(at, axis=axis))


@row("argmax.default")
def argmax(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    return fa.argmax(x, axis=axis, keepdims=keepdims)


@row("argmin.default")
def argmin(x: Array, axis: int | None = None, keepdims: bool = False) -> Array:
    return fa.argmin(x, axis=axis, keepdims=keepdims)


@row("sort.default", "sort.stable")
def sort(x: Array, axis: int = -1, descending: bool = False, *, stable: bool = True, dim: int | None = None) -> tuple[Array, Array]:
    """Stable in any case, as `fm.sort` is."""
    axis = axis if dim is None else dim
    at = argsort(x, axis, descending)
    return fa.take_along_axis(x, at, axis=axis), at


@row("argsort.default", "argsort.stable")
def argsort(x: Array, axis: int = -1, descending: bool = False, *, stable: bool = True, dim: int | None = None) -> Array:
    return fa.argsort(x, axis=axis if dim is None else dim, descending=descending)


@row("topk.default")
def topk(x: Array, k: int, axis: int = -1, largest: bool = True, in_order: bool = True) -> tuple[Array, Array]:
    return fa.top_k(x, k, axis=axis, largest=largest)


# -- spreads and norms


@row("var.dim", "var.correction", "var.default")
def var(x: Array, axes: Any = None, unbiased: bool = True, keepdims: bool = False, *, correction: float | None = None, keepdim: bool = False) -> Array:
    axis = axes_of(x, axes)
    n = math.prod(x.shape[a] for a in axis)
    less = float(unbiased) if correction is None else correction
    if n <= less:
        raise refuse(f"a correction of {less:g} to {n} elements")
    return fa.var(x, axis=axis, keepdims=keepdims or keepdim, correction=less)


@row("std.dim", "std.correction", "std.default")
def std(x: Array, *args: Any, **options: Any) -> Array:
    """With derivative 0 where all values are equal, as in PyTorch."""
    return root(var(x, *args, **options))


@row("var_mean.dim", "var_mean.correction", "var_mean.default")
def var_mean(x: Array, axes: Any = None, unbiased: bool = True, keepdims: bool = False, **options: Any) -> tuple[Array, Array]:
    return var(x, axes, unbiased, keepdims, **options), mean(x, axes, keepdims or options.get("keepdim", False))


@row("std_mean.dim", "std_mean.correction", "std_mean.default")
def std_mean(x: Array, *args: Any, **options: Any) -> tuple[Array, Array]:
    variance, average = var_mean(x, *args, **options)
    return root(variance), average


@row("linalg_vector_norm.default")
def vector_norm(x: Array, order: float = 2, axes: Any = None, keepdims: bool = False, *, dtype: Any = None) -> Array:
    x, axis = converted(x, dtype), axes_of(x, axes)
    if order not in (1, 2, math.inf):
        raise refuse(f"a norm of order {order}")
    return fa.norm(x, axis, keepdims=keepdims, ord=order)


@row("linalg_norm.default")
def norm(x: Array, order: Any = None, axes: Any = None, keepdims: bool = False, **options: Any) -> Array:
    if order is not None and len(axes_of(x, axes)) > 1:
        raise refuse(f"a norm of matrices, of order {order}")
    return vector_norm(x, 2 if order is None else order, axes, keepdims, **options)


@row("cosine_similarity.default")
def cosine_similarity(x: Array, y: Array, axis: int = 1, eps: float = 1e-8) -> Array:
    rank = max(len(x.shape), len(y.shape))
    x, y = (fa.reshape(v, (*[1] * (rank - len(v.shape)), *v.shape)) for v in (x, y))
    n = max(x.shape[axis], y.shape[axis])
    # PyTorch repeats a single element along the axis before it takes the norm.
    x, y = (v if v.shape[axis] == n else fa.repeat(v, n, axis=axis) for v in (x, y))
    x, y = (fa.divide(v, fa.maximum(fa.norm(v, axis, keepdims=True), eps)) for v in (x, y))
    return fa.sum(fa.multiply(x, y), axis=axis)
