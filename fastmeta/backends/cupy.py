"""The CUDA core's text compiled at run time by NVRTC through CuPy: a GPU without nvcc.

Launches (`fastmeta.backends.launches`) are listed once for a number of tasks: addresses of arrays are read from device
memory, and what each launch is told lies there too.
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
from fastmeta.backends.arrays import DTYPES
from fastmeta.backends.codegen.words import CONST, INPUT, OUTPUT, SHARED, Words
from fastmeta.backends.launches import Launch, Launches
from fastmeta.errors import expected
from fastmeta.program import Program

PARTIALS, STAGE_BYTES = 4096 * 8, 2 * 16 * 65 * 8  # of words.cuh and team.cuh
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
def common(gpu: int) -> Code:
    """What is launched beside the text of plans, by number of the GPU."""
    import cupy

    return text_compiled((source() / "runtime.cuh").read_text(), cupy.cuda.Device(gpu))


class Plan:
    """A plan in device memory, with the calls of the compiled core's."""

    def __init__(self, words: np.ndarray, consts: bytes, way: str = "auto", lanes: int = 1, fixed: tuple[Any, ...] | None = None) -> None:
        import cupy

        if fixed is None:
            raise expected("cupy", "a plan whose places can be counted in 32 bits", "a larger one", RuntimeError, "The cuda backend takes it")
        self.plan = Words(words)
        self.codes, self.bodies, self.stages, _, self.lanes, partials, self.near_bytes = fixed
        self.stage_bytes, self.status_bytes = STAGE_BYTES, STATUS.itemsize
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
        listed = Launches(cupy, self, length, [common(self.device), *self.codes])
        listed.all()
        told = np.array([n for launch in listed.list for n in launch.told] or [0], np.uint64)
        return listed.list, cupy.asarray(told), listed.statuses, listed.memory

    def _copied(self, cupy: Any, addresses: list[int], length: int, copies: list[Any]) -> list[int]:
        """Addresses of copies of host arrays; of outputs (bytes, address, copy) is noted."""
        out = []
        for k, (address, (code, shape)) in enumerate(zip(addresses, (*self.inputs, *self.outputs), strict=True)):
            size = int(np.prod([length if n < 0 else n for n in shape], dtype=np.int64)) * DTYPES[code].itemsize
            there = cupy.empty(max(size, 1), np.uint8)
            if k < len(self.inputs):
                cupy.cuda.runtime.memcpy(there.data.ptr, address, size, cupy.cuda.runtime.memcpyHostToDevice)
                copies.append((0, address, there))
            else:
                copies.append((size, address, there))
            out.append(there.data.ptr)
        return out


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
