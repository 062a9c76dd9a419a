"""The CUDA core's text compiled at run time by NVRTC through CuPy: a GPU without nvcc.

Tasks run whole, one team of threads each (way (a) of docs/cuda.md). What stands outside the parallel loop runs on one team.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastmeta import __version__
from fastmeta.backends import Loaded, device
from fastmeta.program import Program

THREADS, PARTIALS, STAGE_BYTES, STATUS_BYTES = 256, 4096 * 8, 2 * 16 * 65 * 8, 48  # of team.cuh and words.cuh
MOST_GROUPS, MOST_SUM_BYTES, SUM_COLUMNS = 4096, 256 << 20, 8  # of loop.cuh
STATUS = np.dtype([("first", "u8"), ("tag", "i8"), ("task", "i8"), ("index", "i8"), ("bound", "i8"), ("recorded", "i4"), ("ended", "i4")])
LOOP = 7
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


@cache
def kernels() -> Any:
    """The entry points, compiled once for a device and kept by CuPy in its cache folder."""
    import cupy

    folder = source()
    text = "".join(f"// {path.name} {hash_of(path)}\n" for path in sorted(folder.glob("*.cuh")))  # CuPy's cache looks at the text only
    module = cupy.RawModule(code=text + '#include "runtime.cuh"\n', options=("-std=c++17", f"-I{folder}"), backend="nvrtc")
    return SimpleNamespace(**{name: module.get_function(f"fastmeta_{name}") for name in ("block", "tasks", "sums")})


def hash_of(path: Path) -> str:
    """The content of a file as hexadecimal digits."""
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


class Plan:
    """A plan in device memory, with the calls of the compiled core's."""

    def __init__(self, words: np.ndarray, consts: bytes, way: str = "auto", lanes: int = 1) -> None:
        import cupy

        self.host = words
        self.gpu = cupy.cuda.Device()
        n_in, n_out, self.n_bases, n_blocks = (int(n) for n in words[3:7])
        self.shared_bytes, self.arena_bytes, self.work = (int(n) for n in words[8:11])
        at, specs = 11, []
        for _ in range(n_in + n_out):
            specs.append((int(words[at]), tuple(int(n) for n in words[at + 2 : at + 2 + words[at + 1]])))
            at += 2 + int(words[at + 1])
        self.inputs, self.outputs = specs[:n_in], specs[n_in:]
        self.bases_at = at
        at += 4 * self.n_bases
        blocks = []
        for _ in range(n_blocks):
            blocks += [at + 2, int(words[at])]
            at += 2 + int(words[at + 1])
        self.ranges = self._ranges(blocks[0], blocks[1])
        self.words, self.blocks = cupy.asarray(words), cupy.asarray(np.array(blocks, np.int64))
        self.consts = cupy.asarray(np.frombuffer(consts or b"\0", np.uint8))
        cupy.cuda.get_current_stream().synchronize()  # a run may be on another stream

    def _ranges(self, at: int, count: int) -> list[tuple[int, int]]:
        """Block 0 as (word, number of instructions); number 0: the parallel loop there."""
        out: list[tuple[int, int]] = []
        for _ in range(count):
            if self.host[at] == LOOP and self.host[at + 5]:
                out.append((at, 0))
            elif out and out[-1][1]:
                out[-1] = (out[-1][0], out[-1][1] + 1)
            else:
                out.append((at, 1))
            at += int(self.host[at + 1])
        return out

    @property
    def device(self) -> int:
        """The number of the GPU."""
        return int(self.gpu.id)

    def run(self, addresses: list[int], on_host: bool, length: int, stream: int = 0, wait: bool = True) -> None:
        """Runs the plan on the addresses of its inputs, then outputs, behind what the stream holds; always to the end."""
        import cupy

        with self.gpu, cupy.cuda.ExternalStream(stream):
            try:
                self._run(cupy, addresses, on_host, length)
            except cupy.cuda.memory.OutOfMemoryError as error:
                free, total = cupy.cuda.runtime.memGetInfo()
                raise MemoryError(f"[cupy] expected memory for the plan ({error}), got {free * 1e-9:.3f} GB free of {total * 1e-9:.3f} GB") from None
            except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError) as error:
                raise DeviceError(str(error), -1) from None

    def _run(self, cupy: Any, addresses: list[int], on_host: bool, length: int) -> None:
        copies: list[Any] = []
        if on_host:
            addresses = self._copied(cupy, addresses, length, copies)
        shared = cupy.empty(max(self.shared_bytes, 1), np.uint8)
        roots = np.zeros(self.n_bases, np.uint64)
        for k in range(self.n_bases):
            kind, a = self.host[self.bases_at + 4 * k : self.bases_at + 4 * k + 2]
            if kind < 4:
                roots[k] = (addresses[a] if kind == 0 else addresses[len(self.inputs) + a] if kind == 1 else self.consts.data.ptr if kind == 2 else shared.data.ptr)
        common = (self.words, self.blocks, np.int64(self.bases_at), np.int64(self.n_bases), cupy.asarray(roots))
        status = cupy.zeros(STATUS_BYTES, np.uint8)
        statuses = [status]
        for at, count in self.ranges:
            if count:
                partials = cupy.empty(PARTIALS, np.uint8)
                kernels().block((1,), (THREADS,), (*common, partials, status, np.int64(at), np.int64(count), np.int64(length)))
            else:
                statuses.append(self._tasks(cupy, common, at, length))
        found = np.concatenate([cupy.asnumpy(s).view(STATUS) for s in statuses])  # waits
        bad = found[found["recorded"] != 0]
        if len(bad):
            first = bad[np.argmin(bad["task"])]
            raise BadIndex(*(int(first[name]) for name in ("tag", "task", "index", "bound")))
        for x, address, there in copies:
            cupy.cuda.runtime.memcpy(address, there.data.ptr, x, cupy.cuda.runtime.memcpyDeviceToHost)

    def _tasks(self, cupy: Any, common: tuple[Any, ...], at: int, length: int) -> Any:
        """Launches the parallel loop at a word; the statuses of its teams."""
        w = self.host
        n = length if w[at + 4] < 0 else int(w[at + 4])
        slices = int(w[at + 7])
        sums_at = at + 8 + slices + 2 + 2 * int(w[at + 8 + slices])
        n_sums = int(w[sums_at - 1])
        bases = [w[self.bases_at + 4 * w[sums_at + 5 * s] :] for s in range(n_sums)]
        sum_bytes = -(-max((int(b[1] + b[2]) for b in bases), default=0) // 64) * 64
        groups = min(n, MOST_GROUPS, max(1, MOST_SUM_BYTES // sum_bytes) if sum_bytes else n)
        properties = cupy.cuda.runtime.getDeviceProperties(self.gpu.id)
        room = properties["sharedMemPerBlockOptin"] - STAGE_BYTES - 1024
        fast = 0 < self.arena_bytes <= room
        each = max(1, min(4, properties["sharedMemPerMultiprocessor"] // (self.arena_bytes + STAGE_BYTES + 1024))) if fast else 4
        teams = max(1, min(groups, each * properties["multiProcessorCount"]))
        step = -(-self.arena_bytes // 256) * 256
        if not fast and step:
            teams = max(1, min(teams, cupy.cuda.runtime.memGetInfo()[0] * 4 // 5 // step))
        sums = cupy.zeros(max(groups * sum_bytes, 1), np.uint8)
        statuses = cupy.zeros(teams * STATUS_BYTES, np.uint8)
        memory = [cupy.empty(max(size, 1), np.uint8) for size in (0 if fast else teams * step, teams * self.n_bases * 8, teams * PARTIALS)]
        if groups:
            kernel = kernels().tasks
            if fast:
                kernel.max_dynamic_shared_size_bytes = room
            numbers = [np.int64(k) for k in (sum_bytes, groups, at, n, fast)]
            kernel((teams,), (THREADS,), (*common, *memory, statuses, np.int64(step), sums, *numbers), shared_mem=self.arena_bytes if fast else 0)
        longest = max((int(w[sums_at + 5 * s + 2]) for s in range(n_sums)), default=0)
        if longest:
            blocks = min(4096, -(-longest // SUM_COLUMNS))
            kernels().sums((blocks, n_sums), (THREADS,), (*common, sums, *(np.int64(k) for k in (sum_bytes, groups, at))))
        return statuses

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


def core() -> Any:
    """What `fastmeta._cuda` is for the compiled backend."""
    return SimpleNamespace(Plan=Plan, BadIndex=BadIndex, DeviceError=DeviceError, version=__version__, __name__="fastmeta.backends.cupy")


def load(p: Program) -> Loaded:
    """Plans the program for the GPU in use."""
    return device.load(core(), p, **OPTIONS)
