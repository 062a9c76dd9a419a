"""Launches of a plan's text without a compiled host side: those of csrc/cuda/walk.hpp, in its order, less recorded graphs and libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmeta.backends.codegen.words import LOOP, SUM, Instruction

MOST_GROUPS, MOST_SUM_BYTES, SUM_COLUMNS = 4096, 256 << 20, 8  # of loop.cuh
MOST_TEAMS, MOST_SLOTS = 1 << 12, 1 << 15  # of walk.hpp


class Launch(NamedTuple):
    """A kernel over teams along x and slots along y, and what it is told; or bytes to set to 0."""

    kernel: Any
    width: int
    height: int
    lanes: int
    told: tuple[int, ...]
    fast_bytes: int = 0


class Launches:
    """Makes the list."""

    def __init__(self, cupy: Any, plan: Any, length: int, codes: Sequence[Any]) -> None:
        self.cupy, self.plan, self.length, self.codes = cupy, plan, length, codes
        self.list: list[Launch] = []
        self.memory: list[Any] = []
        self.functions: dict[str, Any] = {}
        words = plan.plan
        loops = [i for i in words.blocks[0] if i.op == LOOP and words.words[i.at + 5]]
        sums = [(self.groups(i), self.sum_bytes(i)) for i in loops]
        slots = max([1, *(groups for groups, _ in sums)])
        arena = -(-words.arena_bytes // 256) * 256
        properties = cupy.cuda.runtime.getDeviceProperties(plan.gpu.id)
        self.fast_bytes = plan.near_bytes if plan.resident else 0
        far = arena if self.fast_bytes < words.arena_bytes else 0
        if plan.resident:
            each = properties["sharedMemPerMultiprocessor"] // (self.fast_bytes + 2048) if self.fast_bytes else 8
            slots = min(slots, max(1, min(each, 2048 // plan.lanes)) * properties["multiProcessorCount"])
        own = far + plan.partial_bytes + 8 * len(words.bases) + plan.status_bytes + 8
        free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes() - sum(groups * size for groups, size in sums)
        self.slots = max(1, min(slots, MOST_SLOTS, free // 5 * 4 // own))
        self.root_partials = self.new(plan.partial_bytes)
        self.statuses = self.new((self.slots + 1) * plan.status_bytes)
        self.sums = self.new(max([1, *(groups * size for groups, size in sums)]))
        self.tasks = self.new(8 * self.slots)
        arenas = self.new(self.slots * far)
        bases, partials = self.new(8 * max(1, self.slots * len(words.bases))), self.new(self.slots * plan.partial_bytes)
        self.of_tasks = (arenas.data.ptr, bases.data.ptr, partials.data.ptr, self.statuses.data.ptr + plan.status_bytes, arena, plan.partial_bytes)
        bases_at = 11 + sum(2 + len(shape) for _, shape in (*words.inputs, *words.outputs))
        self.program = (plan.words.data.ptr, plan.blocks.data.ptr, bases_at, len(words.bases))

    def all(self) -> None:
        """Block 0, and what it names."""
        slots = (0, self.plan.roots.data.ptr, self.root_partials.data.ptr, self.statuses.data.ptr, 0, self.plan.partial_bytes)
        self.block(0, slots, 1, 0)

    def new(self, size: int) -> Any:
        """Device memory."""
        self.memory.append(self.cupy.empty(max(size, 1), np.uint8))
        return self.memory[-1]

    def find(self, name: str) -> Any:
        """A function of the text."""
        if name not in self.functions:
            (code,) = (code for code in self.codes if name in code.names)
            self.functions[name] = code.module.get_function(name)
        return self.functions[name]

    def add(self, kernel: Any, told: Sequence[int], width: int = 1, height: int = 1, lanes: int = 256, fast_bytes: int = 0) -> None:
        """A launch."""
        self.list.append(Launch(kernel, width, height, lanes, tuple(told), fast_bytes))

    def count(self, loop: Instruction) -> int:
        """How often a loop runs."""
        n = int(self.plan.plan.words[loop.at + 4])
        return self.length if n < 0 else n

    def sums_of(self, loop: Instruction) -> list[list[int]]:
        """Its sums: base, dtype, count, target base, target offset."""
        w = self.plan.plan.words
        swaps = loop.at + 8 + int(w[loop.at + 7])
        at = swaps + 1 + 2 * int(w[swaps])
        return [[int(n) for n in w[at + 1 + 5 * k : at + 6 + 5 * k]] for k in range(int(w[at]))]

    def sum_bytes(self, loop: Instruction) -> int:
        """Of the sums of one group."""
        bases = [self.plan.plan.bases[s[0]] for s in self.sums_of(loop)]
        return -(-max((a + b for kind, a, b, _ in bases if kind == SUM), default=0) // 64) * 64

    def groups(self, loop: Instruction) -> int:
        """How many groups its tasks form."""
        n, size = min(self.count(loop), MOST_GROUPS), self.sum_bytes(loop)
        return min(n, max(1, MOST_SUM_BYTES // size)) if size else n

    def block(self, number: int, slots: tuple[int, ...], n_slots: int, tasks: int) -> None:
        """The instructions of a block for all slots."""
        plan = self.plan
        for instruction in plan.plan.blocks[number]:
            if instruction.op == LOOP:
                if plan.plan.words[instruction.at + 5]:
                    self.run_tasks(instruction)
                    continue
                n = self.count(instruction)
                for k in range(n):
                    self.add(self.find("fastmeta_iterate"), (*self.program, instruction.at, k, n, *slots), height=n_slots)
                    self.block(int(plan.plan.words[instruction.at + 3]), slots, n_slots, tasks)
                continue
            body = plan.bodies[instruction.at]
            for s, (units, lanes, _) in enumerate(plan.stages[body]):
                if units:
                    self.add(self.find(f"fastmeta_{body}_{s}"), (*self.program, instruction.at, *slots, tasks), min(units, MOST_TEAMS), n_slots, lanes)

    def run_tasks(self, loop: Instruction) -> None:
        """A loop over tasks, and its sums."""
        length, groups, sum_bytes, roots = self.count(loop), self.groups(loop), self.sum_bytes(loop), self.plan.roots.data.ptr
        if groups * sum_bytes:
            self.add(None, (self.sums.data.ptr, groups * sum_bytes))
        told = (*self.program, loop.at, roots, *self.of_tasks, self.sums.data.ptr, sum_bytes, groups, length)
        if self.plan.resident and groups:
            kernel = self.find("fastmeta_tasks")
            if self.fast_bytes:
                kernel.max_dynamic_shared_size_bytes = self.fast_bytes
            self.add(kernel, told, min(groups, self.slots), lanes=self.plan.lanes, fast_bytes=self.fast_bytes)
        elif groups:
            for first in range(0, groups, self.slots):
                n = min(self.slots, groups - first)
                for k in range(-(-length // groups)):
                    self.add(self.find("fastmeta_open"), (*told, first, k, self.tasks.data.ptr), height=n)
                    self.block(int(self.plan.plan.words[loop.at + 3]), self.of_tasks, n, self.tasks.data.ptr)
        sums = self.sums_of(loop)
        longest = max((s[2] for s in sums), default=0)
        if longest:
            self.add(self.find("fastmeta_sums"), (*self.program, loop.at, roots, self.sums.data.ptr, sum_bytes, groups), min(-(-longest // SUM_COLUMNS), MOST_TEAMS), len(sums))
