"""Convolution of each channel by a kernel of its own, on maps that are padded already, and its transpose in the kernels.

Maps are [N, H, W, C], kernels [KH, KW, C], results [N, OH, OW, C].  ``stride`` and ``dilation`` are (rows, columns).  The
transpose in the maps is such a convolution again: of the cotangent, spread out by the stride, by the kernels turned round.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops.convolution import Pair, positions, reach, windows
from fastmeta.ops.pooling import slices
from fastmeta.ops.reduce import total
from fastmeta.ops.shape import FLIP, broadcast, concat, cut, pad, reshape
from fastmeta.program import FLOATS, Primitive, Shape, Var


def depthwise(x: Var, w: Var, stride: Pair, dilation: Pair) -> Var:
    """``y[n, p, q] = sum over i, j of x[n, p * sh + i * dh, q * sw + j * dw] * w[i, j]``."""
    return x.graph.emit(DEPTHWISE, (x, w), (stride, dilation))


def depthwise_weight(x: Var, g: Var, stride: Pair, dilation: Pair, kernel: Pair) -> Var:
    """The transpose of `depthwise` in w: x and g [N, OH, OW, C] onto kernels of ``kernel`` (KH, KW)."""
    return x.graph.emit(DEPTHWISE_WEIGHT, (x, g), (stride, dilation, kernel))


def depthwise_input(g: Var, w: Var, stride: Pair, dilation: Pair, size: Pair) -> Var:
    """The transpose of `depthwise` in x: g [N, OH, OW, C] back onto maps of ``size`` (H, W)."""
    between = tuple([s - 1 for s in stride])
    spread = [(n - 1) * s + 1 for n, s in zip(g.shape[1:3], stride, strict=True)]
    low = [(k - 1) * d for k, d in zip(w.shape[:2], dilation, strict=True)]
    high = [n - m for n, m in zip(size, spread, strict=True)]
    around = pad(g, (0, *low, 0), (0, *high, 0), (0, *between, 0))
    return depthwise(around, w.graph.emit(FLIP, (w,), ((0, 1),)), (1, 1), dilation)


# -- rules


def _maps(x: Var, y: Var) -> None:
    if x.dtype != y.dtype or x.dtype not in FLOATS:
        raise expected("depthwise_conv2d", "two operands of one float dtype", f"{x.dtype} and {y.dtype}", TypeError)


def _fits(x: Var, kernel: Shape, stride: Pair, dilation: Pair) -> Shape:
    out = positions(x.shape[1:3], reach(kernel, dilation), stride)
    if min(*out, *stride, *dilation) < 1:
        raise expected("depthwise_conv2d", f"a kernel that fits into the padded images {x.shape}", kernel)
    return (x.shape[0], *out, x.shape[3])


def _depthwise(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, w = ins
    _maps(x, w)
    if len(x.shape) != 4 or w.shape[2:] != x.shape[3:]:
        raise expected("depthwise_conv2d", f"kernels [kh, kw, channels] for images {x.shape}", w.shape)
    return _fits(x, w.shape[:2], *at), x.dtype


def _depthwise_weight(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x, g), (stride, dilation, kernel) = ins, at
    _maps(x, g)
    if g.shape != _fits(x, kernel, stride, dilation):
        raise expected("depthwise_conv2d", f"a cotangent of images {x.shape} under a kernel of {kernel}", g.shape)
    return (*kernel, x.shape[3]), x.dtype


def _transpose(i: int, ct: Var, v: Var) -> Var:
    (x, w), (stride, dilation) = v.ins, v.attrs
    if i == 0:
        return depthwise_input(ct, w, stride, dilation, x.shape[1:3])
    return depthwise_weight(x, ct, stride, dilation, w.shape[:2])


def _weight_transpose(i: int, ct: Var, v: Var) -> Var:
    (x, g), (stride, dilation, _) = v.ins, v.attrs
    if i == 0:
        return depthwise_input(g, ct, stride, dilation, x.shape[1:3])
    return depthwise(x, ct, stride, dilation)


def _np_depthwise(x: np.ndarray, w: np.ndarray, stride: Pair, dilation: Pair) -> np.ndarray:
    out = positions(x.shape[1:3], reach(w.shape[:2], dilation), stride)
    return sum(x[at] * w[i, j] for i, j, at in windows(w.shape[:2], stride, out, dilation))


def _np_depthwise_weight(x: np.ndarray, g: np.ndarray, stride: Pair, dilation: Pair, kernel: Pair) -> np.ndarray:
    w = np.empty((*kernel, x.shape[3]), x.dtype)
    for i, j, at in windows(kernel, stride, g.shape[1:3], dilation):
        w[i, j] = np.sum(x[at] * g, axis=(0, 1, 2), dtype=x.dtype)
    return w


DEPTHWISE = Primitive(
    "depthwise", _depthwise, _np_depthwise, linear=(0, 1), transpose=_transpose,
    samples=(
        ("f(2,5,6,3) f(3,3,3)", ((1, 1), (1, 1))), ("f(1,7,8,18) f(3,2,18)", ((2, 3), (1, 1))), ("f(2,9,7,1) f(2,3,1)", ((1, 2), (3, 2))),
        ("f(1,4,4,5) f(4,4,5)", ((1, 1), (1, 1))), ("f(1,3,12,17) f(1,5,17)", ((1, 1), (1, 1))),
    ),
)  # fmt: skip
DEPTHWISE_WEIGHT = Primitive(
    "depthwise_weight", _depthwise_weight, _np_depthwise_weight, linear=(0, 1), transpose=_weight_transpose,
    samples=(
        ("f(2,5,6,3) f(2,3,4,3)", ((1, 1), (1, 1), (3, 3))), ("f(1,7,8,18) f(1,3,3,18)", ((2, 3), (1, 1), (3, 2))), ("f(2,9,7,1) f(2,6,2,1)", ((1, 2), (3, 2), (2, 3))),
        ("f(1,4,4,5) f(1,1,1,5)", ((1, 1), (1, 1), (4, 4))), ("f(1,3,12,17) f(1,3,8,17)", ((1, 1), (1, 1), (1, 5))),
    ),
)  # fmt: skip
PAIR = (DEPTHWISE, DEPTHWISE_WEIGHT)


# -- in other primitives


def tap_by_tap(v: Var, x: Var, y: Var) -> Var:
    """What v is of operands x and y, for a backend without a kernel."""
    stride, dilation, *kernel = v.attrs
    if kernel:
        return _gradient(x, y, stride, dilation, *kernel)
    out: Var | None = None
    for k, view in enumerate(slices(v.shape, y.shape[:2], stride, dilation)):
        i, j = divmod(k, y.shape[1])
        tap = reshape(cut(y, (i, j, 0), (i + 1, j + 1, y.shape[2]), (1, 1, 1)), y.shape[2:])
        part = ew.multiply(view(x), broadcast(tap, v.shape, (3,)))
        out = part if out is None else ew.add(out, part)
    assert out is not None
    return out


def _gradient(x: Var, g: Var, stride: Pair, dilation: Pair, kernel: Pair) -> Var:
    taps = [total(ew.multiply(view(x), g), (0, 1, 2)) for view in slices(g.shape, kernel, stride, dilation)]
    return reshape(concat(tuple([reshape(tap, (1, x.shape[3])) for tap in taps]), 0), (*kernel, x.shape[3]))
