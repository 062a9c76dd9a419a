"""Distances between rows, and their first derivatives, as one operation each.

Backends that have them run them in place of calls with such a `Kernel`; the calls' bodies are what is differentiated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops.structure import Kernel
from fastmeta.program import FLOATS, Primitive, Shape, Var

KERNEL_METRICS = ("sqeuclidean", "l1", "cosine")  # by their numbers in a plan
PULL_METRICS = ("sqeuclidean", "l1", "products")  # the last: sqeuclidean by products of centred rows


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


def _pull(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x, y, weight), (_, side) = ins, at
    if (weight.shape, weight.dtype) != _distance((x, y), at):
        raise expected("distance_pull", f"weights {list(_distance((x, y), at)[0])} of {x.dtype}", f"{weight.dtype}{list(weight.shape)}")
    return ins[side].shape, x.dtype


def _np_pull(x: np.ndarray, y: np.ndarray, weight: np.ndarray, metric: str, side: int) -> np.ndarray:
    if side:
        return _np_pull(y, x, weight.T, metric, 0)
    total = np.zeros_like(x)
    for row, w in zip(y, weight.T, strict=True):
        total += w[:, None] * (np.sign(x - row) if metric == "l1" else 2 * (x - row))
    return total


# x [n, D], y [m, D] and a metric's name -> [n, m].
DISTANCE = Primitive("distance", _distance, _np_distance)
# x [n, D], y [m, D], weight [n, m], a metric's name and a side 0 or 1 -> like x or like y: the derivative of the weighted sum of
# distances.
DISTANCE_PULL = Primitive("distance_pull", _pull, _np_pull)


def _kernel(metric: str, pull: str | None) -> Kernel:
    def distances(x: Var, y: Var) -> Var:
        return x.graph.emit(DISTANCE, (x, y), (metric,))

    def to_x(x: Var, y: Var, ct: Var) -> Var:
        return x.graph.emit(DISTANCE_PULL, (x, y, ct), (pull, 0))

    def to_y(x: Var, y: Var, ct: Var) -> Var:
        return x.graph.emit(DISTANCE_PULL, (x, y, ct), (pull, 1))

    return Kernel(distances, (Kernel(to_x), Kernel(to_y)) if pull else ())


# Derivatives of the first are sums of differences, whose digits are right however near two rows are.
SQUARED, SQUARED_BY_PRODUCTS = _kernel("sqeuclidean", "sqeuclidean"), _kernel("sqeuclidean", "products")
ABSOLUTE, COSINE = _kernel("l1", "l1"), _kernel("cosine", None)
