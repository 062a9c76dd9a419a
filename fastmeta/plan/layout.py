"""Layout: which values are memory and which are views of it, and the copies that kernels need.

After this pass every view can be expressed by strides on a value that owns memory (dense, row-major), and everything
that must own memory does: results, carries, slices and what an instruction demands.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from fastmeta.ops.convolution import CONV_WEIGHT, TRIO
from fastmeta.ops.depthwise import PAIR
from fastmeta.ops.distance import DISTANCE, DISTANCE_PULL
from fastmeta.ops.index import GATHER, SCATTER_ADD
from fastmeta.ops.lanes import LANE_PRODUCT
from fastmeta.ops.order import ARGSORT
from fastmeta.ops.product import MATMUL
from fastmeta.ops.proto import PROTO
from fastmeta.ops.reduce import ARGMAX, ARGMIN, CUMSUM
from fastmeta.ops.shape import BROADCAST, COPY, FLIP, PERMUTE, RESHAPE, SLICE, STOP_GRADIENT, broadcast_to
from fastmeta.ops.structure import LOOP, PROJECT, Loop, loop
from fastmeta.program import ARRAY, CONST, DTYPES, INPUT, Graph, Program, Var

PRODUCTS = (MATMUL, LANE_PRODUCT, *TRIO)
INDEXED = (GATHER, SCATTER_ADD, CUMSUM, ARGMAX, ARGMIN, ARGSORT)
SHARED_TRANSPOSE = 1 << 14  # elements: a transposed right factor up to this size is copied once and shared
TEAM_WORK = 2e6  # multiply-adds: the threads that may share a product of more transpose for themselves (csrc/native/product.cpp)

VECTOR = 64  # bytes

MANY_TIMES = 16  # that an element is read
NEAR = 128  # equations: users of a copy further apart than this make their own


class View(NamedTuple):
    """A value as memory: element (i0, i1, ..) of it is element offset + sum(i * stride) of the dense value ``root``."""

    root: Var
    offset: int
    strides: tuple[int, ...]


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n or 1
    return tuple(reversed(strides))


def view_of(v: Var, known: dict[int, View]) -> View | None:
    """The view that v is; None where a reshape cannot be expressed by strides."""
    done = known.get(v.id)
    if done is not None:
        return done
    made = _view(v, known)
    if made is not None:
        known[v.id] = made
    return made


def _view(v: Var, known: dict[int, View]) -> View | None:
    op = v.op
    if not op.view:
        return View(v, 0, (0,) * len(v.shape) if op is CONST else dense(v.shape))
    base = view_of(v.ins[0], known)
    if base is None:
        return None
    root, offset, strides = base
    if op is STOP_GRADIENT:
        return base
    if op is BROADCAST:
        dims = v.attrs[1]
        spread = [0] * len(v.shape)
        for s, d in zip(strides, dims, strict=True):
            spread[d] = s
        return View(root, offset, tuple(spread))
    if op is PERMUTE:
        return View(root, offset, tuple(strides[p] for p in v.attrs[0]))
    if op is SLICE:
        start, _, step = v.attrs
        if not v.size:
            return View(root, 0, (0,) * len(v.shape))
        return View(root, offset + sum(a * s for a, s in zip(start, strides, strict=True)), tuple(s * k for s, k in zip(strides, step, strict=True)))
    if op is FLIP:
        axes = v.attrs[0]
        if not v.size:
            return View(root, 0, (0,) * len(v.shape))
        offset += sum((v.shape[a] - 1) * strides[a] for a in axes)
        return View(root, offset, tuple(-s if a in axes else s for a, s in enumerate(strides)))
    assert op is RESHAPE, op
    moved = restride(v.ins[0].shape, strides, v.shape)
    return None if moved is None else View(root, offset, moved)


def parts(joined: Var) -> Iterator[tuple[Var, int]]:
    """The operands of a concat, each with the element of the result that it begins with."""
    (axis,) = joined.attrs
    step, at = dense(joined.shape)[axis], 0
    for x in joined.ins:
        yield x, at * step
        at += x.shape[axis]


def restride(old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of the reshaped view, or None where it is not one."""
    if not prod(new):
        return (0,) * len(new)
    axes = [(n, s) for n, s in zip(old, strides, strict=True) if n != 1]
    out: list[int] = []
    k = 0
    want = [n for n in new if n != 1]
    i = 0
    while i < len(want):
        n, s = axes[k]
        have, need = n, want[i]
        group = [want[i]]
        last = s
        k += 1
        i += 1
        while have != need:
            if have < need:  # merge the next old axis: its stride must continue this one
                n, s = axes[k]
                if last != n * s:
                    return None
                have *= n
                last = s
                k += 1
            else:
                need *= want[i]
                group.append(want[i])
                i += 1
        step = last
        part: list[int] = []
        for m in reversed(group):
            part.append(step)
            step *= m
        out += reversed(part)
    rest = iter(out)
    return tuple(0 if n == 1 else next(rest) for n in new)


