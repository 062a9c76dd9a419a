"""Lanes: many tasks of a few numbers each run side by side, one in each lane of the vectors that compute them.

A number of one task would fill a lane of sixteen, and an instruction takes longer to start than to run.  The body over
`n` tasks is the same program with a last axis more on all that differs between them, the steps of its scans included;
what adds up over tasks is added up inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.lanes import lane_product
from fastmeta.ops.linalg import INVERSE, LOGDET
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM, MAX, MIN, SUM, total
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
    broadcast,
    concat,
    permute,
    reshape,
    rows,
)
from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop, rebuilt, results
from fastmeta.program import INPUT, Graph, Program, Var
from fastmeta.transforms.batch import differing, passes, slices

FEW = 56  # elements of a task's equation, on average, up to which lanes pay; with fewer tasks than that, threads do more by sharing them
MULTIPLY_ADDS = 20  # of a product of two matrices of each task, that take as long as an element of other operations
LARGEST = 1 << 16  # elements of a task's largest value
LEAST = 4  # tasks
FACTOR = 1 << 13  # elements of a matrix of all tasks side by side that the first-level cache holds beside others


class Sizes(NamedTuple):
    """What equations of a task come to."""

    mean: float  # elements, on average over all that are run; infinite where an operation has no rule
    factor: int  # elements of the largest matrix of a task that is multiplied by another of its own


def width(s: Loop, tasks: int, inside: bool = False) -> int:
    """How many tasks of a loop over tasks run side by side; 1 where they run one by one.  Loops inside of a task are no threads' to share.

    A function of the body and the number of tasks only, for it decides the last bits of sums.
    """
    if s.carry or tasks < LEAST:
        return 1
    sizes: Sizes | None = s.body.memo.get("sizes")
    if sizes is None:
        sizes = s.body.memo["sizes"] = sizes_of(s.body, slices(s))
    if sizes.mean > FEW or tasks < sizes.mean and not inside:
        return 1
    most = 16 if tasks <= 48 else 32 if tasks < 512 else 64
    while most > 16 and most * sizes.factor > FACTOR:
        most //= 2
    return most


def sizes_of(p: Program, differs: Sequence[bool]) -> Sizes:
    """Of a body over tasks.  Where one factor of a product is the same in all tasks, that becomes one longer product, of which its elements count."""
    count = factor = 0
    elements = 0.0

    def add(p: Program, flags: Sequence[bool], times: int) -> bool:
        nonlocal count, elements, factor
        found = differing(p, flags)
        for v in p.live():
            if v.op is LOOP:
                s: Loop = v.attrs[0]
                if v.id in found and not add(s.body, _inside(s, [i.id in found for i in v.ins]), times * s.length):
                    return False
            elif v.id in found:
                given = v.op is INPUT or v.op is PROJECT
                if v.size > LARGEST or not (given or v.op.elementwise or v.op.name in RULES):
                    return False
                if given or v.op.view:
                    continue
                count += times
                if v.op is MATMUL and all(i.id in found for i in v.ins):
                    elements += times * v.size * v.ins[0].shape[-1] / MULTIPLY_ADDS
                    factor = max(factor, *[i.size for i in v.ins])
                else:
                    elements += times * v.size
        return True

    return Sizes(elements / count, factor) if add(p, differs, 1) and count else Sizes(inf, 0)


def widened(p: Program, inside: bool = False) -> Program:
    """The program whose loops over a known number of tasks take many at a time where that pays: those ``inside`` of a task too."""
    name = f"widened, {inside}"
    done = p.memo.get(name)
    if done is None:
        done = p.memo[name] = _widened(p, inside)
    return done


def _widened(p: Program, inside: bool) -> Program:
    def change(s: Loop) -> bool:
        return width(s, s.length, inside) > 1 or widened(s.body, True) is not s.body

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is not LOOP:
            return None
        s: Loop = v.attrs[0]
        most = width(s, s.length, inside)
        if most == 1:
            return loop(g, s._replace(body=widened(s.body, True)), ins)
        groups = -(-s.length // most)
        return _in_groups(g, s, ins, groups, -(-s.length // groups))

    return rebuilt(p, visit) if any(v.op is LOOP and change(v.attrs[0]) for v in p.live()) else p


def _in_groups(g: Graph, s: Loop, ins: tuple[Var, ...], groups: int, n: int) -> list[Var]:
    """The results of a loop, n iterations at a time; the last is repeated where they do not fill the groups."""
    whole, masked = groups * n, bool(s.summed) and groups * n > s.length
    sliced = [reshape(_filled(x, whole), (groups, n, *x.shape[1:])) for x in ins[s.invariant :]]
    if masked:
        sliced.append(g.array(counting(s.length, groups, n)))
    spec = s._replace(body=lanes(s, n, masked), sliced=len(sliced), length=groups)
    outs = loop(g, spec, (*ins[: s.invariant], *sliced))
    stacked = [reshape(x, (whole, *x.shape[2:])) for x in outs[: s.stacked]]
    return [*[rows(x, 0, s.length) for x in stacked], *outs[s.stacked :]]


def counting(tasks: int, groups: int, n: int) -> np.ndarray:
    """Which tasks of groups of n there are."""
    return np.arange(groups * n).reshape(groups, n) < tasks


def _filled(x: Var, n: int) -> Var:
    last = rows(x, x.shape[0] - 1, x.shape[0])
    return concat((x, *[last] * (n - x.shape[0])), 0)


def over_tasks(p: Program) -> Loop | None:
    """The one loop over a number of tasks known at run time only, where nothing but it reads what has an axis of tasks."""
    loops = [v.attrs[0] for v in p.live() if v.op is LOOP and v.attrs[0].length < 0]
    others = any(v.shape[:1] == (-1,) and v.op is not PROJECT and v.op is not INPUT for v in p.live())
    return loops[0] if len(loops) == 1 and not others else None


def grouped(p: Program, n: int) -> Program:
    """A program that has a loop ``over_tasks``, n tasks at a time.

    Inputs and results with an axis of tasks have two in its place: groups, and their tasks.  One input more, the last, if the loop sums:
    which tasks count, bool [groups, n].
    """
    g = Graph()
    env: list[Any] = [None] * len(p.nodes)
    for v in p.inputs:
        env[v.id] = g.input((-1, n, *v.shape[1:]) if v.shape[:1] == (-1,) else v.shape, v.dtype)
    ins = [env[v.id] for v in p.inputs]
    for v in p.live():
        if v.op is LOOP and v.attrs[0].length < 0:
            s: Loop = v.attrs[0]
            mask = [g.input((-1, n), "bool")] if s.summed else []
            ins += mask
            spec = s._replace(body=lanes(s, n, bool(mask)), sliced=s.sliced + len(mask))
            env[v.id] = loop(g, spec, (*[env[i.id] for i in v.ins], *mask))
        elif v.op is PROJECT:
            env[v.id] = env[v.ins[0].id][v.attrs[0]]
        elif env[v.id] is None:
            made = g.emit(v.op, tuple([env[i.id] for i in v.ins]), v.attrs)
            env[v.id] = results(made, v.attrs[0].body) if v.op is LOOP else made
    return Program(ins, [env[v.id] for v in p.outputs], g)


def lanes(s: Loop, n: int, masked: bool) -> Program:
    """The body of a loop over tasks as one over n tasks at a time.

    Slices, and after these a mask of the tasks that count where ``masked``, have a first axis more, as have stacked results.
    """
    g = Graph()
    p, differs = s.body, slices(s)
    ins = [g.input((n, *v.shape) if d else v.shape, v.dtype) for v, d in zip(p.inputs, differs, strict=True)]
    mask = [g.input((n,), "bool")] if masked else []
    b = _Lanes(g, n, p, [g.emit(COPY, (_last(x),)) if d else x for x, d in zip(ins, differs, strict=True)], differs, mask)
    outs = [*[_first(b.each(v)) for v in p.outputs[: s.stacked]], *[b.sum(v) for v in p.outputs[s.stacked :]]]
    return Program([*ins, *mask], outs, g)


def _last(x: Var) -> Var:
    return permute(x, (*range(1, len(x.shape)), 0))


def _first(x: Var) -> Var:
    r = len(x.shape) - 1
    return permute(x, (r, *range(r)))


class _Lanes:
    """A program's values for n tasks: those that differ between tasks have a last axis more."""

    def __init__(self, g: Graph, n: int, p: Program, ins: Sequence[Var], differs: Sequence[bool], mask: Sequence[Var]) -> None:
        self.g, self.n, self.mask = g, n, mask
        self.made: dict[int, Any] = dict(zip((v.id for v in p.inputs), ins, strict=True))  # of the program's values, by number
        self.differs = differing(p, differs)
        self.sums: dict[int, Var] = {}  # over tasks too, of what a loop has summed, by number
        for v in p.live():
            if v.id in self.made:
                continue
            g.line = v.line
            if v.op is PROJECT:
                self.project(v)
            elif v.id not in self.differs:
                made = g.emit(v.op, tuple([self.made[i.id] for i in v.ins]), v.attrs)
                self.made[v.id] = results(made, v.attrs[0].body) if v.op is LOOP else made
            elif v.op is LOOP:
                self.made[v.id] = self.loop(v)
            else:
                self.made[v.id] = (_elementwise if v.op.elementwise else RULES[v.op.name])(self, v)

    def each(self, v: Var) -> Var:
        """v of each task, repeated where all have the same."""
        x = self.made[v.id]
        return x if v.id in self.differs else broadcast(x, (*x.shape, self.n), tuple(range(len(x.shape))))

    def sum(self, v: Var) -> Var:
        """The sum over the tasks that count; of products a longer product, which needs no memory for its terms."""
        if v.id in self.sums:
            return self.sums[v.id]
        if v.id not in self.differs and not self.mask:
            return ew.multiply(self.made[v.id], float(self.n))
        if v.op is MATMUL and len(v.shape) == 2 and all(i.id in self.differs for i in v.ins):
            x, y = self.counted(self.made[v.ins[0].id]), self.made[v.ins[1].id]
            x = reshape(x, (x.shape[0], x.shape[1] * self.n))
            return matmul(x, reshape(permute(y, (0, 2, 1)), (x.shape[1], y.shape[1])))
        if v.id in self.differs and (through := passes(v)):
            return self.g.emit(v.op, tuple([self.sum(i) if i in through else self.made[i.id] for i in v.ins]), v.attrs)
        return total(self.counted(self.each(v)), (len(v.shape),))

    def counted(self, x: Var) -> Var:
        """x of the tasks that count, of others zeros."""
        for mask in self.mask:
            x = ew.where(broadcast(mask, x.shape, (len(x.shape) - 1,)), x, 0.0)
        return x

    def project(self, v: Var) -> None:
        (of,), (k,) = v.ins, v.attrs
        s: Loop = of.attrs[0]
        self.made[v.id] = self.made[of.id][k]
        if v.id in self.differs and k >= s.carry + s.stacked:
            self.sums[v.id] = self.made[of.id][k + s.summed]

    def loop(self, v: Var) -> list[Var]:
        """The results of a loop, and the sums over tasks of those that it sums."""
        s: Loop = v.attrs[0]
        flags = _inside(s, [i.id in self.differs for i in v.ins])
        g = Graph()
        mask = [g.input(m.shape, m.dtype) for m in self.mask]
        ins = [g.input((*x.shape, self.n) if f else x.shape, x.dtype) for x, f in zip(s.body.inputs, flags, strict=True)]
        b = _Lanes(g, self.n, s.body, ins, flags, mask)
        outs = [*map(b.each, s.body.outputs), *map(b.sum, s.body.outputs[s.carry + s.stacked :])]
        args = [self.each(x) if f else self.made[x.id] for x, f in zip(v.ins, flags, strict=True)]
        spec = s._replace(body=Program([*mask, *ins], outs, g), invariant=len(mask) + s.invariant, summed=2 * s.summed)
        return loop(self.g, spec, (*self.mask, *args))


