"""Arrays of other libraries on a GPU: found by ``__cuda_array_interface__``, results made by the library of the inputs.

PyTorch's are asked directly, since its interface takes many times as long: a call has tens of arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastmeta.errors import expected


def on_device(x: Any) -> bool:
    """Whether x is an array on a GPU."""
    if isinstance(x, np.ndarray | np.generic | int | float):
        return False
    if _of_torch(x) and not x.requires_grad:
        return bool(x.is_cuda)
    try:
        return hasattr(x, "__cuda_array_interface__")
    except (RuntimeError, TypeError, ValueError):  # a torch tensor that requires gradients, a sharded JAX array
        raise expected("array", "an array on one GPU that needs no gradient", f"{type(x).__module__}.{type(x).__name__}", TypeError, "Call detach() first") from None


def _of_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


ALIGNED = 16  # bytes: what a lane of a GPU reads at once


class Host:
    """NumPy arrays, dense and aligned."""

    waits = True

    def fits(self, x: Any, dtype: np.dtype, rank: int) -> bool:
        return type(x) is np.ndarray and x.dtype == dtype and x.dtype.isnative and x.ndim == rank and x.flags.c_contiguous and x.flags.aligned

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return np.empty(shape, dtype)

    def address(self, x: Any) -> int:
        return int(x.ctypes.data)

    def stream(self) -> int:
        return 0


class Library:
    """Arrays of torch, JAX or CuPy on one GPU."""

    def __init__(self, name: str, sample: Any) -> None:
        self.name, self.module = name, sys.modules[name]
        self.device = sample.device

    def put(self, x: Any) -> Any:
        """x dense and aligned, on this device; numbers and captured arrays come from the host."""
        here = on_device(x)
        if self.name == "torch":
            made = (x if here else self.module.from_numpy(np.array(x))).to(self.device).contiguous()
            return made if self.address(made) % ALIGNED == 0 else made.clone()
        if self.name == "cupy":
            with self.device:
                made = self.module.asarray(x, order="C")
                return made if self.address(made) % ALIGNED == 0 else made.copy()
        made = x if here else self.module.device_put(x, self.device)
        if self.address(made) % ALIGNED:  # memory of another library
            made = self.module.numpy.array(made, copy=True)
        return made.block_until_ready()

    def fits(self, x: Any, dtype: np.dtype, rank: int) -> bool:
        return len(x.shape) == rank and _dtype_name(x) == dtype.name

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        if self.name == "torch":
            return self.module.empty(shape, dtype=getattr(self.module, dtype.name), device=self.device)
        if self.name == "cupy":
            with self.device:
                return self.module.empty(shape, dtype)
        made = self.module.device_put(np.empty(shape, dtype), self.device).block_until_ready()
        if made.dtype != dtype:
            raise expected("array", f"a JAX that makes {dtype} arrays", f"{made.dtype} ones", TypeError, "See jax_enable_x64")
        return made

    def address(self, x: Any) -> int:
        return int(x.data_ptr() if self.name == "torch" else x.__cuda_array_interface__["data"][0] or 0)

    @property
    def number(self) -> int:
        """The number of the GPU."""
        return int(self.device.index if self.name == "torch" else self.device.id)

    @property
    def waits(self) -> bool:
        """Whether a run must have ended when it returns: JAX's streams are its own, and do not wait for ours."""
        return self.name == "jax"

    def stream(self) -> int:
        """The stream that the library works on now; 0 for JAX, whose inputs are ready when they have been put."""
        if self.name == "torch":
            return int(self.module.cuda.current_stream(self.device).cuda_stream)
        if self.name == "cupy":
            return int(self.module.cuda.get_current_stream().ptr)
        return 0


HOST = Host()


def library(given: Iterable[Any]) -> Any:
    """`HOST`, or the library of the arrays that are on a GPU: one, and one device."""
    there = [x for x in given if on_device(x)]
    if not there:
        return HOST
    names = {_name(x) for x in there}
    devices = {str(x.device) for x in there}
    if len(names) > 1 or len(devices) > 1:
        raise expected("array", "arrays of one library on one GPU", f"{', '.join(sorted(names))} on {', '.join(sorted(devices))}")
    return Library(names.pop(), there[0])


def device_dtype(x: Any) -> np.dtype:
    """The dtype of an array on a GPU; one that a plan has."""
    name = _dtype_name(x)
    if name not in ("float32", "float64", "int32", "bool"):
        raise expected("array", "float32, float64, int32 or bool, or integers as int32 on a GPU", name, TypeError)
    return np.dtype(name)


def _dtype_name(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.") if _of_torch(x) else np.dtype(x.__cuda_array_interface__["typestr"]).name


def check_places(given: Sequence[Any], backend: str) -> None:
    """Refuses arrays of a GPU where the backend runs on the host, and where they meet arrays of the host; numbers go with either."""
    there = next((x for x in given if on_device(x)), None)
    if there is None:
        return
    if not backend.startswith("cu"):
        hint = "Copy it to the host, or choose fm.set_backend('cuda')"
        raise expected("array", f"host arrays for backend {backend}", f"a {_name(there)} array on {there.device}", TypeError, hint)
    host = next((x for x in given if isinstance(x, np.ndarray) and x.ndim), None)
    if host is not None:
        raise expected("array", "all arrays on one device", f"a {_name(there)} array on {there.device} and a numpy array of shape {list(host.shape)}")


def _name(x: Any) -> str:
    root = type(x).__module__.partition(".")[0]
    name = {"jaxlib": "jax"}.get(root, root)
    if name not in ("torch", "jax", "cupy"):
        raise expected("array", "a torch, JAX or CuPy array on a GPU", f"{type(x).__module__}.{type(x).__name__}", TypeError)
    return name
