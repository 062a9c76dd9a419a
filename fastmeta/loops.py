"""Loops: over the steps of a scan, and over the tasks of a meta-batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optree

from fastmeta.array.arguments import floats_of
from fastmeta.compile import Compiled, transformed
from fastmeta.errors import expected
from fastmeta.inner import Inner, alike, kinds, tracers, values
from fastmeta.ops import elementwise as ew
from fastmeta.ops import structure
from fastmeta.ops.shape import broadcast
from fastmeta.program import FLOATS, Program
from fastmeta.trace import Tracer, located, running
from fastmeta.tree import flatten, is_array, is_number, prefix, shown


def scan(step: Callable[..., Any], init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """``carry, y = step(carry, x)`` for each slice x of the leading axis of ``xs``; returns (last carry, stacked ys).

    With ``reverse`` it goes from the last slice to the first, each y at the place of its x.

    The loop stays a loop: memory of its derivative grows with the carry only.  ``length`` is needed when xs is None.  The carry is
    a tree of arrays and numbers, or None in places.
    Errors: TypeError for a step that does not return a pair, and for a carry that changes its structure, shapes or dtypes (the 0 beside
    floats: start from 0.0); ValueError for xs of different lengths.

    >>> scan(lambda c, x: (c + x, c), np.float32(0), np.arange(3, dtype=np.float32))
    (array(3., dtype=float32), array([0., 0., 1.], dtype=float32))
    >>> scan(lambda c, x: (c + x, c), np.float32(0), np.arange(3, dtype=np.float32), reverse=True)[1]
    array([3., 2., 0.], dtype=float32)
    """

    if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0):
        raise located(expected("scan", "length a whole number of at least 0, known while tracing", repr(length), TypeError))

    if not isinstance(reverse, bool):
        raise located(expected("scan", "reverse True or False", repr(reverse), TypeError))

    def run(init: Any, xs: Any) -> Any:
        if any(x is None for x in flatten(init)[0]):
            return _scan_around_none(step, init, xs, length, reverse)
        values("scan", "a carry", init)
        leaves, _ = flatten((init, xs))
        carries, carry_tree = flatten(init)
        c = len(carries)
        sliced = [k for k in range(c, len(leaves)) if is_array(leaves[k])]
        outer = running.trace
        assert outer is not None
        shapes = [outer.lift(leaves[k]).shape for k in sliced]
        if () in shapes:
            raise expected("scan", "xs with a leading axis", "a scalar")
        lengths = {shape[0] for shape in shapes} | ({int(length)} if length is not None else set())
        if len(lengths) != 1:
            raise expected("scan", "one length, of all xs or given", ", ".join(map(str, sorted(lengths))) or "neither xs nor length")
        (n,) = lengths
        inner = Inner(step, (init, xs), range(c), [k in sliced for k in range(len(leaves))])
        pair = inner.out_tree.children()
        if len(pair) != 2 or inner.out_tree.type is not tuple:
            got = inner.out_leaves[0] if inner.out_tree.is_leaf() else shown(inner.out_tree)
            raise expected("scan", "a step that returns the pair (carry, y)", got, TypeError, "Return (carry, None) if there is no y")
        alike("scan", "a carry", carry_tree, pair[0])
        ys = [k for k in range(c, len(inner.out_leaves)) if inner.out_leaves[k] is not None]
        p = inner.close([*inner.out_leaves[:c], *[inner.out_leaves[k] for k in ys]])
        if kinds(p.outputs[:c]) != kinds(p.inputs[:c]):
            raise expected("scan", f"a carry of {kinds(p.inputs[:c])}", kinds(p.outputs[:c]), TypeError)
        spec = structure.Loop(_reordered(p, c, len(sliced)), len(p.inputs) - c - len(sliced), c, len(sliced), len(ys), 0, n, reverse)
        k = c + len(sliced)
        args = (*inner.args[k:], *inner.args[:c], *inner.args[c:k])
        outs = tracers(outer, structure.loop(outer.graph, spec, args))
        full = list(inner.out_leaves)
        full[:c] = outs[:c]
        for k, x in zip(ys, outs[c:], strict=True):
            full[k] = x
        return optree.tree_unflatten(inner.out_tree, full)

    if running.trace is not None:
        return run(init, xs)
    return transformed(step, ("scan", length, reverse), lambda: run)(init, xs)


def _scan_around_none(step: Callable[..., Any], init: Any, xs: Any, length: int | None, reverse: bool) -> tuple[Any, Any]:
    """A scan whose carry has None in places, by one over the rest of the carry."""
    leaves, tree = flatten(init)
    there = [x is not None for x in leaves]

    def whole(carry: Any) -> Any:
        rest = iter(carry)
        return optree.tree_unflatten(tree, [next(rest) if on else None for on in there])

    def inner(carry: Any, x: Any) -> Any:
        result = step(whole(carry), x)
        if type(result) is not tuple or len(result) != 2:
            raise expected("scan", "a step that returns the pair (carry, y)", type(result).__name__, TypeError, "Return (carry, None) if there is no y")
        given, got = flatten(result[0])
        alike("scan", "a carry", tree, got)
        if [v is not None for v in given] != there:
            raise expected("scan", "a carry with None where it had None", "one with None elsewhere", TypeError)
        return tuple([v for v in given if v is not None]), result[1]

    last, ys = scan(inner, tuple([x for x in leaves if x is not None]), xs, length, reverse)
    return whole(last), ys


def _reordered(p: Program, carry: int, sliced: int) -> Program:
    """Carries, slices, captured -> captured, carries, slices: the order of a loop's inputs."""
    key = ("as loop body", carry, sliced)
    body = p.memo.get(key)
    if body is None:
        k = carry + sliced
        body = p.memo[key] = Program([*p.inputs[k:], *p.inputs[:k]], p.outputs, _graph_of(p))
    return body


