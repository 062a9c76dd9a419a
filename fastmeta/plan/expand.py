"""Expansion: pooling in comparisons and selections over strided slices; inverses and log-determinants by eliminations, of a kernel or in a loop of passes; products side by side and kernels of single channels, where there is no kernel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.convolution import Pair
from fastmeta.ops.depthwise import PAIR, tap_by_tap
from fastmeta.ops.elimination import ELIMINATION, eliminate
from fastmeta.ops.lanes import LANE_PRODUCT
from fastmeta.ops.linalg import INVERSE, LOGDET
from fastmeta.ops.pooling import POOL_INDEX, POOL_PUT, POOL_TAKE, slices
from fastmeta.ops.product import matmul
from fastmeta.ops.reduce import SUM, total
from fastmeta.ops.shape import RESHAPE, broadcast, cast, pad, permute, reshape
from fastmeta.ops.structure import LOOP, loop, rebuilt
from fastmeta.plan.fuse import splits
from fastmeta.program import DTYPES, FLOATS, Graph, Program, Shape, Var
from fastmeta.transforms.pooling import pointwise

SMALL_PRODUCT = 512  # multiply-adds of each of the products side by side that are computed element by element


def expand(p: Program, kernels: bool = True) -> Program:
    """The program without pooling, inverses and log-determinants, its loops' bodies included, for a backend with or without ``kernels``."""
    tiled: dict[int, Var] = {}  # a map [N, H, W, C] that is a reshape of tiles -> the tiles [N, OH, KH, OW, KW, C]
    numbers: dict[int, Var] = {}  # positions as int32 -> the same as numbers of the map's dtype

    def number(index: Var, dtype: str) -> Var:
        at = numbers.get(index.id)
        return at if at is not None and at.dtype == dtype else cast(index, dtype) if dtype in FLOATS else index

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is LOOP:
            return loop(g, v.attrs[0]._replace(body=_body(v.attrs[0].body, kernels)), ins)
        if v.op is INVERSE:
            return inverted(ins[0], kernels)
        if v.op is LOGDET:
            return log_determinants(ins[0], kernels)
        if v.op in PAIR:
            return None if kernels else tap_by_tap(v, *ins)
        if v.op is LANE_PRODUCT:
            return None if kernels else side_by_side(*ins)
        if v.op is POOL_INDEX:
            at = where_maximum(ins[0], ins[0], *v.attrs)[1]
            y = cast(at, "i32")
            numbers[y.id] = at
            return y
        if v.op is POOL_TAKE:
            index = v.ins[1]
            if index.op is POOL_INDEX and index.attrs == v.attrs:
                return where_maximum(env[index.ins[0].id], ins[0], *v.attrs)[0]
            return take(ins[0], number(ins[1], v.dtype), *v.attrs)
        if v.op is POOL_PUT:
            at = number(ins[1], v.dtype)
            tiles = put_tiles(ins[0], at, *v.attrs)
            if tiles is None:
                return put(ins[0], at, *v.attrs)
            y = reshape(tiles, v.shape)
            tiled[y.id] = tiles
            return y
        shape = next((tiled[i.id].shape for i in ins if i.id in tiled), None) if v.op.elementwise or v.op is SUM else None
        if shape is None:
            return None
        # What reads tiles goes on over tiles, so that it is the same pass.
        same = {i.id: tiled[i.id] for i in ins if i.id in tiled and tiled[i.id].shape == shape}
        parts = tuple(same[i.id] if i.id in same else seen(i, lambda x: reshape(x, shape)) for i in ins)
        if v.op is SUM:
            return g.emit(SUM, parts, (tuple(b for a in v.attrs[0] for b in ((0,), (1, 2), (3, 4), (5,))[a]),))
        tiles = g.emit(v.op, parts, v.attrs)
        y = reshape(tiles, v.shape)
        tiled[y.id] = tiles
        return y

    if not any(v.op in (LOOP, INVERSE, LOGDET, LANE_PRODUCT, POOL_INDEX, POOL_TAKE, POOL_PUT, *PAIR) for v in p.live()):
        return p
    return reshaped(rebuilt(p, visit))


def reshaped(p: Program) -> Program:
    """The program in which what is only read as tiles is computed as tiles."""
    live = p.live()
    seen_as: dict[int, set[Shape]] = {v.id: {v.shape} for v in p.outputs}
    for v in reversed(live):
        shapes = seen_as.get(v.id, set())
        if not v.op.elementwise or len(shapes) != 1 or not splits(v.shape, *shapes):
            seen_as[v.id] = {v.shape}
        for i in v.ins:
            seen_as.setdefault(i.id, set()).update({v.shape} if v.op is RESHAPE else seen_as[v.id] if v.op.elementwise else {i.shape})

    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        (shape,) = seen_as[v.id]
        if not v.op.elementwise or shape == v.shape:
            return None
        return reshape(g.emit(v.op, tuple(reshape(i, shape) for i in ins), v.attrs), v.shape)

    return rebuilt(p, visit)


def seen(x: Var, view: Callable[[Var], Var], depth: int = 4) -> Var:
    """A view of x; where x is cheap to compute from one map, that is done again on the map's view: no pass, no memory."""
    if depth and pointwise(x):
        return x.graph.emit(x.op, tuple(seen(i, view, depth - 1) for i in x.ins), x.attrs)
    return view(x)


