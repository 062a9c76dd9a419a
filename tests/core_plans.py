"""Plans with loops, built by hand, that several tests of the core run."""

from __future__ import annotations

import numpy as np
from plan_tools import ACCUMULATE, GATHER, STORE, Builder, f32, phase, view


def task_loop(tasks_reverse=0):
    """sum over tasks of x_t W + (task's own output tanh(x_t W)); W is made in block 0, in shared memory."""
    b = Builder([(f32, (-1, 6, 5)), (f32, (5, 4))], [(f32, (-1, 6, 4)), (f32, (6, 4)), (np.float64, (3,))], shared=80, arena=256)
    x, w, out, total, extra = b.input(0), b.input(1), b.output(0), b.output(1), b.output(2)
    shared, arena = b.shared(), b.arena()
    b.elementwise((5, 4), [view(w, (5, 4))], [("add", f32, -1, 0, 0)], [(1, STORE, view(shared, (5, 4)))])
    inner = b.block()
    x_t, out_t = b.slice(x, 0, 120), b.slice(out, 0, 96)
    acc, acc64 = b.sum(0, 96), b.sum(128, 24)
    h = view(arena, (6, 4), offset=64)
    tanh = phase((6, 4), [h], [("tanh", f32, -1, 0)], [(1, STORE, view(out_t, (6, 4)))], rowwise=1)
    b.gemm(f32, (), 6, 4, [(5, view(x_t, (6, 5)), view(shared, (5, 4)))], h, phases=[tanh], block=inner)
    b.elementwise((6, 4), [h], [], [(0, ACCUMULATE, view(acc, (6, 4)))], block=inner)
    b.elementwise((3,), [view(x_t, (3,))], [("cast", np.float64, 0, 0, f32)], [(1, ACCUMULATE, view(acc64, (3,), np.float64))], block=inner)
    b.loop(inner, -1, parallel=1, reverse=tasks_reverse, slices=[x_t, out_t], sums=[(acc, f32, 24, total, 0), (acc64, np.float64, 3, extra, 0)])
    # after the loop, in block 0
    b.elementwise((6, 4), [view(total, (6, 4))], [("negative", f32, -1, 0)], [(1, STORE, view(total, (6, 4)))])
    return b


def scan(length, reverse, in_task):
    """carry = tanh(carry + x_k), all carries stacked; two carries take turns in the arena (or in shared memory)."""
    n = 7
    size = 4 * n
    lead = (-1,) if in_task else ()
    b = Builder([(f32, (*lead, length, n))], [(f32, (*lead, length, n)), (f32, (*lead, n))], shared=256, arena=256, consts=np.zeros(1, f32).tobytes())
    x, stacked, last = b.input(0), b.output(0), b.output(1)
    memory, outer = (b.arena(), b.block()) if in_task else (b.shared(), 0)
    if in_task:
        x_t, stacked_t, last_t = b.slice(x, 0, size * length), b.slice(stacked, 0, size * length), b.slice(last, 0, size)
        b.loop(outer, -1, parallel=1, slices=[x_t, stacked_t, last_t])
        x, stacked, last = x_t, stacked_t, last_t
    inner = b.block()
    now, following = b.carry(memory, 0, size), b.carry(memory, 64, size)
    b.elementwise((n,), [view(b.const(), ()).to((n,))], [], [(0, STORE, view(memory, (n,)))], block=outer)
    x_k, stacked_k = b.slice(x, 0, size), b.slice(stacked, 0, size)
    loads = [view(now, (n,)), view(x_k, (n,))]
    b.elementwise((n,), loads, [("add", f32, 0, 0, 1), ("tanh", f32, -1, 2)], [(3, STORE, view(following, (n,))), (3, STORE, view(stacked_k, (n,)))], block=inner)
    b.loop(inner, length, reverse=reverse, slices=[x_k, stacked_k], swaps=[(now, following)], block=outer)
    b.elementwise((n,), [view(memory, (n,), offset=64 * (length % 2))], [], [(0, STORE, view(last, (n,)))], block=outer)
    return b


def gather_loop():
    """Each task gathers three of its four numbers; GATHER has tag 77."""
    b = Builder([(f32, (-1, 4)), (np.int32, (-1, 3))], [(f32, (-1, 3))])
    x, index, out, inner = b.input(0), b.input(1), b.output(0), b.block()
    x_t, index_t, out_t = b.slice(x, 0, 16), b.slice(index, 0, 12), b.slice(out, 0, 12)
    words = [0, 1, 4, 3, 1, *view(x_t, (1, 4, 1)).words, *view(index_t, (1, 3, 1), np.int32).words, *view(out_t, (1, 3, 1)).words]
    b.emit(GATHER, words, block=inner, tag=77)
    b.loop(inner, -1, parallel=1, slices=[x_t, index_t, out_t])
    return b.plan()
