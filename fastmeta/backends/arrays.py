"""Arrays of other libraries on a GPU: found by ``__cuda_array_interface__``, results made by the library of the inputs.

PyTorch's are asked directly, since its interface takes many times as long: a call has tens of arrays.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastmeta.errors import expected

DTYPES = tuple(np.dtype(name) for name in ("float32", "float64", "int32", "bool"))  # by their codes in a plan
ALIGNED = 16  # bytes: what a lane of a GPU reads at once
MOST_NUMBERS = 256  # that are kept on a device


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


class Host:
    """NumPy arrays, dense and aligned."""

    waits = True

    def has(self, given: Iterable[Any]) -> bool:
        """Whether these go together here."""
        return all(type(x) is np.ndarray for x in given)

    def fits(self, x: Any, code: int) -> bool:
        return type(x) is np.ndarray and x.dtype == DTYPES[code] and x.dtype.isnative and x.flags.c_contiguous and x.flags.aligned

    def empty(self, shape: tuple[int, ...], code: int) -> Any:
        return np.empty(shape, DTYPES[code])

    def address(self, x: Any) -> int:
        return int(x.ctypes.data)

    def stream(self) -> int:
        return 0


class Library(ABC):
    """Arrays of a library on one GPU.  A plan keeps it from call to call."""

    waits = False
    """Whether a run must have ended when it returns."""

    def __init__(self, module: Any, sample: Any) -> None:
        self.module, self.device = module, sample.device
        self.numbers: dict[tuple[str, bytes], Any] = {}

    def has(self, given: Iterable[Any]) -> bool:
        """Whether these are on this GPU, but for numbers of the host beside them."""
        there = False
        for x in given:
            if self.owns(x):
                there = True
            elif not (type(x) is np.ndarray and x.ndim == 0):
                return False
        return there

    def put(self, x: Any) -> Any:
        """x dense and aligned, on this device.  Captured arrays come from the host, and numbers, which are kept: sending one waits for the device."""
        if self.owns(x) or on_device(x):
            return self.dense(x)
        x = np.asarray(x)
        if x.ndim:
            return self.send(x)
        key = x.dtype.char, x.tobytes()
        found = self.numbers.get(key)
        if found is None:
            if len(self.numbers) >= MOST_NUMBERS:
                self.numbers.clear()
            found = self.numbers[key] = self.send(x)
        return found

    def fits(self, x: Any, code: int) -> bool:
        return bool(x.dtype == DTYPES[code])

    def address(self, x: Any) -> int:
        return int(x.__cuda_array_interface__["data"][0] or 0)

    @property
    def number(self) -> int:
        """The number of the GPU."""
        return int(self.device.id)

    @abstractmethod
    def stream(self) -> int:
        """The stream that the library works on now; 0 where it has none to tell."""

    @abstractmethod
    def owns(self, x: Any) -> bool:
        """Whether x is an array of the library on this GPU."""

    @abstractmethod
    def dense(self, x: Any) -> Any:
        """An array of the library, dense and aligned."""

    @abstractmethod
    def send(self, x: np.ndarray) -> Any:
        """A copy on the device, there for any stream when this returns."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], code: int) -> Any:
        """A new array on the device."""


class Torch(Library):
    """Tensors, asked by their own methods."""

    def __init__(self, module: Any, sample: Any) -> None:
        super().__init__(module, sample)
        self.dtypes = [getattr(module, dtype.name) for dtype in DTYPES]

    def owns(self, x: Any) -> bool:
        return isinstance(x, self.module.Tensor) and x.device == self.device and not x.requires_grad

    def dense(self, x: Any) -> Any:
        made = x.contiguous()
        return made if made.data_ptr() % ALIGNED == 0 else made.clone()

    def send(self, x: np.ndarray) -> Any:
        return self.module.from_numpy(x.copy()).to(self.device)

    def fits(self, x: Any, code: int) -> bool:
        return x.dtype is self.dtypes[code]

    def empty(self, shape: tuple[int, ...], code: int) -> Any:
        return self.module.empty(shape, dtype=self.dtypes[code], device=self.device)

    def address(self, x: Any) -> int:
        return int(x.data_ptr())

    @property
    def number(self) -> int:
        return int(self.device.index)

    def stream(self) -> int:
        return int(self.module.cuda.current_stream(self.device).cuda_stream)


class CuPy(Library):
    def owns(self, x: Any) -> bool:
        return isinstance(x, self.module.ndarray) and x.device == self.device

    def dense(self, x: Any) -> Any:
        with self.device:
            made = self.module.asarray(x, order="C")
            return made if self.address(made) % ALIGNED == 0 else made.copy()

    def send(self, x: np.ndarray) -> Any:
        with self.device:
            made = self.module.asarray(x)
            self.module.cuda.get_current_stream().synchronize()
            return made

    def empty(self, shape: tuple[int, ...], code: int) -> Any:
        with self.device:
            return self.module.empty(shape, DTYPES[code])

    def stream(self) -> int:
        return int(self.module.cuda.get_current_stream().ptr)


class Jax(Library):
    """JAX's streams are its own and do not wait for ours: inputs are ready when they have been put, results when a run returns."""

    waits = True

    def owns(self, x: Any) -> bool:
        return isinstance(x, self.module.Array) and x.device == self.device

    def dense(self, x: Any) -> Any:
        if self.address(x) % ALIGNED:  # memory of another library
            x = self.module.numpy.array(x, copy=True)
        return x.block_until_ready()

    def send(self, x: np.ndarray) -> Any:
        return self.module.device_put(x, self.device).block_until_ready()

    def empty(self, shape: tuple[int, ...], code: int) -> Any:
        made = self.send(np.empty(shape, DTYPES[code]))
        if made.dtype != DTYPES[code]:
            raise expected("array", f"a JAX that makes {DTYPES[code]} arrays", f"{made.dtype} ones", TypeError, "See jax_enable_x64")
        return made

    def stream(self) -> int:
        return 0


HOST = Host()
KINDS: dict[str, type[Library]] = {"torch": Torch, "cupy": CuPy, "jax": Jax}


def library(given: Iterable[Any]) -> Any:
    """`HOST`, or the library of the arrays that are on a GPU: one, and one device."""
    there = [x for x in given if on_device(x)]
    if not there:
        return HOST
    names = {_name(x) for x in there}
    devices = {str(x.device) for x in there}
    if len(names) > 1 or len(devices) > 1:
        raise expected("array", "arrays of one library on one GPU", f"{', '.join(sorted(names))} on {', '.join(sorted(devices))}")
    name = names.pop()
    return KINDS[name](sys.modules[name], there[0])


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
    if name not in KINDS:
        raise expected("array", "a torch, JAX or CuPy array on a GPU", f"{type(x).__module__}.{type(x).__name__}", TypeError)
    return name
