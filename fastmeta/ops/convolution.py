"""Convolution and its two transposes: a closed set, each the derivative of the others, so every order of derivative is there.

Images are [N, H, W, C], weights [KH, KW, C, O], results [N, OH, OW, O].  ``stride`` is (rows, columns), ``padding``
((top, bottom), (left, right)) of zeros.  All three are sums over the taps (i, j) of the weights of one product each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import FLOATS, Primitive, Shape, Var

Pair = Shape  # of two: rows, columns
Padding = tuple[Pair, ...]  # of two: (top, bottom), (left, right)


def convolve(x: Var, w: Var, stride: Pair, padding: Padding) -> Var:
    """``y[n, p, q] = sum over i, j of x[n, p * sh + i - top, q * sw + j - left] @ w[i, j]``."""
    return x.graph.emit(CONV, (x, w), (stride, padding))


def convolve_input(g: Var, w: Var, stride: Pair, padding: Padding, size: Pair) -> Var:
    """The transpose of ``convolve`` in x: g [N, OH, OW, O] back onto images of ``size`` (H, W)."""
    return g.graph.emit(CONV_INPUT, (g, w), (stride, padding, size))


def convolve_weight(x: Var, g: Var, stride: Pair, padding: Padding, kernel: Pair) -> Var:
    """The transpose of ``convolve`` in w: x and g [N, OH, OW, O] onto weights of ``kernel`` (KH, KW)."""
    return x.graph.emit(CONV_WEIGHT, (x, g), (stride, padding, kernel))


def positions(size: Pair, kernel: Pair, stride: Pair, padding: Padding = ((0, 0), (0, 0))) -> Pair:
    """(OH, OW): how many places a kernel has on an image of ``size``; below 1 where it does not fit."""
    h, w = ((n + a + b - k) // s + 1 for n, k, s, (a, b) in zip(size, kernel, stride, padding, strict=True))
    return h, w


def reach(kernel: Shape, dilation: Shape) -> Shape:
    """How many pixels a kernel is wide, those between its elements included."""
    return tuple([d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)])


# -- rules


def _operands(x: Var, y: Var) -> None:
    if x.dtype != y.dtype or x.dtype not in FLOATS:
        raise expected("conv2d", "two operands of one float dtype", f"{x.dtype} and {y.dtype}", TypeError)
    if len(x.shape) != 4 or len(y.shape) != 4:
        raise expected("conv2d", "images [n, h, w, channels] and weights [kh, kw, channels, out]", f"{x.shape} and {y.shape}")
    if not x.size or not y.size:
        raise expected("conv2d", "at least one element in each operand", f"{x.shape} and {y.shape}")


def _fits(size: Pair, kernel: Pair, stride: Pair, padding: Padding) -> Pair:
    if min(stride) < 1 or min(*padding[0], *padding[1]) < 0:
        raise expected("conv2d", "a stride of at least 1 and a padding of at least 0", f"{stride} and {padding}")
    out = positions(size, kernel, stride, padding)
    if min(out) < 1:
        padded = tuple(n + a + b for n, (a, b) in zip(size, padding, strict=True))
        raise expected("conv2d", f"a kernel that fits into the padded image {padded}", kernel)
    return out


def _conv(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, w = ins
    _operands(x, w)
    if x.shape[3] != w.shape[2]:
        raise expected("conv2d", f"weights [kh, kw, {x.shape[3]}, out] for images {x.shape}", w.shape)
    return (x.shape[0], *_fits(x.shape[1:3], w.shape[:2], *at), w.shape[3]), x.dtype


def _conv_input(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (g, w), (stride, padding, size) = ins, at
    _operands(g, w)
    if g.shape[1:] != (*_fits(size, w.shape[:2], stride, padding), w.shape[3]):
        raise expected("conv2d", f"a cotangent of images of {size} under weights {w.shape}", g.shape)
    return (g.shape[0], *size, w.shape[2]), g.dtype


def _conv_weight(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x, g), (stride, padding, kernel) = ins, at
    _operands(x, g)
    if g.shape[:3] != (x.shape[0], *_fits(x.shape[1:3], kernel, stride, padding)):
        raise expected("conv2d", f"a cotangent of images {x.shape} under a kernel of {kernel}", g.shape)
    return (*kernel, x.shape[3], g.shape[3]), x.dtype


def _conv_transpose(i: int, ct: Var, v: Var) -> Var:
    (x, w), (stride, padding) = v.ins, v.attrs
    if i == 0:
        return convolve_input(ct, w, stride, padding, x.shape[1:3])
    return convolve_weight(x, ct, stride, padding, w.shape[:2])


def _input_transpose(i: int, ct: Var, v: Var) -> Var:
    (g, w), (stride, padding, _) = v.ins, v.attrs
    if i == 0:
        return convolve(ct, w, stride, padding)
    return convolve_weight(ct, g, stride, padding, w.shape[:2])


def _weight_transpose(i: int, ct: Var, v: Var) -> Var:
    (x, g), (stride, padding, _) = v.ins, v.attrs
    if i == 0:
        return convolve_input(g, ct, stride, padding, x.shape[1:3])
    return convolve(x, ct, stride, padding)


def windows(kernel: Pair, stride: Pair, out: Shape, dilation: Pair = (1, 1)) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each tap (i, j): what it sees of the padded images [N, H, W, C], as an index of [N, OH, OW, C]."""
    (sh, sw), (oh, ow), (dh, dw) = stride, out, dilation
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield i, j, (slice(None), slice(i * dh, i * dh + (oh - 1) * sh + 1, sh), slice(j * dw, j * dw + (ow - 1) * sw + 1, sw))


