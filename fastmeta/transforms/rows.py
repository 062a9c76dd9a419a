"""Rows: a few tasks at a time, whose vectors become the rows of one product with weights that all of them share.

A vector alone reads the weights once for as many multiply-adds as they have elements, and waits for the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.linalg import INVERSE, LOGDET
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, SUM
from fastmeta.ops.shape import BROADCAST, CONCAT, FLIP, PAD, PERMUTE, RESHAPE, SLICE, STOP_GRADIENT, permute, reshape
from fastmeta.ops.structure import Loop
from fastmeta.program import DTYPES, Var
from fastmeta.transforms.together import MULTIPLY_ADDS, Together, changed, equations

MOST = 16  # tasks at a time: more do not read the weights much less often, and need more memory
GROUPS = 8  # for threads to share, and half as many where that makes groups of two to four, or where weights are far
LEAST = 1 << 13  # elements of weights that a task reads
LARGEST = 1 << 14  # elements of a value that a task computes; four times as many where weights are far
FAR = 1 << 21  # bytes of weights and sums that do not stay in the cache of a core


class Cost(NamedTuple):
    """Of one task, in elements that pass through the processor."""

    reads: float = 0.0  # of shared weights, and of sums over tasks in order to add to them
    rest: float = 0.0
    largest: int = 0  # of the values that it computes
    held: int = 0  # bytes of weights and sums


def width(s: Loop, tasks: int) -> int:
    """How many tasks of a loop over tasks run as rows of products; 1 where that does not pay."""
    found: Cost | None = s.body.memo.get("rows")
    if found is None:
        found = s.body.memo["rows"] = cost(s)
    far = found.held > FAR
    if found.reads <= max(found.rest / (4 if far else 1), LEAST) or found.largest > (4 * LARGEST if far else LARGEST):
        return 1
    few = tasks // (GROUPS // 2)
    if far:
        most = min(MOST, tasks // 2 if found.reads > 8 * found.rest else few)
    else:
        most = min(MOST, max(tasks // GROUPS, min(4, few)))
    return evenly(tasks, most) if most > 1 else 1


def evenly(tasks: int, most: int) -> int:
    """How many at a time, ``most`` at most: without an empty place in the last group, for which inputs would be copied, or with few."""
    whole = (n for n in range(most, most // 2, -1) if tasks % n == 0)
    return next(whole, -(-tasks // -(-tasks // most)))


def cost(s: Loop) -> Cost:
    """What a task reads and computes; no reads where it has an operation without a rule."""
    reads = rest = 0.0
    largest = 0
    held: dict[Var, int] = {}
    for e in equations(s):
        if e.given:
            continue
        if not Rows.knows(e.v.op):
            return Cost()
        if not e.added:
            largest = max(largest, e.v.size)
        if e.v.op is MATMUL:
            rest += e.times * e.v.size * e.v.ins[0].shape[-1] / MULTIPLY_ADDS
            weights = None
            if all(e.differs):
                weights = e.v if e.added else None
            elif len(e.v.shape) == 2:
                weights = e.v.ins[e.differs.index(False)]
                while weights.op.view:
                    weights = weights.ins[0]
            if weights is not None:
                reads += e.times * weights.size
                held[weights] = weights.size * DTYPES[weights.dtype].itemsize
        elif not e.added:
            rest += e.times * e.v.size
    return Cost(reads, rest, largest, sum(held.values()))


class Rows(Together):
    """The axis of tasks is the first."""

    @staticmethod
    def axis(rank: int) -> int:
        return 0

    @staticmethod
    def entering(x: Var) -> Var:
        return x

    @staticmethod
    def leaving(x: Var) -> Var:
        return x

    @staticmethod
    def along(x: Var) -> Var:
        return permute(x, (1, 0, *range(2, len(x.shape))))

    def longer(self, x: Var, y: Var) -> Var:
        x = reshape(permute(x, (1, 0, 2)), (x.shape[1], self.n * x.shape[2]))
        return matmul(x, reshape(y, (self.n * y.shape[1], y.shape[2])))

def _later(axes: Iterable[int]) -> tuple[int, ...]:
    return tuple([a + 1 for a in axes])


def _matmul(b: Together, v: Var) -> Var:
    x, y = v.ins
    if len(v.shape) == 2 and y.id not in b.differs:
        rows = reshape(b.made[x.id], (b.n * x.shape[0], x.shape[1]))
        return reshape(matmul(rows, b.made[y.id]), (b.n, *v.shape))
    if len(v.shape) == 2 and x.id not in b.differs and y.shape[1] == 1:  # columns, as rows
        rows = reshape(b.made[y.id], (b.n, y.shape[0]))
        return reshape(matmul(rows, permute(b.made[x.id], (1, 0))), (b.n, *v.shape))
    return matmul(b.each(x), b.each(y))


Rows.rules = {
    **{op.name: changed(lambda b, at: at) for op in (STOP_GRADIENT, INVERSE, LOGDET)},
    **{op.name: changed(lambda b, at: (_later(at[0]),)) for op in (SUM, MAX, MIN, FLIP)},
    **{op.name: changed(lambda b, at: (at[0] + 1, *at[1:])) for op in (ARGMAX, ARGMIN, CUMSUM, ARGSORT, GATHER, SCATTER_ADD, CONCAT)},
    RESHAPE.name: changed(lambda b, at: ((b.n, *at[0]),)),
    PERMUTE.name: changed(lambda b, at: ((0, *_later(at[0])),)),
    BROADCAST.name: changed(lambda b, at: ((b.n, *at[0]), (0, *_later(at[1])))),
    SLICE.name: changed(lambda b, at: ((0, *at[0]), (b.n, *at[1]), (1, *at[2]))),
    PAD.name: changed(lambda b, at: tuple([(0, *a) for a in at])),
    MATMUL.name: _matmul,
}
