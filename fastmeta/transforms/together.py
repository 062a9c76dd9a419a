"""Many tasks at once: a body over `n` tasks is the same program with an axis more on all that differs between them.

Where that axis stands, and what each operation becomes by it, a subclass says: the last axis in `lanes`, the first in
`rows`.  The steps of scans are widened too, and what adds up over tasks is added up inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from fastmeta.ops import elementwise as ew
from fastmeta.ops.reduce import total
from fastmeta.ops.shape import broadcast
from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop, results
from fastmeta.program import INPUT, Graph, Primitive, Program, Shape, Var
from fastmeta.transforms.sums import Sums

MULTIPLY_ADDS = 20  # of a product, that take as long as an element of other operations


Rules = Mapping[str, Callable[["Together", Var], Var]]


class Together(ABC):
    """A program's values for n tasks: those that differ between tasks have an axis of tasks."""

    def __init__(self, g: Graph, n: int, p: Program, ins: Sequence[Var], differs: Sequence[bool], mask: Sequence[Var] = ()) -> None:
        self.g, self.n, self.mask = g, n, mask
        self.made: dict[int, Any] = dict(zip((v.id for v in p.inputs), ins, strict=True))  # of the program's values, by number
        self.differs = differing(p, differs)
        self.of_sums = Sums(p.live(), self.differs)
        self.sums: dict[int, Var] = {}  # over tasks, by number; of what a loop has summed from the loop
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
                self.made[v.id] = self.emit(v, v.attrs) if v.op.elementwise else self.rules[v.op.name](self, v)

    @classmethod
    def knows(cls, op: Primitive) -> bool:
        """Whether an operation can be done for all tasks at once."""
        return op.elementwise or op.name in cls.rules

    # -- what a subclass says

    rules: ClassVar[Rules]  # what operations become, by name, but for elementwise ones

    @staticmethod
    @abstractmethod
    def axis(rank: int) -> int:
        """Where the axis of tasks stands in a value that has ``rank`` axes in a task."""

    @staticmethod
    @abstractmethod
    def entering(x: Var) -> Var:
        """x, whose first axis is tasks, as a value of the body."""

    @staticmethod
    @abstractmethod
    def leaving(x: Var) -> Var:
        """The inverse of `entering`."""

    @staticmethod
    @abstractmethod
    def along(x: Var) -> Var:
        """x, whose first axis in a task is steps of a loop, with steps first of all; its own inverse."""

    @abstractmethod
    def longer(self, x: Var, y: Var) -> Var:
        """The sum over tasks of products of matrices: one product."""

    def shape(self, shape: Shape) -> Shape:
        """Of all tasks."""
        at = self.axis(len(shape))
        return (*shape[:at], self.n, *shape[at:])

    # -- values

    def each(self, v: Var) -> Var:
        """v of each task, repeated where all have the same."""
        x = self.made[v.id]
        if v.id in self.differs:
            return x
        rank = len(x.shape)
        return broadcast(x, self.shape(x.shape), tuple([k for k in range(rank + 1) if k != self.axis(rank)]))

    def emit(self, v: Var, attrs: tuple[Any, ...]) -> Var:
        """v's operation on all tasks, by attributes that know of the axis."""
        return self.g.emit(v.op, tuple([self.each(i) for i in v.ins]), attrs)

    def sum(self, v: Var) -> Var:
        """The sum over the tasks that count; of products a longer product, which needs no memory for its terms."""
        if v.id not in self.sums:
            for u in self.of_sums.needed([v]):
                if u.id not in self.sums:
                    self.sums[u.id] = self._sum(u)
        return self.sums[v.id]

    def _sum(self, v: Var) -> Var:
        if v.id not in self.differs and not self.mask:
            return ew.multiply(self.made[v.id], float(self.n))
        if self.of_sums.is_longer(v):
            return self.longer(self.counted(self.made[v.ins[0].id]), self.made[v.ins[1].id])
        if v.id in self.differs and (through := self.of_sums.passes(v)):
            return self.g.emit(v.op, tuple([self.sums[i.id] if i in through else self.made[i.id] for i in v.ins]), v.attrs)
        return total(self.counted(self.each(v)), (self.axis(len(v.shape)),))

    def counted(self, x: Var) -> Var:
        """x of the tasks that count, of others zeros."""
        for mask in self.mask:
            x = ew.where(broadcast(mask, x.shape, (self.axis(len(x.shape) - 1),)), x, 0.0)
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
        flags = inside(s, [i.id in self.differs for i in v.ins])
        g = Graph()
        mask = [g.input(m.shape, m.dtype) for m in self.mask]
        ins = [g.input(self.shape(x.shape) if f else x.shape, x.dtype) for x, f in zip(s.body.inputs, flags, strict=True)]
        b = type(self)(g, self.n, s.body, ins, flags, mask)
        outs = [*map(b.each, s.body.outputs), *map(b.sum, s.body.outputs[s.carry + s.stacked :])]
        args = [self.each(x) if f else self.made[x.id] for x, f in zip(v.ins, flags, strict=True)]
        first = s.invariant + s.carry
        steps = [self.along(x) if f else x for x, f in zip(args[first:], flags[first:], strict=True)]
        spec = s._replace(body=Program([*mask, *ins], outs, g), invariant=len(mask) + s.invariant, summed=2 * s.summed)
        made = loop(self.g, spec, (*self.mask, *args[:first], *steps))
        stacked = slice(s.carry, s.carry + s.stacked)
        return [*made[: s.carry], *map(self.along, made[stacked]), *made[stacked.stop :]]