def _np_conv(x: np.ndarray, w: np.ndarray, stride: Pair, padding: Padding) -> np.ndarray:
    out = positions(x.shape[1:3], w.shape[:2], stride, padding)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    return sum(padded[at] @ w[i, j] for i, j, at in windows(w.shape[:2], stride, out))


def _np_conv_input(g: np.ndarray, w: np.ndarray, stride: Pair, padding: Padding, size: Pair) -> np.ndarray:
    (top, bottom), (left, right) = padding
    padded = np.zeros((len(g), size[0] + top + bottom, size[1] + left + right, w.shape[2]), g.dtype)
    for i, j, at in windows(w.shape[:2], stride, g.shape[1:3]):
        padded[at] += g @ w[i, j].T
    return padded[:, top : top + size[0], left : left + size[1]]


def _np_conv_weight(x: np.ndarray, g: np.ndarray, stride: Pair, padding: Padding, kernel: Pair) -> np.ndarray:
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    w = np.empty((*kernel, x.shape[3], g.shape[3]), x.dtype)
    for i, j, at in windows(kernel, stride, g.shape[1:3]):
        w[i, j] = np.tensordot(padded[at], g, ((0, 1, 2), (0, 1, 2)))
    return w


NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
UNEVEN = ((0, 1), (2, 1))

CONV = Primitive(
    "conv", _conv, _np_conv, linear=(0, 1), transpose=_conv_transpose,
    samples=(
        ("f(2,5,6,3) f(3,3,3,4)", ((1, 1), ONE)), ("f(2,5,6,3) f(3,3,3,4)", ((2, 2), ONE)), ("f(1,7,5,2) f(2,3,2,3)", ((2, 3), NONE)),
        ("f(2,4,5,3) f(1,1,3,2)", ((1, 1), NONE)), ("f(2,5,4,1) f(1,1,1,3)", ((2, 1), UNEVEN)), ("f(1,4,4,2) f(4,4,2,1)", ((1, 1), NONE)),
        ("f(3,3,2,2) f(4,5,2,5)", ((3, 1), UNEVEN)), ("f(1,9,9,8) f(3,3,8,8)", ((1, 1), ONE)),
    ),
)  # fmt: skip
CONV_INPUT = Primitive(
    "conv_input", _conv_input, _np_conv_input, linear=(0, 1), transpose=_input_transpose,
    samples=(
        ("f(2,5,6,4) f(3,3,3,4)", ((1, 1), ONE, (5, 6))), ("f(2,3,3,4) f(3,3,3,4)", ((2, 2), ONE, (5, 6))), ("f(1,3,1,3) f(2,3,2,3)", ((2, 3), NONE, (7, 5))),
        ("f(2,4,5,2) f(1,1,3,2)", ((1, 1), NONE, (4, 5))), ("f(1,1,1,1) f(4,4,2,1)", ((1, 1), NONE, (4, 4))), ("f(3,1,1,5) f(4,5,2,5)", ((3, 1), UNEVEN, (3, 2))),
    ),
)  # fmt: skip
CONV_WEIGHT = Primitive(
    "conv_weight", _conv_weight, _np_conv_weight, linear=(0, 1), transpose=_weight_transpose,
    samples=(
        ("f(2,5,6,3) f(2,5,6,4)", ((1, 1), ONE, (3, 3))), ("f(2,5,6,3) f(2,3,3,4)", ((2, 2), ONE, (3, 3))), ("f(1,7,5,2) f(1,3,1,3)", ((2, 3), NONE, (2, 3))),
        ("f(2,4,5,3) f(2,4,5,2)", ((1, 1), NONE, (1, 1))), ("f(1,4,4,2) f(1,1,1,1)", ((1, 1), NONE, (4, 4))), ("f(3,3,2,2) f(3,1,1,5)", ((3, 1), UNEVEN, (4, 5))),
    ),
)  # fmt: skip
TRIO = (CONV, CONV_INPUT, CONV_WEIGHT)
