"""The words and the count of a convolution's instruction; its operands, epilogue and place are those of any product."""

from __future__ import annotations

from math import prod

from fastmeta.ops.convolution import CONV, CONV_INPUT, TRIO
from fastmeta.program import Shape, Var


def shapes(v: Var) -> tuple[Shape, Shape, Shape]:
    """Images [N, H, W, C], weights [KH, KW, C, O] and result [N, OH, OW, O] of any of the three convolutions."""
    a, b = (x.shape for x in v.ins)
    if v.op is CONV:
        return a, b, v.shape
    return (v.shape, b, a) if v.op is CONV_INPUT else (a, v.shape, b)


def geometry(v: Var) -> list[int]:
    """The words of the instruction from its kind to its padding."""
    (n, h, w, c), (kh, kw, _, o), (_, oh, ow, _) = shapes(v)
    stride, ((top, _), (left, _)) = v.attrs[:2]
    return [TRIO.index(v.op), n, h, w, c, kh, kw, o, oh, ow, *stride, top, left]


def flops(v: Var) -> int:
    """Two for each tap, channel and element of the result."""
    _, (kh, kw, c, _), result = shapes(v)
    return 2 * prod(result) * kh * kw * c
