"""Convolution and pooling of images [n, h, w, channels], and convolution of sequences [n, length, channels]."""

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
from fastmeta.ops.depthwise import depthwise
from fastmeta.ops.product import matmul
from fastmeta.ops.reduce import total
from fastmeta.program import FLOATS, Shape, Var

Size = int | tuple[int, int]


@array_function
def conv2d(x: Any, w: Any, *, stride: Size = 1, padding: str | Size = "same", dilation: Size = 1) -> Var:
    """x [n, h, w, in] convolved with w [kh, kw, in, out]: [n, oh, ow, out].

    ``padding`` is "same" (oh = ceil(h / stride), an odd row or column of zeros at the end), "valid" (none), or the number
    of zeros on every side.  ``dilation`` is how far apart the pixels are that neighbours in a kernel see.  Each is one number
    or (rows, columns).
    Errors: ValueError for shapes that do not fit together, an empty batch, a kernel larger than the padded images, a stride
    or dilation below 1; TypeError for operands that are not of one float dtype.

    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> conv2d(x, np.ones((2, 2, 1, 1), np.float32), stride=2, padding="valid")[0, :, :, 0]
    array([[10., 18.],
           [42., 50.]], dtype=float32)
    >>> conv2d(x, np.ones((2, 1, 1, 1), np.float32), padding="valid", dilation=(3, 1))[0, :, :, 0]
    array([[12., 14., 16., 18.]], dtype=float32)
    """
    return _convolved(x, w, *_geometry("conv2d", x, w, "kh kw in out", stride, padding, dilation))


@array_function
def conv_transpose2d(x: Any, w: Any, *, stride: Size = 1, padding: str | Size = "same") -> Var:
    """The transpose of `conv2d`, which makes images larger: x [n, h, w, in] under w [kh, kw, in, out]: [n, oh, ow, out].

    Each pixel adds its products with the kernel to the pixels that a `conv2d` of this stride and padding would make it from.
    ``padding`` "same" gives oh = h * stride, "valid" (h - 1) * stride + kh, a number that many fewer rows and columns on every side.
    Errors: as for `conv2d`; ValueError for padding that leaves no pixel.

    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    >>> conv_transpose2d(x, np.ones((2, 2, 1, 1)), stride=2)[0, :, :, 0]
    array([[1., 1., 2., 2.],
           [1., 1., 2., 2.],
           [3., 3., 4., 4.],
           [3., 3., 4., 4.]])
    """
    where = "conv_transpose2d"
    _weights(where, x, w, "kh kw in out")
    kernel, steps = w.shape[:2], _numbers(where, "stride", stride)
    size = tuple([n * s for n, s in zip(x.shape[1:3], steps, strict=True)])
    pads = _pads(where, padding, size, kernel, steps)
    if padding != "same":
        size = tuple([n - s + k - a - b for n, s, k, (a, b) in zip(size, steps, kernel, pads, strict=True)])
        if min(size) < 1:
            raise expected(where, "padding that leaves a pixel", f"{shown(x)} under a kernel of {kernel} with padding {padding!r}")
    return cv.convolve_input(x, sh.permute(w, (0, 1, 3, 2)), steps, pads, size)


@array_function
def conv1d(x: Any, w: Any, *, stride: int = 1, padding: str | int = "same", dilation: int = 1) -> Var:
    """x [n, length, in] convolved with w [k, in, out]: [n, steps, out].

    ``stride``, ``padding``, ``dilation`` and errors are those of `conv2d`, for one axis.  What looks back only has zeros in
    front: `pad` by (k - 1) * dilation, and padding "valid".

    >>> conv1d(np.arange(5.0).reshape(1, 5, 1), np.ones((2, 1, 1)), padding="valid", dilation=3)[0, :, 0]
    array([3., 5.])
    """
    (step,), (pads,), (apart,) = _geometry("conv1d", x, w, "k in out", stride, padding, dilation)
    row, kernel = sh.reshape(x, (x.shape[0], 1, *x.shape[1:])), sh.reshape(w, (1, *w.shape))
    y = _convolved(row, kernel, (1, step), (cv.NONE[0], pads), (1, apart))
    return sh.reshape(y, (y.shape[0], *y.shape[2:]))


@array_function
def depthwise_conv2d(x: Any, w: Any, *, stride: Size = 1, padding: str | Size = "same", dilation: Size = 1) -> Var:
    """Each channel of x [n, h, w, c] convolved with its own kernel of w [kh, kw, c]: [n, oh, ow, c].

    ``stride``, ``padding``, ``dilation`` and errors are those of `conv2d`.

    >>> x = np.ones((1, 2, 2, 2), np.float32)
    >>> depthwise_conv2d(x, np.array([[[1, 10]]], np.float32))[0, 0]
    array([[ 1., 10.],
           [ 1., 10.]], dtype=float32)
    """
    steps, pads, apart = _geometry("depthwise_conv2d", x, w, "kh kw channels", stride, padding, dilation)
    return depthwise(_padded(x, pads), w, steps, apart)


def _convolved(x: Var, w: Var, stride: cv.Pair, padding: cv.Padding, dilation: cv.Pair) -> Var:
    """Images x under weights w [kh, kw, in, out].

    With dilation it is one product of what all taps see, side by side: an undilated kernel with zeros between its elements
    would need no copies, but dilation^2 as many operations.
    """
    if dilation != (1, 1):
        x, stride, padding = sh.concat(tuple(_seen(x, w.shape[:2], stride, padding, dilation)), 3), (1, 1), cv.NONE
        w = sh.reshape(w, (1, 1, x.shape[3], w.shape[3]))
    if w.shape[:2] == stride == (1, 1) and padding == cv.NONE:
        pixels = sh.reshape(x, (prod(x.shape[:3]), x.shape[3]))
        return sh.reshape(matmul(pixels, sh.reshape(w, w.shape[2:])), (*x.shape[:3], w.shape[3]))
    return cv.convolve(x, w, stride, padding)


