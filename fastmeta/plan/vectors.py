"""Many small products with a vector are computed element by element: what surrounds a product would take longer than the product."""

from __future__ import annotations

from math import prod
from typing import Any

from fastmeta.ops.elementwise import multiply
from fastmeta.ops.product import MATMUL
from fastmeta.ops.reduce import total
from fastmeta.ops.shape import broadcast, reshape, swap_last
from fastmeta.ops.structure import LOOP, loop, rebuilt
from fastmeta.program import Graph, Program, Var

MANY = 8  # products side by side
SMALL = 128  # multiply-adds of one


def vectors(p: Program) -> Program:
    """The program with such products as passes over elements, its loops' bodies included."""
    done = p.memo.get("vectors")
    if done is None:
        done = p.memo["vectors"] = _vectors(p)
    return done


def _vectors(p: Program) -> Program:
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is LOOP:
            return loop(g, v.attrs[0]._replace(body=vectors(v.attrs[0].body)), ins)
        return _by_elements(*ins) if _small(v) else None

    if not any(v.op is LOOP or _small(v) for v in p.live()):
        return p
    return rebuilt(p, visit)


def _small(v: Var) -> bool:
    if v.op is not MATMUL:
        return False
    *side_by_side, m, k = v.ins[0].shape
    n = v.shape[-1]
    return 1 in (m, k, n) and 0 < m * k * n <= SMALL and prod(side_by_side) >= MANY


def _by_elements(x: Var, y: Var) -> Var:
    """x [.., m, k] times y [.., k, n], one of m, k and n being 1."""
    *lead, m, k = x.shape
    n, r = y.shape[-1], len(lead)
    dims = tuple(range(r))
    if n == 1:  # rows times a vector
        row = broadcast(reshape(y, (*lead, k)), (*lead, m, k), (*dims, r + 1))
        return reshape(total(multiply(x, row), (r + 1,)), (*lead, m, 1))
    if m == 1:
        return swap_last(_by_elements(swap_last(y), swap_last(x)))
    whole = (*lead, m, n)
    return multiply(broadcast(reshape(x, (*lead, m)), whole, (*dims, r)), broadcast(reshape(y, (*lead, n)), whole, (*dims, r + 1)))
