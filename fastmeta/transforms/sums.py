"""Sums over tasks, or iterations, of what each computes: how they are made without a term of each."""

from __future__ import annotations

from collections.abc import Container, Iterable

from fastmeta.ops import elementwise as ew
from fastmeta.ops.product import MATMUL
from fastmeta.ops.reduce import SUM
from fastmeta.ops.shape import BROADCAST, CONCAT
from fastmeta.program import Var

FACTORS = {ew.NEGATIVE.name: (0,), ew.MULTIPLY.name: (0, 1), ew.DIVIDE.name: (0,)}  # elementwise operations linear in one of these


class Sums:
    """What is known of the sums of a body's ``values``, operands first, of which those numbered in ``differs`` differ between tasks."""

    def __init__(self, values: Iterable[Var], differs: Container[int]) -> None:
        self.differs = differs
        self.with_terms: set[int] = set()  # whose sums are made of a value of each task
        for v in values:
            if v.id in differs and not self._spares_terms(v):
                self.with_terms.add(v.id)

    def is_longer(self, v: Var) -> bool:
        """Whether v's sum is one longer product: of two matrices that both differ."""
        return v.op is MATMUL and len(v.shape) == 2 and all(i.id in self.differs for i in v.ins)

    def passes(self, v: Var) -> tuple[Var, ...]:
        """The operands that are to be summed instead of v, which is linear in them; none where it is not, or where that is more work."""
        at = [k for k, i in enumerate(v.ins) if i.id in self.differs]
        if v.op is ew.WHERE:
            return () if 0 in at else v.ins[1:]
        if v.op in (ew.ADD, ew.SUBTRACT, CONCAT, SUM):  # linear in all together
            return v.ins if any(i.id not in self.with_terms for i in v.ins) else ()
        if len(at) != 1 or at[0] not in FACTORS.get(v.op.name, v.op.linear):
            return ()
        (k,) = at
        smaller = v.op is MATMUL or v.ins[k].size <= v.size  # a product is more work than its operand's sum
        return (v.ins[k],) if smaller and v.ins[k].dtype == v.dtype else ()

    def _spares_terms(self, v: Var) -> bool:
        through = self.passes(v)
        below = v.op in (MATMUL, BROADCAST) or all(i.id not in self.with_terms for i in through)
        return self.is_longer(v) or bool(through) and below

    def needed(self, summed: Iterable[Var]) -> list[Var]:
        """The values of which these sums are made, themselves included, operands first."""
        found: dict[int, Var] = {}
        ahead = list(summed)
        while ahead:
            v = ahead.pop()
            if v.id not in found:
                found[v.id] = v
                ahead += self.passes(v) if v.id in self.differs else ()
        return [found[k] for k in sorted(found)]

    def without_terms(self, summed: Iterable[Var]) -> set[int]:
        """Values, by number, that need no memory of their own in these sums."""
        return {v.id for v in self.needed(summed) if v.id in self.differs and (self.is_longer(v) or self.passes(v))}
