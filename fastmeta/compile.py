"""The transforms users call.  Each returns a function that is compiled for the shapes it meets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from fastmeta import backends
from fastmeta.backends.arrays import check_places, device_dtype, on_device
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import structure
from fastmeta.ops.shape import broadcast
from fastmeta.program import FLOATS, NAMES, Program, Var
from fastmeta.trace import PerTask, Trace, Tracer, as_array, close, located, running, trace
from fastmeta.transforms import differentiate
from fastmeta.tree import flatten, is_array, is_number, prefix, shown

# -- tracing pytrees


class Inner:
    """A function traced inside the running trace: its program, and the values it takes from there."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], first: Sequence[int] = (), cut: Sequence[bool] | None = None):
        leaves, tree = flatten(args)
        outer = running.trace
        assert outer is not None
        if any(getattr(x, "dtype", None) == np.float64 for x in leaves):  # numbers take the dtype they meet
            leaves = [np.float64(x) if type(x) is float and k in first else x for k, x in enumerate(leaves)]
        lifted = [outer.lift(x) if is_array(x) or k in first else None for k, x in enumerate(leaves)]
        order = [*first, *(k for k, v in enumerate(lifted) if v is not None and k not in first)]
        self.args: list[Var] = []
        avals = []
        for k in order:
            v = lifted[k]
            assert v is not None
            self.args.append(v)
            avals.append((v.shape[1:] if cut and cut[k] else v.shape, v.dtype))

        def flat(*tracers: Tracer) -> Any:
            full = list(leaves)
            for k, x in zip(order, tracers, strict=True):
                full[k] = x
            return f(*optree.tree_unflatten(tree, full))

        formal, out, t = trace(flat, avals)
        self.out_leaves, self.out_tree = flatten(out)
        self.leaves, self.order = leaves, order
        self.formal, self.trace, self.outer = formal, t, outer

    def close(self, outputs: Sequence[Any]) -> Program:
        """The program to ``outputs``; equal programs of one compilation are one object, so derivatives are made once."""
        p = close(self.trace, self.formal, outputs)
        root = self.outer
        while root.outer is not None:
            root = root.outer
        p = root.programs.setdefault(p.key(), p)
        self.args = self.args[: len(self.formal)] + [self.outer.lift(x) for x in self.trace.captured]
        return p


def _tracers(t: Trace, outs: Sequence[Var]) -> list[Tracer]:
    return [Tracer(v, t) for v in outs]


def _scalar(where: str, x: Any, t: Trace) -> None:
    v = t.lift(x) if is_array(x) or is_number(x) else None
    if v is None or v.shape != () or v.dtype not in FLOATS:
        raise expected(where, "a function that returns one float scalar", type(x).__name__ if v is None else _kinds([v]), TypeError)


def _kinds(vs: Sequence[Any]) -> str:
    """Dtypes and shapes as text: f32[2, 3], i32[]."""
    return ", ".join(f"{v.dtype}{list(v.shape)}" for v in vs)


