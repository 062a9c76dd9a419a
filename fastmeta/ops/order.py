"""The order of values along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import Primitive, Shape, Var


def _argsort(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x,), (axis, k, _) = ins, at
    if not 0 <= axis < len(x.shape) or not 0 <= k <= x.shape[axis]:
        raise expected("argsort", f"an axis of {x.shape} and at most its length of indices", (axis, k))
    return (*x.shape[:axis], k, *x.shape[axis + 1 :]), "i32"


def _np_argsort(x: np.ndarray, axis: int, k: int, descending: bool) -> np.ndarray:
    keys = x.astype(np.int64) if x.dtype.kind == "i" else x
    order = np.argsort(-keys if descending else keys, axis, kind="stable")
    return np.take(order, np.arange(k), axis).astype(np.int32)


# The indices of the first k values in order; of equal ones the first comes first, NaN comes last.
ARGSORT = Primitive(
    "argsort", _argsort, _np_argsort,
    samples=(
        ("f(3,7)", (1, 7, False)), ("f(5,4)", (0, 2, True)), ("f(2,9,3)", (1, 3, False)), ("i(4,6)", (1, 6, True)), ("i(20,)", (0, 20, False)),
        ("f(33,)", (0, 1, True)), ("f(3,4)", (1, 0, False)),
    ),
)  # fmt: skip
