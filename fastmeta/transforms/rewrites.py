"""Rewrite rules, applied as equations are emitted: each looks at one equation and its operands only.

They keep the meaning of NaN and infinity (no x * 0 = 0, no x - x = 0; zeros of derivatives are symbolic and never
emitted).
A constant factor travels outwards, so that it meets the update it belongs to: (c x) @ y = c (x @ y).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from fastmeta.ops import elementwise as ew
from fastmeta.ops.convolution import TRIO
from fastmeta.ops.depthwise import PAIR
from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.pooling import POOL_PUT
from fastmeta.ops.product import MATMUL
from fastmeta.ops.reduce import CUMSUM, SUM, total
from fastmeta.ops.shape import (
    BROADCAST,
    CAST,
    CONCAT,
    FLIP,
    PAD,
    PERMUTE,
    RESHAPE,
    SLICE,
    STOP_GRADIENT,
    broadcast,
    concat,
    cut,
    permute,
    reshape,
)  # fmt: skip
from fastmeta.program import CONST, DTYPES, FLOATS, Graph, Primitive, Var

Rule = Callable[[Graph, tuple[Var, ...], tuple[Any, ...]], Var | None]


def rewrite(*ops: Primitive) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op in ops:
            op.rewrite = rule
        return rule

    return register


# -- constant factors


def is_const(v: Var, value: float) -> bool:
    return v.op is CONST and v.attrs[0] == value


def moderate(c: float) -> bool:
    """Only such factors move and merge: products of a few of them neither overflow nor vanish in float32."""
    return 1e-9 <= abs(c) <= 1e9


def scale_of(v: Var) -> float:
    """c, a moderate number, where v is c * x, through broadcasts; else 1."""
    if v.op is ew.MULTIPLY and v.dtype in FLOATS:
        for x in v.ins:
            if x.op is CONST and moderate(x.attrs[0]):
                return x.attrs[0]
    elif v.op is BROADCAST:
        return scale_of(v.ins[0])
    return 1.0


def unscaled(v: Var) -> Var:
    """x where v is c * x."""
    if v.op is BROADCAST:
        return broadcast(unscaled(v.ins[0]), *v.attrs)
    x, y = v.ins
    return x if y.op is CONST else y


def scaled(x: Var, c: float) -> Var:
    return x if c == 1.0 else x.graph.emit(ew.MULTIPLY, (x, x.graph.const(c, x.shape, x.dtype)))


def _split(v: Var) -> tuple[float, Var]:
    c = scale_of(v)
    return (c, unscaled(v)) if c != 1.0 else (1.0, v)


# -- broadcasts travel outwards through elementwise equations


def _pull_broadcast(g: Graph, op: Primitive, ins: tuple[Var, ...]) -> Var | None:
    """op(broadcast x, broadcast y) = broadcast op(x, y), when all repeat along the same axes; constants fold."""
    source: Var | None = None
    for v in ins:
        if v.op is BROADCAST:
            if source is not None and (source.ins[0].shape, source.attrs) != (v.ins[0].shape, v.attrs):
                return None
            source = v
        elif v.op is not CONST:
            return None
    if source is None:
        with np.errstate(all="ignore"):
            value = op.evaluate(*[DTYPES[v.dtype].type(v.attrs[0]) for v in ins])
        _, dtype = op.infer(ins, ())
        return g.const(value.item(), ins[0].shape, dtype)
    small = [v.ins[0] if v.op is BROADCAST else g.const(v.attrs[0], source.ins[0].shape, v.dtype) for v in ins]
    return broadcast(g.emit(op, tuple(small)), *source.attrs)


def _elementwise(op: Primitive) -> Rule:
    return lambda g, ins, at: _pull_broadcast(g, op, ins)


for _op in ew.REGISTRY.values():
    rewrite(_op)(_elementwise(_op))


@rewrite(ew.ADD)
def _add(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, y = ins
    if x.op is CONST:
        x, y = y, x
    if is_const(y, 0.0):
        return x
    done = _pull_broadcast(g, ew.ADD, ins) or _side_by_side(g, x, y) or _scattered(g, x, y)
    if done is not None or x.dtype not in FLOATS:
        return done
    if x is y:
        return scaled(x, 2.0)
    (cx, bx), (cy, by) = _split(x), _split(y)
    if bx.op is by.op is ew.WHERE and bx.ins[0] is by.ins[0]:  # what the derivative of where(m, x, c x) comes to
        (m, px, qx), (_, py, qy) = bx.ins, by.ins
        if is_const(qx, 0.0) and is_const(py, 0.0):
            return ew.where(m, scaled(px, cx), scaled(qy, cy))
        if is_const(px, 0.0) and is_const(qy, 0.0):
            return ew.where(m, scaled(py, cy), scaled(qx, cx))
    if cx == cy != 1.0:
        return scaled(ew.add(bx, by), cx)
    if cx == -cy:
        if cy == -1.0:
            return g.emit(ew.SUBTRACT, (x, by))
        if cx == -1.0:
            return g.emit(ew.SUBTRACT, (y, bx))
        return scaled(ew.subtract(bx, by), cx)
    if cx != 1.0 and cy != 1.0:
        if bx.id > by.id:
            bx, by, cx, cy = by, bx, cy, cx
        return scaled(ew.add(bx, scaled(by, cy / cx)), cx)
    return None


@rewrite(ew.SUBTRACT)
def _subtract(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, y = ins
    if is_const(y, 0.0):
        return x
    done = _pull_broadcast(g, ew.SUBTRACT, ins)
    if done is not None or x.dtype not in FLOATS:
        return done
    if is_const(x, 0.0):
        return scaled(y, -1.0)
    (cx, bx), (cy, by) = _split(x), _split(y)
    if cy == 1.0:
        return None
    if cx == cy:
        return scaled(ew.subtract(bx, by), cx)
    return ew.add(x, scaled(by, -cy))


@rewrite(ew.NEGATIVE)
def _negative(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,) = ins
    return scaled(x, -1.0) if x.dtype in FLOATS else _pull_broadcast(g, ew.NEGATIVE, ins)


@rewrite(ew.MULTIPLY)
def _multiply(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, y = ins
    if x.op is CONST:
        x, y = y, x
    if y.op is CONST and y.attrs[0] == 1.0:
        return x
    done = _pull_broadcast(g, ew.MULTIPLY, ins)
    if done is not None or x.dtype not in FLOATS:
        return done
    if y.op is CONST:
        c, base = _split(x)
        return scaled(base, c * y.attrs[0]) if c != 1.0 and moderate(y.attrs[0]) else None
    (cx, bx), (cy, by) = _split(x), _split(y)
    if cx != 1.0 or cy != 1.0:
        return scaled(ew.multiply(bx, by), cx * cy)
    # (p * broadcast q) * broadcast r = p * broadcast (q * r)
    if x.op is BROADCAST:
        x, y = y, x
    if y.op is BROADCAST and x.op is ew.MULTIPLY:
        p, q = x.ins
        if p.op is BROADCAST:
            p, q = q, p
        if q.op is BROADCAST and p.op is not BROADCAST and q.attrs == y.attrs and not _reciprocals(q.ins[0]) & _reciprocals(y.ins[0]):
            return ew.multiply(p, broadcast(ew.multiply(q.ins[0], y.ins[0]), *y.attrs))
    return None


def _reciprocals(v: Var, depth: int = 3) -> set[int]:
    """The divisions among the factors of v: the square of 1 / a tiny number would overflow where p / it / it does not."""
    if v.op is ew.MULTIPLY and depth:
        return _reciprocals(v.ins[0], depth - 1) | _reciprocals(v.ins[1], depth - 1)
    return {v.id} if v.op is ew.DIVIDE else set()


@rewrite(ew.DIVIDE)
def _divide(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, y = ins
    done = _pull_broadcast(g, ew.DIVIDE, ins)
    if done is not None:
        return done
    if y.op is CONST and moderate(y.attrs[0]):
        return scaled(x, 1.0 / y.attrs[0])
    c, base = _split(x)
    if c != 1.0:
        return scaled(ew.divide(base, y), c)
    if y.op is BROADCAST:  # one reciprocal per repeated value
        one = g.const(1.0, y.ins[0].shape, y.dtype)
        return ew.multiply(x, broadcast(ew.divide(one, y.ins[0]), *y.attrs))
    return None


@rewrite(ew.POWER)
def _power(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    x, y = ins
    done = _pull_broadcast(g, ew.POWER, ins)
    return _small_power(g, x, y.attrs[0]) if done is None and y.op is CONST else done


def _small_power(g: Graph, x: Var, n: float) -> Var | None:
    """x ** n for the exponents that people write; products are rounded three times at most."""
    if n == 0:
        return g.const(1.0, x.shape, x.dtype)
    if n in (0.5, -0.5):
        return ew.apply(ew.SQRT if n > 0 else ew.RSQRT, x)
    if n in (-1, -2, -3, -4):
        return ew.divide(1.0, ew.apply(ew.POWER, x, -n))
    if n in (2, 3, 4):
        square = ew.multiply(x, x)
        return square if n == 2 else ew.multiply(square, x if n == 3 else square)
    return x if n == 1 else None


@rewrite(ew.WHERE)
def _where(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    m, x, y = ins
    if x is y:
        return x
    if m.op is CONST:
        return x if m.attrs[0] else y
    if is_const(y, 0.0) and x.dtype in FLOATS:
        if x.op is ew.WHERE and x.ins[0] is m and is_const(x.ins[2], 0.0):
            return x
        c, base = _split(x)
        if c != 1.0:
            return scaled(ew.where(m, base, y), c)
    return _pull_broadcast(g, ew.WHERE, ins)


@rewrite(ew.SHARE)
def _share(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    c, base = _split(ins[0])
    return scaled(g.emit(ew.SHARE, (base, *ins[1:])), c) if c != 1.0 else _pull_broadcast(g, ew.SHARE, ins)


# -- shapes


def _ones_apart(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """The two shapes differ by axes of length 1 only."""
    return [n for n in a if n != 1] == [n for n in b if n != 1]


@rewrite(BROADCAST)
def _broadcast(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (shape, dims) = ins, at
    if x.op is CONST:
        return g.const(x.attrs[0], shape, x.dtype)
    if x.op is BROADCAST:
        return broadcast(x.ins[0], shape, tuple(dims[d] for d in x.attrs[1]))
    if 1 in x.shape:  # drop axes of length 1: one form for one meaning
        keep = [i for i, n in enumerate(x.shape) if n != 1]
        y = reshape(x, tuple(x.shape[i] for i in keep))
        return broadcast(y, shape, tuple(dims[i] for i in keep)) if y.shape != shape else y
    return None


@rewrite(RESHAPE)
def _reshape(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (shape,) = ins, at
    if x.op is CONST:
        return g.const(x.attrs[0], shape, x.dtype)
    if x.op is RESHAPE:
        return reshape(x.ins[0], shape)
    if x.op is BROADCAST and _ones_apart(x.shape, shape):
        source, dims = x.ins[0], x.attrs[1]
        place = [a for a, n in enumerate(shape) if n != 1]
        old = [a for a, n in enumerate(x.shape) if n != 1]
        where = dict(zip(old, place, strict=True))
        return broadcast(source, shape, tuple(where[d] for d in dims))  # sources have no axes of length 1
    c, base = _split(x)
    return scaled(reshape(base, shape), c) if c != 1.0 else None


@rewrite(PERMUTE)
def _permute(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (perm,) = ins, at
    if perm == tuple(range(len(perm))):
        return x
    if x.op is CONST:
        return g.const(x.attrs[0], tuple(x.shape[p] for p in perm), x.dtype)
    if x.op is PERMUTE:
        return permute(x.ins[0], tuple(x.attrs[0][p] for p in perm))
    moved = [p for p in perm if x.shape[p] != 1]
    if moved == sorted(moved):  # only axes of length 1 move
        return reshape(x, tuple(x.shape[p] for p in perm))
    c, base = _split(x)
    return scaled(permute(base, perm), c) if c != 1.0 else None


@rewrite(SLICE)
def _slice(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (start, stop, step) = ins, at
    if all(a == 0 and b == n and s == 1 for n, a, b, s in zip(x.shape, start, stop, step, strict=True)):
        return x
    if x.op is CONST:
        return g.const(x.attrs[0], SLICE.infer(ins, at)[0], x.dtype)
    if x.op is CONCAT:
        axis = x.attrs[0]
        begin = 0
        for piece in x.ins:
            end = begin + piece.shape[axis]
            if begin <= start[axis] and stop[axis] <= end:
                lo = tuple(a - begin if i == axis else a for i, a in enumerate(start))
                hi = tuple(b - begin if i == axis else b for i, b in enumerate(stop))
                return cut(piece, lo, hi, step)
            begin = end
    if x.op is SLICE:
        first, _, stride = x.attrs
        lo = tuple(f + a * s for f, a, s in zip(first, start, stride, strict=True))
        hi = tuple(f + (b - 1) * s + 1 if b > a else f + a * s for f, a, b, s in zip(first, start, stop, stride, strict=True))
        return cut(x.ins[0], lo, hi, tuple(a * b for a, b in zip(stride, step, strict=True)))
    return None


@rewrite(PAD)
def _pad(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    return ins[0] if not any(any(widths) for widths in at) else None


@rewrite(FLIP)
def _flip(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    return ins[0] if ins[0].op is CONST or all(ins[0].shape[a] == 1 for a in at[0]) else None


@rewrite(STOP_GRADIENT)
def _stop_gradient(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    return ins[0] if ins[0].op in (CONST, STOP_GRADIENT) or ins[0].dtype not in FLOATS else None


@rewrite(CAST)
def _cast(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (dtype,) = ins, at
    if x.dtype == dtype:
        return x
    if x.op is CONST and np.isfinite(x.attrs[0]):
        return g.const(DTYPES[dtype].type(DTYPES[x.dtype].type(x.attrs[0])).item(), x.shape, dtype)
    if x.op is BROADCAST:
        return broadcast(g.emit(CAST, (x.ins[0],), at), *x.attrs)
    return None


def _side_by_side(g: Graph, x: Var, y: Var) -> Var | None:
    """The sum of arrays that are zeros wherever the other is not, along one axis, is a concat: what slices of one array become in its derivative."""
    axis = _padded_axis(x) if x.op is PAD else _padded_axis(y)
    if axis is None:
        return None
    both = [_pieces(x, axis), _pieces(y, axis)]
    if None in both:
        return None
    pieces: list[Var] = []
    at = 0

    def zeros(to: int) -> None:
        if to > at:
            pieces.append(g.const(0.0, (*x.shape[:axis], to - at, *x.shape[axis + 1 :]), x.dtype))

    for start, piece in sorted([p for some in both for p in some or ()], key=lambda p: p[0]):
        if start < at:
            return None
        zeros(start)
        pieces.append(piece)
        at = start + piece.shape[axis]
    zeros(x.shape[axis])
    return concat(tuple(pieces), axis)


def _scattered(g: Graph, x: Var, y: Var) -> Var | None:
    """The sum of two scatters is one of both, if that is less: what rows taken from one table, twice, become in its derivative."""
    if x.op is not SCATTER_ADD or y.op is not SCATTER_ADD or x.attrs != y.attrs:
        return None
    axis, _ = x.attrs
    (a, i), (b, j) = x.ins, y.ins
    if a.size + b.size > x.size or [n for k, n in enumerate(i.shape) if k != axis] != [n for k, n in enumerate(j.shape) if k != axis]:
        return None
    return g.emit(SCATTER_ADD, (concat((a, b), axis), concat((i, j), axis)), x.attrs)


def _padded_axis(v: Var) -> int | None:
    """The only axis along which v is padded, before or after what it is."""
    if v.op is not PAD or any(v.attrs[2]):
        return None
    axes = [a for a, (low, high) in enumerate(zip(*v.attrs[:2], strict=True)) if low or high]
    return axes[0] if len(axes) == 1 else None


def _pieces(v: Var, axis: int) -> list[tuple[int, Var]] | None:
    """What v is along an axis but for zeros, each piece with its first element."""
    if v.op is PAD:
        return [(v.attrs[0][axis], v.ins[0])] if _padded_axis(v) == axis else None
    if v.op is not CONCAT or v.attrs != (axis,):
        return None
    starts = accumulate((x.shape[axis] for x in v.ins), initial=0)
    return [(start, x) for start, x in zip(starts, v.ins, strict=False) if not is_const(x, 0.0)]


# -- sums and products


@rewrite(SUM)
def _sum(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    (x,), (axes,) = ins, at
    n = prod([x.shape[a] for a in axes])
    shape = tuple(m for a, m in enumerate(x.shape) if a not in axes)
    if n == 1:
        return reshape(x, shape)
    if x.op is CONST:
        return g.const(x.attrs[0] * n, shape, x.dtype)
    if x.op is RESHAPE:
        y = x.ins[0]
        if not shape:
            return total(y, tuple(range(len(y.shape))))
        if _ones_apart(x.shape, y.shape):  # sum before the reshape
            old = [a for a, m in enumerate(y.shape) if m != 1]
            new = [a for a, m in enumerate(x.shape) if m != 1]
            where = dict(zip(new, old, strict=True))
            return reshape(total(y, tuple(where[a] for a in axes if a in where)), shape)
    if x.op is BROADCAST:
        source, (_, dims) = x.ins[0], x.attrs
        repeated = [a for a in axes if a not in dims]
        if repeated:
            inner = total(source, tuple(i for i, d in enumerate(dims) if d in axes))
            left = [a for a in range(len(x.shape)) if a not in axes]
            y = broadcast(inner, shape, tuple(left.index(d) for d in dims if d not in axes)) if inner.shape != shape else inner
            return scaled(y, float(prod(x.shape[a] for a in repeated))) if x.dtype in FLOATS else None
    if x.op is PERMUTE and len(axes) == len(x.shape):
        return total(x.ins[0], tuple(range(len(axes))))
    if x.dtype in FLOATS:
        c, base = _split(x)
        if c != 1.0:
            return scaled(total(base, axes), c)
        return _sum_of_factors(g, x, axes)
    return None


def _sum_of_factors(g: Graph, x: Var, axes: tuple[int, ...]) -> Var | None:
    """sum(p * broadcast q) = sum(p) * q, when q does not vary along the axes."""
    if x.op is ew.MULTIPLY:
        for p, q in (x.ins, x.ins[::-1]):
            if q.op is BROADCAST and not any(d in axes for d in q.attrs[1]):
                left = [a for a in range(len(x.shape)) if a not in axes]
                s = total(p, axes)
                return ew.multiply(s, broadcast(q.ins[0], s.shape, tuple(left.index(d) for d in q.attrs[1])))
    return None


def _bilinear(op: Primitive) -> Rule:
    def rule(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
        (cx, bx), (cy, by) = _split(ins[0]), _split(ins[1])
        return scaled(g.emit(op, (bx, by), at), cx * cy) if cx != 1.0 or cy != 1.0 else None

    return rule


for _op in (*TRIO, *PAIR):
    rewrite(_op)(_bilinear(_op))


@rewrite(MATMUL)
def _matmul(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
    """Products of many pairs of vectors are no work for a kernel of matrices: scaled rows, and sums of products."""
    x, y = ins
    (*batch, m, k), n = x.shape, y.shape[-1]
    axes = tuple(range(len(x.shape)))
    if prod(batch) > 1 and k == 1 and 1 in (m, n):
        shape = (*batch, m, n)
        return ew.multiply(broadcast(x, shape, axes), broadcast(y, shape, axes))
    if prod(batch) > 1 and m == n == 1:
        return reshape(total(ew.multiply(x, reshape(y, x.shape)), axes[-1:]), (*batch, 1, 1))
    return _bilinear(MATMUL)(g, ins, at)


def linear(op: Primitive) -> Rule:
    """Constant factors leave a primitive that is linear in its first operand, but for indexing that makes more of it."""

    def rule(g: Graph, ins: tuple[Var, ...], at: tuple[Any, ...]) -> Var | None:
        if ins[0].dtype not in FLOATS:
            return None
        if op in (GATHER, SCATTER_ADD) and prod(op.infer(ins, at)[0]) > ins[0].size:
            return None
        c, base = _split(ins[0])
        return scaled(g.emit(op, (base, *ins[1:]), at), c) if c != 1.0 else None

    return rule


for _op in (GATHER, SCATTER_ADD, CUMSUM, POOL_PUT):
    rewrite(_op)(linear(_op))
