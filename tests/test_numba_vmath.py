"""Errors of the numba backend's mathematical functions in ULP, within the bounds of the compiled core's."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from ulp import BOUNDS, SEED, reference, ulp_errors

from fastmeta.backends.numba import passes
from fastmeta.ops.microops import NUMBER

KERNELS = {"f32": passes.elementwise_f32, "f64": passes.elementwise_f64}
BLOCK = 500  # a tile, whose last vector is not full


def computed(name, x):
    """The function of one argument by its kernel, some numbers at a time."""
    kernel = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 6)(KERNELS[f"f{8 * x.itemsize}"].address)
    x, y = np.ascontiguousarray(x), np.empty_like(x)
    for k in range(0, x.size, BLOCK):
        part, to = x[k : k + BLOCK], y[k:]
        kernel(NUMBER[name], part.size, to.ctypes.data, part.ctypes.data, 0, 0)
    return y


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", [n for n in BOUNDS if n != "power"])
def test_error_of_functions(name, dtype):
    x, true = reference(name, dtype)
    error = ulp_errors(computed(name, x), true)
    worst = int(np.argmax(error))
    print(f"{name} {dtype}: {float(error[worst]):.3f} ULP at {x[worst]!r} (seed {SEED})")
    assert error[worst] <= BOUNDS[name][dtype == "f64"], (x[worst], true[worst])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_a_far_argument_leaves_its_neighbours_alone(name, dtype):
    x = np.linspace(-3, 3, BLOCK, dtype=dtype)
    alone = computed(name, x)
    x[7] = 1e20
    far = computed(name, x)
    assert abs(far[7] - getattr(np, name)(np.float64(x[7]))) < 1e-6
    np.testing.assert_array_equal(np.delete(far, 7), np.delete(alone, 7))
