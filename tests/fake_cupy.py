"""A cupy whose GPU is the host's memory, and whose NVRTC is the C++ compiler."""

from __future__ import annotations

import contextlib
import ctypes
import types
from typing import Any

import numpy as np

from fastmeta.backends import cuda_host

STAGE = ctypes.create_string_buffer(1 << 16)


class Memory:
    """An array of the library below."""

    __module__ = "cupy.fake"

    def __init__(self, array: np.ndarray, device: Device | None = None) -> None:
        self.array, self.device = array, device or Device(0)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    data = property(lambda self: types.SimpleNamespace(ptr=self.array.ctypes.data))

    def fill(self, value: Any) -> None:
        self.array.fill(value)

    def copy(self) -> Memory:
        return Memory(self.array.copy(), self.device)

    def set(self, array: np.ndarray) -> None:
        self.array[...] = array

    def __dlpack__(self) -> None:
        raise TypeError("on the GPU")

    @property
    def __cuda_array_interface__(self) -> dict:
        face = self.array.__array_interface__
        return {"data": face["data"], "shape": self.shape, "typestr": face["typestr"], "version": 3}


class Device:
    compute_capability = "90"

    def __init__(self, number: int = 0) -> None:
        self.number = self.id = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.number == other.number

    __hash__ = None  # as CuPy's

    def __str__(self) -> str:
        return f"<CUDA Device {self.number}>"

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class Team(ctypes.Structure):
    """Of csrc/cuda/team.cuh, on the host."""

    _fields_ = (("lane", ctypes.c_int), ("lanes", ctypes.c_int), ("stage", ctypes.c_void_p), ("wait", ctypes.c_void_p), ("barrier", ctypes.c_void_p))


class Grid(ctypes.Structure):
    """Of csrc/cuda/kernels.cuh."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("x", "y", "width", "height"))


class RawModule:
    """A text, compiled for teams of one lane."""

    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == "nvrtc" and "-DFM_BY_ADDRESS" in options
        self.code = code

    def compile(self) -> None:
        self.library = ctypes.CDLL(cuda_host.text_compiled(self.code, 0).decode())

    def get_function(self, name: str) -> Any:
        entry = getattr(self.library, name)

        def launch(grid: tuple[int, int], block: tuple[int], args: tuple[np.uint64], shared_mem: int = 0) -> None:
            assert shared_mem == 0 and block[0] % 32 == 0
            width, height = grid
            for y in range(height):
                for x in range(width):
                    team, place = Team(0, 1, ctypes.addressof(STAGE)), Grid(x, y, width, height)
                    entry(ctypes.c_void_p(int(args[0])), ctypes.byref(team), ctypes.byref(place))

        return launch


def dirty(shape: Any, dtype: Any) -> Memory:
    """Memory that nothing may depend on."""
    out = np.empty(shape, dtype)
    ctypes.memset(out.ctypes.data, 0xA5, out.nbytes)
    return Memory(out)


def module() -> types.ModuleType:
    """What ``import cupy`` shall give."""
    fake: Any = types.ModuleType("cupy")
    fake.asarray = lambda x, order="C": x if isinstance(x, Memory) and x.array.flags.c_contiguous else Memory(np.array(getattr(x, "array", x), order=order))
    fake.ndarray = Memory
    fake.asnumpy = lambda x: x.array.copy()
    fake.empty, fake.zeros = dirty, lambda shape, dtype: Memory(np.zeros(shape, dtype))
    fake.RawModule = RawModule
    fake.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    errors = {name: type(name, (RuntimeError,), {}) for name in ("OutOfMemoryError", "CUDARuntimeError", "CUDADriverError")}
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda number: {"sharedMemPerBlockOptin": 0, "sharedMemPerMultiprocessor": 0, "multiProcessorCount": 1},
        memGetInfo=lambda: (1 << 30, 1 << 30),
        memsetAsync=lambda at, value, size, stream: ctypes.memset(at, value, size),
        memcpy=lambda to, at, size, kind: ctypes.memmove(to, at, size),
        memcpyHostToDevice=1, memcpyDeviceToHost=2, CUDARuntimeError=errors["CUDARuntimeError"],
    )  # fmt: skip
    fake.cuda = types.SimpleNamespace(
        Device=Device, runtime=runtime,
        get_current_stream=lambda: types.SimpleNamespace(ptr=0, synchronize=lambda: None), ExternalStream=lambda number: contextlib.nullcontext(),
        memory=types.SimpleNamespace(OutOfMemoryError=errors["OutOfMemoryError"]), driver=types.SimpleNamespace(CUDADriverError=errors["CUDADriverError"]),
    )  # fmt: skip
    return fake