def _padded(x: Var, padding: cv.Padding) -> Var:
    (top, bottom), (left, right) = padding
    return sh.pad(x, (0, top, left, 0), (0, bottom, right, 0), (0,) * 4)


def _seen(x: Var, kernel: cv.Pair, stride: cv.Pair, padding: cv.Padding, dilation: cv.Pair) -> list[Var]:
    """What each tap of a kernel, row by row, sees of images x: [n, oh, ow, c]."""
    padded = _padded(x, padding)
    out = (x.shape[0], *cv.positions(padded.shape[1:3], cv.reach(kernel, dilation), stride), x.shape[3])
    return [view(padded) for view in pl.slices(out, kernel, stride, dilation)]


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
    _floats("global_average_pool", x)
    return ew.multiply(total(x, (1, 2)), 1.0 / (x.shape[1] * x.shape[2]))


# -- arguments

KINDS = {1: ("sequences", "[n, length, channels]", "sequence, step"), 2: ("images", "[n, h, w, channels]", "image, pixel")}  # by axes between
COUNTS = {1: "one whole number", 2: "one or two whole numbers"}


def _floats(where: str, x: Any, axes: int = 2) -> None:
    many, shape, one = KINDS[axes]
    if array_operand(where, x).dtype not in FLOATS:
        raise expected(where, f"float {many}", shown(x), TypeError)
    if len(x.shape) != axes + 2:
        raise expected(where, f"{many} {shape}", x.shape)
    if not x.size:
        raise expected(where, f"at least one {one} and channel", x.shape)


def _whole(value: Any, axes: int) -> Shape | None:
    """A whole number for each axis, of one for all or a tuple; None if it is neither."""
    numbers = value if isinstance(value, tuple) else (value,) * axes
    if len(numbers) != axes or any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in numbers):
        return None
    return tuple([int(n) for n in numbers])


def _numbers(where: str, name: str, value: Any, axes: int = 2) -> Shape:
    """One number for all axes, or one for each; at least 1."""
    numbers = _whole(value, axes)
    if numbers is None:
        raise expected(where, f"a {name} of {COUNTS[axes]}", repr(value), TypeError)
    if min(numbers) < 1:
        raise expected(where, f"a {name} of at least 1", repr(value))
    return numbers


def _pool(where: str, x: Any, window: Any, stride: Any) -> tuple[cv.Pair, cv.Pair, Shape]:
    """Window, stride, and the shape of the result."""
    _floats(where, x)
    size = _numbers(where, "window", window)
    steps = size if stride is None else _numbers(where, "stride", stride)
    return size, steps, pl.pooled(where, x.shape, size, steps)


def _weights(where: str, x: Any, w: Any, names: str) -> int:
    """The number of axes of x under weights w, of axes ``names``, once they fit together."""
    weights = names.split()
    axes = sum(name[0] == "k" for name in weights)
    _floats(where, x, axes)
    if common_dtype(where, [x, array_operand(where, w)]) != w.dtype:
        raise expected(where, f"weights of dtype {x.dtype}", shown(w), TypeError)
    if len(w.shape) != len(weights) or not w.size:
        raise expected(where, f"weights [{', '.join(weights)}], none of them 0", w.shape)
    if w.shape[axes] != x.shape[-1]:
        weights[axes] = str(x.shape[-1])
        raise expected(where, f"weights [{', '.join(weights)}] for {KINDS[axes][0]} {x.shape}", w.shape)
    return axes


def _geometry(where: str, x: Any, w: Any, names: str, stride: Any, padding: Any, dilation: Any) -> tuple[Shape, cv.Padding, Shape]:
    """Stride, padding and dilation of x under weights w, of axes ``names``, once all are what they should be."""
    axes = _weights(where, x, w, names)
    size, kernel = x.shape[1:-1], w.shape[:axes]
    steps = _numbers(where, "stride", stride, axes)
    apart = _numbers(where, "dilation", dilation, axes)
    apart = tuple([d if k > 1 else 1 for k, d in zip(kernel, apart, strict=True)])  # one element has no neighbour
    reach = cv.reach(kernel, apart)
    pads = _pads(where, padding, size, reach, steps)
    padded = tuple([n + a + b for n, (a, b) in zip(size, pads, strict=True)])
    if any(k > n for k, n in zip(reach, padded, strict=True)):
        raise expected(where, f"a kernel that fits into the padded {KINDS[axes][0]} {padded}", reach)
    return steps, pads, apart


def _pads(where: str, padding: Any, size: Shape, reach: Shape, steps: Shape) -> cv.Padding:
    """Zeros before and after each axis."""
    if padding == "same":
        extra = [max(-(-n // s) * s - s + k - n, 0) for n, k, s in zip(size, reach, steps, strict=True)]
        return tuple([(n // 2, n - n // 2) for n in extra])
    numbers = (0,) * len(size) if padding == "valid" else _whole(padding, len(size))
    if numbers is None or min(numbers) < 0:
        raise expected(where, f"padding 'same', 'valid' or {COUNTS[len(size)]} of at least 0", repr(padding))
    return tuple([(n, n) for n in numbers])
