"""The loss of a prototypical network and its first derivatives, from the rows of queries and class means, as one operation."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops.distance import DISTANCE
from fastmeta.ops.shape import broadcast
from fastmeta.ops.structure import Kernel
from fastmeta.program import FLOATS, Primitive, Shape, Var

PARTS = ("loss", "right", "x", "y")


def _proto(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, y, label, share, absent = ins
    n, m = x.shape[:1], y.shape[:1]
    given = [(v.shape, v.dtype) for v in ins]
    if x.dtype not in FLOATS or given != [(n + x.shape[1:], x.dtype), (m + x.shape[1:], x.dtype), (n, "i32"), (n, x.dtype), (m, "bool")] or len(x.shape) != 2:
        raise expected("proto", "rows x [n, D] and y [m, D], labels [n], shares [n], absent [m]", ", ".join(f"{t}{list(s)}" for s, t in given))
    return {"x": x.shape, "y": y.shape}.get(at[1], ()), x.dtype


def _np_proto(x: np.ndarray, y: np.ndarray, label: np.ndarray, share: np.ndarray, absent: np.ndarray, factor: float, part: str) -> np.ndarray:
    logits = np.where(absent, -np.inf, -factor * DISTANCE.evaluate(x, y, "sqeuclidean"))
    rows, counts = np.arange(len(x)), share != 0
    if part == "right":
        return np.sum(share[counts] * (logits.argmax(1) == label)[counts]).astype(x.dtype)
    top = logits.max(1, keepdims=True)
    e = np.exp(logits - np.where(np.isinf(top), 0, top))
    total = e.sum(1)
    if part == "loss":
        nll = np.log(total) + np.where(np.isinf(top), 0, top)[:, 0] - logits[rows, label]
        return np.sum(share[counts] * nll[counts]).astype(x.dtype)
    weight = e / total[:, None]
    weight[rows, label] -= 1
    weight = np.where(counts[:, None], weight * -factor * share[:, None], 0).astype(x.dtype)
    sums = weight.sum(1), weight.sum(0)
    return 2 * (sums[0][:, None] * x - weight @ y) if part == "x" else 2 * (sums[1][:, None] * y - weight.T @ x)


# x [n, D], y [m, D], labels [n], shares [n] of the rows of x, bools [m] which rows of y are infinitely far; a factor and a part:
# the sum over rows of x of share * cross-entropy of softmax(-factor * squared distance); the sum of the shares of rows whose
# nearest row of y is the label's; the derivative of the first in x or in y.
PROTO = Primitive("proto", _proto, _np_proto)


@lru_cache(maxsize=256)
def proto_kernels(factor: float) -> tuple[Kernel, Kernel]:
    """The kernels of the loss and of the share of right answers, functions of ``(x, y, label, share, absent)``."""

    def part(name: str, *ins: Var) -> Var:
        return ins[0].graph.emit(PROTO, ins, (factor, name))

    def pull(name: str, *ins: Var) -> Var:
        *operands, cotangent = ins
        derivative = part(name, *operands)
        return ew.multiply(derivative, broadcast(cotangent, derivative.shape, ()))

    pulls = tuple([Kernel(partial(pull, side)) for side in ("x", "y")])
    return Kernel(partial(part, "loss"), pulls), Kernel(partial(part, "right"))
