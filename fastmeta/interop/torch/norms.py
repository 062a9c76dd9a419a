"""Rows of the table: normalisation, sums and spreads, norms and similarities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch.aten import Image, axes_of, image, on_images, plain, refuse, row
from fastmeta.kernels.distance import root
from fastmeta.trace import Array

# -- sums and normalisation


@row("layer_norm.default")
def layer_norm(x: Array, shape: Sequence[int], scale: Any = None, shift: Any = None, eps: float = 1e-5, *_: Any) -> Array:
    flat = fa.reshape(x, (*x.shape[: len(x.shape) - len(shape)], -1))
    scale, shift = (None if a is None else fa.reshape(a, (-1,)) for a in (scale, shift))
    return fa.reshape(nn.layer_norm(flat, scale, shift, eps=eps), x.shape)


@on_images("group_norm.default")
def group_norm(x: Any, groups: int, scale: Any = None, shift: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    if len(plain(x).shape) == 4:
        return Image(nn.group_norm(image(x), scale, shift, groups=groups, eps=eps))
    if len(x.shape) == 2:
        return nn.group_norm(x, scale, shift, groups=groups, eps=eps)
    raise refuse(f"group norm of {len(x.shape)} axes")


@row("mean.dim", "mean.default")
def mean(x: Array, axes: Any = None, keepdims: bool = False, **_: Any) -> Array:
    return fa.mean(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("sum.dim_IntList", "sum.default")
def total(x: Array, axes: Any = None, keepdims: bool = False, **_: Any) -> Array:
    return fa.sum(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("amax.default")
def amax(x: Array, axes: Any = (), keepdims: bool = False) -> Array:
    return fa.max(x, axis=axes_of(x, axes), keepdims=keepdims)


@row("softmax.int", "_softmax.default")
def softmax(x: Array, axis: int, *_: Any, **__: Any) -> Array:
    return fa.softmax(x, axis=axis)


@row("log_softmax.int", "_log_softmax.default")
def log_softmax(x: Array, axis: int, *_: Any, **__: Any) -> Array:
    return fa.log_softmax(x, axis=axis)


# -- norms, similarities, products


@row("linalg_vector_norm.default")
def vector_norm(x: Array, order: float = 2, axes: Any = None, keepdims: bool = False, **_: Any) -> Array:
    axis = axes_of(x, axes)
    if order == 2:
        return root(fa.sum(fa.square(x), axis=axis, keepdims=keepdims))
    if order == 1:
        return fa.sum(fa.abs(x), axis=axis, keepdims=keepdims)
    if order == math.inf:
        return fa.max(fa.abs(x), axis=axis, keepdims=keepdims)
    raise refuse(f"a norm of order {order}")


@row("cosine_similarity.default")
def cosine_similarity(x: Array, y: Array, axis: int = 1, eps: float = 1e-8) -> Array:
    x, y = (fa.divide(v, fa.maximum(root(fa.sum(fa.square(v), axis=axis, keepdims=True)), eps)) for v in (x, y))
    return fa.sum(fa.multiply(x, y), axis=axis)


@row("einsum.default")
def einsum(equation: str, factors: Sequence[Array], **_: Any) -> Array:
    if len(factors) != 2:
        raise refuse(f"einsum of {len(factors)} tensors")
    return fa.einsum(equation.replace(" ", ""), *factors)


@row("logsumexp.default")
def logsumexp(x: Array, axes: Any, keepdims: bool = False) -> Array:
    return fa.logsumexp(x, axis=axes_of(x, axes), keepdims=keepdims)


# -- spreads


@row("var.dim", "var.correction", "var.default")
def var(x: Array, axes: Any = None, unbiased: bool = True, keepdims: bool = False, *, correction: float | None = None, keepdim: bool = False) -> Array:
    axis = axes_of(x, axes)
    n = math.prod(x.shape[a] for a in axis)
    less = float(unbiased) if correction is None else correction
    return fa.multiply(fa.var(x, axis=axis, keepdims=keepdims or keepdim), n / (n - less))


@row("std.dim", "std.correction", "std.default")
def std(x: Array, *args: Any, **options: Any) -> Array:
    return fa.sqrt(var(x, *args, **options))


@row("rms_norm.default")
def rms_norm(x: Array, shape: Sequence[int], scale: Any = None, eps: float | None = None) -> Array:
    axis = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    y = fa.multiply(x, fa.rsqrt(fa.add(fa.mean(fa.square(x), axis=axis, keepdims=True), eps)))
    return y if scale is None else fa.multiply(y, scale)


@on_images("instance_norm.default")
def instance_norm(x: Any, scale: Any, shift: Any, mean: Any, variance: Any, own: bool, momentum: float, eps: float, *_: Any) -> Image:
    if not own:
        raise refuse("instance norm by running statistics")
    x = image(x)
    return Image(nn.group_norm(x, scale, shift, groups=x.shape[3], eps=eps))
