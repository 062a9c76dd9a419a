"""The CUDA core's text compiled at run time by NVRTC through CuPy: a GPU without nvcc.

Launches are those of csrc/cuda/walk.hpp, less recorded graphs and libraries: they are listed once for a number of tasks, and
addresses of arrays are read from device memory. What each launch is told lies in device memory too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastmeta import __version__
from fastmeta.backends import Loaded, device
from fastmeta.backends.codegen.words import CONST, INPUT, LOOP, OUTPUT, SHARED, SUM, Instruction, Words
from fastmeta.program import Program

PARTIALS, STAGE_BYTES = 4096 * 8, 2 * 16 * 65 * 8  # of words.cuh and team.cuh
MOST_GROUPS, MOST_SUM_BYTES, SUM_COLUMNS = 4096, 256 << 20, 8  # of loop.cuh
MOST_TEAMS, MOST_SLOTS = 1 << 12, 1 << 15  # of walk.hpp
STATUS = np.dtype([("first", "u8"), ("tag", "i8"), ("task", "i8"), ("index", "i8"), ("bound", "i8"), ("recorded", "i4"), ("ended", "i4")])
OPTIONS: dict[str, Any] = {}  # tests set them


def source() -> Path:
    """The folder of the device text: package data, or that of the source tree."""
    package = Path(__file__).parents[1]
    installed = package / "cuda"
    return installed if installed.is_dir() else package.parent / "csrc" / "cuda"


def missing() -> str | None:
    """Why the backend is not there, or None."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is missing; pip install cupy-cuda13x (or the one for your driver)"
    import cupy

    try:
        return None if cupy.cuda.runtime.getDeviceCount() > 0 else "the driver reports no GPU"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"the driver reports: {error}"


class BadIndex(IndexError):
    """An index outside its array; args are (tag, task, index, bound)."""


class DeviceError(RuntimeError):
    """What the device refused; args are (message, tag of the instruction or -1)."""


class Code(NamedTuple):
    """A compiled text and the functions it has."""

    module: Any
    names: frozenset[str]


def text_compiled(text: str, gpu: Any) -> Code:
    """A text for a GPU, kept by CuPy in its cache folder."""
    import cupy

    folder = source()
    files = [(path.name, path.read_text()) for path in sorted(folder.glob("*.cuh"))]  # the cache looks at the text only
    head = "".join(f"// {name} {hashlib.sha256(content.encode()).hexdigest()}\n" for name, content in files)
    with gpu:
        made = cupy.RawModule(code=head + text, options=("-std=c++17", "-w", "-DFM_BY_ADDRESS", f"-I{folder}"), backend="nvrtc")
        made.compile()
    return Code(made, frozenset(re.findall(r"FM_ENTRY\((\w+),", text)))


@cache
def common(gpu: Any) -> Code:
    """What is launched beside the text of plans."""
    return text_compiled((source() / "runtime.cuh").read_text(), gpu)


class Launch(NamedTuple):
    """A kernel over teams along x and slots along y, and what it is told; or bytes to set to 0."""

    kernel: Any
    width: int
    height: int
    lanes: int
    told: tuple[int, ...]
    fast_bytes: int = 0


