"""Calls that have a kernel: one operation that computes what their body does."""

from __future__ import annotations

from typing import Any

from fastmeta.ops.structure import CALL, LOOP, call, loop, rebuilt
from fastmeta.program import Graph, Program, Var


def has_kernels(p: Program) -> bool:
    """Whether there are such calls in the program, at any depth."""
    done: bool | None = p.memo.get("has kernels")
    if done is None:
        specs = [(v.op, v.attrs[0]) for v in p.live() if v.op is CALL or v.op is LOOP]
        done = p.memo["has kernels"] = any(op is CALL and spec.kernel or has_kernels(spec.body) for op, spec in specs)
    return done


def unfused(p: Program) -> Program:
    """The program with the bodies of such calls only, for backends that have no kernels."""
    done = p.memo.get("unfused")
    if done is None:
        done = p.memo["unfused"] = _unfused(p) if any(v.op is CALL or v.op is LOOP for v in p.live()) else p
    return done


def _unfused(p: Program) -> Program:
    def visit(g: Graph, v: Var, ins: tuple[Any, ...], env: list[Any]) -> Any:
        if v.op is not CALL and v.op is not LOOP:
            return None
        spec = v.attrs[0]
        body = unfused(spec.body)
        return call(g, spec._replace(body=body, kernel=None), ins) if v.op is CALL else loop(g, spec._replace(body=body), ins)

    return rebuilt(p, visit)
