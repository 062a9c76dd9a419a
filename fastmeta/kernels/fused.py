"""Fused forms: functions that some backends compute by one kernel."""

from __future__ import annotations

from collections.abc import Callable

from fastmeta.inner import Inner
from fastmeta.ops.structure import Call, Kernel, call
from fastmeta.trace import Array, Tracer


def fused(kernel: Kernel, f: Callable[..., Array], *args: Array) -> Array:
    """``f(*args)``, an array, which some backends compute by the kernel.  Derivatives are those of f."""
    inner = Inner(f, args)
    p = inner.close(inner.out_leaves)
    (result,) = call(inner.outer.graph, Call(p, kernel=kernel), tuple(inner.args))
    return Tracer(result, inner.outer)