def _graph_of(p: Program) -> Any:
    from fastmeta.program import Graph

    g = Graph()
    g.nodes = p.nodes
    return g


def map_tasks(f: Callable[..., Any], in_axes: Any = 0, reduce: Any = None) -> Compiled:
    """f applied to every task of a meta-batch: one native call, each task whole on one core.

    Args:
        f: a function of one task.
        in_axes: 0 (has a leading task axis) or None (shared by all tasks), a prefix of the tuple of arguments.
        reduce: None (results keep a leading task axis), "mean" or "sum" over tasks, a prefix of the result.  Integers and
            bools are averaged as float32; under "sum" they are an error.
    Errors: ValueError for in_axes other than 0 and None (`moveaxis` brings an axis to the front), for arguments of different numbers
    of tasks, or none; TypeError for arrays by name, which have no in_axes.

    >>> double = map_tasks(lambda x: 2.0 * x)
    >>> double(np.arange(3, dtype=np.float32))
    array([0., 2., 4.], dtype=float32)
    """
    for leaf in optree.tree_leaves(in_axes, none_is_leaf=True):
        if leaf is not None and not (type(leaf) is int and leaf == 0):
            raise located(expected("map_tasks", "in_axes of 0 or None", repr(leaf)))
    for leaf in optree.tree_leaves(reduce, none_is_leaf=True):
        if leaf is not None and not (isinstance(leaf, str) and leaf in ("mean", "sum")):
            raise located(expected("map_tasks", "reduce of None, 'mean' or 'sum'", repr(leaf)))

    def mapped(*args: Any, **named: Any) -> Any:
        for name, x in named.items():
            if any(is_array(v) and np.ndim(v) for v in flatten(x)[0]):  # JAX's vmap would map it, PyTorch's would share it
                raise expected("map_tasks", "arrays by position, where in_axes tells which have a task axis", f"{name} by name only", TypeError)
        leaves, _ = flatten(args)
        axes = _axes(in_axes, args)
        outer = running.trace
        assert outer is not None
        cut = [a == 0 and is_array(x) for a, x in zip(axes, leaves, strict=True)]
        lengths = set()
        for x, on in zip(leaves, cut, strict=True):
            if on:
                shape = outer.lift(x).shape
                if not shape:
                    raise expected("map_tasks", "a leading task axis (or in_axes None)", "a scalar")
                lengths.add(shape[0])
        if len(lengths) != 1:
            raise expected("map_tasks", "one number of tasks in all mapped arguments", sorted(lengths) or "no mapped argument")
        (n,) = lengths
        if n == 0:
            raise expected("map_tasks", "at least one task", 0)
        inner = Inner(partial(f, **named), args, (), cut)
        rules = prefix("map_tasks reduce", reduce, optree.tree_unflatten(inner.out_tree, inner.out_leaves))
        dynamic = [k for k, x in enumerate(inner.out_leaves) if is_array(x) or is_number(x)]
        order = [k for k in dynamic if rules[k] is None] + [k for k in dynamic if rules[k] is not None]
        results = [inner.trace.lift(inner.out_leaves[k]) for k in order]
        p = inner.close(tracers(inner.trace, [floats_of(v) if rules[k] == "mean" else v for k, v in zip(order, results, strict=True)]))
        stacked = sum(rules[k] is None for k in order)
        for k, v in zip(order, p.outputs, strict=True):
            if rules[k] is not None and v.dtype not in FLOATS:
                raise expected("map_tasks", f"floats to {rules[k]}", f"{v.dtype}{list(v.shape)}", TypeError, "Convert with fm.astype")
        formal = [k for k in inner.order]
        place = [k for k in range(len(p.inputs)) if not (k < len(formal) and cut[formal[k]])]
        slices = [k for k in range(len(formal)) if cut[formal[k]]]
        body = Program([p.inputs[k] for k in (*place, *slices)], p.outputs, _graph_of(p))
        spec = structure.Loop(body, len(place), 0, len(slices), stacked, len(order) - stacked, n)
        outs = structure.loop(outer.graph, spec, tuple(inner.args[k] for k in (*place, *slices)))
        full = list(inner.out_leaves)
        for k, v in zip(order, outs, strict=True):
            if rules[k] == "mean":
                v = ew.multiply(v, broadcast(outer.per_task(v.dtype), v.shape, ()) if n < 0 else 1.0 / n)
            full[k] = Tracer(v, outer)
        return optree.tree_unflatten(inner.out_tree, full)

    key = ("map_tasks", _hashable(in_axes), _hashable(reduce))
    return transformed(f, key, lambda: mapped, tasks=lambda args: _mapped_leaves(in_axes, args))


def _mapped_leaves(in_axes: Any, args: tuple[Any, ...]) -> list[bool]:
    return [a == 0 for a in _axes(in_axes, args)]


def _axes(in_axes: Any, args: tuple[Any, ...]) -> list[Any]:
    """0 or None for each leaf of the arguments."""
    each = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    if len(each) != len(args):
        raise expected("map_tasks", f"in_axes of one entry per argument, {len(args)}", f"{in_axes!r}")
    return prefix("map_tasks in_axes", each, args)


def _hashable(tree: Any) -> Any:
    leaves, spec = flatten(tree)
    return tuple(leaves), spec