class Plan:
    """A plan in device memory, with the calls of the compiled core's."""

    def __init__(self, words: np.ndarray, consts: bytes, way: str = "auto", lanes: int = 1, fixed: tuple[Any, ...] | None = None) -> None:
        import cupy

        if fixed is None:
            raise DeviceError("expected a plan whose places can be counted in 32 bits, got a larger one: the cuda backend takes it", -1)
        self.plan = Words(words)
        self.codes, self.bodies, self.stages, _, self.lanes, partials = fixed
        self.partial_bytes = max(PARTIALS, -(-partials // 256) * 256)
        self.resident = way == "resident"
        self.inputs, self.outputs = self.plan.inputs, self.plan.outputs
        self.shared_bytes, self.work = int(words[8]), int(words[10])
        self.gpu, self.lock = cupy.cuda.Device(), threading.Lock()
        self.words = cupy.asarray(words)
        starts = [n for block in self.plan.blocks for n in (block[0].at if block else 0, len(block))]
        self.blocks = cupy.asarray(np.array(starts, np.int64))
        self.consts = cupy.asarray(np.frombuffer(consts or b"\0", np.uint8))
        self.shared = cupy.empty(max(self.shared_bytes, 1), np.uint8)
        self.roots = cupy.zeros(max(len(self.plan.bases), 1), np.uint64)
        self.lists: dict[int, tuple[list[Launch], Any, Any, list[Any]]] = {}  # by number of tasks: launches, what they are told, statuses, memory
        cupy.cuda.get_current_stream().synchronize()  # a run may be on another stream

    @property
    def device(self) -> int:
        """The number of the GPU."""
        return int(self.gpu.id)

    def run(self, addresses: list[int], on_host: bool, length: int, stream: int = 0, wait: bool = True) -> None:
        """Runs the plan on the addresses of its inputs, then outputs, behind what the stream holds; always to the end."""
        import cupy

        with self.lock, self.gpu, cupy.cuda.ExternalStream(stream):
            try:
                self._run(cupy, addresses, on_host, length)
            except cupy.cuda.memory.OutOfMemoryError as error:
                self.lists.clear()
                free, total = cupy.cuda.runtime.memGetInfo()
                raise MemoryError(f"[cupy] expected memory for the plan ({error}), got {free * 1e-9:.3f} GB free of {total * 1e-9:.3f} GB") from None
            except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
                raise DeviceError(str(error), -1) from None

    def _run(self, cupy: Any, addresses: list[int], on_host: bool, length: int) -> None:
        copies: list[Any] = []
        if on_host:
            addresses = self._copied(cupy, addresses, length, copies)
        if length not in self.lists:
            self.lists.clear()
            self.lists[length] = self._listed(cupy, length)
        launches, told, statuses, _ = self.lists[length]
        self.roots.set(np.array([self._root(base, addresses) for base in self.plan.bases] or [0], np.uint64))
        statuses.fill(0)
        at = told.data.ptr
        for launch in launches:
            if launch.kernel is None:
                cupy.cuda.runtime.memsetAsync(launch.told[0], 0, launch.told[1], cupy.cuda.get_current_stream().ptr)
            else:
                launch.kernel((launch.width, launch.height), (launch.lanes,), (np.uint64(at),), shared_mem=launch.fast_bytes)
            at += 8 * len(launch.told)
        found = cupy.asnumpy(statuses).view(STATUS)  # waits
        bad = found[found["recorded"] != 0]
        if len(bad):
            first = bad[np.argmin(bad["task"])]
            raise BadIndex(*(int(first[name]) for name in ("tag", "task", "index", "bound")))
        for x, address, there in copies:
            cupy.cuda.runtime.memcpy(address, there.data.ptr, x, cupy.cuda.runtime.memcpyDeviceToHost)

    def _root(self, base: Sequence[int], addresses: list[int]) -> int:
        kind, a = base[:2]
        if kind in (INPUT, OUTPUT):
            return addresses[a + (len(self.inputs) if kind == OUTPUT else 0)]
        return self.consts.data.ptr if kind == CONST else self.shared.data.ptr if kind == SHARED else 0

    def _listed(self, cupy: Any, length: int) -> tuple[list[Launch], Any, Any, list[Any]]:
        """All launches for a number of tasks, and the memory that they use."""
        listed = Listed(cupy, self, length)
        listed.block(0, (0, self.roots.data.ptr, listed.root_partials.data.ptr, listed.statuses.data.ptr, 0, self.partial_bytes), 1, 0)
        told = np.array([n for launch in listed.launches for n in launch.told] or [0], np.uint64)
        return listed.launches, cupy.asarray(told), listed.statuses, listed.memory

    def _copied(self, cupy: Any, addresses: list[int], length: int, copies: list[Any]) -> list[int]:
        """Addresses of copies of host arrays; of outputs (bytes, address, copy) is noted."""
        out = []
        for k, (address, (code, shape)) in enumerate(zip(addresses, (*self.inputs, *self.outputs), strict=True)):
            size = int(np.prod([length if n < 0 else n for n in shape], dtype=np.int64)) * device.DTYPES[code].itemsize
            there = cupy.empty(max(size, 1), np.uint8)
            if k < len(self.inputs):
                cupy.cuda.runtime.memcpy(there.data.ptr, address, size, cupy.cuda.runtime.memcpyHostToDevice)
                copies.append((0, address, there))
            else:
                copies.append((size, address, there))
            out.append(there.data.ptr)
        return out


class Listed:
    """Makes the list: the launches of `Walker` in csrc/cuda/walk.hpp, in its order."""

    def __init__(self, cupy: Any, plan: Plan, length: int) -> None:
        self.cupy, self.plan, self.length = cupy, plan, length
        self.launches: list[Launch] = []
        self.memory: list[Any] = []
        words = plan.plan
        loops = [i for i in words.blocks[0] if i.op == LOOP and words.words[i.at + 5]]
        sums = [(self.groups(i), self.sum_bytes(i)) for i in loops]
        slots = max([1, *(groups for groups, _ in sums)])
        arena = -(-words.arena_bytes // 256) * 256
        properties = cupy.cuda.runtime.getDeviceProperties(plan.gpu.id)
        self.fast_bytes = words.arena_bytes if plan.resident and 0 < words.arena_bytes <= properties["sharedMemPerBlockOptin"] - STAGE_BYTES - 1024 else 0
        if plan.resident:
            each = properties["sharedMemPerMultiprocessor"] // (self.fast_bytes + 2048) if self.fast_bytes else 8
            slots = min(slots, max(1, min(each, 2048 // plan.lanes)) * properties["multiProcessorCount"])
        own = (0 if self.fast_bytes else arena) + plan.partial_bytes + 8 * len(words.bases) + STATUS.itemsize + 8
        free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes() - sum(groups * size for groups, size in sums)
        self.slots = max(1, min(slots, MOST_SLOTS, free // 5 * 4 // own))
        self.root_partials = self.new(plan.partial_bytes)
        self.statuses = self.new((self.slots + 1) * STATUS.itemsize)
        self.sums = self.new(max([1, *(groups * size for groups, size in sums)]))
        self.tasks = self.new(8 * self.slots)
        arenas = self.new(1 if self.fast_bytes else self.slots * arena)
        bases, partials = self.new(8 * max(1, self.slots * len(words.bases))), self.new(self.slots * plan.partial_bytes)
        self.of_tasks = (arenas.data.ptr, bases.data.ptr, partials.data.ptr, self.statuses.data.ptr + STATUS.itemsize, arena, plan.partial_bytes)
        bases_at = 11 + sum(2 + len(shape) for _, shape in (*words.inputs, *words.outputs))
        self.program = (plan.words.data.ptr, plan.blocks.data.ptr, bases_at, len(words.bases))
        self.codes = [common(plan.gpu), *plan.codes]

    def new(self, size: int) -> Any:
        """Device memory."""
        self.memory.append(self.cupy.empty(max(size, 1), np.uint8))
        return self.memory[-1]

    def find(self, name: str) -> Any:
        """A function of the text."""
        (code,) = (code for code in self.codes if name in code.names)
        return code.module.get_function(name)

    def add(self, kernel: Any, told: Sequence[int], width: int = 1, height: int = 1, lanes: int = 256, fast_bytes: int = 0) -> None:
        """A launch."""
        self.launches.append(Launch(kernel, width, height, lanes, tuple(told), fast_bytes))

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
            for s, (units, lanes) in enumerate(plan.stages[body]):
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
            told = (*self.program, loop.at, roots, self.sums.data.ptr, sum_bytes, groups)
            self.add(self.find("fastmeta_sums"), told, min(-(-longest // SUM_COLUMNS), MOST_TEAMS), len(sums))


def facts() -> tuple[int, int, int]:
    """Of the GPU in use: its architecture, the largest arena of a block's own memory, the memory that is a part of."""
    import cupy

    gpu = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(gpu.id)
    return int(gpu.compute_capability), properties["sharedMemPerBlockOptin"] - STAGE_BYTES - 1024, properties["sharedMemPerMultiprocessor"]


def core() -> Any:
    """What `fastmeta._cuda` is for the compiled backend; the planner's plans need no check."""
    return SimpleNamespace(Plan=Plan, BadIndex=BadIndex, DeviceError=DeviceError, facts=facts, check=lambda *_: None, version=__version__, __name__="fastmeta.backends.cupy")


def compile_text() -> device.Compile:
    """What compiles the text of a plan, for the GPU in use."""
    import cupy

    gpu = cupy.cuda.Device()
    return lambda text, architecture: text_compiled(text, gpu)


def load(p: Program) -> Loaded:
    """Plans the program for the GPU in use."""
    return device.load(core(), p, compile_text(), **OPTIONS)
