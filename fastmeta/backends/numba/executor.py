"""A bound plan ready to run: memory, groups of tasks and workers around the interpreter."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fastmeta import backends
from fastmeta.backends.arrays import DTYPES
from fastmeta.backends.numba import pool
from fastmeta.backends.numba.bind import Array, Binder
from fastmeta.backends.numba.interpreter import START, STATE_WORDS, run
from fastmeta.errors import bad_index
from fastmeta.plan import make_plan
from fastmeta.plan.encode import B_ARENA, B_CONST, B_INPUT, B_OUTPUT, B_SHARED, Plan
from fastmeta.program import Program

SLOTS = 1024  # addresses of a phase's slots, twice for those in memory
FEW_GROUPS, MOST_GROUPS, MOST_SUM_BYTES = 16, 64, 64 << 20


def group_count(length: int, sum_bytes: int) -> int:
    """Groups of a parallel loop, a function of these two numbers only: they decide the bits of sums.

    As in the native core, but fewer where each group's own sums would take too much.
    """
    groups = length if length <= FEW_GROUPS else min(max(length // 2, FEW_GROUPS), MOST_GROUPS)
    return min(groups, max(1, MOST_SUM_BYTES // sum_bytes)) if sum_bytes else groups


def memory(size: int) -> tuple[np.ndarray, int]:
    """Fresh bytes and the address of the first that is a multiple of 64."""
    block = np.empty(size + 64, np.uint8)
    return block, -(-address(block) // 64) * 64


def address(array: np.ndarray) -> int:
    """Of its first element: the first of a NumPy array's own fields, since a call has tens of arrays, and asking them takes longer."""
    return ctypes.c_void_p.from_address(id(array) + object.__basicsize__).value or 0


