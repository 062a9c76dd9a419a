"""Matrix product: the last two axes are matrices, all axes before them are batch axes and equal in both operands."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops.shape import swap_last
from fastmeta.program import FLOATS, Primitive, Shape, Var

MAX_PRODUCTS = 4  # that one instruction adds up


def matmul(x: Var, y: Var) -> Var:
    return x.graph.emit(MATMUL, (x, y))


def _matmul(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, y = ins
    if x.dtype != y.dtype or x.dtype not in FLOATS:
        raise expected("matmul", "two operands of one float dtype", f"{x.dtype} and {y.dtype}", TypeError)
    if min(len(x.shape), len(y.shape)) < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-2]:
        raise expected("matmul", "[..., m, k] and [..., k, n]", f"{x.shape} and {y.shape}")
    return (*x.shape[:-1], y.shape[-1]), x.dtype


def _transpose(i: int, ct: Var, v: Var) -> Var:
    x, y = v.ins
    return matmul(ct, swap_last(y)) if i == 0 else matmul(swap_last(x), ct)


MATMUL = Primitive(
    "matmul", _matmul, np.matmul, linear=(0, 1), transpose=_transpose,
    samples=tuple([(s, ()) for s in (
        "f(2,3) f(3,4)", "f(5,2,3) f(5,3,4)", "f(4,1) f(1,3)", "f(1,6) f(6,1)", "f(5,1,3) f(5,3,1)", "f(5,2,1) f(5,1,1)", "f(5,1,1) f(5,1,4)",
    )]),
)  # fmt: skip
