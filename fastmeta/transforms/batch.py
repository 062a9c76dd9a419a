"""Batching: a small loop without a carry inside of a task becomes straight code over all its iterations at once.

Vectors that meet the same matrix in every iteration become the rows of one product, and numbers fill vectors.  Where all
iterations together need more than a little memory, the loop stays.
"""

from __future__ import annotations

from typing import Any

from fastmeta.ops.structure import LOOP, Loop, loop, rebuilt
from fastmeta.program import INPUT, Graph, Program, Var
from fastmeta.transforms.rows import Rows
from fastmeta.transforms.together import differing, longer_products, slices

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
        return _straight(g, spec, ins) if not of_tasks and _fits(spec) else loop(g, spec, ins)

    if not any(v.op is LOOP for v in p.live()):
        return p
    return rebuilt(p, visit)


def _fits(s: Loop) -> bool:
    """Whether little memory is needed for what differs between iterations, but for what becomes a longer product; and all has a rule."""
    if s.carry or s.length < 1:
        return False
    longer = longer_products(s.body.outputs[s.stacked :])
    differs = differing(s.body, slices(s))
    values = [v for v in s.body.live() if v.id in differs and v.op is not INPUT]
    if not all(Rows.knows(v.op) for v in values):
        return False
    sizes = [s.length * v.size for v in values if not (v.op.view or v.id in longer)]
    return max(sizes, default=0) <= LARGEST and sum(sizes) <= KEPT


def _straight(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    """The results of a loop without a carry."""
    b = Rows(g, s.length, s.body, ins, slices(s))
    outs = s.body.outputs
    return [*map(b.each, outs[: s.stacked]), *map(b.sum, outs[s.stacked :])]
