"""Fused forms: functions that some backends compute by one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta.compile import Inner
from fastmeta.ops.structure import Call, call
from fastmeta.program import Primitive
from fastmeta.trace import Array, Tracer


def fused(kernel: Primitive, attrs: tuple[Any, ...], f: Callable[..., Array], *args: Array) -> Array:
    """``f(*args)``, an array, which backends with a kernel for the operation compute by it.  Derivatives are those of f."""
    inner = Inner(f, args)
    p = inner.close(inner.out_leaves)
    (result,) = call(inner.outer.graph, Call(p, kernel=(kernel, attrs)), tuple(inner.args))
    return Tracer(result, inner.outer)