def _body(p: Program, kernels: bool) -> Program:
    name = "expanded" if kernels else "expanded, no kernels"
    done = p.memo.get(name)
    if done is None:
        done = p.memo[name] = expand(p, kernels)
    return done


def inverted(x: Var, kernels: bool) -> Var:
    """The inverses of x as a row of matrices."""
    if not x.size:
        return x
    return reshape(x.graph.emit(ELIMINATION, (row_of(x),), (False,)) if kernels else eliminate(row_of(x)), x.shape)


def log_determinants(x: Var, kernels: bool) -> Var:
    """Those of matrices [.., n, n]."""
    if not x.size:
        return broadcast(x.graph.array(np.zeros((), DTYPES[x.dtype])), x.shape[:-2], ())
    rows = row_of(x)
    found = total(ew.apply(ew.LOG, rows.graph.emit(ELIMINATION, (rows,), (True,))), (1,)) if kernels else eliminate(rows, determinants=True)
    return reshape(found, x.shape[:-2])


def row_of(x: Var) -> Var:
    """Matrices [.., n, n] as [b, n, n]."""
    n = x.shape[-1]
    return reshape(x, (x.size // (n * n), n, n))


def side_by_side(x: Var, y: Var) -> Var:
    """x [.., m, k, lanes] times y [.., k, n, lanes]."""
    *lead, m, k, lanes = x.shape
    n, r = y.shape[-2], len(lead)
    if prod(lead) * m * k * n > SMALL_PRODUCT:
        first, last = (r + 2, *range(r + 2)), (*range(1, r + 3), 0)
        return permute(matmul(permute(x, first), permute(y, first)), last)
    dims, whole = tuple(range(r)), (*lead, m, k, n, lanes)
    return total(ew.multiply(broadcast(x, whole, (*dims, r, r + 1, r + 3)), broadcast(y, whole, (*dims, r + 1, r + 2, r + 3))), (r + 1,))


def where_maximum(z: Var, x: Var, window: Pair, stride: Pair) -> tuple[Var, Var]:
    """x where z has the first maximum of each window, and its position, as a number of a dtype in which comparing is free of conversions."""
    out = POOL_INDEX.infer((z,), (window, stride))[0]
    views = list(slices(out, window, stride))
    best, y = seen(z, views[0]), seen(x, views[0])
    at = z.graph.const(0.0, out, z.dtype if z.dtype in FLOATS else "i32")
    for k, view in enumerate(views[1:], 1):
        tap = seen(z, view)
        keep = ew.apply(ew.LOGICAL_OR, ew.apply(ew.LESS_EQUAL, tap, best), ew.apply(ew.NOT_EQUAL, best, best))  # nothing beats NaN
        best, y, at = ew.where(keep, best, tap), ew.where(keep, y, seen(x, view)), ew.where(keep, at, z.graph.const(k, out, at.dtype))
    return y, at


def take(x: Var, at: Var, window: Pair, stride: Pair) -> Var:
    """The value at the given position of each window."""
    taps = [seen(x, view) for view in slices(at.shape, window, stride)]
    y = taps[0]
    for k, tap in enumerate(taps[1:], 1):
        y = ew.where(ew.apply(ew.EQUAL, at, x.graph.const(k, at.shape, at.dtype)), tap, y)
    return y


def put_tiles(g: Var, at: Var, window: Pair, stride: Pair, size: Pair) -> Var | None:
    """g at the given positions of tiles [N, OH, KH, OW, KW, C] of zeros, if the windows are tiles that cover the map."""
    (n, oh, ow, c), (kh, kw) = g.shape, window
    if window != stride or size != (oh * kh, ow * kw):
        return None
    tiles = (n, oh, kh, ow, kw, c)
    taps = g.graph.array(np.arange(kh * kw, dtype=DTYPES[at.dtype]).reshape(kh, kw))
    here = ew.apply(ew.EQUAL, broadcast(at, tiles, (0, 1, 3, 5)), broadcast(taps, tiles, (2, 4)))
    return ew.where(here, broadcast(g, tiles, (0, 1, 3, 5)), 0.0)


def put(g: Var, at: Var, window: Pair, stride: Pair, size: Pair) -> Var:
    """g at the given positions in zeros: tiles and what they leave of the map, else a sum over the taps."""
    (n, oh, ow, c), (kh, kw), (sh, sw), (h, w) = g.shape, window, stride, size
    if window == stride:
        tiles = put_tiles(g, at, window, stride, (oh * kh, ow * kw))
        assert tiles is not None
        return pad(reshape(tiles, (n, oh * kh, ow * kw, c)), (0,) * 4, (0, h - oh * kh, w - ow * kw, 0), (0,) * 4)
    total = g.graph.const(0.0, (n, h, w, c), g.dtype)
    for k in range(kh * kw):
        i, j = divmod(k, kw)
        part = ew.where(ew.apply(ew.EQUAL, at, g.graph.const(k, at.shape, at.dtype)), g, 0.0)
        rest = (0, h - i - (oh - 1) * sh - 1, w - j - (ow - 1) * sw - 1, 0)
        total = ew.add(total, pad(part, (0, i, j, 0), rest, (0, sh - 1, sw - 1, 0)))
    return total
