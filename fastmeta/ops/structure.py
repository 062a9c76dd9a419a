"""Structure: calls of a program and the one loop.  Both have several results, which ``project`` picks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastmeta.errors import expected
from fastmeta.program import Graph, Primitive, Program, Shape, Var


class Kernel(NamedTuple):
    """Another way to compute a call whose body has one result, for backends that have the operations.

    ``emit(*operands)`` emits it.  ``pulls``: for each of the first operands, those whose derivatives have kernels, the
    kernel of ``(*operands, cotangent)`` for the operand's cotangent.
    """

    emit: Callable[..., Var]
    pulls: tuple[Kernel, ...] = ()


class Call(NamedTuple):
    """A call of ``body``.

    ``gradient_of`` is n > 0 when results k..k+n-1 (k = ``first``) are the gradient of one scalar with respect to the first
    n inputs: its derivative is then symmetric, and reverse mode may use the forward-mode program.
    Derivatives are the body's, also of a call that has a ``kernel``.
    """

    body: Program
    gradient_of: int = 0
    first: int = 0
    kernel: Kernel | None = None


class Loop(NamedTuple):
    """A loop over ``body``.

    Inputs of the loop and of its body, in order: *invariant*, *carry*, *sliced* (the body sees one slice of the leading
    axis).  Results of the body and of the loop, in order: *carry*, *stacked* (one per iteration), *summed*.
    ``length`` -1 is the number of tasks, known at run time only.
    """

    body: Program
    invariant: int
    carry: int
    sliced: int
    stacked: int
    summed: int
    length: int
    reverse: bool = False

    def __repr__(self) -> str:
        kinds = {k: getattr(self, k) for k in ("invariant", "carry", "sliced", "stacked", "summed")}
        return ", ".join([f"{k}={v}" for k, v in kinds.items() if v] + [f"length={self.length}"] + ["reverse"] * self.reverse)


def call(graph: Graph, spec: Call, args: tuple[Var, ...]) -> list[Var]:
    return results(graph.emit(CALL, args, (spec,)), spec.body)


def loop(graph: Graph, spec: Loop, args: tuple[Var, ...]) -> list[Var]:
    return results(graph.emit(LOOP, args, (spec,)), spec.body)


def rebuild(p: Program, visit: Callable[[Graph, Var, tuple[Any, ...], list[Any]], Any]) -> tuple[Graph, list[Any]]:
    """A copy of ``p`` as far as its outputs need it, and what each of its equations became.

    ``visit(graph, equation, its operands in the copy, what equations became so far)`` gives what takes the place of an
    equation (for a call or a loop: its results by number), or None for the equation itself.
    """
    g = Graph()
    env: list[Any] = [None] * len(p.nodes)
    for v in p.inputs:
        env[v.id] = g.input(v.shape, v.dtype)
    for v in p.live():
        if env[v.id] is not None:
            continue
        g.line = v.line
        ins = tuple([env[i.id] for i in v.ins])
        if v.op is PROJECT:
            env[v.id] = ins[0][v.attrs[0]]
            continue
        made = visit(g, v, ins, env)
        if made is None:
            made = g.emit(v.op, ins, v.attrs)
            made = results(made, v.attrs[0].body) if v.op is LOOP or v.op is CALL else made
        env[v.id] = made
    return g, env


def rebuilt(p: Program, visit: Callable[[Graph, Var, tuple[Any, ...], list[Any]], Any]) -> Program:
    """The copy as a program."""
    g, env = rebuild(p, visit)
    return Program([env[v.id] for v in p.inputs], [env[v.id] for v in p.outputs], g)


def results(v: Var, body: Program) -> list[Var]:
    return [v.graph.emit(PROJECT, (v,), (k,)) for k in range(len(body.outputs))]


def _call(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    _match("call", ins, at[0].body.inputs)
    return (), "tuple"


def _match(name: str, ins: tuple[Var, ...], formal: tuple[Var, ...]) -> None:
    got = [(x.shape, x.dtype) for x in ins]
    want = [(x.shape, x.dtype) for x in formal]
    if got != want:
        raise expected(name, want, got)


def _loop(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (s,) = at
    n = s.invariant + s.carry
    got = [(x.shape, x.dtype) for x in ins[:n]] + [(x.shape[1:], x.dtype) for x in ins[n:]]
    want = [(x.shape, x.dtype) for x in s.body.inputs]
    if got != want or any(x.shape[0] != s.length for x in ins[n:]):
        raise expected("loop", want, got)
    if [(x.shape, x.dtype) for x in s.body.outputs[: s.carry]] != want[s.invariant : n]:
        raise expected("scan", f"a carry of {want[s.invariant : n]}", [(x.shape, x.dtype) for x in s.body.outputs[: s.carry]])
    return (), "tuple"


def _project(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    spec, k = ins[0].attrs[0], at[0]
    v = spec.body.outputs[k]
    if isinstance(spec, Loop) and spec.carry <= k < spec.carry + spec.stacked:
        return (spec.length, *v.shape), v.dtype
    return v.shape, v.dtype


def _structural(*_: Any) -> Any:
    raise AssertionError("calls and loops are run by the interpreter of their program")


CALL = Primitive("call", _call, _structural)
LOOP = Primitive("loop", _loop, _structural)
PROJECT = Primitive("project", _project, _structural)
