"""The oracle: walks a program equation by equation with NumPy, in order, without a plan.  Slow, obvious, the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta.errors import bad_index
from fastmeta.ops.index import BadIndex
from fastmeta.ops.structure import CALL, LOOP, PROJECT, Loop
from fastmeta.program import DTYPES, Program, Var


def evaluate(p: Program, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of ``p`` on ``args``; IndexError names the operation, the task and the user's line of a bad index."""
    at: list[Var] = []
    try:
        return [np.array(x) for x in _run(p, args, at, True)]  # copies: results own their memory
    except BadIndex as bad:
        raise bad_index(at[0].op.name, bad.index, bad.bound, bad.task, at[0].line) from None


def _run(p: Program, args: Sequence[np.ndarray], at: list[Var], top: bool) -> list[np.ndarray]:
    """``top``: not inside a loop.  ``at`` gets the equation of a bad index."""
    env: list[Any] = [None] * len(p.nodes)
    for v, a in zip(p.inputs, args, strict=True):
        env[v.id] = np.asarray(a, DTYPES[v.dtype])
    with np.errstate(all="ignore"):
        for v in p.live():
            if env[v.id] is not None:
                continue
            ins = [env[i.id] for i in v.ins]
            if v.op is PROJECT:
                env[v.id] = ins[0][v.attrs[0]]
            elif v.op is CALL:
                env[v.id] = _run(v.attrs[0].body, ins, at, top)
            elif v.op is LOOP:
                env[v.id] = _loop(v.attrs[0], ins, at, top)
            else:
                try:
                    env[v.id] = np.asarray(v.op.evaluate(*ins, *v.attrs), DTYPES[v.dtype])
                except BadIndex:
                    at.append(v)
                    raise
    return [env[v.id] for v in p.outputs]


def _loop(s: Loop, args: list[np.ndarray], at: list[Var], top: bool) -> list[np.ndarray]:
    n, m = s.invariant, s.invariant + s.carry
    length = s.length if s.length >= 0 else len(args[m])
    carry = args[n:m]
    stacked: list[list[np.ndarray]] = [[] for _ in range(s.stacked)]
    zero = [np.zeros(v.shape, DTYPES[v.dtype]) for v in s.body.outputs[s.carry :]]
    summed = zero[s.stacked :]
    for i in reversed(range(length)) if s.reverse else range(length):
        try:
            out = _run(s.body, [*args[:n], *carry, *[x[i] for x in args[m:]]], at, False)
        except BadIndex as bad:
            if top and s.carry == 0:  # the iterations of such a loop are tasks
                bad.task = i
            raise
        carry = out[: s.carry]
        for rows, x in zip(stacked, out[s.carry :], strict=False):
            rows.append(x)
        summed = [np.asarray(a + x) for a, x in zip(summed, out[s.carry + s.stacked :], strict=True)]
    rows_ = [np.stack(r[::-1] if s.reverse else r) if r else np.zeros((0, *z.shape), z.dtype) for r, z in zip(stacked, zero, strict=False)]
    return [*carry, *rows_, *summed]