def body(kind: type[Together], s: Loop, n: int, masked: bool) -> Program:
    """The body of a loop over tasks as one over n tasks at a time.

    Slices, and after these a mask of the tasks that count where ``masked``, have a first axis more, as have stacked results.
    """
    g = Graph()
    p, differs = s.body, slices(s)
    ins = [g.input((n, *v.shape) if d else v.shape, v.dtype) for v, d in zip(p.inputs, differs, strict=True)]
    mask = [g.input((n,), "bool")] if masked else []
    b = kind(g, n, p, [kind.entering(x) if d else x for x, d in zip(ins, differs, strict=True)], differs, mask)
    outs = [*[kind.leaving(b.each(v)) for v in p.outputs[: s.stacked]], *map(b.sum, p.outputs[s.stacked :])]
    return Program([*ins, *mask], outs, g)


def changed(change: Callable[[Together, Any], tuple[Any, ...]]) -> Callable[[Together, Var], Var]:
    """The rule of an operation that takes other attributes for one axis more."""
    return lambda b, v: b.emit(v, change(b, v.attrs))


# -- what differs between tasks


def slices(s: Loop) -> list[bool]:
    """Which inputs of the body of a loop without a carry differ between iterations."""
    return [k >= s.invariant for k in range(len(s.body.inputs))]


def inside(s: Loop, flags: Sequence[bool]) -> list[bool]:
    """Which inputs of a loop's body differ between tasks if some of the loop's do: any carry does."""
    return [*flags[: s.invariant], *[True] * s.carry, *flags[s.invariant + s.carry :]]


def differing(p: Program, inputs: Sequence[bool]) -> set[int]:
    """Values, by number, that depend on inputs that differ: of a loop all results do together."""
    out = {v.id for v, on in zip(p.inputs, inputs, strict=True) if on}
    for v in p.live():
        if any(i.id in out for i in v.ins):
            out.add(v.id)
    return out


class Equation(NamedTuple):
    """An equation whose result differs between tasks."""

    v: Var
    times: int  # it is run in a task
    differs: tuple[bool, ...]  # which operands do
    added: bool  # into a longer product, over tasks

    @property
    def given(self) -> bool:
        """Whether it computes nothing."""
        return self.v.op is INPUT or self.v.op is PROJECT or self.v.op.view


def equations(s: Loop, flags: Sequence[bool] | None = None, times: int = 1) -> Iterator[Equation]:
    """All of a body over tasks, and of the loops in it."""
    found = differing(s.body, slices(s) if flags is None else flags)
    added = Sums(s.body.live(), found).without_terms(s.body.outputs[s.carry + s.stacked :])
    for v in s.body.live():
        if v.id in found:
            differs = tuple([i.id in found for i in v.ins])
            if v.op is LOOP:
                of: Loop = v.attrs[0]
                yield from equations(of, inside(of, differs), times * of.length)
            else:
                yield Equation(v, times, differs, v.id in added)
