"""Gradients, Jacobian products and Hessian-vector products of users' functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree

from fastmeta.compile import jit, transformed
from fastmeta.errors import expected
from fastmeta.inner import Inner, alike, kinds, scalar, tracers, values
from fastmeta.ops import structure
from fastmeta.program import FLOATS
from fastmeta.trace import located
from fastmeta.transforms import differentiate
from fastmeta.tree import is_array, shown


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function with respect to the arguments ``argnums`` (pytrees of floats, in which None stays None).

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
        parameters = {k: values("grad", f"argument {k}", args[k], none=True) for k in chosen}
        first = [starts[k] + i for k in chosen for i, x in enumerate(parameters[k][0]) if x is not None]
        inner = Inner(f, args, first)
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


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*primals) and its derivative in the direction of the tangents (trees like the primals), by forward mode.

    >>> jvp(lambda x: x * x, (np.float32(3),), (np.float32(1),))
    (array(9., dtype=float32), array(6., dtype=float32))
    """

    def pushed(primals: Any, tangents: Any) -> Any:
        xs, tree = values("jvp", "primals", primals)
        leaves, spec = values("jvp", "tangents", tangents)
        n = len(xs)
        alike("jvp", "tangents", tree, spec)
        inner = Inner(f, tuple(primals), range(n))
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
        return value, tangent

    for name, x in (("primals", primals), ("tangents", tangents)):
        if not isinstance(x, tuple | list):
            raise located(expected("jvp", f"{name} as a tuple, one for each argument", type(x).__name__, TypeError))
    return transformed(f, ("jvp",), lambda: pushed)(tuple(primals), tuple(tangents))


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], Any]]:
    """f(*primals) and a function from a cotangent of its result to the tuple of cotangents of the primals."""

    def pulled(primals: Any, cotangent: Any) -> Any:
        n = len(values("vjp", "primals", primals)[0])
        leaves, spec = values("vjp", "a cotangent", cotangent)
        inner = Inner(f, tuple(primals), range(n))
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
