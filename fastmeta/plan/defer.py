"""Deferral: products of a few rows that a loop sums become one product, after it, of the rows of all iterations.

Such are the gradients of a recurrent network's weights.  To add one to a matrix at every step is to read and write all of it; rows
that are kept until the end cost a fraction, and their product is large enough to run at full speed.
"""

from __future__ import annotations

from typing import Any

from fastmeta.ops.product import MATMUL, matmul
from fastmeta.ops.shape import PERMUTE, RESHAPE, reshape, swap_last
from fastmeta.ops.structure import LOOP, Loop, loop, rebuild, rebuilt
from fastmeta.plan.hoist import unchanging
from fastmeta.program import Graph, Program, Var

FEW_ROWS = 8
KEPT = 1 << 16  # elements that a loop may keep more


def defer(p: Program) -> Program:
    """The program with such products after its loops, those in bodies of loops included."""

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        return _loop(g, v.attrs[0]._replace(body=defer(v.attrs[0].body)), ins) if v.op is LOOP else None

    if not any(v.op is LOOP for v in p.live()):
        return p
    return rebuilt(p, visit)


def _loop(g: Graph, s: Loop, ins: tuple[Var, ...]) -> list[Var]:
    body, first = s.body, s.carry + s.stacked
    sliced = {v.id: x for v, x in zip(body.inputs[s.invariant + s.carry :], ins[s.invariant + s.carry :], strict=True)}
    fixed = unchanging(s)
    kept: dict[int, Var] = {}  # what is stacked more, by number in the body
    products: dict[int, tuple[Var, Var]] = {}  # by number of the result: what the factors are views of
    for k in range(first, len(body.outputs)):
        found = _factors(body.outputs[k]) if s.length > 1 else None
        if found is None:
            continue
        new = {x.id: x for x in found if x.id not in sliced and x.id not in kept}
        if not fixed & {x.id for x in found} and s.length * sum(x.size for x in (*kept.values(), *new.values())) <= KEPT:
            kept |= new
            products[k] = found
    if not products:
        return loop(g, s, ins)
    b, env = rebuild(body, lambda *_: None)
    summed = [k for k in range(first, len(body.outputs)) if k not in products]
    outputs = [*body.outputs[:first], *kept.values(), *[body.outputs[k] for k in summed]]
    spec = s._replace(body=Program([env[v.id] for v in body.inputs], [env[v.id] for v in outputs], b), stacked=s.stacked + len(kept), summed=len(summed))
    made = loop(g, spec, ins)
    stacks = sliced | dict(zip(kept, made[first:], strict=False))
    results = dict(enumerate(made[:first])) | dict(zip(summed, made[first + len(kept) :], strict=True))
    for k, factors in products.items():
        x, y = (_rows(stacks[f.id], n) for f, n in zip(factors, body.outputs[k].shape, strict=True))
        results[k] = matmul(swap_last(x), y)
    return [results[k] for k in range(len(body.outputs))]


def _factors(v: Var) -> tuple[Var, Var] | None:
    """Of a product X^T Y of so few rows that it should wait: what X [rows, m] and Y [rows, n] are reshaped from."""
    if v.op is not MATMUL or len(v.shape) != 2:
        return None
    (m, n), (left, y) = v.shape, v.ins
    rows = y.shape[0]
    if not 0 < rows <= FEW_ROWS or 4 * rows * (m + n) > m * n or not v.size or not (rows == 1 or left.op is PERMUTE):
        return None
    return _root(left.ins[0] if left.op is PERMUTE else left), _root(y)


def _root(v: Var) -> Var:
    while v.op is RESHAPE:
        v = v.ins[0]
    return v


def _rows(x: Var, length: int) -> Var:
    return reshape(x, (x.size // length, length))