class _Worker:
    """What one thread needs: kept from call to call."""

    def __init__(self, n_bases: int, scratch_bytes: int, arena_bytes: int) -> None:
        self.bases = np.zeros(n_bases, np.int64)
        self.slots = np.zeros(SLOTS, np.int64)
        self.state = np.zeros(STATE_WORDS, np.int64)
        self.addresses = [address(a) for a in (self.bases, self.slots, self.state)]
        self.keep, start = memory(scratch_bytes + arena_bytes + 64)
        self.scratch, self.arena = start, start + -(-scratch_bytes // 64) * 64


class _Poll:
    """Python's signal handlers run in here, on the calling thread, while compiled code asks it now and then."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.answers = self.answer()
        next(self.answers)
        self.c_function = ctypes.CFUNCTYPE(ctypes.c_int64)(self.answers.__next__)
        self.address = ctypes.cast(self.c_function, ctypes.c_void_p).value or 0

    def answer(self) -> Iterator[int]:
        """0 as long as no handler raises.  A generator, for a function would run the handlers before its ``try``."""
        try:
            while True:
                yield 0
        except GeneratorExit:
            return
        except BaseException as error:
            self.error = error
        while True:
            yield 1


class Executable:
    """A program on this backend: called with the arrays of its inputs, it gives those of its outputs, None where they do not fit."""

    def __init__(self, p: Program) -> None:
        self.start(make_plan(p, kernels=False))

    def start(self, plan: Plan) -> None:
        self.lines = plan.lines
        self.bound = Binder(plan.words.tolist()).bind()
        self.consts, self.consts_at = memory(len(plan.consts))
        offset = self.consts_at - address(self.consts)
        self.consts[offset : offset + len(plan.consts)] = np.frombuffer(plan.consts, np.uint8)
        self.inputs, self.outputs, self.constants, self.shared, self.arenas = (
            [(base, which) for base, kind, which in self.bound.places if kind == wanted] for wanted in (B_INPUT, B_OUTPUT, B_CONST, B_SHARED, B_ARENA)
        )
        self.idle: list[_Worker] = []
        self.has_tasks = any(a.dims[:1] == (-1,) for a in (*self.bound.inputs, *self.bound.outputs))

    def __call__(self, arrays: Sequence[Any]) -> tuple[np.ndarray, ...] | None:
        length = 0
        if len(arrays) != len(self.bound.inputs):
            return None
        for array, spec in zip(arrays, self.bound.inputs, strict=True):
            length = matching(array, spec, length)
            if length < 0:
                return None
        if length == 0 and self.has_tasks:
            return None
        outputs = tuple([np.empty((length, *s.dims[1:]) if s.dims[:1] == (-1,) else s.dims, DTYPES[s.dtype]) for s in self.bound.outputs])
        self.execute(arrays, outputs, length or 1, backends.state.threads or backends.num_threads())
        return outputs

    def execute(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], length: int, threads: int) -> None:
        bound = self.bound
        shared_memory, shared_at = memory(bound.shared_bytes)
        shared = np.zeros(8, np.int64)
        first = self.worker()
        for base, which in self.inputs:
            first.bases[base] = address(inputs[which])
        for base, which in self.outputs:
            first.bases[base] = address(outputs[which])
        for base, _ in self.shared:
            first.bases[base] = shared_at
        poll = _Poll() if threading.current_thread() is threading.main_thread() else None
        first.state[:] = 0
        first.state[0] = -1
        first.state[8] = poll.address if poll else 0
        run_on: Callable[..., int] = partial(run, address(bound.code))
        ends = address(shared)

        def go(worker: _Worker, pc: int, sums: int, groups: int, tasks: int) -> int:
            return int(run_on(pc, *worker.addresses, ends, worker.scratch, sums, groups, tasks))

        pc = go(first, START, 0, 0, length)
        while pc >= 0 and not shared[1]:
            tasks, sum_bytes = bound.loops[pc]
            tasks = length if tasks < 0 else tasks
            groups = max(1, group_count(tasks, sum_bytes))  # of no tasks: the sums are zeros
            _sums, sums_at = memory(groups * sum_bytes)
            shared[0] = 0
            workers = self.share(first, partial(go, pc=pc, sums=sums_at, groups=groups, tasks=tasks), shared, min(threads, groups))
            self.refuse(workers)
            self.idle += workers[1:]
            if not shared[1]:
                pc = go(first, pc, sums_at, -groups, tasks)
        if poll and poll.error:
            raise poll.error
        self.refuse([first])
        self.idle.append(first)

    def share(self, first: _Worker, go: Callable[[_Worker], int], shared: np.ndarray, threads: int) -> list[_Worker]:
        """Runs go(worker) on threads, each with a worker of its own, and gives the workers."""
        helpers: list[_Worker] = []

        def work(k: int) -> None:
            worker = first
            if k:
                worker = self.worker()
                worker.bases[:] = first.bases
                self.set_arenas(worker)
                worker.state[:] = 0
                helpers.append(worker)
            go(worker)

        def stop() -> None:
            shared[1] = 1

        pool.pool.run(threads, work, stop)
        return [first, *helpers]

    def refuse(self, workers: list[_Worker]) -> None:
        """Raises for the bad index of the first task that met one."""
        failed = [w.state[2:6].tolist() for w in workers if w.state[1]]
        if failed:
            tag, task, index, limit = min(failed, key=lambda f: f[1])
            op, line = self.lines[tag]
            raise bad_index(op, index, limit, task, line)

    def worker(self) -> _Worker:
        try:
            return self.idle.pop()
        except IndexError:
            worker = _Worker(self.bound.n_bases, self.bound.scratch_bytes, self.bound.arena_bytes)
            for base, _ in self.constants:
                worker.bases[base] = self.consts_at
            self.set_arenas(worker)
            return worker

    def set_arenas(self, worker: _Worker) -> None:
        for base, _ in self.arenas:
            worker.bases[base] = worker.arena


def matching(array: Any, spec: Array, length: int) -> int:
    """The number of tasks so far, 0 where none is known yet; -1 where the array is not just as the plan says."""
    dims = spec.dims
    if type(array) is not np.ndarray or array.dtype != DTYPES[spec.dtype] or not array.flags.c_contiguous or not array.flags.aligned:
        return -1
    if dims[:1] == (-1,):
        tasks = array.shape[0] if array.ndim else 0
        if tasks == 0 or length not in (0, tasks) or array.shape[1:] != dims[1:]:
            return -1
        return tasks
    return length if array.shape == dims else -1
