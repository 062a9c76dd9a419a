"""Convolution and pooling of images [n, h, w, channels]."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastmeta.array.arguments import array_function, array_operand, common_dtype, shown
from fastmeta.errors import expected
from fastmeta.ops import convolution as cv
from fastmeta.ops import elementwise as ew
from fastmeta.ops import pooling as pl
from fastmeta.ops import shape as sh
from fastmeta.ops.product import matmul
from fastmeta.ops.reduce import total
from fastmeta.program import FLOATS, Shape, Var

Size = int | tuple[int, int]


@array_function
def conv2d(x: Any, w: Any, *, stride: Size = 1, padding: str | int = "same") -> Var:
    """x [n, h, w, in] convolved with w [kh, kw, in, out]: [n, oh, ow, out].

    ``padding`` is "same" (oh = ceil(h / stride), an odd row or column of zeros at the end), "valid" (none), or the number
    of zeros on every side.  ``stride`` is one number or (rows, columns).
    Errors: ValueError for shapes that do not fit together, an empty batch, a kernel larger than the padded images, a stride
    below 1; TypeError for operands that are not of one float dtype.

    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> conv2d(x, np.ones((2, 2, 1, 1), np.float32), stride=2, padding="valid")[0, :, :, 0]
    array([[10., 18.],
           [42., 50.]], dtype=float32)
    """
    steps, pads = _geometry("conv2d", x, w, stride, padding)
    if w.shape[:2] == (1, 1) and steps == (1, 1) and pads == ((0, 0), (0, 0)) and x.shape[3] == w.shape[2] and x.size:
        pixels = sh.reshape(x, (prod(x.shape[:3]), x.shape[3]))
        return sh.reshape(matmul(pixels, sh.reshape(w, w.shape[2:])), (*x.shape[:3], w.shape[3]))
    return cv.convolve(x, w, steps, pads)


@array_function
def depthwise_conv2d(x: Any, w: Any, *, stride: Size = 1, padding: str | int = "same") -> Var:
    """Each channel of x [n, h, w, c] convolved with its own kernel of w [kh, kw, c]: [n, oh, ow, c].

    ``stride``, ``padding`` and errors are those of `conv2d`.

    >>> x = np.ones((1, 2, 2, 2), np.float32)
    >>> depthwise_conv2d(x, np.array([[[1, 10]]], np.float32))[0, 0]
    array([[ 1., 10.],
           [ 1., 10.]], dtype=float32)
    """
    where = "depthwise_conv2d"
    steps, pads = _geometry(where, x, w, stride, padding, rank=3)
    if x.shape[3] != w.shape[2]:
        raise expected(where, f"weights [kh, kw, {x.shape[3]}] for images {x.shape}", w.shape)
    (top, bottom), (left, right) = pads
    padded = sh.pad(x, (0, top, left, 0), (0, bottom, right, 0), (0,) * 4)
    out = pl.pooled(where, padded.shape, w.shape[:2], steps)
    y: Var | None = None
    for k, view in enumerate(pl.slices(out, w.shape[:2], steps)):
        i, j = divmod(k, w.shape[1])
        tap = sh.cut(w, (i, j, 0), (i + 1, j + 1, w.shape[2]), (1, 1, 1))
        part = ew.multiply(view(padded), sh.broadcast(sh.reshape(tap, w.shape[2:]), out, (3,)))
        y = part if y is None else ew.add(y, part)
    assert y is not None
    return y


@array_function
def max_pool2d(x: Any, *, window: Size = 2, stride: Size | None = None) -> Var:
    """The maximum of each window of x [n, h, w, c]: [n, oh, ow, c]; the stride is the window unless given.

    Windows that do not fit as a whole are dropped.  The derivative goes to the first maximum of a window.
    Errors: ValueError for images smaller than the window, an empty batch, a window or stride below 1; TypeError for other
    dtypes than float.

    >>> max_pool2d(np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1))[0, :, :, 0]
    array([[ 6.,  8.],
           [16., 18.]], dtype=float32)
    """
    size, steps, _ = _pool("max_pool2d", x, window, stride)
    return pl.pool_take(x, pl.pool_index(x, size, steps), size, steps)


@array_function
def avg_pool2d(x: Any, *, window: Size = 2, stride: Size | None = None) -> Var:
    """The mean of each window of x [n, h, w, c]: [n, oh, ow, c]; all else is as for `max_pool2d`.

    >>> avg_pool2d(np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1))[0, :, :, 0]
    array([[ 3.,  5.],
           [13., 15.]], dtype=float32)
    """
    size, steps, out = _pool("avg_pool2d", x, window, stride)
    n, oh, ow, c = out
    if size == steps:
        (kh, kw) = size
        whole = sh.cut(x, (0,) * 4, (n, oh * kh, ow * kw, c), (1,) * 4)
        y = total(sh.reshape(whole, (n, oh, kh, ow, kw, c)), (2, 4))
    else:
        y, *rest = (view(x) for view in pl.slices(out, size, steps))
        for tap in rest:
            y = ew.add(y, tap)
    return ew.multiply(y, 1.0 / prod(size))


@array_function
def global_average_pool(x: Any) -> Var:
    """The mean of x [n, h, w, c] over rows and columns: [n, c].

    >>> global_average_pool(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2))
    array([[3., 4.]], dtype=float32)
    """
    _images("global_average_pool", x)
    return ew.multiply(total(x, (1, 2)), 1.0 / (x.shape[1] * x.shape[2]))


# -- arguments


def _images(where: str, x: Any) -> None:
    if array_operand(where, x).dtype not in FLOATS:
        raise expected(where, "float images", shown(x), TypeError)
    if len(x.shape) != 4:
        raise expected(where, "images [n, h, w, channels]", x.shape)
    if not x.size:
        raise expected(where, "at least one image, pixel and channel", x.shape)


def _pair(where: str, name: str, value: Any) -> cv.Pair:
    """One number for both axes, or one for each; at least 1."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in pair):
        raise expected(where, f"a {name} of one or two whole numbers", repr(value), TypeError)
    if min(pair) < 1:
        raise expected(where, f"a {name} of at least 1", repr(value))
    return int(pair[0]), int(pair[1])


