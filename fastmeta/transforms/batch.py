"""Batching: a small loop without a carry inside of a task becomes straight code over all its iterations at once.

Vectors that meet the same matrix in every iteration become the rows of one product, and numbers fill vectors.  Where all
iterations together need more than a little memory, the loop stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastmeta.ops import elementwise as ew
from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, SUM, total
from fastmeta.ops.shape import (
    BROADCAST,
    CONCAT,
    FLIP,
    PAD,
    PERMUTE,
    RESHAPE,
    SLICE,
    STOP_GRADIENT,
    broadcast,
    permute,
    reshape,
)
from fastmeta.ops.structure import LOOP, Loop, loop, rebuilt
from fastmeta.program import CONST, INPUT, Graph, Program, Var

LARGEST = 1 << 14  # elements of a value of all iterations
KEPT = 1 << 18  # of all values together


def batch(p: Program) -> Program:
    """The program with such loops batched; loops over tasks stay."""
    return _batch(p, of_tasks=True)


def _batch(p: Program, of_tasks: bool = False) -> Program:
    name = f"batched, {of_tasks}"
    done = p.memo.get(name)
    if done is None:
        done = p.memo[name] = _batched_loops(p, of_tasks)
    return done


def _batched_loops(p: Program, of_tasks: bool) -> Program:
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is not LOOP:
            return None
        spec: Loop = v.attrs[0]._replace(body=_batch(v.attrs[0].body))
        if not spec.carry and not of_tasks and _small(spec):
            try:
                return _straight(g, spec, ins)
            except _Unknown:
                pass
        return loop(g, spec, ins)

    if not any(v.op is LOOP for v in p.live()):
        return p
    return rebuilt(p, visit)


class _Unknown(Exception):
    """An operation that has no rule here."""


def _small(s: Loop) -> bool:
    """Whether little memory is needed for what differs between iterations, but for what becomes a longer product."""
    if s.length < 1:
        return False
    merged: set[int] = set()

    def merge(v: Var) -> None:
        if v.op is MATMUL or passes(v):
            merged.add(v.id)
            for i in passes(v):
                merge(i)

    for v in s.body.outputs[s.stacked :]:
        merge(v)
    differs = differing(s.body, slices(s))
    sizes = [s.length * v.size for v in s.body.live() if v.id in differs and not (v.op.view or v.id in merged or v.op is INPUT)]
    return max(sizes, default=0) <= LARGEST and sum(sizes) <= KEPT


def slices(s: Loop) -> list[bool]:
    """Which inputs of the body of a loop without a carry differ between iterations."""
    return [k >= s.invariant for k in range(len(s.body.inputs))]


def differing(p: Program, inputs: Sequence[bool]) -> set[int]:
    """Values, by number, that depend on inputs that differ: of a loop all results do together."""
    out = {v.id for v, on in zip(p.inputs, inputs, strict=True) if on}
    for v in p.live():
        if any(i.id in out for i in v.ins):
            out.add(v.id)
    return out


def passes(v: Var) -> tuple[Var, ...]:
    """The operands of which v's sum over the iterations is the same function as v is of them; none where it is not."""
    if v.op is ew.MULTIPLY:
        return tuple([i for i in v.ins if i.op is not CONST][:1]) if any(i.op is CONST for i in v.ins) else ()
    return v.ins if v.op in (ew.ADD, ew.SUBTRACT, ew.NEGATIVE, PERMUTE, RESHAPE) else ()