def in_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """The elements follow each other in memory."""
    return restride(shape, strides, (prod(shape),)) == ((1,) if prod(shape) > 1 else (0,))


def folded(shape: tuple[int, ...], strides: tuple[int, ...], axis: int) -> tuple[int, int, int] | None:
    """One stride for the axes before ``axis``, its own, and one for those after; None where axes do not continue each other."""
    out = []
    for lo, hi in ((0, axis), (axis, axis + 1), (axis + 1, len(shape))):
        kept = [(n, s) for n, s in zip(shape[lo:hi], strides[lo:hi], strict=True) if n != 1]
        if any(a[1] != b[0] * b[1] for a, b in zip(kept, kept[1:], strict=False)):
            return None
        out.append(kept[-1][1] if kept else 0)
    return out[0], out[1], out[2]


def lay_out(p: Program, of: Loop | None = None) -> Program:
    """The program with copies where memory must be owned or laid out otherwise, its loops' bodies (``of`` a loop) included."""
    g = Graph()
    env: list[Any] = [None] * len(p.nodes)
    known: dict[int, View] = {}
    copies: dict[int, Var] = {}
    for v in p.inputs:
        env[v.id] = g.input(v.shape, v.dtype)
    uses: dict[int, int] = {}
    live = p.live()
    for v in live:
        if v.op is MATMUL:
            uses[v.ins[1].id] = uses.get(v.ins[1].id, 0) + v.shape[-2]

    def own(x: Var) -> Var:
        """x as dense memory of its own."""
        if x.op in (INPUT, PROJECT) or not (x.op.view or x.op in (CONST, ARRAY)):
            return x
        view = view_of(x, known)
        whole = view is not None and view.offset == 0 and view.root.size == x.size and view.root.op not in (CONST, ARRAY)
        return x if whole and view is not None and in_order(x.shape, view.strides) and x.op.view else g.emit(COPY, (x,))

    for v in live:
        if env[v.id] is not None:
            continue
        g.line = v.line
        ins = tuple([env[i.id] for i in v.ins])
        if v.op is RESHAPE and view_of(g.emit(RESHAPE, ins, v.attrs), known) is None:
            ins = (g.emit(COPY, ins),)
        elif v.op is MATMUL:
            ins = (ins[0], _right_factor(g, ins[1], uses[v.ins[1].id], known, copies))
        elif v.op in TRIO:
            ins = _convolved(g, v, ins, known)
        elif v.op in (DISTANCE, DISTANCE_PULL, PROTO):
            ins = (*[_side_by_side(g, x, known) for x in ins[:2]], *ins[2:])
        elif v.op is LANE_PRODUCT or v.op in PAIR:
            ins = tuple([_side_by_side(g, x, known) for x in ins])
        elif v.op in INDEXED:
            ins = _foldable(g, v, ins, known)
        elif v.op.elementwise:
            ins = tuple([_spread(g, x, known, copies) for x in ins])
        elif v.op is LOOP:
            s: Loop = v.attrs[0]
            spec = s._replace(body=_body(s))
            env[v.id] = loop(g, spec, tuple([own(x) for x in ins]))
            continue
        if v.op is PROJECT:
            env[v.id] = ins[0][v.attrs[0]]
        else:
            env[v.id] = g.emit(v.op, ins, v.attrs)
    return Program([env[v.id] for v in p.inputs], results(g, [env[v.id] for v in p.outputs], of), g)


