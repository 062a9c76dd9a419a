"""Parking: what a task does not read for long is moved out of a team's own memory, and back before it is read again.

For devices where the tasks that run at once share such memory: the less of it each holds, the more of them run.
"""

from __future__ import annotations

from typing import Any

from fastmeta.ops.shape import MOVE
from fastmeta.ops.structure import LOOP, Loop, loop, rebuild
from fastmeta.plan.fuse import COMPARISONS, PASSIVE, root
from fastmeta.plan.layout import results
from fastmeta.program import Graph, Program, Var

LEAST = 256  # elements that are worth moving


def park(p: Program, gap: int) -> Program:
    """The prepared program, its tasks moving values that more than ``gap`` equations do not read."""

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        of_tasks = v.op is LOOP and not v.attrs[0].carry
        return loop(g, v.attrs[0]._replace(body=_parked(v.attrs[0].body, v.attrs[0], gap)), ins) if of_tasks else None

    g, env = rebuild(p, visit)
    return Program([env[v.id] for v in p.inputs], results(g, [env[v.id] for v in p.outputs], None), g)


def _parked(p: Program, of: Loop, gap: int) -> Program:
    leaves, returns = _gaps(p, gap)
    g = Graph()
    env: dict[int, Var] = {v.id: g.input(v.shape, v.dtype) for v in p.inputs}
    away: dict[int, Var] = {}
    back: dict[int, Var] = {}  # what has returned, and what is seen of it since

    def now(v: Var) -> Var:
        if v.id not in back and _seen(v) and any(r.id in back for r in _owners(v)):
            back[v.id] = Var(v.op, tuple([now(i) for i in v.ins]), v.attrs, v.shape, v.dtype, g)
        return back.get(v.id) or env[v.id]

    for k, v in enumerate(p.live()):
        g.line = v.line
        for u in returns.get(k, ()):
            back[u.id] = Var(MOVE, (away[u.id],), (False,), u.shape, u.dtype, g)
        if v.id not in env:
            env[v.id] = Var(v.op, tuple([now(i) for i in v.ins]), v.attrs, v.shape, v.dtype, g)
        for u in leaves.get(k, ()):
            away[u.id] = Var(MOVE, (env[u.id],), (True,), u.shape, u.dtype, g)
    return Program([env[v.id] for v in p.inputs], results(g, [now(v) for v in p.outputs], of), g)


def _gaps(p: Program, gap: int) -> tuple[dict[int, list[Var]], dict[int, list[Var]]]:
    """By number of an equation: values that are moved away behind it, and back before it."""
    live = p.live()
    at = {v.id: k for k, v in enumerate(live)}
    kept = {root(v).id for v in p.outputs}
    moments = {v.id: [at[v.id]] for v in live if v.size >= LEAST and v.id not in kept and v.op is not LOOP and v.op not in PASSIVE and not _seen(v)}
    for v in live:
        for r in {r.id for i in v.ins for r in _owners(i)} if not _seen(v) else ():
            if r in moments:
                moments[r].append(at[v.id])
    leaves: dict[int, list[Var]] = {}
    returns: dict[int, list[Var]] = {}
    for ident, read in moments.items():
        length, before = max(((b - a, a) for a, b in zip(read, read[1:], strict=False)), default=(0, 0))
        if length > gap:
            leaves.setdefault(before, []).append(live[at[ident]])
            returns.setdefault(before + length, []).append(live[at[ident]])
    return leaves, returns


def _seen(v: Var) -> bool:
    """v has no memory of its own: it is a view, or computed where it is read."""
    return v.op.view or v.op in COMPARISONS


def _owners(v: Var) -> list[Var]:
    """The values whose memory is read where v is."""
    return [r for i in v.ins for r in _owners(i)] if _seen(v) else [v]
