"""What stands around the device text: build at run time, arrays of GPU libraries, and bad input."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fastmeta as fm
from fastmeta import backends
from fastmeta.backends import cupy as cupy_backend

ARCHITECTURES = ["compute_75", "compute_90"]


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler of the nvidia-cuda-nvrtc wheel."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*")) if "builtins" not in path.name]
    if not found:
        pytest.skip("the nvidia-cuda-nvrtc wheel is not installed")
    for path in sorted(found[0].parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[0]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_text_that_is_shipped(architecture):
    lib = nvrtc()
    program = ctypes.c_void_p()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), b'#include "runtime.cuh"\n', b"fastmeta.cu", 0, None, None) == 0
    options = [b"-std=c++17", f"-I{cupy_backend.source()}".encode(), f"--gpu-architecture={architecture}".encode()]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, ptx)
    for name in ("fastmeta_block", "fastmeta_tasks", "fastmeta_sums"):
        assert f".entry {name}(".encode() in ptx.value
    lib.nvrtcDestroyProgram(ctypes.byref(program))


def test_constants_that_are_written_twice():
    text = "".join(path.read_text() for path in cupy_backend.source().glob("*.cuh"))
    assert f"kMostGroups = {cupy_backend.MOST_GROUPS}, kMostSumBytes = int64_t{{{cupy_backend.MOST_SUM_BYTES >> 20}}} << 20" in text
    assert f"kTeamLanes = {cupy_backend.THREADS};" in text and f"kPartials = {cupy_backend.PARTIALS // 8};" in text
    assert "kTileDepth = 16, kTileWidth = 65" in text and cupy_backend.STATUS.itemsize == cupy_backend.STATUS_BYTES


@pytest.mark.parametrize("name", ["cuda", "cupy"])
def test_a_backend_that_is_absent_says_why(name):
    reason = backends.available()[name]
    if reason == "ok":
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=f"expected backend {name} to be there, got: ") as caught:
        fm.set_backend(name)
    assert reason in str(caught.value) and len(reason) > 20


def test_a_compiled_module_of_another_version_is_refused():
    from fastmeta.backends import device

    old = types.SimpleNamespace(version="0.0.1", __name__="fastmeta._cuda")
    assert device.mismatch(old) == f"fastmeta._cuda was built for fastmeta 0.0.1, and this is {fm.__version__}: install again"
    assert device.mismatch(types.SimpleNamespace(version=fm.__version__)) is None


# ---- arrays of GPU libraries, by a library whose GPU is the host's memory


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
        self.number = number

    def __str__(self) -> str:
        return f"<CUDA Device {self.number}>"

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def library(monkeypatch):
    """A cupy whose arrays are in the host's memory."""
    fake = types.ModuleType("cupy")
    fake.asarray = lambda x, order: x if isinstance(x, Memory) and x.array.flags.c_contiguous else Memory(np.array(getattr(x, "array", x), order=order))
    fake.empty = lambda shape, dtype: Memory(np.empty(shape, dtype))
    fake.cuda = types.SimpleNamespace(get_current_stream=lambda: types.SimpleNamespace(ptr=0))
    monkeypatch.setitem(sys.modules, "cupy", fake)


def loss(w, x):
    return ((x @ w) ** 2).sum()


@pytest.fixture
def hosted():
    if backends.module("cuda-host").missing():
        pytest.skip("fastmeta._cuda_host is not built: .ci/cuda builds it")
    with fm.set_backend("cuda-host"):
        yield


def test_device_arrays_in_and_out(library, hosted):
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((5, 7, 4))
    step = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0), reduce="mean")
    want = step(w, x)
    for given in (x, np.asfortranarray(x), x[::-1][::-1]):
        got = step(Memory(w), Memory(given))
        assert isinstance(got[0], Memory) and isinstance(got[1], Memory)
        np.testing.assert_allclose(got[0].array, want[0], rtol=1e-12)
        np.testing.assert_allclose(got[1].array, want[1], rtol=1e-12)


def test_dense_arrays_are_not_copied(library, hosted):
    from fastmeta.backends.arrays import library as of

    x = Memory(np.ones((3, 4), np.float32))
    kind = of([x])
    assert kind.address(kind.put(x)) == x.array.ctypes.data


def test_integers_of_a_device_are_narrowed(library, hosted):
    f = fm.jit(lambda x, k: fm.take(x, k, axis=0))
    x, k = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([2, 0], np.int32)
    np.testing.assert_array_equal(f(Memory(x), Memory(k)).array, x[k])
    with pytest.raises(TypeError, match="as int32 on a GPU, got int64"):
        f(Memory(x), Memory(k.astype(np.int64)))


def test_an_array_of_a_device_needs_a_backend_of_one(library):
    with fm.set_backend("numpy"), pytest.raises(TypeError, match=r"expected host arrays for backend numpy, got a cupy array on <CUDA Device 0>"):
        fm.jit(lambda x: x + 1.0)(Memory(np.ones(3, np.float32)))


def test_mixed_devices_are_refused(library, hosted):
    f = fm.jit(lambda x, y: x + y)
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"all arrays on one device, got a cupy array on <CUDA Device 0> and a numpy array of shape \[3\]"):
        f(Memory(x), x)
    with pytest.raises(ValueError, match="one library on one GPU, got cupy on <CUDA Device 0>, <CUDA Device 1>"):
        f(Memory(x), Memory(x, Device(1)))
    np.testing.assert_array_equal(f(Memory(x), 2.0).array, x + 2)