def _pool(where: str, x: Any, window: Any, stride: Any) -> tuple[cv.Pair, cv.Pair, Shape]:
    """Window, stride, and the shape of the result."""
    _images(where, x)
    size = _pair(where, "window", window)
    steps = size if stride is None else _pair(where, "stride", stride)
    return size, steps, pl.pooled(where, x.shape, size, steps)


def _geometry(where: str, x: Any, w: Any, stride: Any, padding: Any, rank: int = 4) -> tuple[cv.Pair, cv.Padding]:
    """Stride and padding of images x under weights w, once both are what they should be."""
    _images(where, x)
    if common_dtype(where, [x, array_operand(where, w)]) != w.dtype:
        raise expected(where, f"weights of dtype {x.dtype}", shown(w), TypeError)
    if len(w.shape) != rank or not w.size:
        axes = "[kh, kw, in, out]" if rank == 4 else "[kh, kw, channels]"
        raise expected(where, f"weights {axes}, none of them 0", w.shape)
    steps = _pair(where, "stride", stride)
    if padding == "same":
        extra = [max(-(-n // s) * s - s + k - n, 0) for n, k, s in zip(x.shape[1:3], w.shape[:2], steps, strict=True)]
        pads = tuple([(n // 2, n - n // 2) for n in extra])
    elif padding == "valid":
        pads = ((0, 0), (0, 0))
    elif isinstance(padding, int | np.integer) and not isinstance(padding, bool) and padding >= 0:
        pads = ((int(padding),) * 2,) * 2
    else:
        raise expected(where, "padding 'same', 'valid' or a whole number of at least 0", repr(padding))
    padded = tuple(n + a + b for n, (a, b) in zip(x.shape[1:3], pads, strict=True))
    if any(k > n for k, n in zip(w.shape[:2], padded, strict=True)):
        raise expected(where, f"a kernel that fits into the padded images {padded}", w.shape[:2])
    return steps, pads
