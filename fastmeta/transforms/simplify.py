"""Simplification: calls inlined or replaced by their kernel, dead code and dead loop results dropped, equal equations merged, rules applied."""

from __future__ import annotations

from typing import Any

from fastmeta.ops import elementwise as ew
from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.shape import PERMUTE, swap_last
from fastmeta.ops.structure import CALL, LOOP, PROJECT, Loop, loop, rebuilt
from fastmeta.program import FLOATS, Graph, Program, Var, inline
from fastmeta.transforms.rewrites import scale_of, scaled, unscaled


def simplify(p: Program) -> Program:
    """The program without calls, rebuilt from what its outputs need."""
    done = p.memo.get("simplified")
    if done is None:
        done = _expand(p)
        while _has_dead_results(done):  # a pruned loop may leave results of an earlier loop without a reader
            done = _expand(done)
        done = p.memo["simplified"] = _count_users(done)
    return done


def _has_dead_results(p: Program) -> bool:
    """Some stacked or summed result has no reader (an unread carry may still feed the next iteration)."""
    live = p.live()
    read = {(v.ins[0].id, v.attrs[0]) for v in live if v.op is PROJECT}
    return any(
        (v.id, k) not in read
        for v in live
        if v.op is LOOP
        for k in range(v.attrs[0].carry, len(v.attrs[0].body.outputs))
    )


def _expand(p: Program) -> Program:
    used: dict[int, set[int]] = {}
    for v in [*p.live(), *p.outputs]:
        if v.op is PROJECT:
            used.setdefault(v.ins[0].id, set()).add(v.attrs[0])

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is CALL:
            kernel = v.attrs[0].kernel
            return [kernel.emit(*ins)] if kernel else inline(g, _flat(v.attrs[0].body), ins)
        return _loop(g, v.attrs[0], ins, used.get(v.id, set())) if v.op is LOOP else None

    return rebuilt(p, visit)


def _flat(p: Program) -> Program:
    """The body of a call: its own calls expanded, rules with use counts left to the program that it joins."""
    done = p.memo.get("expanded")
    if done is None:
        done = p.memo["expanded"] = _expand(p)
    return done


def _loop(g: Graph, s: Loop, args: tuple[Var, ...], used: set[int]) -> dict[int, Var]:
    """Emits the loop with the results in ``used`` and what they need; keys of the answer are the old result numbers."""
    n, c = s.invariant, s.carry
    key = ("pruned", frozenset(used))
    done = s.body.memo.get(key)
    if done is None:
        keep = set(used)
        while True:  # a kept carry keeps what its next value needs
            outs = [s.body.outputs[k] for k in range(len(s.body.outputs)) if k in keep or (k < c and k in keep)]
            needed = {v.id for v in Program(s.body.inputs, outs, _of(s.body)).live()}
            grown = keep | {k for k in range(c) if s.body.inputs[n + k].id in needed}
            if grown == keep:
                break
            keep = grown
        results = sorted(keep)
        inputs = [k for k, v in enumerate(s.body.inputs) if v.id in needed or (n <= k < n + c and k - n in keep)]
        body = Program([s.body.inputs[k] for k in inputs], [s.body.outputs[k] for k in results], _of(s.body))
        done = s.body.memo[key] = (simplify(body), results, inputs)
    body, results, inputs = done
    spec = s._replace(
        body=body,
        invariant=sum(k < n for k in inputs),
        carry=sum(k < c for k in results),
        sliced=sum(k >= n + c for k in inputs),
        stacked=sum(c <= k < c + s.stacked for k in results),
        summed=sum(k >= c + s.stacked for k in results),
    )
    return dict(zip(results, loop(g, spec, tuple(args[k] for k in inputs)), strict=True))


def _of(p: Program) -> Graph:
    """A graph that stands for the equations of ``p``: a program over part of them."""
    g = Graph()
    g.nodes = p.nodes
    return g


def _count_users(p: Program) -> Program:
    """The two rules that need the number of users, so that they cannot be rules of one equation.

    (v + c m1) + c m2 -> v + c (m1 + m2) where the inner sum has no other user: both products meet in one accumulation;
    and transposed products.
    """
    live = p.live()
    uses = [0] * len(p.nodes)
    for v in live:
        for i in v.ins:
            uses[i.id] += 1
    for v in p.outputs:
        uses[v.id] += 1

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is ew.ADD and v.dtype in FLOATS:
            return _joined(env, uses, v)
        turned = v.op is PERMUTE and v.ins[0].op is MATMUL and uses[v.ins[0].id] == 1
        return _turned(env, v) if turned else None

    return rebuilt(p, visit)


def _turned(env: list[Any], v: Var) -> Var | None:
    """(a b)^T = b^T a^T, where a b itself has no user: the product is written as it is read."""
    n = len(v.shape)
    if v.attrs[0] != (*range(n - 2), n - 1, n - 2):
        return None
    a, b = v.ins[0].ins
    return matmul(swap_last(env[b.id]), swap_last(env[a.id]))


def _joined(env: list[Any], uses: list[int], v: Var) -> Var | None:
    for inner, second in (v.ins, v.ins[::-1]):
        c = scale_of(second)
        if second.op is not ew.MULTIPLY or c == 1.0 or inner.op is not ew.ADD or uses[inner.id] != 1:
            continue
        for base, first in (inner.ins, inner.ins[::-1]):
            if first.op is ew.MULTIPLY and scale_of(first) == c and scale_of(base) != c:
                both = ew.add(env[unscaled(first).id], env[unscaled(second).id])
                return ew.add(env[base.id], scaled(both, c))
    return None


