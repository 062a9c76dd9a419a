"""Rows of the table: arrays that are known while tracing, arrays like another, conversions of dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fastmeta import array as fa
from fastmeta.interop.torch.table import converted, numpy_dtype, on_images, plain, pointwise, refuse, row
from fastmeta.trace import Array


def known(make: Callable[..., torch.Tensor]) -> Callable[..., Array]:
    """PyTorch's own constant, as an array."""

    def constant(*args: Any, dtype: Any = None, **_: Any) -> Array:
        x = make(*args, dtype=dtype)
        if x.dtype == torch.int64 and x.numel() and not -(2**31) <= int(x.min()) <= int(x.max()) < 2**31:
            raise refuse("integers beyond int32")
        return x.numpy().astype(numpy_dtype(x.dtype))

    return constant


CONSTANTS: dict[tuple[str, ...], Callable[..., torch.Tensor]] = {
    ("zeros.default",): torch.zeros, ("ones.default",): torch.ones, ("full.default",): torch.full, ("eye.default", "eye.m"): torch.eye, ("linspace.default",): torch.linspace,
    ("arange.default", "arange.start", "arange.start_step"): torch.arange, ("scalar_tensor.default",): torch.scalar_tensor,
}  # fmt: skip
for _names, _make in CONSTANTS.items():
    on_images(*_names)(known(_make))


@on_images("new_full.default")
def new_full(x: Any, shape: Sequence[int], value: float, dtype: Any = None, **_: Any) -> Array:
    return np.full(tuple(shape), value, plain(x).dtype if dtype is None else numpy_dtype(dtype))


@on_images("new_zeros.default", "new_empty.default")
def new_zeros(x: Any, shape: Sequence[int], **options: Any) -> Array:
    return new_full(x, shape, 0, **options)


@on_images("new_ones.default")
def new_ones(x: Any, shape: Sequence[int], **options: Any) -> Array:
    return new_full(x, shape, 1, **options)


@pointwise("full_like.default", "fill.Scalar")
def full_like(x: Array, value: float, dtype: Any = None, **_: Any) -> Array:
    return fa.full_like(converted(x, dtype), value)


@pointwise("zeros_like.default", "zero.default", "empty_like.default")
def zeros_like(x: Array, **options: Any) -> Array:
    return full_like(x, 0, **options)


@pointwise("ones_like.default")
def ones_like(x: Array, **options: Any) -> Array:
    return full_like(x, 1, **options)


@row("fill.Tensor", "copy.default")
def copy(x: Array, values: Array, *_: Any) -> Array:
    return fa.broadcast_to(fa.astype(values, dtype=x.dtype), x.shape)


@pointwise("_to_copy.default", "to.dtype")
def to(x: Array, dtype: Any = None, *_: Any, **__: Any) -> Array:
    return converted(x, dtype)


@row("type_as.default", "to.other")
def type_as(x: Array, y: Array, *_: Any, **__: Any) -> Array:
    return fa.astype(x, dtype=y.dtype)
