"""Rows of the table: pooling of images and sequences, and making images larger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch.convolutions import Pair, padded, pair
from fastmeta.interop.torch.table import Image, image, on_images, plain, refuse, row
from fastmeta.trace import Array


def _framed(x: Any, window: Pair, stride: Pair, padding: Pair, ceil: bool, value: float) -> Array:
    """Images with what is around them; ``ceil`` must not add windows that reach beyond it."""
    (h, w) = padding
    y = padded(image(x), (h, h), (w, w), value)
    if ceil and any((n - k) % s for n, k, s in zip(y.shape[1:3], window, stride, strict=True)):
        raise refuse(f"ceil_mode=True where windows {window} by {stride} do not cover {tuple(y.shape[1:3])} as a whole")
    return y


@on_images("max_pool2d.default")
def max_pool2d(x: Any, window: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Image:
    if pair(dilation) != (1, 1):
        raise refuse(f"dilation {pair(dilation)}")
    size, steps = pair(window), pair(stride or window)
    return Image(nn.max_pool2d(_framed(x, size, steps, pair(padding), ceil, float("-inf")), window=size, stride=steps))


@on_images("avg_pool2d.default")
def avg_pool2d(
    x: Any, window: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, count_padding: bool = True, divisor: Any = None
) -> Image:  # fmt: skip
    size, steps = pair(window), pair(stride or window)

    def mean(x: Any) -> Array:
        return nn.avg_pool2d(_framed(x, size, steps, pair(padding), ceil, 0.0), window=size, stride=steps)

    y = mean(x)
    if divisor is not None:
        y = fa.multiply(y, prod(size) / divisor)
    elif not count_padding:  # the share of each window that is not padding
        y = fa.divide(y, mean(Image(np.ones((1, *image(x).shape[1:3], 1), y.dtype))))
    return Image(y)


def _along(x: Array, axis: int, weights: np.ndarray) -> Array:
    """x [n, h, w, c] with axis 1 or 2 replaced by means of its elements, ``weights`` [new, old]."""
    return fa.einsum("mh,nhwc->nmwc" if axis == 1 else "mw,nhwc->nhmc", weights.astype(x.dtype), x)


def _window_means(n: int, m: int) -> np.ndarray:
    """[m, n]: the means of m windows, which overlap where m does not divide n."""
    places = np.arange(n)
    inside = [(places >= i * n // m) & (places < -(-(i + 1) * n // m)) for i in range(m)]
    return np.stack([w / w.sum() for w in inside])


def _windows(y: Array, size: Pair) -> Pair:
    """The windows that make ``size`` of images."""
    if any(n % m for n, m in zip(y.shape[1:3], size, strict=True)):
        raise refuse(f"windows of several sizes, from {tuple(y.shape[1:3])} to {size}")
    return y.shape[1] // size[0], y.shape[2] // size[1]


@on_images("adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(x: Any, size: Any) -> Image:
    y, out = image(x), pair(size)
    if out == (1, 1):
        return Image(fa.mean(y, axis=(1, 2), keepdims=True))
    if all(n % m == 0 for n, m in zip(y.shape[1:3], out, strict=True)):
        return Image(nn.avg_pool2d(y, window=_windows(y, out)))
    for axis, m in enumerate(out, 1):
        y = _along(y, axis, _window_means(y.shape[axis], m))
    return Image(y)


class Values(tuple[Any, ...]):
    """The result of an operation that gives maxima and where they are, without the places."""

    def __getitem__(self, k: Any) -> Any:
        if k:
            raise refuse("the places of the maxima")
        return super().__getitem__(k)


@on_images("adaptive_max_pool2d.default")
def adaptive_max_pool2d(x: Any, size: Any) -> Any:
    y = image(x)
    return Values([Image(nn.max_pool2d(y, window=_windows(y, pair(size))))])


# -- of sequences [n, channels, steps], as images of one row


def _as_row(f: Callable[..., Any]) -> Callable[..., Any]:
    """A pooling of images on sequences; lengths of windows, strides and padding are those of columns."""

    def call(x: Array, window: Any, stride: Any = (), padding: Any = 0, *rest: Any) -> Array:
        (k, s, p) = ([v] if isinstance(v, int) else list(v) for v in (window, stride, padding))
        return fa.squeeze(plain(f(fa.expand_dims(x, axis=2), (1, *k), (1, *(s or k)), (0, *p), *rest)), axis=2)

    return call


row("max_pool1d.default")(_as_row(max_pool2d))
row("avg_pool1d.default")(_as_row(avg_pool2d))


@row("adaptive_avg_pool1d.default")
def adaptive_avg_pool1d(x: Array, size: Sequence[int]) -> Array:
    return fa.squeeze(plain(adaptive_avg_pool2d(fa.expand_dims(x, axis=2), (1, *size))), axis=2)


@row("adaptive_max_pool1d.default")
def adaptive_max_pool1d(x: Array, size: Sequence[int]) -> Any:
    return Values([fa.squeeze(plain(adaptive_max_pool2d(fa.expand_dims(x, axis=2), (1, *size))[0]), axis=2)])


# -- larger images


def _factors(lengths: Sequence[int], size: Any, scales: Any) -> list[int]:
    """How often each element comes, of the new lengths or of their share of the old ones."""
    wanted = [m / n for m, n in zip(size, lengths, strict=True)] if size is not None else [float(s) for s in scales]
    if any(f < 1 or f % 1 for f in wanted):
        raise refuse(f"factors {wanted} in place of whole numbers")
    return [int(f) for f in wanted]


@on_images("upsample_nearest2d.vec")
def upsample_nearest2d(x: Any, size: Any, scales: Any) -> Image:
    y = image(x)
    for axis, times in enumerate(_factors(y.shape[1:3], size, scales), 1):
        y = fa.repeat(y, times, axis=axis) if times > 1 else y
    return Image(y)


@row("upsample_nearest1d.vec")
def upsample_nearest1d(x: Array, size: Any, scales: Any) -> Array:
    return fa.repeat(x, _factors(x.shape[2:], size, scales)[0], axis=2)


@on_images("upsample_bilinear2d.vec")
def upsample_bilinear2d(x: Any, size: Any, corners: bool, scales: Any) -> Image:
    y = image(x)
    for axis in (1, 2):
        n, scale = y.shape[axis], None if scales is None else scales[axis - 1]
        m = int(n * scale) if size is None else int(size[axis - 1])
        y = _along(y, axis, _between(n, m, corners, scale))
    return Image(y)


def _between(n: int, m: int, corners: bool, scale: float | None) -> np.ndarray:
    """[m, n]: m elements between n, linearly; ``corners``: the first and the last are those of the n."""
    if corners:
        at = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        at = np.maximum((np.arange(m) + 0.5) * (1 / scale if scale else n / m) - 0.5, 0.0)
    low = np.minimum(at.astype(int), n - 1)
    share = (at - low)[:, None]
    return (1 - share) * np.eye(n)[low] + share * np.eye(n)[np.minimum(low + 1, n - 1)]


@row("pixel_shuffle.default")
def pixel_shuffle(x: Array, r: int) -> Array:
    (n, c, h, w) = x.shape
    return fa.reshape(fa.permute_dims(fa.reshape(x, (n, c // r**2, r, r, h, w)), (0, 1, 4, 2, 5, 3)), (n, c // r**2, h * r, w * r))


@row("pixel_unshuffle.default")
def pixel_unshuffle(x: Array, r: int) -> Array:
    (n, c, h, w) = x.shape
    return fa.reshape(fa.permute_dims(fa.reshape(x, (n, c, h // r, r, w // r, r)), (0, 1, 3, 5, 2, 4)), (n, c * r**2, h // r, w // r))


@row("channel_shuffle.default")
def channel_shuffle(x: Array, groups: int) -> Array:
    parts = fa.reshape(x, (x.shape[0], groups, -1, *x.shape[2:]))
    return fa.reshape(fa.permute_dims(parts, (0, 2, 1, *range(3, len(x.shape) + 1))), x.shape)
