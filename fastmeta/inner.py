"""Functions traced inside the running trace, and what their arguments and results must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from fastmeta.errors import expected
from fastmeta.program import FLOATS, Program, Var
from fastmeta.trace import Trace, Tracer, close, running, trace
from fastmeta.tree import flatten, is_array, is_number, shown


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


def tracers(t: Trace, outs: Sequence[Var]) -> list[Tracer]:
    return [Tracer(v, t) for v in outs]


def scalar(where: str, x: Any, t: Trace) -> None:
    v = t.lift(x) if is_array(x) or is_number(x) else None
    if v is None or v.shape != () or v.dtype not in FLOATS:
        raise expected(where, "a function that returns one float scalar", type(x).__name__ if v is None else kinds([v]), TypeError)


def kinds(vs: Sequence[Any]) -> str:
    """Dtypes and shapes as text: f32[2, 3], i32[]."""
    return ", ".join(f"{v.dtype}{list(v.shape)}" for v in vs)


def values(where: str, what: str, tree: Any, none: bool = False) -> tuple[list[Any], Any]:
    """Leaves and structure of a tree that may hold arrays and numbers only, and None in place of some if ``none``."""
    leaves, spec = flatten(tree)
    for x in leaves:
        if not is_array(x) and not is_number(x) and not (none and x is None):
            raise expected(where, f"{what} of arrays and numbers", repr(x), TypeError)
    return leaves, spec


def alike(where: str, what: str, want: Any, got: Any) -> None:
    if want != got:
        raise expected(where, f"{what} of structure {shown(want)}", shown(got), TypeError)
