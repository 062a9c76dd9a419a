"""Lifetimes: who reads what, when values die, and which memory they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastmeta.ops import elementwise as ew
from fastmeta.ops.shape import CONCAT
from fastmeta.ops.structure import PROJECT
from fastmeta.plan.fuse import MAX_REPLACED, Group, reshaped_from, root, squeezed, through
from fastmeta.plan.layout import PRODUCTS, View, dense, in_order, parts, restride, view_of
from fastmeta.program import ARRAY, CONST, INPUT, Program, Shape, Var

if TYPE_CHECKING:
    from fastmeta.plan.encode import Block


class Lifetimes:
    """Who reads what, when values die, and which memory they hold."""

    def __init__(self, block: Block, p: Program) -> None:
        self.block = block
        self.readers: dict[int, list[Var]] = {}
        self.group_of: dict[int, int] = {}
        self.read_in: dict[int, set[int]] = {}  # value -> groups that read its memory
        self.outputs = {v.id for v in p.outputs}
        self.held: dict[int, int] = {}  # value -> its address in the arena
        self.ends: dict[int, list[int]] = {}  # group -> values whose last reader it is
        self.parts: dict[int, dict[int, tuple[Var, int]]] = {}  # concat -> what owns an operand's memory -> the operand, where it begins
        for k, g in enumerate(block.groups):
            for v in [*g.products, *g.members, *g.twins, *[v for v in (g.single, g.core) if v is not None]]:
                self.group_of[v.id] = k
        for v in block.live:
            if v.op is PROJECT:
                self.group_of[v.id] = self.group_of[v.ins[0].id]
            if v.op.view or v.id in block.virtual or v.op is PROJECT:
                continue
            for i in v.ins:
                self.reads(v, i)
        last: dict[int, int] = {}
        for ident, groups in self.read_in.items():
            last[ident] = max(groups)
        for v in block.live:
            if v.op is PROJECT or v.id in self.group_of:
                self.ends.setdefault(last.get(v.id, self.group_of[v.id]), []).append(v.id)

    def reads(self, v: Var, i: Var) -> None:
        r = root(i)
        if r.id in self.block.virtual:
            for j in r.ins:
                self.reads(v, j)
        elif r.op not in (CONST, ARRAY, INPUT):
            self.readers.setdefault(r.id, []).append(v)
            if v.id in self.group_of:
                self.read_in.setdefault(r.id, set()).add(self.group_of[v.id])
        elif r.op is INPUT:
            self.readers.setdefault(r.id, []).append(v)

    def stored(self, v: Var, g: Group) -> bool:
        """v must be in memory: another instruction or another phase of this one reads it, or it is a result kept apart."""
        if v.id in self.block.targets:
            return True
        k = g.phase_of.get(v.id, 0)
        here = self.group_of[v.id]
        for u in self.readers.get(v.id, ()):
            if self.group_of.get(u.id) != here or g.phase_of.get(u.id, -1 if u.op in PRODUCTS else 0) != k:
                return True
        return False

    def only(self, core: Var, v: Var) -> bool:
        """v is the only reader of core, and core is no result."""
        readers = self.readers.get(core.id, ())
        return all(u is v for u in readers) and core.id not in self.outputs

    def home(self, v: Var, g: Group) -> View | None:
        """Its place in a concat that is all that reads v, as a pass may write it."""
        readers = self.readers.get(v.id, ())
        if len(readers) != 1 or readers[0].op is not CONCAT or v.id in self.outputs or g.products or g.single is not None:
            return None
        whole = readers[0]
        if whole.id not in self.parts:
            self.parts[whole.id] = {root(x).id: (x, offset) for x, offset in parts(whole)}
        x, offset = self.parts[whole.id].get(v.id, (v, 0))
        into = restride(x.shape, dense(whole.shape), v.shape) if reshaped_from(x) is v else None
        return None if into is None else View(whole, offset, into)

    def inherit(self, v: Var, old: Var) -> None:
        self.held[v.id] = self.held.pop(old.id)

    def until(self, v: Var, k: int) -> None:
        self.ends.setdefault(k, []).append(v.id)

    def release(self, k: int) -> None:
        for ident in self.ends.get(k, ()):
            held = self.held.pop(ident, None)
            if held is not None:
                (self.block.far if held in self.block.far.held else self.block.arena).give(held)

    def dying_in_place(self, v: Var, g: Group, k: int) -> Var | None:
        """An operand of v's phase that dies in this instruction and is read element by element where v is written."""
        phase = g.phases[g.phase_of[v.id]]
        if len(squeezed(v.shape)) != len(squeezed(phase.space)) or phase.replaced == MAX_REPLACED:
            return None
        for u in phase.members:
            for i in self._read(u):
                r = root(i)
                if r.id not in self.held or r.dtype != v.dtype or not self._whole(i, r, v.shape) or max(self.read_in.get(r.id, {-1})) != k:
                    continue
                if self.group_of.get(r.id) == k and g.phase_of.get(r.id, -1) >= g.phase_of[v.id]:
                    continue
                if all(self._aligned_reader(w, r, v, g, k) for w in self.readers[r.id]):
                    phase.replaced += 1
                    return r
        return None

    def dying_addend(self, core: Var, cin: Var | None, g: Group, k: int) -> Var | None:
        """The addend of a product, where it dies here and only as the addend: the result may take its place."""
        if cin is None:
            return None
        r = through(cin)
        if r.op.view or r.id not in self.held or r.dtype != core.dtype or r.size != core.size:
            return None
        if self.group_of.get(r.id) == k or max(self.read_in[r.id]) != k:
            return None
        here = [w for w in self.readers[r.id] if self.group_of.get(w.id) == k]
        return r if len(here) == 1 and here[0].op is ew.ADD and not any(w is here[0] for w in g.products) else None

    def _aligned_reader(self, w: Var, r: Var, v: Var, g: Group, k: int) -> bool:
        """w has read r by the time that v is written, or reads of it just what lies where v is written."""
        if self.group_of.get(w.id) != k:
            return True  # an earlier instruction
        if w.id not in g.phase_of:
            return False  # the product, of which only a part is done
        if g.phase_of[w.id] != g.phase_of[v.id]:
            return g.phase_of[w.id] < g.phase_of[v.id]
        return all(root(i) is not r or self._whole(i, r, v.shape) for i in self._read(w))

    def _read(self, v: Var) -> Iterator[Var]:
        """What v reads from memory, as it sees it; where a value is computed again, what that reads."""
        for i in v.ins:
            r = root(i)
            if r.id in self.block.virtual:
                yield from self._read(r)
            else:
                yield i

    def _whole(self, i: Var, r: Var, shape: Shape) -> bool:
        """The view i of r is all of r, each element at its place in memory, walked like an array of ``shape``."""
        if squeezed(i.shape) != squeezed(shape) or i.size != r.size:
            return False
        view = view_of(i, self.block.views)
        return view is not None and not view.offset and in_order(i.shape, view.strides)
