"""The device text: NVRTC compiles what is shipped; arrays of GPU libraries go in and out of the text on the host.

.ci/cuda runs this with ``--backend cuda-host``, for which it builds and installs what this needs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import types
from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from fake_cupy import Device, Memory

import fastmeta as fm
from fastmeta.backends import cuda_host
from fastmeta.backends import cupy as cupy_backend
from fastmeta.backends.arrays import library as library_of
from fastmeta.transforms.unroll import EQUATIONS

ARCHITECTURES = ["compute_75", "compute_90"]


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler of the nvidia-cuda-nvrtc wheel."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*")) if "builtins" not in path.name]
    assert found, "the nvidia-cuda-nvrtc wheel is not installed"
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


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """A cupy whose arrays are in the host's memory."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())


def loss(w, x):
    return ((x @ w) ** 2).sum()


def test_device_arrays_in_and_out():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((5, 7, 4))
    step = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0), reduce="mean")
    want = step(w, x)
    for given in (x, np.asfortranarray(x), x[::-1][::-1]):
        got = step(Memory(w), Memory(given))
        assert isinstance(got[0], Memory) and isinstance(got[1], Memory)
        np.testing.assert_allclose(got[0].array, want[0], rtol=1e-12)
        np.testing.assert_allclose(got[1].array, want[1], rtol=1e-12)


def test_dense_arrays_are_not_copied():
    x = Memory(np.ones((3, 4), np.float32))
    kind = library_of([x])
    assert kind.address(kind.put(x)) == x.array.ctypes.data


def test_integers_of_a_device_are_narrowed():
    f = fm.jit(lambda x, k: fm.take(x, k, axis=0))
    x, k = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([2, 0], np.int32)
    np.testing.assert_array_equal(f(Memory(x), Memory(k)).array, x[k])
    with pytest.raises(TypeError, match="as int32 on a GPU, got int64"):
        f(Memory(x), Memory(k.astype(np.int64)))


def test_mixed_devices_are_refused():
    f = fm.jit(lambda x, y: x + y)
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"all arrays on one device, got a cupy array on <CUDA Device 0> and a numpy array of shape \[3\]"):
        f(Memory(x), x)
    with pytest.raises(ValueError, match="one library on one GPU, got cupy on <CUDA Device 0>, <CUDA Device 1>"):
        f(Memory(x), Memory(x, Device(1)))
    np.testing.assert_array_equal(f(Memory(x), 2.0).array, x + 2)
    with pytest.raises(ValueError, match="arrays on GPU 0, which this function was planned for, got arrays on <CUDA Device 1>"):
        f(Memory(x, Device(1)), 2.0)


def test_products_of_more_tasks_than_there_are_groups(monkeypatch):
    """Where groups differ in length by a task, the last of them are not for a library that takes all slots at once."""
    monkeypatch.setitem(cuda_host.OPTIONS, "way", "batched")
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((4, 3)), rng.standard_normal((1030, 5, 4))
    products = fm.map_tasks(lambda w, x: (x @ w, (x @ w).T @ x), in_axes=(None, 0), reduce=(None, "sum"))
    each, total = products(w, x)
    np.testing.assert_allclose(each, x @ w, rtol=1e-12)
    np.testing.assert_allclose(total, np.einsum("tij,tik->jk", x @ w, x), rtol=1e-12)


@pytest.mark.parametrize("way", ["resident", "batched"])
def test_loops_and_products_behind_a_bad_index(monkeypatch, way):
    """They run on, for the tasks that have not ended, and touch nothing of those that have."""
    monkeypatch.setitem(cuda_host.OPTIONS, "way", way)
    rng = np.random.default_rng(2)
    table, x = rng.standard_normal((4, 3)), rng.standard_normal((6, 3, 3))

    def f(table, k, x):
        start = fm.take(table, k, axis=0)
        return fm.scan(lambda c, _: (fm.tanh(c @ x), c[0]), start, None, length=EQUATIONS)  # too long to become straight code

    g = fm.map_tasks(f, in_axes=(None, 0, 0))
    good = np.tile(np.arange(2, dtype=np.int32), (6, 1))
    want = g(table, good, x)
    bad = good.copy()
    bad[3, 1] = 9
    with pytest.raises(IndexError, match="task 3"):
        g(table, bad, x)
    for a, b in zip(g(table, good, x), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_arrays_than_one_launch_tells_of():
    x = np.arange(3.0)
    outputs = fm.jit(lambda x: [x + k for k in range(150)])(x)
    np.testing.assert_array_equal(outputs, x + np.arange(150.0)[:, None])


def test_jax_is_waited_for(monkeypatch):
    """Its streams do not wait for ours: what goes in is ready, and what comes out is there when the call returns."""
    waited = []

    class JaxMemory(Memory):
        __module__ = "jaxlib.fake"

        def block_until_ready(self):
            waited.append(self)
            return self

    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(device_put=lambda x, device: JaxMemory(np.array(x), device)))
    x = JaxMemory(np.ones(3))
    assert library_of([x]).waits and not library_of([Memory(np.ones(3))]).waits
    np.testing.assert_array_equal(fm.jit(lambda x: 2 * x)(x).array, [2, 2, 2])
    assert any(a is x for a in waited)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(device_put=lambda x, device: JaxMemory(np.array(x, np.float32), device)))
    with pytest.raises(TypeError, match="a JAX that makes float64 arrays, got float32 ones"):
        fm.jit(lambda x: 3 * x)(x)
