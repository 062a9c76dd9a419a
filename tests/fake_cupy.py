"""A cupy whose GPU is the host's memory."""

from __future__ import annotations

import types

import numpy as np


class Memory:
    """An array of the library below."""

    __module__ = "cupy.fake"

    def __init__(self, array: np.ndarray, device: Device | None = None) -> None:
        self.array, self.device = array, device or Device(0)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def __dlpack__(self) -> None:
        raise TypeError("on the GPU")

    @property
    def __cuda_array_interface__(self) -> dict:
        face = self.array.__array_interface__
        return {"data": face["data"], "shape": self.shape, "typestr": face["typestr"], "version": 3}


class Device:
    def __init__(self, number: int) -> None:
        self.number = self.id = number

    def __str__(self) -> str:
        return f"<CUDA Device {self.number}>"

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def module() -> types.ModuleType:
    """What ``import cupy`` shall give."""
    fake = types.ModuleType("cupy")
    fake.asarray = lambda x, order: x if isinstance(x, Memory) and x.array.flags.c_contiguous else Memory(np.array(getattr(x, "array", x), order=order))
    fake.empty = lambda shape, dtype: Memory(np.empty(shape, dtype))
    fake.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=0))
    return fake