def results(g: Graph, outs: list[Var], of: Loop | None) -> list[Var]:
    """Results that each own memory written by an equation of this program, no two the same.

    A loop writes results of the whole program where they must go; in the body ``of`` another loop they are copied there,
    and what that loop sums is the value of a pass, a product or a scatter.
    """
    done: list[Var] = []
    summed = len(outs) if of is None else len(outs) - of.summed
    for k, x in enumerate(outs):
        adds = k < summed or x.op.elementwise or x.op in PRODUCTS or x.op is SCATTER_ADD
        if x.op.view or x.op in (INPUT, CONST, ARRAY) or x.op is PROJECT and of is not None or not adds or x in done:
            x = Var(COPY, (x,), (), x.shape, x.dtype, g)  # not merged with another copy of the same value
        done.append(x)
    return done


def _body(s: Loop) -> Program:
    body = s.body.memo.get("laid out")
    if body is None:
        body = s.body.memo["laid out"] = lay_out(s.body, s)
    return body


def _foldable(g: Graph, v: Var, ins: tuple[Var, ...], known: dict[int, View]) -> tuple[Var, ...]:
    """The operands of an indexed kernel, which sees three axes; an index repeats along axes where it has length 1."""
    axis = v.attrs[0]
    if len(ins) == 2:
        whole = (*ins[0].shape[:axis], ins[1].shape[axis], *ins[0].shape[axis + 1 :])
        ins = (ins[0], broadcast_to(ins[1], whole))
    views = [view_of(x, known) for x in ins]
    return tuple([x if w and folded(x.shape, w.strides, axis) else g.emit(COPY, (x,)) for x, w in zip(ins, views, strict=True)])


def _convolved(g: Graph, v: Var, ins: tuple[Var, ...], known: dict[int, View]) -> tuple[Var, ...]:
    """The operands of a convolution: channels of maps side by side, weights dense."""
    done = []
    for k, x in enumerate(ins):
        view = view_of(x, known)
        assert view is not None
        is_map = k == 0 or v.op is CONV_WEIGHT
        ready = view.strides[-1] == 1 or x.shape[-1] == 1 if is_map else in_order(x.shape, view.strides)
        done.append(x if ready else g.emit(COPY, (x,)))
    return tuple(done)


def _side_by_side(g: Graph, x: Var, known: dict[int, View]) -> Var:
    """x with the elements of its last axis next to each other."""
    view = view_of(x, known)
    assert view is not None
    return x if view.strides[-1] == 1 or x.shape[-1] == 1 else g.emit(COPY, (x,))


def _spread(g: Graph, x: Var, known: dict[int, View], copies: dict[int, Var]) -> Var:
    """A little that is read many times, its last axis contiguous: vectors cannot be loaded from apart."""
    if x.op is not BROADCAST or MANY_TIMES * x.ins[0].size > x.size:
        return x
    view = view_of(x, known)
    assert view is not None
    if view.strides[-1] in (0, 1):
        return x
    few = x.ins[0]
    if few.id not in copies:
        copies[few.id] = Var(COPY, (few,), (), few.shape, few.dtype, g)
    return g.emit(BROADCAST, (copies[few.id],), x.attrs)


def _right_factor(g: Graph, x: Var, rows: int, known: dict[int, View], copies: dict[int, Var]) -> Var:
    """The right factor of a product: columns contiguous if a copy pays, which users near each other share.

    A copy kept from an inner step to its reverse pass would cost more memory than copying again costs time.
    """
    view = view_of(x, known)
    assert view is not None
    k, n = x.shape[-2:]
    if n == 1 or k == 1 or view.strides[-1] == 1 or prod(x.shape) > SHARED_TRANSPOSE or rows < 4 or rows * k * n > TEAM_WORK:
        return x
    lanes = VECTOR // DTYPES[x.dtype].itemsize
    along_k = rows * n * (-(-k // lanes) + 1 + 3 * lanes // 8)  # both as in dot_pays, csrc/native/gemm.hpp
    along_n = rows * -(-n // lanes) * k + k * n // 2
    if view.strides[-2] == 1 and along_k < along_n:
        return x
    last = copies.get(x.id)
    if last is None or len(g.nodes) - last.id > NEAR:
        last = copies[x.id] = Var(COPY, (x,), (), x.shape, x.dtype, g)
    return last
