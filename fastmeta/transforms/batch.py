"""Batching: a loop without a carry inside of a task runs as many of its iterations at once as need little memory.

Vectors that meet the same matrix in every iteration become the rows of one product, and numbers fill vectors.  Where all
iterations are one such batch, there is no loop any more.  Scans in the body are scans over all of a batch.
Where iterations multiply small matrices of their own, as small networks that adapt, they run as `lanes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop, rebuilt
from fastmeta.program import DTYPES, INPUT, Graph, Program, Var
from fastmeta.transforms import lanes
from fastmeta.transforms.groups import Form, in_groups
from fastmeta.transforms.rows import Rows, evenly
from fastmeta.transforms.sums import Sums
from fastmeta.transforms.together import differing, inside, slices

ALL = 8 << 20  # bytes that all iterations may need at the same time: straight code computes nothing again for its derivative
SOME = 1 << 19  # bytes that a batch of some may need, to stay in the cache
LARGE = SOME // 4  # bytes of one iteration above which it gains nothing by others beside it


def batch(p: Program) -> Program:
    """The program with such loops batched; loops over tasks stay."""
    return _batch(p, of_tasks=True)


def mapped_inside(p: Program, of_tasks: bool = True) -> int:
    """How many loops without a carry are inside of tasks."""
    loops = [v.attrs[0] for v in p.live() if v.op is LOOP]
    return sum((not of_tasks and not s.carry) + mapped_inside(s.body, False) for s in loops)


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
        s: Loop = v.attrs[0]._replace(body=_batch(v.attrs[0].body))
        of = None if of_tasks else _at_once(s)
        if of is None:
            return loop(g, s, ins)
        return _straight(g, s, ins) if of == (Rows, s.length) else in_groups(g, s, ins, of)

    if not any(v.op is LOOP for v in p.live()):
        return p
    return rebuilt(p, visit)


def _at_once(s: Loop) -> Form | None:
    """How iterations run together, and how many; None for one by one."""
    if s.carry or s.length < 1:
        return None
    if lanes.sizes_of(s).factor and (n := lanes.width(s, s.length)) > 1:
        return lanes.Lanes, n
    kept = _kept(s, slices(s))
    if kept is None or kept > LARGE:
        return None
    return Rows, s.length if s.length * kept <= ALL else evenly(s.length, SOME // kept)


def _kept(s: Loop, flags: Sequence[bool]) -> int | None:
    """Bytes that an iteration needs at the same time, at most, for what differs as ``flags`` say of inputs; None where an operation has no rule."""
    differs = differing(s.body, flags)
    values = [v for v in s.body.live() if v.id in differs and v.op is not INPUT]
    summed = Sums(s.body.live(), differs).without_terms(s.body.outputs[s.carry + s.stacked :])
    memory: dict[int, int] = {}  # whose memory a value reads
    last: dict[int, int] = {}  # where it is read last
    for at, v in enumerate(values):
        memory[v.id] = memory.get(v.ins[0].id, v.id) if v.op.view else v.id
        last.update({memory[i.id]: at for i in (v, *v.ins) if i.id in memory})
    most = now = 0
    sizes: dict[int, int] = {}
    for at, v in enumerate(values):
        inner: int | None = 0
        if v.op is LOOP:
            inner = _kept(v.attrs[0], inside(v.attrs[0], [i.id in differs for i in v.ins]))
        elif v.op is not PROJECT and not Rows.knows(v.op):
            return None
        elif not (v.op.view or v.id in summed):
            sizes[v.id] = v.size * DTYPES[v.dtype].itemsize
        if inner is None:
            return None
        now += sizes.get(v.id, 0)
        most = max(most, now + inner)
        now -= sum(sizes.get(k, 0) for k in {memory[i.id] for i in (v, *v.ins) if i.id in memory} if last[k] == at)
    return most


def _straight(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    """The results of a loop without a carry."""
    b = Rows(g, s.length, s.body, ins, slices(s))
    outs = s.body.outputs
    return [*map(b.each, outs[: s.stacked]), *map(b.sum, outs[s.stacked :])]