def _values(where: str, what: str, tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure of a tree that may hold arrays and numbers only."""
    leaves, spec = flatten(tree)
    for x in leaves:
        if not is_array(x) and not is_number(x):
            raise expected(where, f"{what} of arrays and numbers", repr(x), TypeError)
    return leaves, spec


def _alike(where: str, what: str, want: Any, got: Any) -> None:
    if want != got:
        raise expected(where, f"{what} of structure {shown(want)}", shown(got), TypeError)


def _argnums(where: str, argnums: Any) -> tuple[int, ...]:
    """``argnums`` as a tuple of different numbers, checked as far as is possible without the arguments."""
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    if not numbers or any(isinstance(k, bool) or not isinstance(k, int) for k in numbers):
        raise located(expected(where, "argnums an integer or a tuple of integers", repr(argnums), TypeError))
    return numbers


def _within(where: str, numbers: tuple[int, ...], n: int, got: Any) -> list[int]:
    """``numbers`` as positions among n arguments."""
    chosen = [k % n for k in numbers if -n <= k < n]
    if len(set(chosen)) != len(numbers):
        raise expected(where, f"different argnums within the {n} arguments", got)
    return chosen


# -- derivatives


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to the arguments ``argnums`` (pytrees of floats).

    With ``has_aux`` f returns (scalar, aux) and the gradient function (gradient, aux).

    >>> grad(lambda x: x * x)(np.float32(3))
    array(6., dtype=float32)
    """
    _argnums("grad", argnums)
    return transformed(f, ("grad", argnums, has_aux), lambda: _gradient(f, argnums, has_aux, False))


def value_and_grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The value of a scalar function and its gradient: (value, gradient), or ((value, aux), gradient) with ``has_aux``."""
    _argnums("value_and_grad", argnums)
    return transformed(f, ("value_and_grad", argnums, has_aux), lambda: _gradient(f, argnums, has_aux, True))


def _gradient(f: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool, value: bool) -> Callable[..., Any]:
    numbers = _argnums("grad", argnums)

    def gradient(*args: Any) -> Any:
        chosen = _within("grad", numbers, len(args), argnums)
        sizes = [optree.tree_structure(a, none_is_leaf=True).num_leaves for a in args]
        starts = [sum(sizes[:k]) for k in range(len(args))]
        for k in chosen:
            _values("grad", f"argument {k}", args[k])
        first = [starts[k] + i for k in chosen for i in range(sizes[k])]
        inner = Inner(f, args, first)
        for k, v in zip(first, inner.args, strict=False):
            if v.dtype not in FLOATS:
                raise expected("grad", "float parameters", f"{_kinds([v])} in leaf {k}", TypeError)
        outs = inner.out_leaves
        if has_aux:
            pair = inner.out_tree.children()
            if len(pair) != 2 or inner.out_tree.type is not tuple or not pair[0].is_leaf():
                raise expected("grad", "a function that returns (scalar, aux)", shown(inner.out_tree), TypeError)
        elif not inner.out_tree.is_leaf():
            raise expected("grad", "a function that returns one scalar (or has_aux=True)", shown(inner.out_tree), TypeError)
        _scalar("grad", outs[0], inner.trace)
        dynamic = [k for k, x in enumerate(outs) if is_array(x) or k == 0]
        p = inner.close([outs[k] for k in dynamic])
        n = len(first)
        keep = value or has_aux
        body = differentiate.gradient(p, n, keep)
        at = len(dynamic) if keep else 0
        t = inner.outer
        results = _tracers(t, structure.call(t.graph, structure.Call(body, n, at), tuple(inner.args)))
        grads = iter(results[at:])
        trees = [optree.tree_structure(args[k], none_is_leaf=True) for k in chosen]
        gs = tuple(optree.tree_unflatten(s, [next(grads) for _ in range(s.num_leaves)]) for s in trees)
        g = gs if isinstance(argnums, tuple) else gs[0]
        if not keep:
            return g
        full = list(outs)
        for k, x in zip(dynamic, results, strict=False):
            full[k] = x
        out = optree.tree_unflatten(inner.out_tree, full)
        return (out, g) if value else (g, out[1])

    return gradient


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*primals) and its derivative in the direction of the tangents (trees like the primals), by forward mode.

    >>> jvp(lambda x: x * x, (np.float32(3),), (np.float32(1),))
    (array(9., dtype=float32), array(6., dtype=float32))
    """

    def pushed(primals: Any, tangents: Any) -> Any:
        xs, tree = _values("jvp", "primals", primals)
        leaves, spec = _values("jvp", "tangents", tangents)
        n = len(xs)
        _alike("jvp", "tangents", tree, spec)
        inner = Inner(f, tuple(primals), range(n))
        ts = [inner.outer.lift(x) for x in leaves]
        if _kinds(ts) != _kinds(inner.args[:n]):
            raise expected("jvp", f"tangents like the primals, {_kinds(inner.args[:n])}", _kinds(ts))
        p = inner.close(inner.out_leaves)
        active = tuple(k < n and v.dtype in FLOATS for k, v in enumerate(p.inputs))
        body = differentiate.jvp(p, active)
        on = [t for t, a in zip(ts, active, strict=False) if a]
        g = inner.outer.graph
        outs = structure.call(g, structure.Call(body), (*inner.args, *on))
        m = len(p.outputs)
        rest = iter(outs[m:])
        touts = [next(rest) if v.dtype in FLOATS else g.const(0, v.shape, v.dtype) for v in p.outputs]
        value, tangent = (optree.tree_unflatten(inner.out_tree, _tracers(inner.outer, vs)) for vs in (outs[:m], touts))
        return value, tangent

    for name, x in (("primals", primals), ("tangents", tangents)):
        if not isinstance(x, tuple | list):
            raise located(expected("jvp", f"{name} as a tuple, one for each argument", type(x).__name__, TypeError))
    return transformed(f, ("jvp",), lambda: pushed)(tuple(primals), tuple(tangents))


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], Any]]:
    """f(*primals) and a function from a cotangent of its result to the tuple of cotangents of the primals."""

    def pulled(primals: Any, cotangent: Any) -> Any:
        n = len(_values("vjp", "primals", primals)[0])
        leaves, spec = _values("vjp", "a cotangent", cotangent)
        inner = Inner(f, tuple(primals), range(n))
        p = inner.close(inner.out_leaves)
        _alike("vjp", "a cotangent", inner.out_tree, spec)
        cts = [inner.outer.lift(x) for x in leaves]
        if _kinds(cts) != _kinds(p.outputs):
            raise expected("vjp", f"a cotangent like the result, {_kinds(p.outputs)}", _kinds(cts))
        active = tuple(k < n and v.dtype in FLOATS for k, v in enumerate(p.inputs))
        given = tuple(v.dtype in FLOATS for v in p.outputs)
        body = differentiate.vjp(p, active, given)
        g = inner.outer.graph
        outs = iter(structure.call(g, structure.Call(body), (*inner.args, *(c for c, on in zip(cts, given, strict=True) if on))))
        full = [next(outs) if active[k] else g.const(0, v.shape, v.dtype) for k, v in enumerate(p.inputs[:n])]
        return optree.tree_unflatten(optree.tree_structure(primals, none_is_leaf=True), _tracers(inner.outer, full))

    back = transformed(f, ("vjp",), lambda: pulled)
    return jit(f)(*primals), lambda cotangent: back(primals, cotangent)


