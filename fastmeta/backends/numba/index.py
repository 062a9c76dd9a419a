"""Runs GATHER, SCATTER, CUMSUM, ARGREDUCE and ORDER, one element after another; strides are in bytes."""

from __future__ import annotations

from typing import Any

from fastmeta.backends.numba.kernels import kernel
from fastmeta.backends.numba.memory import load, move, store, words
from fastmeta.backends.numba.passes import F32, F64, I32
from fastmeta.backends.numba.scalars import function

# Words of a payload: dtype, o, n, j, i, a flag, then operands of 5 words: base, offset, strides over o, the middle dim, i
FIRST, SECOND, THIRD = 6, 11, 16


@function
def start(code: Any, q: int, bases: Any) -> int:
    return bases[code[q]] + code[q + 1]


@function
def record(state: Any, tag: int, index: int, bound: int) -> None:
    """Ends the task; the bad index of the first task is kept."""
    if state[1] == 0 or state[0] < state[3]:
        state[2], state[3], state[4], state[5] = tag, state[0], index, bound
    state[1] = 1
    state[6] = 1


@function
def gather(code: Any, p: int, bases: Any, state: Any, tag: int, item: int) -> None:
    """out[o, j, i] = x[o, idx[o, j, i], i]."""
    n_o, n, n_j, n_i = code[p + 1], code[p + 2], code[p + 3], code[p + 4]
    x, idx, out = p + FIRST, p + SECOND, p + THIRD
    x_at, idx_at, out_at = start(code, x, bases), start(code, idx, bases), start(code, out, bases)
    # One index for a whole row of adjacent elements: rows are moved at once.
    rows = code[idx + 4] == 0 and (n_i == 1 or (code[x + 4] == item and code[out + 4] == item))
    times, size = (1, n_i * item) if rows else (n_i, item)
    for o in range(n_o if n_i else 0):
        for j in range(n_j):
            for i in range(times):
                k = load(idx_at + o * code[idx + 2] + j * code[idx + 3] + i * code[idx + 4], 0, I32)
                if k < 0 or k >= n:
                    record(state, tag, k, n)
                    return
                to = out_at + o * code[out + 2] + j * code[out + 3] + i * code[out + 4]
                move(to, x_at + o * code[x + 2] + k * code[x + 3] + i * code[x + 4], size)


@function
def scatter(code: Any, p: int, bases: Any, state: Any, tag: int, like: Any) -> None:
    """out = 0 unless the flag says to add to it, then out[o, idx[o, j, i], i] += ct[o, j, i] in order of j."""
    n_o, n, n_j, n_i = code[p + 1], code[p + 2], code[p + 3], code[p + 4]
    ct, idx, out = p + FIRST, p + SECOND, p + THIRD
    ct_at, idx_at, out_at = start(code, ct, bases), start(code, idx, bases), start(code, out, bases)
    for o in range(0 if code[p + 5] else n_o):
        for k in range(n):
            for i in range(n_i):
                store(out_at + o * code[out + 2] + k * code[out + 3] + i * code[out + 4], 0, like)
    for o in range(n_o):
        for j in range(n_j):
            for i in range(n_i):
                k = load(idx_at + o * code[idx + 2] + j * code[idx + 3] + i * code[idx + 4], 0, I32)
                if k < 0 or k >= n:
                    record(state, tag, k, n)
                    return
                to = out_at + o * code[out + 2] + k * code[out + 3] + i * code[out + 4]
                value = load(ct_at + o * code[ct + 2] + j * code[ct + 3] + i * code[ct + 4], 0, like)
                store(to, 0, type(like)(load(to, 0, like) + value))


