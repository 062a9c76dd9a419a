"""Expansion: pooling in terms of comparisons and selections over strided slices, which passes over elements run."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.convolution import Pair
from fastmeta.ops.pooling import POOL_INDEX, POOL_PUT, POOL_TAKE, slices
from fastmeta.ops.shape import broadcast, cast, pad, reshape
from fastmeta.ops.structure import LOOP, loop, rebuild
from fastmeta.program import DTYPES, FLOATS, Graph, Program, Var


def expand(p: Program) -> Program:
    """The program without pooling equations, its loops' bodies included."""

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is LOOP:
            return loop(g, v.attrs[0]._replace(body=_body(v.attrs[0].body)), ins)
        if v.op is POOL_INDEX:
            return cast(maximum(ins[0], *v.attrs)[1], "i32")
        if v.op is POOL_TAKE:
            first = v.ins[1].op is POOL_INDEX and v.ins[1].ins[0] is v.ins[0] and v.ins[1].attrs == v.attrs
            return maximum(ins[0], *v.attrs)[0] if first else take(*ins, *v.attrs)
        return put(*ins, *v.attrs) if v.op is POOL_PUT else None

    if not any(v.op in (LOOP, POOL_INDEX, POOL_TAKE, POOL_PUT) for v in p.live()):
        return p
    g, env = rebuild(p, visit)
    return Program([env[v.id] for v in p.inputs], [env[v.id] for v in p.outputs], g)


def _body(p: Program) -> Program:
    done = p.memo.get("expanded")
    if done is None:
        done = p.memo["expanded"] = expand(p)
    return done


def maximum(x: Var, window: Pair, stride: Pair) -> tuple[Var, Var]:
    """The first maximum of each window and its position, as a number of a dtype in which comparing is free of conversions."""
    out = POOL_INDEX.infer((x,), (window, stride))[0]
    taps = slices(x, window, stride, out[1:3])
    best = next(taps)
    at = x.graph.const(0.0, out, x.dtype if x.dtype in FLOATS else "i32")
    for k, tap in enumerate(taps, 1):
        top = ew.apply(ew.MAXIMUM, best, tap)
        keep = ew.apply(ew.LOGICAL_OR, ew.apply(ew.EQUAL, best, top), ew.apply(ew.NOT_EQUAL, best, best))  # nothing beats NaN
        best, at = top, ew.where(keep, at, x.graph.const(k, out, at.dtype))
    return best, at


def take(x: Var, index: Var, window: Pair, stride: Pair) -> Var:
    """The value at the given position of each window."""
    at = _number(index, x.dtype)
    taps = slices(x, window, stride, index.shape[1:3])
    y = next(taps)
    for k, tap in enumerate(taps, 1):
        y = ew.where(ew.apply(ew.EQUAL, at, x.graph.const(k, at.shape, at.dtype)), tap, y)
    return y


def put(g: Var, index: Var, window: Pair, stride: Pair, size: Pair) -> Var:
    """g at the given positions in zeros: one pass over tiles where windows are tiles, else a sum over the taps."""
    (n, oh, ow, c), (kh, kw), (sh, sw), (h, w) = g.shape, window, stride, size
    at = _number(index, g.dtype)
    if window == stride:
        tiles = (n, oh, kh, ow, kw, c)
        taps = g.graph.array(np.arange(kh * kw, dtype=DTYPES[at.dtype]).reshape(kh, kw))
        here = ew.apply(ew.EQUAL, broadcast(at, tiles, (0, 1, 3, 5)), broadcast(taps, tiles, (2, 4)))
        filled = ew.where(here, broadcast(g, tiles, (0, 1, 3, 5)), 0.0)
        return pad(reshape(filled, (n, oh * kh, ow * kw, c)), (0,) * 4, (0, h - oh * kh, w - ow * kw, 0), (0,) * 4)
    total = g.graph.const(0.0, (n, h, w, c), g.dtype)
    for k in range(kh * kw):
        i, j = divmod(k, kw)
        part = ew.where(ew.apply(ew.EQUAL, at, g.graph.const(k, at.shape, at.dtype)), g, 0.0)
        rest = (0, h - i - (oh - 1) * sh - 1, w - j - (ow - 1) * sw - 1, 0)
        total = ew.add(total, pad(part, (0, i, j, 0), rest, (0, sh - 1, sw - 1, 0)))
    return total


def _number(index: Var, dtype: str) -> Var:
    """Positions in the dtype of the values, if that is a float."""
    return cast(index, dtype) if dtype in FLOATS else index
