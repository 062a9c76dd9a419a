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
    """What is known of the sums of a body's values, of which those numbered in ``differs`` differ between tasks."""

    def __init__(self, differs: Container[int]) -> None:
        self.differs = differs
        self.known: dict[int, bool] = {}

    def is_longer(self, v: Var) -> bool:
        """Whether v's sum is one longer product: of two matrices that both differ."""
        return v.op is MATMUL and len(v.shape) == 2 and all(i.id in self.differs for i in v.ins)

    def passes(self, v: Var) -> tuple[Var, ...]:
        """The operands that are to be summed instead of v, which is linear in them; none where it is not, or where that is more work."""
        at = [k for k, i in enumerate(v.ins) if i.id in self.differs]
        if v.op is ew.WHERE:
            return () if 0 in at else v.ins[1:]
        if v.op in (ew.ADD, ew.SUBTRACT, CONCAT, SUM):  # linear in all together
            return v.ins if any(self.has_no_terms(i) for i in v.ins) else ()
        if len(at) != 1 or at[0] not in FACTORS.get(v.op.name, v.op.linear):
            return ()
        (k,) = at
        smaller = v.op is MATMUL or v.ins[k].size <= v.size  # a product is more work than its operand's sum
        return (v.ins[k],) if smaller and v.ins[k].dtype == v.dtype else ()

    def has_no_terms(self, v: Var) -> bool:
        """Whether v's sum is made without v of each task."""
        if v.id not in self.known:
            through = self.passes(v) if v.id in self.differs else ()
            below = v.op in (MATMUL, BROADCAST) or all(self.has_no_terms(i) for i in through)
            self.known[v.id] = v.id not in self.differs or self.is_longer(v) or bool(through) and below
        return self.known[v.id]

    def without_terms(self, summed: Iterable[Var]) -> set[int]:
        """Values, by number, that need no memory of their own in these sums."""
        found: set[int] = set()
        ahead = list(summed)
        while ahead:
            v = ahead.pop()
            if v.id in self.differs and v.id not in found and (self.is_longer(v) or self.passes(v)):
                found.add(v.id)
                ahead += self.passes(v)
        return found
