"""Normalisation: over the batch, over the features, over groups of channels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.errors import expected
from fastmeta.nn.layers import like
from fastmeta.trace import Array, located


def batch_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, eps: float = 1e-5,
    statistics: tuple[Array, Array] | None = None, return_statistics: bool = False,
) -> Any:  # fmt: skip
    """x [..., channels] normalised over all axes but the last, by the batch's (mean, variance) unless given.

    Returns y, or with ``return_statistics`` (y, (mean, variance)), both [channels].
    Errors: ValueError for one element per channel without given statistics, and for scale, shift or statistics that are not [channels].
    Source: Ioffe and Szegedy 2015.

    >>> images = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    >>> y, (mean, variance) = batch_norm(images, return_statistics=True)
    >>> mean, variance
    (array([7., 8.], dtype=float32), array([21., 21.], dtype=float32))
    """
    if len(np.shape(x)) < 2:
        raise located(expected("batch_norm", "an array of at least two axes", np.shape(x)))
    axes = tuple(range(x.ndim - 1))
    if statistics is None:
        if x.size <= x.shape[-1]:
            raise located(expected("batch_norm", "more than one element per channel (or given statistics)", x.shape))
        mean = fa.mean(x, axis=axes)
        centred = fa.subtract(x, mean)
        variance = fa.mean(fa.square(centred), axis=axes)
    else:
        mean, variance = statistics
        like("batch_norm", "a mean", mean, x.shape[-1:])
        like("batch_norm", "a variance", variance, x.shape[-1:])
        centred = fa.subtract(x, mean)
    y = _affine("batch_norm", fa.multiply(centred, fa.rsqrt(fa.add(variance, eps))), scale, shift)
    return (y, (mean, variance)) if return_statistics else y


def layer_norm(x: Array, scale: Array | None = None, shift: Array | None = None, *, eps: float = 1e-5) -> Array:
    """x [..., features] normalised over its last axis, times scale [features] plus shift [features].

    Errors: ValueError for an array without axes or without features, and for scale or shift of another shape.
    Source: Ba, Kiros, Hinton 2016.

    >>> layer_norm(np.array([[1, 3], [5, 9]], np.float32), eps=0.0)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    if len(np.shape(x)) < 1:
        raise located(expected("layer_norm", "an array of at least one axis", np.shape(x)))
    centred, variance = _moments(x, (x.ndim - 1,))
    return _affine("layer_norm", fa.multiply(centred, fa.rsqrt(fa.add(variance, eps))), scale, shift)


def group_norm(x: Array, scale: Array | None = None, shift: Array | None = None, *, groups: int, eps: float = 1e-5) -> Array:
    """x [n, ..., channels]: each of n normalised over all positions and the channels of one group, times scale plus shift [channels].

    Errors: ValueError for fewer than two axes, for groups that do not divide the channels, and for scale or shift of another shape.
    Source: Wu and He 2018.

    >>> group_norm(np.array([[1, 3, 10, 30]], np.float32), groups=2, eps=0.0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    shape = np.shape(x)
    if len(shape) < 2:
        raise located(expected("group_norm", "an array of at least two axes", shape))
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1 or shape[-1] % groups:
        raise located(expected("group_norm", f"a number of groups that divides {shape[-1]} channels", repr(groups)))
    parts = fa.reshape(x, (shape[0], prod(shape[1:-1]), groups, shape[-1] // groups))
    centred, variance = _moments(parts, (1, 3))
    y = fa.reshape(fa.multiply(centred, fa.rsqrt(fa.add(variance, eps))), shape)
    return _affine("group_norm", y, scale, shift)


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """x minus its mean over ``axes``, and the variance, whose axes stay with length 1."""
    centred = fa.subtract(x, fa.mean(x, axis=axes, keepdims=True))
    return centred, fa.mean(fa.square(centred), axis=axes, keepdims=True)


def _affine(where: str, y: Array, scale: Array | None, shift: Array | None) -> Array:
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            like(where, name, value, y.shape[-1:])
    y = y if scale is None else fa.multiply(y, scale)
    return y if shift is None else fa.add(y, shift)
