"""Hoisting: work of a loop's body that does not change from one iteration to the next moves before the loop.

For a loop over tasks it runs once instead of once per task (a transposed meta-weight, say).
"""

from __future__ import annotations

from typing import Any

from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop, rebuild
from fastmeta.plan.layout import results
from fastmeta.program import ARRAY, CONST, INPUT, Graph, Program, Var


def hoist(p: Program, of: Loop | None = None) -> Program:
    """The program (the body ``of`` a loop) with invariant work moved out of its loops, innermost first."""
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        return _loop(g, v.attrs[0]._replace(body=hoist(v.attrs[0].body, v.attrs[0])), ins) if v.op is LOOP else None

    if not any(v.op is LOOP for v in p.live()):
        return p
    g, env = rebuild(p, visit)
    return Program([env[v.id] for v in p.inputs], results(g, [env[v.id] for v in p.outputs], of), g)


def unchanging(s: Loop) -> set[int]:
    """What is the same in all iterations, by number in the body."""
    fixed = {v.id for v in s.body.inputs[: s.invariant]}
    for v in s.body.live():
        if v.op in (CONST, ARRAY) or v.op not in (INPUT, LOOP, PROJECT) and all(i.id in fixed for i in v.ins):
            fixed.add(v.id)
    return fixed


def _loop(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    body = s.body
    fixed, live = unchanging(s), body.live()
    wanted: dict[int, Var] = {}
    own = {v.id for v in body.outputs}  # results stay equations of the body

    def want(x: Var) -> None:
        """Marks the work behind an operand that a changing equation reads, through views."""
        while x.op.view:
            x = x.ins[0]
        if x.id in fixed and x.op not in (INPUT, CONST, ARRAY) and x.id not in own:
            wanted[x.id] = x

    for v in live:
        if v.id not in fixed:
            for i in v.ins:
                if i.id in fixed:
                    want(i)
    if not wanted:
        return loop(g, s, ins)
    # the fixed part, in front of the loop
    env: dict[int, Var] = {v.id: x for v, x in zip(body.inputs[: s.invariant], ins, strict=False)}
    for v in live:
        if v.id in fixed and v.id not in env:
            env[v.id] = g.emit(v.op, tuple([env[i.id] for i in v.ins]), v.attrs)
    b = Graph()
    new: dict[int, Var] = {}
    order = [*body.inputs[: s.invariant], *wanted.values(), *body.inputs[s.invariant :]]
    for v in order:
        new[v.id] = b.input(v.shape, v.dtype)
    for v in live:
        if v.id not in new:
            b.line = v.line
            new[v.id] = Var(v.op, tuple([new[i.id] for i in v.ins]), v.attrs, v.shape, v.dtype, b)
    program = Program([new[v.id] for v in order], [new[v.id] for v in body.outputs], b)
    extra = [env[k] for k in wanted]
    spec = s._replace(body=program, invariant=s.invariant + len(extra))
    return loop(g, spec, (*ins[: s.invariant], *extra, *ins[s.invariant :]))
