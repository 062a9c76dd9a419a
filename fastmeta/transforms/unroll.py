"""Unrolling: a small loop with a carry becomes straight code, so that recomputed and first values merge.

That is how intermediate values are kept between the forward and the reverse pass of a short inner loop.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

from fastmeta.ops.elementwise import add
from fastmeta.ops.product import MAX_PRODUCTS
from fastmeta.ops.shape import concat, reshape, rows
from fastmeta.ops.structure import LOOP, Loop, loop, rebuilt
from fastmeta.program import DTYPES, Graph, Program, Var, inline

EQUATIONS = 3000  # of all iterations together: above it the loop stays
KEPT = 8 << 20  # bytes that all iterations together compute: most of them are dead soon, the rest fits a core's cache


def unroll(p: Program) -> Program:
    """The program with its small loops in straight code; loops over tasks stay."""
    done = p.memo.get("unrolled")
    if done is None:
        done = p.memo["unrolled"] = _unroll(p)
    return done


def _unroll(p: Program) -> Program:
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is not LOOP:
            return None
        spec = v.attrs[0]._replace(body=unroll(v.attrs[0].body))
        return _straight(g, spec, ins) if _small(spec) else loop(g, spec, ins)

    if not any(v.op is LOOP for v in p.live()):
        return p
    return rebuilt(p, visit)


def _small(s: Loop) -> bool:
    if s.length < 0 or not s.carry:
        return False
    live = s.body.live()
    if any(v.op is LOOP for v in live) or s.length * len(live) > EQUATIONS:
        return False
    kept = sum(v.size * DTYPES[v.dtype].itemsize for v in live if not v.op.view and v.dtype in DTYPES)
    return s.length * kept <= KEPT


def _straight(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    n, m = s.invariant, s.invariant + s.carry
    carry = list(ins[n:m])
    stacked: list[list[Var]] = [[] for _ in range(s.stacked)]
    summed: list[list[Var]] = [[] for _ in range(s.summed)]
    for i in reversed(range(s.length)) if s.reverse else range(s.length):
        slices = [reshape(rows(x, i, i + 1), x.shape[1:]) for x in ins[m:]]
        out = inline(g, s.body, [*ins[:n], *carry, *slices])
        carry = out[: s.carry]
        for steps, x in zip(stacked, out[s.carry :], strict=False):
            steps.append(reshape(x, (1, *x.shape)))
        for terms, x in zip(summed, out[s.carry + s.stacked :], strict=True):
            terms.append(x)
    outs = s.body.outputs
    joined = [
        concat(tuple(steps[::-1] if s.reverse else steps), 0) if steps else g.const(0.0, (0, *v.shape), v.dtype)
        for steps, v in zip(stacked, outs[s.carry :], strict=False)
    ]
    totals = [_sum(terms) if terms else g.const(0.0, v.shape, v.dtype) for terms, v in zip(summed, outs[s.carry + s.stacked :], strict=True)]
    return [*carry, *joined, *totals]


def _sum(terms: list[Var]) -> Var:
    """As many terms at a time as one instruction adds up if they are products."""
    return reduce(add, [reduce(add, terms[k : k + MAX_PRODUCTS]) for k in range(0, len(terms), MAX_PRODUCTS)])
