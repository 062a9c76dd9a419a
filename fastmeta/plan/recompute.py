"""Recomputation: a large value needed again much later is computed again then, from values that are kept until then anyway."""

from __future__ import annotations

from typing import Any

from fastmeta.ops.shape import BROADCAST
from fastmeta.ops.structure import LOOP, Loop, loop, rebuild
from fastmeta.plan.fuse import COMPARISONS, LARGE, LATER
from fastmeta.plan.layout import results
from fastmeta.program import CONST, Graph, Program, Var

DEPTH = 4  # operations one after another, all on the same elements


def recompute(p: Program, of: Loop | None = None) -> Program:
    """The program (the body ``of`` a loop) with such values computed twice, its loops' bodies included."""
    live = p.live()
    at = {v.id: k for k, v in enumerate(live)}
    last = {v.id: len(live) for v in p.outputs}
    for v in reversed(live):  # a view, and a comparison, which is computed where it is used, reads until its own last reader
        until = max(at[v.id], last.get(v.id, 0)) if v.op.view or v.op in COMPARISONS else at[v.id]
        for i in v.ins:
            last[i.id] = max(last.get(i.id, 0), until)
    gaps = _Gaps(at, last)
    due: dict[int, list[Var]] = {}
    for v in live:
        if v.op.elementwise and v.size >= LARGE:
            gaps.large[v.id] = v
    for v in live:
        gaps.read(v)
    for v in gaps.large.values():
        b = gaps.found(v)
        if b is not None and _kept(v, last[v.id], last, DEPTH):
            due.setdefault(b, []).append(v)

    def again(g: Graph, v: Var, env: list[Any], end: int, depth: int) -> Var:
        ins = tuple(env[i.id] if _stays(i, end, last) else again(g, i, env, end, depth - 1) for i in v.ins)
        return Var(v.op, ins, v.attrs, v.shape, v.dtype, g)  # not merged with the first one

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        for u in due.get(at[v.id], ()):
            env[u.id] = again(g, u, env, last[u.id], DEPTH)
        ins = tuple(env[i.id] for i in v.ins)
        if v.op is LOOP:
            return loop(g, v.attrs[0]._replace(body=recompute(v.attrs[0].body, v.attrs[0])), ins)
        return g.emit(v.op, ins, v.attrs) if at[v.id] in due else None

    if not due and not any(v.op is LOOP for v in live):
        return p
    g, env = rebuild(p, visit)
    return Program([env[v.id] for v in p.inputs], results(g, [env[v.id] for v in p.outputs], of), g)


class _Gaps:
    """For large values: the equation before which nothing has read them for long."""

    def __init__(self, at: dict[int, int], last: dict[int, int]) -> None:
        self.at, self.last = at, last
        self.large: dict[int, Var] = {}
        self.before: dict[int, int] = {}  # the last reader so far
        self.after: dict[int, int] = {}  # the first reader after a gap

    def read(self, v: Var) -> None:
        now = self.at[v.id]
        for i in v.ins:
            if i.id not in self.large:
                continue
            if i.id not in self.after and now - self.before.get(i.id, self.at[i.id]) > LATER:
                self.after[i.id] = now
            if i.id not in self.after:
                until = self.last[v.id] if v.op.view or v.op in COMPARISONS else now
                self.before[i.id] = max(self.before.get(i.id, 0), until)

    def found(self, v: Var) -> int | None:
        return self.after.get(v.id) if self.last[v.id] <= len(self.at) - 1 else None


def _stays(v: Var, end: int, last: dict[int, int]) -> bool:
    """v is there at ``end`` anyway, or is small in memory."""
    return v.op is CONST or v.op is BROADCAST and 16 * v.ins[0].size <= v.size or last[v.id] >= end


def _kept(v: Var, end: int, last: dict[int, int], depth: int) -> bool:
    """v can be computed again from what stays."""
    return depth > 0 and v.op.elementwise and all(_stays(i, end, last) or _kept(i, end, last, depth - 1) for i in v.ins)
