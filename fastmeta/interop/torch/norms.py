"""Rows of the table: normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch.table import Image, on_images, row
from fastmeta.trace import Array


def _channels_last(f: Any, x: Any) -> Any:
    """f of x with its channels, axis 1, as the last axis."""
    if isinstance(x, Image):
        return Image(f(x.value))
    return fa.moveaxis(f(fa.moveaxis(x, 1, -1)), -1, 1)


@on_images("group_norm.default")
def group_norm(x: Any, groups: int, scale: Any = None, shift: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    return _channels_last(lambda y: nn.group_norm(y, scale, shift, groups=groups, eps=eps), x)


@on_images("instance_norm.default")
def instance_norm(x: Any, scale: Any, shift: Any, mean: Any, variance: Any, own: bool, momentum: float, eps: float, *_: Any) -> Any:
    """By each image's own statistics, or by running ones."""
    if not own:
        return _normalised(x, scale, shift, eps, (mean, variance))
    return _channels_last(lambda y: nn.group_norm(y, scale, shift, groups=y.shape[-1], eps=eps), x)


def _normalised(x: Any, scale: Any, shift: Any, eps: float, statistics: Any) -> Any:
    return _channels_last(lambda y: nn.batch_norm(y, scale, shift, eps=eps, statistics=statistics), x)


@on_images("_native_batch_norm_legit_functional.default", "batch_norm.default")
def batch_norm(
    x: Any, scale: Any, shift: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Any:  # fmt: skip
    """The functional form gives a tuple, of which the updated statistics are never asked for."""
    return (_normalised(x, scale, shift, eps, None if training else (mean, variance)),)


@on_images("_native_batch_norm_legit_no_training.default")
def batch_norm_no_training(x: Any, scale: Any, shift: Any, mean: Any, variance: Any, momentum: float, eps: float) -> Any:
    return (_normalised(x, scale, shift, eps, (mean, variance)),)


@on_images("_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(x: Any, scale: Any, shift: Any, training: bool, momentum: float, eps: float) -> Any:
    return (_normalised(x, scale, shift, eps, None),)


@row("layer_norm.default")
def layer_norm(x: Array, shape: Sequence[int], scale: Any = None, shift: Any = None, eps: float = 1e-5, *_: Any) -> Array:
    flat = fa.reshape(x, (*x.shape[: len(x.shape) - len(shape)], -1))
    scale, shift = (None if a is None else fa.reshape(a, (-1,)) for a in (scale, shift))
    return fa.reshape(nn.layer_norm(flat, scale, shift, eps=eps), x.shape)


@row("rms_norm.default")
def rms_norm(x: Array, shape: Sequence[int], scale: Any = None, eps: float | None = None) -> Array:
    axis = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    y = fa.multiply(x, fa.rsqrt(fa.add(fa.mean(fa.square(x), axis=axis, keepdims=True), eps)))
    return y if scale is None else fa.multiply(y, scale)


@row("_weight_norm.default")
def weight_norm(direction: Array, length: Array, axis: int = 0) -> Array:
    """Weights of given directions and lengths, a length for each place along the axis; -1: one for all.

    Source: Salimans, Kingma 2016, as in torch.nn.utils.weight_norm.
    """
    others = tuple(a for a in range(len(direction.shape)) if axis == -1 or a != axis % len(direction.shape))
    return fa.multiply(direction, fa.divide(length, fa.norm(direction, others, keepdims=True)))