def _straight(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    """The results of a loop without a carry."""
    b = _Batch(g, s, ins)
    outs = s.body.outputs
    return [*map(b.each, outs[: s.stacked]), *map(b.sum, outs[s.stacked :])]


class _Batch:
    """A loop's body over all `n` iterations: what differs between them has a leading axis more."""

    def __init__(self, g: Graph, s: Loop, ins: tuple[Var, ...]) -> None:
        self.g, self.n = g, s.length
        self.made = dict(zip((v.id for v in s.body.inputs), ins, strict=True))  # of the body's values, by number
        self.differs = differing(s.body, slices(s))
        for v in s.body.live():
            if v.id in self.made:
                continue
            g.line = v.line
            if v.op is LOOP:
                raise _Unknown
            if v.id in self.differs:
                self.made[v.id] = _elementwise(self, v) if v.op.elementwise else _rule(v)(self, v)
            else:
                self.made[v.id] = g.emit(v.op, tuple([self.made[i.id] for i in v.ins]), v.attrs)

    def each(self, v: Var) -> Var:
        """v of each iteration, repeated where all have the same."""
        x = self.made[v.id]
        return x if v.id in self.differs else broadcast(x, (self.n, *x.shape), tuple(range(1, 1 + len(x.shape))))

    def sum(self, v: Var) -> Var:
        """The sum over the iterations; of products a longer product, which needs no memory for its terms."""
        if v.id not in self.differs:
            return ew.multiply(self.made[v.id], float(self.n))
        if v.op is MATMUL and len(v.shape) == 2 and all(i.id in self.differs for i in v.ins):
            x, y = (self.made[i.id] for i in v.ins)
            x = reshape(permute(x, (1, 0, 2)), (x.shape[1], self.n * x.shape[2]))
            return matmul(x, reshape(y, (self.n * y.shape[1], y.shape[2])))
        if through := passes(v):
            return self.g.emit(v.op, tuple([self.sum(i) if i in through else self.made[i.id] for i in v.ins]), v.attrs)
        return total(self.made[v.id], (0,))


Rule = Callable[[_Batch, Var], Var]


def _rule(v: Var) -> Rule:
    if v.op.name not in RULES:
        raise _Unknown
    return RULES[v.op.name]


def _elementwise(b: _Batch, v: Var) -> Var:
    return b.g.emit(v.op, tuple([b.each(i) for i in v.ins]), v.attrs)


def _with(change: Callable[[_Batch, Any], tuple[Any, ...]]) -> Rule:
    """The rule of an operation that takes other attributes for one axis more."""
    return lambda b, v: b.g.emit(v.op, tuple([b.each(i) for i in v.ins]), change(b, v.attrs))


def _later(axes: Iterable[int]) -> tuple[int, ...]:
    return tuple([a + 1 for a in axes])


def _matmul(b: _Batch, v: Var) -> Var:
    x, y = v.ins
    if len(v.shape) == 2 and y.id not in b.differs:  # rows of all iterations
        rows = reshape(b.made[x.id], (b.n * x.shape[0], x.shape[1]))
        return reshape(matmul(rows, b.made[y.id]), (b.n, *v.shape))
    if len(v.shape) == 2 and x.id not in b.differs and y.shape[1] == 1:  # columns of all iterations, as rows
        rows = reshape(b.made[y.id], (b.n, y.shape[0]))
        return reshape(matmul(rows, permute(b.made[x.id], (1, 0))), (b.n, *v.shape))
    return matmul(b.each(x), b.each(y))


RULES: dict[str, Rule] = {
    SUM.name: _with(lambda b, at: (_later(at[0]),)),
    MAX.name: _with(lambda b, at: (_later(at[0]),)),
    MIN.name: _with(lambda b, at: (_later(at[0]),)),
    ARGMAX.name: _with(lambda b, at: (at[0] + 1,)),
    ARGMIN.name: _with(lambda b, at: (at[0] + 1,)),
    CUMSUM.name: _with(lambda b, at: (at[0] + 1, *at[1:])),
    ARGSORT.name: _with(lambda b, at: (at[0] + 1, *at[1:])),
    GATHER.name: _with(lambda b, at: (at[0] + 1,)),
    SCATTER_ADD.name: _with(lambda b, at: (at[0] + 1, at[1])),
    RESHAPE.name: _with(lambda b, at: ((b.n, *at[0]),)),
    PERMUTE.name: _with(lambda b, at: ((0, *_later(at[0])),)),
    BROADCAST.name: _with(lambda b, at: ((b.n, *at[0]), (0, *_later(at[1])))),
    SLICE.name: _with(lambda b, at: ((0, *at[0]), (b.n, *at[1]), (1, *at[2]))),
    FLIP.name: _with(lambda b, at: (_later(at[0]),)),
    PAD.name: _with(lambda b, at: tuple([(0, *a) for a in at])),
    CONCAT.name: _with(lambda b, at: (at[0] + 1,)),
    STOP_GRADIENT.name: _with(lambda b, at: at),
    MATMUL.name: _matmul,
}
