"""Lanes: many tasks of a few numbers each run side by side, one in each lane of the vectors that compute them.

A number of one task would fill a lane of sixteen, and an instruction takes longer to start than to run.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.lanes import lane_product
from fastmeta.ops.linalg import INVERSE, LOGDET
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, SUM
from fastmeta.ops.shape import (
    BROADCAST,
    CONCAT,
    COPY,
    FLIP,
    PAD,
    PERMUTE,
    RESHAPE,
    SLICE,
    STOP_GRADIENT,
    permute,
    reshape,
)
from fastmeta.ops.structure import Loop
from fastmeta.program import Var
from fastmeta.transforms.together import MULTIPLY_ADDS, Together, changed, equations

FEW = 56  # elements of a task's equation, on average, up to which lanes pay; with fewer tasks than that, threads do more by sharing them
LARGEST = 1 << 16  # elements of a task's largest value
LEAST = 4  # tasks
FACTOR = 1 << 13  # elements of a matrix of all tasks side by side that the first-level cache holds beside others


class Sizes(NamedTuple):
    """What equations of a task come to."""

    mean: float  # elements, on average over all that are run; infinite where an operation has no rule
    factor: int  # elements of the largest matrix of a task that is multiplied by another of its own, 0 without


def width(s: Loop, tasks: int) -> int:
    """How many tasks of a loop over tasks run side by side; 1 where that does not pay."""
    if tasks < LEAST:
        return 1
    sizes = sizes_of(s)
    if sizes.mean > FEW or tasks < sizes.mean:
        return 1
    most = 16 if tasks <= 48 else 32 if tasks < 512 else 64
    while most > 16 and most * sizes.factor > FACTOR:
        most //= 2
    return most


def sizes_of(s: Loop) -> Sizes:
    """Of a body over tasks.  Where one factor of a product is the same in all tasks, that becomes one longer product, of which its elements count."""
    found: Sizes | None = s.body.memo.get("sizes")
    if found is None:
        found = s.body.memo["sizes"] = _sizes_of(s)
    return found


def _sizes_of(s: Loop) -> Sizes:
    count = factor = 0
    elements = 0.0
    for e in equations(s):
        if e.v.size > LARGEST or not (e.given or Lanes.knows(e.v.op)):
            return Sizes(inf, 0)
        if e.given:
            continue
        count += e.times
        if e.v.op is MATMUL and all(e.differs):
            elements += e.times * e.v.size * e.v.ins[0].shape[-1] / MULTIPLY_ADDS
            factor = factor if e.added else max(factor, *[i.size for i in e.v.ins])
        else:
            elements += e.times * e.v.size
    return Sizes(elements / count, factor) if count else Sizes(inf, 0)


class Lanes(Together):
    """The axis of tasks is the last."""

    @staticmethod
    def axis(rank: int) -> int:
        return rank

    @staticmethod
    def entering(x: Var) -> Var:
        return x.graph.emit(COPY, (_last(x),))

    @staticmethod
    def leaving(x: Var) -> Var:
        return _first(x)

    @staticmethod
    def along(x: Var) -> Var:
        return x

    def longer(self, x: Var, y: Var) -> Var:
        x = reshape(x, (x.shape[0], x.shape[1] * self.n))
        return matmul(x, reshape(permute(y, (0, 2, 1)), (x.shape[1], y.shape[1])))

def _last(x: Var) -> Var:
    return permute(x, (*range(1, len(x.shape)), 0))


def _first(x: Var) -> Var:
    r = len(x.shape) - 1
    return permute(x, (r, *range(r)))


def _indexed(b: Together, v: Var) -> Var:
    x, index = v.ins
    at = b.made[index.id]
    return b.g.emit(v.op, (b.each(x), at if index.id in b.differs else reshape(at, (*at.shape, 1))), v.attrs)


def _by_matrices(b: Together, v: Var) -> Var:
    """An operation on matrices, which are the last two axes."""
    return _last(b.g.emit(v.op, tuple([_first(b.each(i)) for i in v.ins]), v.attrs))


def _matmul(b: Together, v: Var) -> Var:
    x, y = v.ins
    *lead, m, k = x.shape
    n = y.shape[-1]
    if not lead and y.id not in b.differs:  # columns of all tasks
        columns = reshape(permute(b.made[x.id], (1, 0, 2)), (k, m * b.n))
        return permute(reshape(matmul(permute(b.made[y.id], (1, 0)), columns), (n, m, b.n)), (1, 0, 2))
    if not lead and x.id not in b.differs:
        return reshape(matmul(b.made[x.id], reshape(b.made[y.id], (k, n * b.n))), (m, n, b.n))
    return lane_product(b.each(x), b.each(y))


Lanes.rules = {
    **{op.name: changed(lambda b, at: at) for op in (SUM, MAX, MIN, ARGMAX, ARGMIN, CUMSUM, ARGSORT, FLIP, CONCAT, STOP_GRADIENT)},
    **{op.name: _indexed for op in (GATHER, SCATTER_ADD)},
    **{op.name: _by_matrices for op in (INVERSE, LOGDET)},
    RESHAPE.name: changed(lambda b, at: ((*at[0], b.n),)),
    PERMUTE.name: changed(lambda b, at: ((*at[0], len(at[0])),)),
    BROADCAST.name: changed(lambda b, at: ((*at[0], b.n), (*at[1], len(at[0])))),
    SLICE.name: changed(lambda b, at: ((*at[0], 0), (*at[1], b.n), (*at[2], 1))),
    PAD.name: changed(lambda b, at: tuple([(*a, 0) for a in at])),
    MATMUL.name: _matmul,
}
