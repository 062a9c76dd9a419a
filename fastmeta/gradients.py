"""Gradients, Jacobian products and Hessian-vector products of users' functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optree

from fastmeta.array import eye, moveaxis, reshape
from fastmeta.compile import jit, transformed
from fastmeta.errors import expected
from fastmeta.inner import Inner, alike, kinds, scalar, tracers, values
from fastmeta.loops import map_tasks
from fastmeta.ops import structure
from fastmeta.program import DTYPES, FLOATS
from fastmeta.trace import current, located
from fastmeta.transforms import differentiate
from fastmeta.tree import flatten, is_array, shown


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to the arguments ``argnums`` (pytrees of floats, in which None stays None).

    With ``has_aux`` f returns (scalar, aux) and the gradient function (gradient, aux).
    Errors: TypeError for a result that is not one float scalar, and for arguments ``argnums`` that are not floats; ValueError for
    ``argnums`` beyond the arguments.

    >>> grad(lambda x: x * x)(np.float32(3))
    array(6., dtype=float32)
    """
    _argnums("grad", argnums)
    return transformed(f, ("grad", argnums, has_aux), lambda: _gradient(f, argnums, has_aux, False))


def value_and_grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The value of a scalar function and its gradient: (value, gradient), or ((value, aux), gradient) with ``has_aux``.

    Errors: those of `grad`.

    >>> value_and_grad(lambda p, x: ((p * x).sum(), {"p": p}), has_aux=True)(np.float64(2), np.ones(3))
    ((array(6.), {'p': array(2.)}), array(3.))
    """
    _argnums("value_and_grad", argnums)
    return transformed(f, ("value_and_grad", argnums, has_aux), lambda: _gradient(f, argnums, has_aux, True))


def _gradient(f: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool, value: bool) -> Callable[..., Any]:
    numbers = _argnums("grad", argnums)

    def gradient(*args: Any, **named: Any) -> Any:
        chosen = _within("grad", numbers, len(args), argnums)
        sizes = [optree.tree_structure(a, none_is_leaf=True).num_leaves for a in args]
        starts = [sum(sizes[:k]) for k in range(len(args))]
        parameters = {k: values("grad", f"argument {k}", args[k], none=True) for k in chosen}
        first = [starts[k] + i for k in chosen for i, x in enumerate(parameters[k][0]) if x is not None]
        inner = Inner(partial(f, **named), args, first)
        for k, v in zip(first, inner.args, strict=False):
            if v.dtype not in FLOATS:
                raise expected("grad", "float parameters", f"{kinds([v])} in leaf {k}", TypeError)
        outs = inner.out_leaves
        if has_aux:
            pair = inner.out_tree.children()
            if len(pair) != 2 or inner.out_tree.type is not tuple or not pair[0].is_leaf():
                raise expected("grad", "a function that returns (scalar, aux)", shown(inner.out_tree), TypeError)
        elif not inner.out_tree.is_leaf():
            raise expected("grad", "a function that returns one scalar (or has_aux=True)", shown(inner.out_tree), TypeError)
        scalar("grad", outs[0], inner.trace)
        dynamic = [k for k, x in enumerate(outs) if is_array(x) or k == 0]
        p = inner.close([outs[k] for k in dynamic])
        n = len(first)
        keep = value or has_aux
        body = differentiate.gradient(p, n, keep)
        at = len(dynamic) if keep else 0
        t = inner.outer
        results = tracers(t, structure.call(t.graph, structure.Call(body, n, at), tuple(inner.args)))
        grads = iter(results[at:])
        gs = tuple(optree.tree_unflatten(s, [None if x is None else next(grads) for x in xs]) for xs, s in (parameters[k] for k in chosen))
        g = gs if isinstance(argnums, tuple) else gs[0]
        if not keep:
            return g
        full = list(outs)
        for k, x in zip(dynamic, results, strict=False):
            full[k] = x
        out = optree.tree_unflatten(inner.out_tree, full)
        return (out, g) if value else (g, out[1])

    return gradient


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> tuple[Any, ...]:
    """f(*primals) and its derivative in the direction of the tangents (trees like the primals), by forward mode.

    With ``has_aux`` f returns (result, aux of arrays), and this (result, derivative, aux).
    Errors: TypeError for primals or tangents that are no tuples, or of different structure; ValueError for tangents of other
    shapes or dtypes than the primals.

    >>> jvp(lambda x: x * x, (np.float32(3),), (np.float32(1),))
    (array(9., dtype=float32), array(6., dtype=float32))
    """

    def pushed(primals: Any, tangents: Any) -> Any:
        xs, tree = values("jvp", "primals", primals)
        leaves, spec = values("jvp", "tangents", tangents)
        n = len(xs)
        alike("jvp", "tangents", tree, spec)
        inner = Inner(_paired("jvp", f) if has_aux else f, tuple(primals), range(n))
        ts = [inner.outer.lift(x) for x in leaves]
        if kinds(ts) != kinds(inner.args[:n]):
            raise expected("jvp", f"tangents like the primals, {kinds(inner.args[:n])}", kinds(ts))
        p = inner.close(inner.out_leaves)
        active = tuple(k < n and v.dtype in FLOATS for k, v in enumerate(p.inputs))
        body = differentiate.jvp(p, active)
        on = [t for t, a in zip(ts, active, strict=False) if a]
        g = inner.outer.graph
        outs = structure.call(g, structure.Call(body), (*inner.args, *on))
        m = len(p.outputs)
        rest = iter(outs[m:])
        touts = [next(rest) if v.dtype in FLOATS else g.const(0, v.shape, v.dtype) for v in p.outputs]
        value, tangent = (optree.tree_unflatten(inner.out_tree, tracers(inner.outer, vs)) for vs in (outs[:m], touts))
        return (value[0], tangent[0], value[1]) if has_aux else (value, tangent)

    for name, x in (("primals", primals), ("tangents", tangents)):
        if not isinstance(x, tuple | list):
            raise located(expected("jvp", f"{name} as a tuple, one for each argument", type(x).__name__, TypeError))
    return transformed(f, ("jvp", has_aux), lambda: pushed)(tuple(primals), tuple(tangents))


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """f(*primals) and a function from a cotangent of its result to the tuple of cotangents of the primals.

    With ``has_aux`` f returns (result, aux), and this (result, function, aux).

    Errors: TypeError for a cotangent of another structure than the result; ValueError for one of other shapes or dtypes.

    >>> y, pull = vjp(lambda x, w: x * w, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    >>> y, pull(np.array([1.0, 0.0]))
    (array([3., 8.]), (array([3., 0.]), array([1., 0.])))
    """
    result = (lambda *args: _paired("vjp", f)(*args)[0]) if has_aux else f

    def pulled(primals: Any, cotangent: Any) -> Any:
        n = len(values("vjp", "primals", primals)[0])
        leaves, spec = values("vjp", "a cotangent", cotangent)
        inner = Inner(result, tuple(primals), range(n))
        p = inner.close(inner.out_leaves)
        alike("vjp", "a cotangent", inner.out_tree, spec)
        cts = [inner.outer.lift(x) for x in leaves]
        if kinds(cts) != kinds(p.outputs):
            raise expected("vjp", f"a cotangent like the result, {kinds(p.outputs)}", kinds(cts))
        active = tuple(k < n and v.dtype in FLOATS for k, v in enumerate(p.inputs))
        given = tuple(v.dtype in FLOATS for v in p.outputs)
        body = differentiate.vjp(p, active, given)
        g = inner.outer.graph
        outs = iter(structure.call(g, structure.Call(body), (*inner.args, *(c for c, on in zip(cts, given, strict=True) if on))))
        full = [next(outs) if active[k] else g.const(0, v.shape, v.dtype) for k, v in enumerate(p.inputs[:n])]
        return optree.tree_unflatten(optree.tree_structure(primals, none_is_leaf=True), tracers(inner.outer, full))

    back = transformed(f, ("vjp", has_aux), lambda: pulled)

    def pull(cotangent: Any) -> Any:
        return back(primals, cotangent)

    if not has_aux:
        return jit(f)(*primals), pull
    value, aux = transformed(f, ("paired",), lambda: _paired("vjp", f))(*primals)
    return value, pull, aux


def _paired(where: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """f, which must return (result, aux)."""

    def paired(*args: Any) -> Any:
        out = f(*args)
        if type(out) is not tuple or len(out) != 2:
            raise expected(where, "a function that returns (result, aux)", type(out).__name__, TypeError)
        return out

    return paired


def hvp(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function ``(*args, v)`` that gives the Hessian of scalar f with respect to argument ``argnums``, times v.

    Errors: those of `grad` and `jvp`; ValueError for several ``argnums``.

    >>> hvp(lambda x: (x * x * x).sum())(np.array([1., 2.], np.float32), np.array([1., 0.], np.float32))
    array([6., 0.], dtype=float32)
    """

    numbers = _one_argument("hvp", argnums)

    def product(*args: Any) -> Any:
        if len(args) < 2:
            raise expected("hvp", "the arguments of the function and a vector", f"{len(args)} arguments", TypeError)
        *rest, v = args
        (at,) = _within("hvp", numbers, len(rest), argnums)

        def gradient(x: Any) -> Any:
            return grad(f, at)(*rest[:at], x, *rest[at + 1 :])

        return jvp(gradient, (rest[at],), (v,))[1]

    return transformed(f, ("hvp", argnums), lambda: product)


def jacfwd(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The Jacobian of f with respect to argument ``argnums``, a column for each of its elements: for few elements and many results.

    Of every array in the result, a tree like the argument, of arrays of shape (shape of the result, shape of the argument).
    Errors: TypeError for an argument or a result that is not of floats; ValueError for several ``argnums``.

    >>> jacfwd(lambda x: x * x)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    numbers = _one_argument("jacfwd", argnums)

    def jacobian(*args: Any, **named: Any) -> Any:
        (at,) = _within("jacfwd", numbers, len(args), argnums)
        units, tree = _units("jacfwd", args[at])

        def column(unit: list[Any]) -> Any:
            return jvp(lambda x: f(*args[:at], x, *args[at + 1 :], **named), (args[at],), (optree.tree_unflatten(tree, unit),))[1]

        def by_argument(y: Any) -> Any:
            return optree.tree_unflatten(tree, [reshape(part, (*y.shape[1:], *u.shape[1:])) for part, u in zip(_parts(moveaxis(y, 0, -1), units, -1), units, strict=True)])

        return optree.tree_map(by_argument, map_tasks(column)(units))

    return transformed(f, ("jacfwd", argnums), lambda: jacobian)


def jacrev(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The Jacobian of f as `jacfwd` has it, a row for each element of the result: for few results of many elements.

    Errors: those of `jacfwd`.

    >>> jacrev(lambda x: x.sum() * x)(np.array([1.0, 2.0]))
    array([[4., 1.],
           [2., 5.]])
    """
    numbers = _one_argument("jacrev", argnums)

    def jacobian(*args: Any, **named: Any) -> Any:
        (at,) = _within("jacrev", numbers, len(args), argnums)
        _units("jacrev", args[at])  # floats only
        units, tree = _units("jacrev", f(*args, **named))

        def row(unit: list[Any]) -> Any:
            return vjp(lambda x: f(*args[:at], x, *args[at + 1 :], **named), args[at])[1](optree.tree_unflatten(tree, unit))[0]

        rows, by_argument = flatten(map_tasks(row)(units))
        parts = [[reshape(part, (*u.shape[1:], *x.shape[1:])) for part, u in zip(_parts(x, units, 0), units, strict=True)] for x in rows]
        return optree.tree_unflatten(tree, [optree.tree_unflatten(by_argument, each) for each in zip(*parts, strict=True)])

    return transformed(f, ("jacrev", argnums), lambda: jacobian)


def hessian(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The second derivatives of a scalar function with respect to argument ``argnums``; `hvp` needs no array of all of them.

    Errors: those of `grad`; ValueError for several ``argnums``.

    >>> hessian(lambda x: (x * x * x).sum())(np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    _one_argument("hessian", argnums)
    return jacfwd(grad(f, argnums), argnums)


def _units(where: str, tree: Any) -> tuple[list[Any], Any]:
    """One after the other all trees of floats like ``tree`` with a one in one place: their leaves, stacked; and the structure."""
    leaves, spec = values(where, "arguments and results", tree)
    t = current()
    assert t is not None
    xs = [t.lift(x) for x in leaves]
    if any(x.dtype not in FLOATS for x in xs):
        raise expected(where, "float arguments and results", kinds(xs), TypeError)
    before = [sum(x.size for x in xs[:k]) for k in range(len(xs) + 1)]
    return [reshape(eye(before[-1], x.size, -before[k], DTYPES[x.dtype]), (before[-1], *x.shape)) for k, x in enumerate(xs)], spec


def _parts(x: Any, units: list[Any], axis: int) -> list[Any]:
    """x cut along its first or last axis into the elements of each leaf of `_units`."""
    sizes = [u.size // u.shape[0] for u in units]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [x[a : a + n] if axis == 0 else x[..., a : a + n] for a, n in zip(starts, sizes, strict=True)]


def _one_argument(where: str, argnums: Any) -> tuple[int, ...]:
    numbers = _argnums(where, argnums)
    if len(numbers) != 1:
        raise located(expected(where, "one of argnums", argnums))
    return numbers


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
