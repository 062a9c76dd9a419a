"""Rewrite rules for maximum pooling: what happens to every element alike happens after pooling, to fewer elements.

Then the cotangents of a normalisation before a pooling are sums over pooled maps too.
"""

from __future__ import annotations

from typing import Any

from fastmeta.ops import elementwise as ew
from fastmeta.ops.pooling import POOL_INDEX, POOL_TAKE, pool_index, pool_take
from fastmeta.ops.shape import BROADCAST, broadcast
from fastmeta.program import CONST, Graph, Var
from fastmeta.transforms.rewrites import linear, rewrite


def alike(v: Var) -> bool:
    """The same for all rows and columns of a map [N, H, W, C]."""
    return v.op is CONST or v.op is BROADCAST and not {1, 2} & set(v.attrs[1])


def pointwise(v: Var) -> bool:
    """One map changed element by element, with nothing but values that are alike for all its rows and columns."""
    return v.op.elementwise and len({i.id for i in v.ins if not alike(i)}) == 1 and all(i.dtype == v.dtype for i in v.ins)


@rewrite(POOL_INDEX)
def _index(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    """relu moves no maximum above 0, and below nothing depends on where it is."""
    return pool_index(ins[0].ins[0], *at) if ins[0].op is ew.RELU else None


@rewrite(POOL_TAKE)
def _take(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, index = ins
    if not pointwise(x):
        return linear(POOL_TAKE)(g, ins, at)

    def taken(i: Var) -> Var:
        if i.op is CONST:
            return g.const(i.attrs[0], index.shape, i.dtype)
        return broadcast(i.ins[0], index.shape, i.attrs[1]) if alike(i) else pool_take(i, index, *at)

    return g.emit(x.op, tuple(taken(i) for i in x.ins), x.attrs)