def hvp(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function ``(*args, v)`` that gives the Hessian of scalar f with respect to argument ``argnums``, times v.

    >>> hvp(lambda x: (x * x * x).sum())(np.array([1., 2.], np.float32), np.array([1., 0.], np.float32))
    array([6., 0.], dtype=float32)
    """

    numbers = _argnums("hvp", argnums)
    if len(numbers) != 1:
        raise located(expected("hvp", "one of argnums", argnums))

    def product(*args: Any) -> Any:
        if len(args) < 2:
            raise expected("hvp", "the arguments of the function and a vector", f"{len(args)} arguments", TypeError)
        *rest, v = args
        (at,) = _within("hvp", numbers, len(rest), argnums)

        def gradient(x: Any) -> Any:
            return grad(f, at)(*rest[:at], x, *rest[at + 1 :])

        return jvp(gradient, (rest[at],), (v,))[1]

    return transformed(f, ("hvp", argnums), lambda: product)


# -- loops


def scan(step: Callable[..., Any], init: Any, xs: Any = None, length: int | None = None) -> tuple[Any, Any]:
    """``carry, y = step(carry, x)`` for each slice x of the leading axis of ``xs``; returns (last carry, stacked ys).

    The loop stays a loop: memory of its derivative grows with the carry only.  ``length`` is needed when xs is None.  The carry is
    a tree of arrays and numbers, or None in places.

    >>> scan(lambda c, x: (c + x, c), np.float32(0), np.arange(3, dtype=np.float32))
    (array(3., dtype=float32), array([0., 0., 1.], dtype=float32))
    """

    if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0):
        raise located(expected("scan", "length a whole number of at least 0, known while tracing", repr(length), TypeError))

    def run(init: Any, xs: Any) -> Any:
        if any(x is None for x in flatten(init)[0]):
            return _scan_around_none(step, init, xs, length)
        _values("scan", "a carry", init)
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
            raise expected("scan", "a step that returns (carry, y)", shown(inner.out_tree), TypeError)
        _alike("scan", "a carry", carry_tree, pair[0])
        ys = [k for k in range(c, len(inner.out_leaves)) if inner.out_leaves[k] is not None]
        p = inner.close([*inner.out_leaves[:c], *[inner.out_leaves[k] for k in ys]])
        if _kinds(p.outputs[:c]) != _kinds(p.inputs[:c]):
            raise expected("scan", f"a carry of {_kinds(p.inputs[:c])}", _kinds(p.outputs[:c]), TypeError)
        spec = structure.Loop(_reordered(p, c, len(sliced)), len(p.inputs) - c - len(sliced), c, len(sliced), len(ys), 0, n)
        k = c + len(sliced)
        args = (*inner.args[k:], *inner.args[:c], *inner.args[c:k])
        outs = _tracers(outer, structure.loop(outer.graph, spec, args))
        full = list(inner.out_leaves)
        full[:c] = outs[:c]
        for k, x in zip(ys, outs[c:], strict=True):
            full[k] = x
        return optree.tree_unflatten(inner.out_tree, full)

    if running.trace is not None:
        return run(init, xs)
    return transformed(step, ("scan", length), lambda: run)(init, xs)


def _scan_around_none(step: Callable[..., Any], init: Any, xs: Any, length: int | None) -> tuple[Any, Any]:
    """A scan whose carry has None in places, by one over the rest of the carry."""
    leaves, tree = flatten(init)
    there = [x is not None for x in leaves]

    def whole(carry: Any) -> Any:
        rest = iter(carry)
        return optree.tree_unflatten(tree, [next(rest) if on else None for on in there])

    def inner(carry: Any, x: Any) -> Any:
        result = step(whole(carry), x)
        if type(result) is not tuple or len(result) != 2:
            raise expected("scan", "a step that returns (carry, y)", type(result).__name__, TypeError)
        values, got = flatten(result[0])
        _alike("scan", "a carry", tree, got)
        if [v is not None for v in values] != there:
            raise expected("scan", "a carry with None where it had None", "one with None elsewhere", TypeError)
        return tuple([v for v in values if v is not None]), result[1]

    last, ys = scan(inner, tuple([x for x in leaves if x is not None]), xs, length)
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
        reduce: None (results keep a leading task axis), "mean" or "sum" over tasks, a prefix of the result; floats only.
            Integer results under "mean" or "sum" are an error.

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

    def mapped(*args: Any) -> Any:
        leaves, _ = flatten(args)
        axes = prefix("map_tasks in_axes", in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args), args)
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
        inner = Inner(f, args, (), cut)
        rules = prefix("map_tasks reduce", reduce, optree.tree_unflatten(inner.out_tree, inner.out_leaves))
        dynamic = [k for k, x in enumerate(inner.out_leaves) if is_array(x) or is_number(x)]
        order = [k for k in dynamic if rules[k] is None] + [k for k in dynamic if rules[k] is not None]
        p = inner.close([inner.out_leaves[k] for k in order])
        stacked = sum(rules[k] is None for k in order)
        for k, v in zip(order, p.outputs, strict=True):
            if rules[k] is not None and v.dtype not in FLOATS:
                raise expected("map_tasks", f"floats to {rules[k]}", f"{v.dtype}{list(v.shape)}", TypeError)
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
    return [a == 0 for a in prefix("map_tasks in_axes", in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args), args)]


def _hashable(tree: Any) -> Any:
    leaves, spec = flatten(tree)
    return tuple(leaves), spec


# -- compiling


SAME_ARGUMENTS = ("jit", "grad", "value_and_grad", "map_tasks")  # transforms whose functions take the arguments of the user's


def jit(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, compiled for each combination of shapes, dtypes and tree structure that it meets."""
    return transformed(f, ("jit",), lambda: f)


def transformed(f: Callable[..., Any], key: Any, make: Callable[[], Callable[..., Any]], tasks: Any = None) -> Compiled:
    """The compiled transform of f, made once per function and options: it lives as long as f does."""
    if not callable(f):
        raise located(expected(key[0], "a function", type(f).__name__, TypeError))
    try:
        cache = f.__dict__.setdefault("__fastmeta__", (f, {}))
    except AttributeError:
        return Compiled(make(), tasks, f, key[0] in SAME_ARGUMENTS)
    if cache[0] is not f:  # functools.wraps copied another function's cache
        cache = f.__dict__["__fastmeta__"] = (f, {})
    done = cache[1].get(key)
    if done is None:
        done = cache[1][key] = Compiled(make(), tasks, f, key[0] in SAME_ARGUMENTS)
    return done


class Compiled:
    """A function that runs as a compiled program outside traces and joins the running trace inside one."""

    def __init__(self, f: Callable[..., Any], tasks: Any, source: Any, same_arguments: bool) -> None:
        if same_arguments:
            self.__wrapped__ = source  # where inspect.signature looks
        self.f = f
        self.tasks = tasks
        self.cache: dict[Any, Entry] = {}
        self.last: Entry | None = None
        self.__name__ = getattr(source, "__name__", "function")
        self.__doc__ = getattr(source, "__doc__", None)

    def __call__(self, *args: Any, **named: Any) -> Any:
        if named:
            args = self._positional(args, named)
        try:
            if running.trace is not None:
                return self.f(*args)
            leaves, tree = flatten(args)
            last = self.last
            if last is not None and last.tree == tree and last.backend == backends.state.name:
                out = last.run(leaves)
                if out is not None:
                    return out
            entry, values = self._lookup(args, leaves, tree)
            return entry.run(values, checked=True)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    def _positional(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments given by name in their places: there they are what they would have been without names."""
        if not hasattr(self, "__wrapped__"):
            raise located(expected(self.__name__, "arguments by position", f"{', '.join(named)} by name", TypeError))
        bound = inspect.signature(self).bind(*args, **named)
        bound.apply_defaults()
        if bound.kwargs:
            raise located(expected(self.__name__, "arguments that may be given by position", f"{', '.join(bound.kwargs)} by name only", TypeError))
        return bound.args

    def entry(self, *args: Any) -> tuple[Entry, list[Any]]:
        """The compiled program for these arguments, and the arguments as it takes them."""
        leaves, tree = flatten(args)
        try:
            return self._lookup(args, leaves, tree)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise located(error) from error.__cause__

    def _lookup(self, args: tuple[Any, ...], leaves: list[Any], tree: Any) -> tuple[Entry, list[Any]]:
        check_places(leaves, backends.chosen())
        wide = any((device_dtype(x) if on_device(x) else getattr(x, "dtype", None)) == np.float64 for x in leaves)
        values: list[Any] = []
        kinds: list[Any] = []
        mapped = self.tasks(args) if self.tasks else [False] * len(leaves)
        for x, on in zip(leaves, mapped, strict=True):
            if is_array(x) or is_number(x):
                if on_device(x):
                    a, dtype = x, device_dtype(x)
                else:
                    a = np.asarray(x) if wide and type(x) is float else as_array(x)
                    a, dtype = np.require(a, requirements=["C", "A"]), a.dtype
                values.append(a)
                if on and a.shape:
                    if a.shape[0] == 0:
                        raise expected("map_tasks", "at least one task", 0)
                    kinds.append(((-1, *a.shape[1:]), NAMES[dtype]))
                else:
                    kinds.append((tuple(a.shape), NAMES[dtype]))
            else:
                values.append(x)
                try:
                    hash(x)
                except TypeError:
                    raise expected("jit", "arrays, numbers and options that hash", type(x).__name__, TypeError) from None
                kinds.append(("static", x))
        if self.tasks:
            n = {a.shape[0] for a, on in zip(values, mapped, strict=True) if on and getattr(a, "shape", None)}
            if len(n) > 1:
                raise expected("map_tasks", "one number of tasks in all mapped arguments", sorted(n))
        key = (tree, tuple(kinds), backends.chosen())
        entry = self.cache.get(key)
        if entry is None:
            entry = self.cache[key] = Entry(self.f, tree, kinds)
        self.last = entry
        return entry, values

    def program(self, *args: Any) -> Program:
        """The program for these arguments, before planning: prints as text."""
        return self.entry(*args)[0].program


class Entry:
    """One compiled program: from flat arguments to results."""

    __slots__ = ("tree", "backend", "program", "executable", "footprint", "hidden", "loose", "per_task", "out_tree", "fixed", "slots", "dynamic", "mapped", "statics")

    def __init__(self, f: Callable[..., Any], tree: Any, kinds: list[Any]) -> None:
        self.tree = tree
        self.backend = backends.chosen()
        self.dynamic = [k for k, kind in enumerate(kinds) if kind[0] != "static"]
        statics = {k: kind[1] for k, kind in enumerate(kinds) if kind[0] == "static"}
        self.statics = list(statics.items())

        def flat(*tracers: Tracer) -> Any:
            full = dict(statics)
            full.update(zip(self.dynamic, tracers, strict=True))
            return f(*optree.tree_unflatten(tree, [full[k] for k in range(len(kinds))]))

        args, out, t = trace(flat, [kinds[k] for k in self.dynamic])
        leaves, self.out_tree = flatten(out)
        self.slots = [k for k, x in enumerate(leaves) if is_array(x) or is_number(x)]
        self.fixed = None if len(self.slots) == len(leaves) else leaves
        self.program = close(t, args, [leaves[k] for k in self.slots])
        self.hidden = t.captured
        self.mapped = next((i for i, k in enumerate(self.dynamic) if kinds[k][0][:1] == (-1,)), None)
        self.loose = any(isinstance(h, np.ndarray) and not (h.flags.c_contiguous and h.flags.aligned) for h in t.captured)
        self.per_task = [h for h in t.captured if isinstance(h, PerTask)]
        self.executable, self.footprint = backends.load(self.program)

    def tasks(self, values: list[Any]) -> int:
        """The number of tasks of checked arguments; 1 for a function without a task axis."""
        return 1 if self.mapped is None else len(values[self.dynamic[self.mapped]])

    def run(self, leaves: list[Any], checked: bool = False) -> Any:
        arrays = leaves
        if self.statics:
            if any(type(leaves[k]) is not type(x) or leaves[k] != x for k, x in self.statics):
                return None
            arrays = [leaves[k] for k in self.dynamic]
        if self.hidden:
            hidden = self.hidden
            if self.loose:  # by reference all the same: copied anew at every call
                hidden = [np.require(h, requirements=["C", "A"]) if isinstance(h, np.ndarray) else h for h in hidden]
            if self.per_task:
                assert self.mapped is not None  # tasks come from there
                try:
                    n = arrays[self.mapped].shape[0]
                except (AttributeError, IndexError):
                    return None
                if n == 0:
                    return None
                arrays = [*arrays, *[h.at(n) if isinstance(h, PerTask) else h for h in hidden]]
            else:
                arrays = [*arrays, *hidden]
        outs = self.executable(arrays)
        if outs is None:
            if checked:
                raise AssertionError("[compile] the program does not fit the arguments it was made for")
            return None
        if self.fixed is not None:
            full = list(self.fixed)
            for k, x in zip(self.slots, outs, strict=True):
                full[k] = x
            outs = full
        return self.out_tree.unflatten(outs)