def _inside(s: Loop, flags: Sequence[bool]) -> list[bool]:
    """Which inputs of a loop's body differ between tasks if some of the loop's do: any carry does."""
    return [*flags[: s.invariant], *[True] * s.carry, *flags[s.invariant + s.carry :]]


Rule = Callable[[_Lanes, Var], Var]


def _elementwise(b: _Lanes, v: Var) -> Var:
    return b.g.emit(v.op, tuple([b.each(i) for i in v.ins]), v.attrs)


def _with(change: Callable[[_Lanes, Var, Any], tuple[Any, ...]]) -> Rule:
    """The rule of an operation that takes other attributes for one axis more."""
    return lambda b, v: b.g.emit(v.op, tuple([b.each(i) for i in v.ins]), change(b, v, v.attrs))


def _indexed(b: _Lanes, v: Var) -> Var:
    x, index = v.ins
    at = b.made[index.id]
    return b.g.emit(v.op, (b.each(x), at if index.id in b.differs else reshape(at, (*at.shape, 1))), v.attrs)


def _by_matrices(b: _Lanes, v: Var) -> Var:
    """An operation on matrices, which are the last two axes."""
    return _last(b.g.emit(v.op, tuple([_first(b.each(i)) for i in v.ins]), v.attrs))


def _matmul(b: _Lanes, v: Var) -> Var:
    x, y = v.ins
    *lead, m, k = x.shape
    n = y.shape[-1]
    if not lead and y.id not in b.differs:  # columns of all tasks
        columns = reshape(permute(b.made[x.id], (1, 0, 2)), (k, m * b.n))
        return permute(reshape(matmul(permute(b.made[y.id], (1, 0)), columns), (n, m, b.n)), (1, 0, 2))
    if not lead and x.id not in b.differs:
        return reshape(matmul(b.made[x.id], reshape(b.made[y.id], (k, n * b.n))), (m, n, b.n))
    return lane_product(b.each(x), b.each(y))


_same = _with(lambda b, v, at: at)

RULES: dict[str, Rule] = {
    **{op.name: _same for op in (SUM, MAX, MIN, ARGMAX, ARGMIN, CUMSUM, ARGSORT, FLIP, CONCAT, STOP_GRADIENT)},
    **{op.name: _indexed for op in (GATHER, SCATTER_ADD)},
    **{op.name: _by_matrices for op in (INVERSE, LOGDET)},
    RESHAPE.name: _with(lambda b, v, at: ((*at[0], b.n),)),
    PERMUTE.name: _with(lambda b, v, at: ((*at[0], len(at[0])),)),
    BROADCAST.name: _with(lambda b, v, at: ((*at[0], b.n), (*at[1], len(at[0])))),
    SLICE.name: _with(lambda b, v, at: ((*at[0], 0), (*at[1], b.n), (*at[2], 1))),
    PAD.name: _with(lambda b, v, at: tuple([(*a, 0) for a in at])),
    MATMUL.name: _matmul,
}
