"""Loops over tasks that take some at a time where that pays: as `lanes` or as `rows`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.ops.shape import concat, reshape
from fastmeta.ops.shape import rows as part
from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop, rebuilt, results
from fastmeta.program import INPUT, Graph, Program, Var
from fastmeta.transforms import lanes, rows
from fastmeta.transforms.together import Together, body

Form = tuple[type[Together], int]


def form(s: Loop, tasks: int) -> Form | None:
    """How tasks of a loop over tasks run together, and how many at a time; None where they run one by one.

    A function of the body and the number of tasks only, for it decides the last bits of sums.
    """
    if s.carry:
        return None
    if (n := lanes.width(s, tasks)) > 1:
        return lanes.Lanes, n
    return (rows.Rows, n) if (n := rows.width(s, tasks)) > 1 else None


def widened(p: Program) -> Program:
    """The program whose loops over a known number of tasks take many at a time where that pays."""
    done = p.memo.get("widened")
    if done is None:
        done = p.memo["widened"] = _widened(p)
    return done


def _widened(p: Program) -> Program:
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        of = form(v.attrs[0], v.attrs[0].length) if v.op is LOOP else None
        return in_groups(g, v.attrs[0], ins, of) if of else None

    return rebuilt(p, visit) if any(v.op is LOOP and form(v.attrs[0], v.attrs[0].length) for v in p.live()) else p


def in_groups(g: Graph, s: Loop, ins: tuple[Var, ...], of: Form) -> list[Var]:
    """The results of a loop, so many iterations at a time at most; the last is repeated where they do not fill the groups."""
    kind, most = of
    groups = -(-s.length // most)
    n = -(-s.length // groups)
    whole, masked = groups * n, bool(s.summed) and groups * n > s.length
    sliced = [reshape(_filled(x, whole), (groups, n, *x.shape[1:])) for x in ins[s.invariant :]]
    if masked:
        sliced.append(g.array(counting(s.length, groups, n)))
    spec = s._replace(body=body(kind, s, n, masked), sliced=len(sliced), length=groups)
    outs = loop(g, spec, (*ins[: s.invariant], *sliced))
    stacked = [reshape(x, (whole, *x.shape[2:])) for x in outs[: s.stacked]]
    return [*[part(x, 0, s.length) for x in stacked], *outs[s.stacked :]]


def counting(tasks: int, groups: int, n: int) -> np.ndarray:
    """Which tasks of groups of n there are."""
    return np.arange(groups * n).reshape(groups, n) < tasks


def _filled(x: Var, n: int) -> Var:
    last = part(x, x.shape[0] - 1, x.shape[0])
    return concat((x, *[last] * (n - x.shape[0])), 0)


def over_tasks(p: Program) -> Loop | None:
    """The one loop over a number of tasks known at run time only, where nothing but it reads what has an axis of tasks."""
    loops = [v.attrs[0] for v in p.live() if v.op is LOOP and v.attrs[0].length < 0]
    others = any(v.shape[:1] == (-1,) and v.op is not PROJECT and v.op is not INPUT for v in p.live())
    return loops[0] if len(loops) == 1 and not others else None


def grouped(p: Program, of: Form) -> Program:
    """A program that has a loop ``over_tasks``, n tasks at a time.

    Inputs and results with an axis of tasks have two in its place: groups, and their tasks.  One input more, the last, if the loop sums:
    which tasks count, bool [groups, n].
    """
    kind, n = of
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
            spec = s._replace(body=body(kind, s, n, bool(mask)), sliced=s.sliced + len(mask))
            env[v.id] = loop(g, spec, (*[env[i.id] for i in v.ins], *mask))
        elif v.op is PROJECT:
            env[v.id] = env[v.ins[0].id][v.attrs[0]]
        elif env[v.id] is None:
            made = g.emit(v.op, tuple([env[i.id] for i in v.ins]), v.attrs)
            env[v.id] = results(made, v.attrs[0].body) if v.op is LOOP else made
    return Program(ins, [env[v.id] for v in p.outputs], g)