@function
def cumsum(code: Any, p: int, bases: Any, like: Any) -> None:
    """Sums along n, from its end where the flag says so."""
    n_o, n, n_i = code[p + 1], code[p + 2], code[p + 4]
    x, out = p + FIRST, p + SECOND
    x_at, out_at = start(code, x, bases), start(code, out, bases)
    for o in range(n_o):
        for i in range(n_i):
            s = like
            for step in range(n):
                k = n - 1 - step if code[p + 5] else step
                value = load(x_at + o * code[x + 2] + k * code[x + 3] + i * code[x + 4], 0, like)
                s = value if step == 0 else type(like)(s + value)
                store(out_at + o * code[out + 2] + k * code[out + 3] + i * code[out + 4], 0, s)


@function
def argreduce(code: Any, p: int, bases: Any, like: Any) -> None:
    """The index of the first extreme along n, the smallest where the flag says so; the first NaN wins over all."""
    n_o, n, n_i = code[p + 1], code[p + 2], code[p + 4]
    x, out = p + FIRST, p + SECOND
    x_at, out_at = start(code, x, bases), start(code, out, bases)
    for o in range(n_o):
        for i in range(n_i):
            at = x_at + o * code[x + 2] + i * code[x + 4]
            best, where = load(at, 0, like), 0
            for k in range(1, n):
                value = load(at + k * code[x + 3], 0, like)
                better = value < best if code[p + 5] else value > best
                if best == best and (better or value != value):
                    best, where = value, k
            store(out_at + o * code[out + 2] + i * code[out + 4], 0, type(I32)(where))


@function
def precedes(x: Any, y: Any, descending: int) -> bool:
    """Does x stand before y?  NaN stands last, and equal values keep their order."""
    if x != x or y != y:
        return x == x and y != y
    return x > y if descending else x < y


@function
def order(code: Any, p: int, bases: Any, like: Any) -> None:
    """The indices of the first j values of x along n in order, inserted one after another."""
    n_o, n, n_j, n_i = code[p + 1], code[p + 2], code[p + 3], code[p + 4]
    x, out = p + FIRST, p + SECOND
    x_at, out_at = start(code, x, bases), start(code, out, bases)
    step = code[out + 3]
    for o in range(n_o):
        for i in range(n_i):
            values = x_at + o * code[x + 2] + i * code[x + 4]
            indices = out_at + o * code[out + 2] + i * code[out + 4]
            count = 0
            for k in range(n if n_j else 0):
                value = load(values + k * code[x + 3], 0, like)
                at = count
                while at > 0 and precedes(value, load(values + load(indices + (at - 1) * step, 0, I32) * code[x + 3], 0, like), code[p + 5]):
                    if at < n_j:
                        store(indices + at * step, 0, load(indices + (at - 1) * step, 0, I32))
                    at -= 1
                if at < n_j:
                    store(indices + at * step, 0, type(I32)(k))
                    count = min(count + 1, n_j)


@kernel
def indexed(opcode: int, code_at: int, p: int, bases_at: int, state_at: int, tag: int) -> int:
    """The instruction 3 .. 6 or 9 whose payload is at word p."""
    code, bases, state = words(code_at), words(bases_at), words(state_at)
    dtype = code[p]
    if opcode == 3:
        gather(code, p, bases, state, tag, 8 if dtype == 1 else 1 if dtype == 3 else 4)
    elif opcode == 4:
        if dtype == 0:
            scatter(code, p, bases, state, tag, F32)
        elif dtype == 1:
            scatter(code, p, bases, state, tag, F64)
        else:
            scatter(code, p, bases, state, tag, I32)
    elif opcode == 5:
        if dtype == 0:
            cumsum(code, p, bases, F32)
        elif dtype == 1:
            cumsum(code, p, bases, F64)
        else:
            cumsum(code, p, bases, I32)
    elif opcode == 9:
        if dtype == 0:
            order(code, p, bases, F32)
        elif dtype == 1:
            order(code, p, bases, F64)
        else:
            order(code, p, bases, I32)
    elif dtype == 0:
        argreduce(code, p, bases, F32)
    elif dtype == 1:
        argreduce(code, p, bases, F64)
    else:
        argreduce(code, p, bases, I32)
    return 0
