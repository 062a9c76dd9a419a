"""The kernels of products that Numba compiles, for the vectors of this machine and of lesser ones."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from fastmeta.backends.numba import products

ROWS, COLUMNS = (1, 2, 5, 8, 9, 13), (1, 3, 8, 16, 17, 40, 64, 70)
CPUS = {"haswell": "+avx,+avx2,+fma", "generic": ""}  # vectors of 32 bytes, of 16


def worst_error(dtype: str, seed: int = 0) -> float:
    """The largest difference from NumPy over tiles of every size, their tails, and vectors, with and without what is added."""
    rng, kind = np.random.default_rng(seed), np.dtype({"f32": np.float32, "f64": np.float64}[dtype])
    call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 9)
    multiply, dots = (call(getattr(products, f"{name}_{dtype}").address) for name in ("multiply", "dots"))
    item, alpha, worst = kind.itemsize, int(np.array(-0.5).view(np.int64)), 0.0
    for m, n, count, added in product(ROWS, COLUMNS, (1, 2), ("nothing", "itself", "another")):
        pairs = [(rng.normal(size=(m, k)).astype(kind), rng.normal(size=(k, n)).astype(kind)) for k in rng.integers(1, 36, count)]
        wide, other = rng.normal(size=(m, n + 3)).astype(kind), rng.normal(size=(m, n)).astype(kind)
        source = {"nothing": None, "itself": wide[:, :n], "another": other}[added]
        d, d_row = (0, 0) if source is None else (source.ctypes.data, source.strides[0])
        want = -0.5 * sum(a.astype(float) @ b for a, b in pairs) + (0 if source is None else source)
        for kernel, turned in ((multiply, False), (multiply, True), (dots, False)):
            if kernel is dots and n > 1:
                continue
            lefts = [np.asarray(a, order="F" if turned else "C") for a, _ in pairs]
            records = np.array([(a.ctypes.data, b.ctypes.data, len(b), *a.strides, n * item) for a, (_, b) in zip(lefts, pairs, strict=True)])
            got = wide.copy()
            to = got.ctypes.data
            kernel(records.ctypes.data, count, m, n, to, got.strides[0], to if added == "itself" else d, d_row, alpha)
            worst = max(worst, float(np.abs(got[:, :n] - want).max()))
            assert np.array_equal(got[:, n:], wide[:, n:])  # what is behind a row stays
    return worst


@pytest.mark.parametrize(("dtype", "bound"), [("f32", 5e-5), ("f64", 1e-13)])
def test_tiles_and_dot_products(dtype: str, bound: float) -> None:
    assert worst_error(dtype) < bound


@pytest.mark.parametrize("cpu", CPUS)
def test_tiles_of_shorter_vectors(cpu: str) -> None:
    text = "import test_numba_products as t; from fastmeta.backends.numba.writer import VECTOR_BYTES; print(VECTOR_BYTES, t.worst_error('f32'))"
    env = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": CPUS[cpu], "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", text], env=env, check=True, capture_output=True, text=True).stdout.split()
    assert int(said[0]) == {"haswell": 32, "generic": 16}[cpu]
    assert float(said[1]) < 5e-5
