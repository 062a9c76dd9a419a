"""The interpreter: one compiled function that runs the instructions of a plan.

A program is one int64 array.  An instruction is [opcode, word of the next, tag, cost, payload..], a block ends with
opcode 0.  A worker has its own `bases` (an address per base), `at` (an address per slot of a phase), scratch, and `state`:

    0 task, 1 whether a bad index was met, 2..5 its tag, task, index and bound, 6 whether the task has failed,
    7 patience until the next poll, 8 the address of the poll function (0: nothing to ask), 9.. the stack of loops

`shared` is seen by all workers of a call: 0 the next group of tasks, 1 whether to stop.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from fastmeta.backends.numba.kernels import (
    CONVOLUTION,
    ELEMENTWISE_F32,
    INDEXED,
    NAMES,
    OPTIONS,
    PHASE,
    PRODUCT,
    digest,
)
from fastmeta.backends.numba.memory import call, clear, fetch_add, move, words
from fastmeta.backends.numba.scalars import function
from fastmeta.ops.microops import NUMBER

ADD = NUMBER["add"]
START = len(NAMES)  # word of a program's first instruction: before it stand the kernels' addresses
END, PASS, GEMM, GATHER, SCATTER, CUMSUM, ARGREDUCE, LOOP, CONV, ORDER = range(10)
PATIENCE = 1 << 24  # elementary operations between two polls: some milliseconds
STATE_WORDS, STACK = 128, 9
HEAD = 4  # words before a payload


# -- loops: block, length, parallel, reverse, slices, swaps, sums, bytes of the sums, then
#    slices [base, parent, offset, step], swaps [base, parent, offset, base, parent, offset],
#    sums [base, offset, bytes, dtype, target base, target offset]


@function
def set_slices(code: Any, p: int, bases: Any, k: int, length: int) -> None:
    index = length - 1 - k if code[p + 3] else k
    q = p + 8
    for _ in range(code[p + 4]):
        bases[code[q]] = bases[code[q + 1]] + code[q + 2] + index * code[q + 3]
        q += 4


@function
def start_carries(code: Any, p: int, bases: Any) -> None:
    q = p + 8 + 4 * code[p + 4]
    for _ in range(2 * code[p + 5]):
        bases[code[q]] = bases[code[q + 1]] + code[q + 2]
        q += 3


@function
def swap_carries(code: Any, p: int, bases: Any) -> None:
    q = p + 8 + 4 * code[p + 4]
    for _ in range(code[p + 5]):
        x, y = code[q], code[q + 3]
        bases[x], bases[y] = bases[y], bases[x]
        q += 6


@function
def stopped(state: Any, shared: Any, cost: int) -> bool:
    """Is the task or the call to end?  Polls now and then."""
    state[7] -= cost
    if state[7] <= 0:
        state[7] = PATIENCE
        if state[8] != 0 and call(state[8], ()) != 0:
            shared[1] = 1
    return state[6] != 0 or shared[1] != 0


@function
def run_block(code_at: int, pc: int, bases_at: int, slots_at: int, state_at: int, shared_at: int, scratch: int) -> int:
    """Runs from an instruction on to the end of its block; stops before a parallel loop and gives its place, else -1."""
    code, bases, state, shared = words(code_at), words(bases_at), words(state_at), words(shared_at)
    depth = STACK  # of frames [the loop's place, its iteration]
    while True:
        opcode, p = code[pc], pc + HEAD
        if opcode == PASS:
            q = p + 1
            for _ in range(code[p]):
                call(code[PHASE], (code_at, q, bases_at, slots_at, scratch))
                q += code[q]
        elif opcode == GEMM:
            call(code[PRODUCT], (code_at, p, bases_at, slots_at, scratch))
        elif opcode == CONV:
            call(code[CONVOLUTION], (code_at, p, bases_at, slots_at, scratch))
        elif opcode == LOOP:
            if code[p + 2]:
                return pc
            if code[p + 1] > 0:
                start_carries(code, p, bases)
                set_slices(code, p, bases, 0, code[p + 1])
                state[depth], state[depth + 1] = pc, 0
                depth += 2
                pc = code[p]
                continue
        elif opcode == END:
            if depth == STACK:
                return -1
            loop, k = state[depth - 2], state[depth - 1] + 1
            swap_carries(code, loop + HEAD, bases)
            if k < code[loop + HEAD + 1]:
                state[depth - 1] = k
                set_slices(code, loop + HEAD, bases, k, code[loop + HEAD + 1])
                pc = code[loop + HEAD]
            else:
                depth -= 2
                pc = code[loop + 1]
            continue
        else:
            call(code[INDEXED], (opcode, code_at, p, bases_at, state_at, code[pc + 2]))
        if stopped(state, shared, code[pc + 3]):
            return -1
        pc = code[pc + 1]


@function
def run_groups(
    code_at: int, pc: int, bases_at: int, slots_at: int, state_at: int, shared_at: int, scratch: int, sums: int, groups: int, length: int
) -> None:
    """Groups of tasks of the parallel loop at pc, until none is left."""
    code, bases, state, shared = words(code_at), words(bases_at), words(state_at), words(shared_at)
    p = pc + HEAD
    while True:
        group = fetch_add(shared_at, 1)
        if group >= groups:
            return
        q = p + 8 + 4 * code[p + 4] + 6 * code[p + 5]
        mine = sums + group * code[p + 7]
        for _ in range(code[p + 6]):
            bases[code[q]] = mine + code[q + 1]
            clear(mine + code[q + 1], code[q + 2])
            q += 6
        for task in range(group * length // groups, (group + 1) * length // groups):
            state[0] = length - 1 - task if code[p + 3] else task
            set_slices(code, p, bases, task, length)
            run_block(code_at, code[p], bases_at, slots_at, state_at, shared_at, scratch)
            state[6] = 0  # the other tasks go on
            if shared[1]:
                return


@function
def add_groups(code: Any, p: int, bases: Any, sums: int, groups: int) -> None:
    """Each target = group 0 + group 1 + .., in this order."""
    q = p + 8 + 4 * code[p + 4] + 6 * code[p + 5]
    for _ in range(code[p + 6]):
        size, dtype, to = code[q + 2], code[q + 3], bases[code[q + 4]] + code[q + 5]
        move(to, sums + code[q + 1], size)
        for group in range(1, groups):
            source = sums + group * code[p + 7] + code[q + 1]
            call(code[ELEMENTWISE_F32 + dtype], (ADD, size // (8 if dtype == 1 else 4), to, to, source, 0))
        q += 6


def run(
    code_at: int, pc: int, bases_at: int, slots_at: int, state_at: int, shared_at: int, scratch: int, sums: int, groups: int, length: int
) -> int:
    """Runs a part of a plan on this thread.

    groups > 0: groups of tasks of the parallel loop at pc, with other workers; gives -1.
    groups = 0: from the instruction at pc to the end of the plan, or up to a parallel loop, and gives its place or -1.
    groups < 0: adds up the -groups groups of the parallel loop at pc, and goes on after it as for 0.
    """
    if groups > 0:
        run_groups(code_at, pc, bases_at, slots_at, state_at, shared_at, scratch, sums, groups, length)
        return -1
    if groups < 0:
        code = words(code_at)
        words(state_at)[0] = -1
        add_groups(code, pc + HEAD, words(bases_at), sums, -groups)
        pc = code[pc + 1]
    return run_block(code_at, pc, bases_at, slots_at, state_at, shared_at, scratch)


run.__qualname__ = f"run_{digest()}"
run = njit(nogil=True, cache=True, **OPTIONS)(run)
