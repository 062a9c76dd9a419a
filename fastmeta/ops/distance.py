"""Distances between rows as one operation: what backends with a kernel for them run in place of the expansion that derivatives are of."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import FLOATS, Primitive, Shape, Var

KERNEL_METRICS = ("sqeuclidean", "l1", "cosine")  # by their numbers in a plan


def _distance(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, y = ins
    if x.dtype != y.dtype or x.dtype not in FLOATS or len(x.shape) != 2 or len(y.shape) != 2 or x.shape[1] != y.shape[1] or not x.size or not y.size:
        raise expected("distance", "rows x [n, D] and y [m, D] of one float dtype", f"{x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}")
    return (x.shape[0], y.shape[0]), x.dtype


def _np_distance(x: np.ndarray, y: np.ndarray, metric: str) -> np.ndarray:
    if metric == "cosine":
        (x, zero_x), (y, zero_y) = _directions(x), _directions(y)
        apart = _np_distance(x, y, "sqeuclidean") / 2
        return np.where(zero_x[:, None] | zero_y, np.ones_like(apart), apart)
    size = np.square if metric == "sqeuclidean" else np.abs
    return np.stack([size(x - row).sum(1) for row in y], axis=1)


def _directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(x).max(1)
    zero = largest < np.finfo(x.dtype).tiny
    x = x / np.where(zero, 1, largest)[:, None]
    return x / np.where(zero, 1, np.sqrt(np.square(x).sum(1)))[:, None], zero


# x [n, D], y [m, D] and a metric's name -> [n, m].  It comes from calls that have it as their kernel, after derivatives are taken.
DISTANCE = Primitive(
    "distance", _distance, _np_distance,
    samples=tuple(
        (f"f({n},{d}) f({m},{d})", (metric,))
        for metric in KERNEL_METRICS for n, m, d in ((5, 3, 4), (1, 1, 1), (2, 9, 33), (17, 6, 16), (7, 5, 70))
    ),
)  # fmt: skip
