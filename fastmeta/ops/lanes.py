"""Products of matrices of many tasks side by side: the last axis is tasks, the two before it are matrices.

What the loop over tasks makes of products of two matrices of each task; it is not differentiated again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import FLOATS, Primitive, Shape, Var


def lane_product(x: Var, y: Var) -> Var:
    return x.graph.emit(LANE_PRODUCT, (x, y))


def _lane_product(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, y = ins
    *lead, m, k, lanes = x.shape
    n = y.shape[-2]
    if x.dtype != y.dtype or x.dtype not in FLOATS or y.shape != (*lead, k, n, lanes):
        raise expected("lane_product", "[..., m, k, lanes] and [..., k, n, lanes] of one float dtype", f"{x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}")
    return (*lead, m, n, lanes), x.dtype


# x [.., m, k, lanes], y [.., k, n, lanes] -> [.., m, n, lanes].
LANE_PRODUCT = Primitive("lane_product", _lane_product, lambda x, y: np.einsum("...mkl,...knl->...mnl", x, y))
