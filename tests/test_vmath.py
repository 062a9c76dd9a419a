"""The kernels on tiles: errors of the vector functions in ULP, and every way a tile, cast, reduction or transpose is called."""

from __future__ import annotations

import ctypes
import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hosts import ISAS
from ulp import BOUNDS, REFERENCES, SEED, TYPES, reference, samples, ulp_errors

from fastmeta import _core
from fastmeta.ops import codegen
from fastmeta.ops.microops import MICROOPS

ROOT = Path(__file__).resolve().parents[1]
TARGETS = [name for name in ISAS if name != "avx512-halves"]  # whose kernels are those of two others
CODES = {"f32": 0, "f64": 1, "i32": 2, "bool": 3}


def compiled(name: str, folder: Path) -> ctypes.CDLL:
    """tests/cpp/NAME.cpp, which takes the extension's kernels as they are."""
    library = folder / f"{name}.so"
    subprocess.run(["g++", "-std=c++17", "-shared", "-fPIC", "-O2", str(ROOT / "tests" / "cpp" / f"{name}.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def table(target: str) -> ctypes.c_void_p:
    """The kernels of a target."""
    before = _core.isa()
    _core.set_isa(target)
    found = ctypes.c_void_p(_core.kernels())
    _core.set_isa(before)
    return found


class Kernels:
    """The kernels of one target, on NumPy arrays."""

    def __init__(self, library: ctypes.CDLL, table: ctypes.c_void_p) -> None:
        self.lib, self.table = library, table
        self.numbers = {op.name: i for i, op in enumerate(MICROOPS)}

    def tile(self, name, dtype, dst, *args, variant=0):
        """dst[r, c] = op(args[r, c]) for 2-d views; False where there is no such kernel."""
        strides = [a.strides[0] // a.itemsize for a in (dst, *args)] + [0] * (3 - len(args))
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in args] + [None] * (3 - len(args))
        status = self.lib.run_tile(
            self.table, self.numbers[name], CODES[dtype], variant, ctypes.c_void_p(dst.ctypes.data), *pointers,
            (ctypes.c_int64 * 4)(*strides), *map(ctypes.c_int64, dst.shape),
        )  # fmt: skip
        return status == 0

    def __call__(self, name, dtype, *args):
        """The op on whole arrays."""
        args = [np.ascontiguousarray(a, TYPES[dtype]) for a in args]
        dst = np.empty_like(args[0])
        assert self.tile(name, dtype, dst.reshape(1, -1), *(a.reshape(1, -1) for a in args))
        return dst

    def cast(self, source, target, dst, x):
        """dst = x, converted, for 2-d views."""
        rows = [ctypes.c_int64(a.strides[0] // a.itemsize) for a in (dst, x)]
        where = [ctypes.c_void_p(a.ctypes.data) for a in (dst, x)]
        assert self.lib.run_cast(self.table, CODES[source], CODES[target], *where, *rows, *map(ctypes.c_int64, x.shape)) == 0

    def reduce(self, mode, dtype, dst, x, dst_row, dst_col):
        """Accumulates x, a 2-d view, in the memory of dst."""
        where = [ctypes.c_void_p(a.ctypes.data) for a in (dst, x)]
        numbers = (dst_row, dst_col, x.strides[0] // x.itemsize, *x.shape)
        assert self.lib.run_reduce(self.table, mode, CODES[dtype], *where, *map(ctypes.c_int64, numbers)) == 0

    def transpose(self, src, dst):
        """dst.T = src for 2-d views."""
        self.lib.run_transpose(
            self.table, src.itemsize, ctypes.c_void_p(src.ctypes.data), ctypes.c_int64(src.strides[0] // src.itemsize),
            ctypes.c_void_p(dst.ctypes.data), ctypes.c_int64(dst.strides[0] // dst.itemsize), *map(ctypes.c_int64, src.shape),
        )  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled("vmath_test", tmp_path_factory.mktemp("vmath"))


@pytest.fixture(params=TARGETS)
def kernels(request, library):
    """The kernels of each target in turn."""
    return Kernels(library, table(request.param))


# ---- accuracy


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", [n for n in BOUNDS if n != "power"])
def test_error_of_functions(kernels, name, dtype):
    x, true = reference(name, dtype)
    error = ulp_errors(kernels(name, dtype, x), true)
    worst = int(np.argmax(error))
    print(f"{name} {dtype}: {float(error[worst]):.3f} ULP at {x[worst]!r} (seed {SEED})")
    assert error[worst] <= BOUNDS[name][dtype == "f64"], (x[worst], true[worst])


@functools.cache
def power_reference(dtype):
    """Bases, exponents and true powers."""
    rng = np.random.default_rng(SEED)
    t = TYPES[dtype]
    x = np.abs(samples(dtype, 20_000))
    limit = 128 if t is np.float32 else 1024
    with np.errstate(all="ignore"):
        log = np.log2(x.astype(np.longdouble))
        y = [
            rng.uniform(-limit * 1.15, limit * 1.15, x.size) / log,
            rng.normal(size=x.size) * 3,
            rng.integers(-9, 10, x.size),
        ]
    x, y = np.concatenate([x, x, -x]).astype(t), np.concatenate(y).astype(t)
    specials = np.array(
        [
            0,
            1,
            2,
            3,
            0.5,
            1.5,
            2.0**-149,
            1e-310,
            7,
            8,
            1e10,
            1e30,
            2.0**24 + 1,
            2.0**53 - 1,
            np.inf,
            np.nan,
            np.finfo(t).max,
        ]
    )
    with np.errstate(all="ignore"):
        specials = np.concatenate([specials, -specials]).astype(t)
    sx, sy = (g.ravel() for g in np.meshgrid(specials, specials))
    x, y = np.concatenate([x, sx]), np.concatenate([y, sy])
    with np.errstate(all="ignore"):
        return x, y, np.power(x.astype(np.longdouble), y.astype(np.longdouble))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_error_of_pow(kernels, dtype):
    x, y, true = power_reference(dtype)
    error = ulp_errors(kernels("power", dtype, x, y), true)
    worst = int(np.argmax(error))
    print(f"power {dtype}: {float(error[worst]):.3f} ULP at {x[worst]!r}, {y[worst]!r} (seed {SEED})")
    assert error[worst] <= BOUNDS["power"][dtype == "f64"], (x[worst], y[worst], true[worst])


# ---- every way to call a tile

RNG_SHAPES = [(1, 1), (1, 3), (1, 400), (7, 1), (3, 2), (5, 5), (6, 10), (4, 16), (9, 17), (3, 33), (2, 40), (2, 131)]


def values(rng, dtype, shape):
    """Numbers that suit every op, with some NaN among floats."""
    if dtype == "i32":
        return rng.integers(-5, 6, shape).astype(np.int32)
    x = rng.normal(size=shape).round(1).astype(TYPES[dtype])
    x[rng.random(shape) < 0.03] = np.nan
    return x


ORACLE = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum,
    "minimum": np.minimum, "negative": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "relu": lambda x: np.maximum(x, 0), "equal": np.equal, "not_equal": np.not_equal,
    "less": np.less, "less_equal": np.less_equal, "greater": np.greater, "greater_equal": np.greater_equal,
    "logical_and": np.multiply, "logical_or": np.maximum, "logical_not": lambda x: x == 0,
    "where": lambda m, x, y: np.where(m != 0, x, y), "multiply_add": lambda x, y, z: x * y + z,
    "at_least": lambda x, y: (y <= x) | (x != x), "gate": lambda x, y: np.where(y > 0, x, 0),
    "half_gate": lambda x, y: np.where(y > 0, x, np.where(y == 0, x / 2, 0)),
    "share": lambda x, y, z: np.where(y > z, x, np.where(y == z, x / 2, 0)), "copy": lambda x: x, **REFERENCES,
}  # fmt: skip


def test_every_op_has_an_oracle():
    assert {op.name for op in MICROOPS} <= set(ORACLE)


def padded(rng, dtype, shape, row):
    """A view of `shape` whose rows lie `row` elements apart, inside memory filled with a value to be kept."""
    rows, cols = shape
    whole = np.full((rows - 1) * row + cols + 80, 77, TYPES[dtype])
    view = np.lib.stride_tricks.as_strided(whole[40:], shape, (row * whole.itemsize, whole.itemsize))
    view[:] = values(rng, dtype, shape)
    return whole, view


def close(got, true, roundings):
    """Whether two arrays are equal but for so many roundings; NaN equals NaN."""
    if got.dtype == np.int32:
        return np.array_equal(got, true)
    with np.errstate(all="ignore"):
        near = np.abs(got - true) <= roundings * np.finfo(got.dtype).eps * (1 + np.abs(true))
    return bool((near | (got == true) | (np.isnan(got) & np.isnan(true))).all())


@pytest.mark.parametrize("op", MICROOPS, ids=lambda op: op.name)
def test_tiles(kernels, op):
    """Each variant in each shape, dense and not, in place or not, against NumPy; nothing outside dst changes."""
    rng = np.random.default_rng(SEED)
    for dtype in op.types:
        for variant in range(2**op.arity):
            if variant and variant == 2**op.arity - 1:
                continue
            for shape in RNG_SHAPES:
                for form in ("dense", "strided", "broadcast", "in place"):
                    rows, cols = shape
                    gap = 0 if form in ("dense", "in place") else 3
                    args = []
                    for i in range(op.arity):
                        if variant >> i & 1:
                            column = values(rng, dtype, (1 if form == "broadcast" else rows, 1))
                            strides = (0 if form == "broadcast" else column.itemsize, 0)
                            args.append(np.lib.stride_tricks.as_strided(column, shape, strides))
                        elif form == "broadcast" and i == op.arity - 1:
                            args.append(np.broadcast_to(padded(rng, dtype, (1, cols), cols)[1], shape))
                        else:
                            args.append(padded(rng, dtype, shape, cols + gap)[1])
                    whole, dst = padded(rng, dtype, shape, cols + gap)
                    if form == "in place":
                        i = next(i for i in range(op.arity) if not variant >> i & 1)
                        dst[:] = args[i]
                        args[i] = dst
                    kept = whole.copy()
                    with np.errstate(all="ignore"):
                        true = np.asarray(ORACLE[op.name](*args)).astype(TYPES[dtype])
                    assert kernels.tile(op.name, dtype, dst, *args, variant=variant)
                    where = f"{op.name} {dtype} variant {variant} {shape} {form} (seed {SEED})"
                    assert close(dst, true, 8), where
                    dst[:] = 0
                    inside = whole == 0
                    assert np.array_equal(whole[~inside], kept[~inside], equal_nan=True), where
                    assert inside.sum() >= rows * cols


def test_a_missing_kernel_is_missing(kernels):
    x = np.ones((2, 3), np.float32)
    assert not kernels.tile("add", "f32", np.empty_like(x), x, x, variant=3)
    assert not kernels.tile("exp", "i32", np.empty((2, 3), np.int32), np.ones((2, 3), np.int32))


def test_integers_wrap(kernels):
    x = np.array([2**31 - 1, -(2**31)] * 20, np.int32)
    assert np.array_equal(kernels("add", "i32", x, x), x + x)
    assert np.array_equal(kernels("multiply", "i32", x, x), x * x)
    assert np.array_equal(kernels("negative", "i32", x), -x)
    assert np.array_equal(kernels("abs", "i32", x), np.abs(x))


@pytest.mark.parametrize("source", list(CODES))
@pytest.mark.parametrize("target", list(CODES))
def test_casts(kernels, source, target):
    rng = np.random.default_rng(SEED)
    types = {**TYPES, "bool": np.bool_}
    for rows, cols in RNG_SHAPES:
        for gap in (0, 5):
            x = np.zeros((rows, cols + gap), types[source])[:, :cols]
            x[:] = (rng.normal(size=(rows, cols)) * 3 * rng.integers(0, 2, (rows, cols))).astype(types[source])
            whole = np.full((rows, cols + gap), 1, types[target])
            kernels.cast(source, target, whole[:, :cols], x)
            assert np.array_equal(whole[:, :cols], x.astype(types[target]))
            assert (whole[:, cols:] == 1).all()


@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("mode", [1, 2, 3])
def test_reductions(kernels, dtype, mode):
    rng = np.random.default_rng(SEED)
    reduction = {1: np.add, 2: np.maximum, 3: np.minimum}[mode]
    for rows, cols in [*RNG_SHAPES, (40, 40), (13, 5), (64, 9), (1, 1000), (37, 70), (5, 8), (300, 3)]:
        for gap in (0, 3):
            for nan in (False, True):
                x = padded(rng, dtype, (rows, cols), cols + gap)[1]
                if not nan and dtype != "i32":
                    x[:] = np.nan_to_num(x)
                for axes in ((0, 1), (1,), (0,), ()):
                    shape = tuple(1 if i in axes else n for i, n in enumerate((rows, cols)))
                    row = shape[1] + gap
                    whole, dst = padded(rng, dtype, shape, row)
                    if dtype != "i32":
                        dst[:] = np.nan_to_num(dst)
                    kept = whole.copy()
                    wide = x if dtype == "i32" else x.astype(np.float64)
                    true = reduction(dst, reduction.reduce(wide, axes, keepdims=True) if axes else wide)
                    kernels.reduce(mode, dtype, whole[40:], x, 0 if 0 in axes else row, 0 if 1 in axes else 1)
                    where = f"{dtype} mode {mode} {(rows, cols)} gap {gap} axes {axes} (seed {SEED})"
                    assert close(dst, true, 200), where
                    dst[:] = 0
                    outside = whole != 0
                    assert np.array_equal(whole[outside], kept[outside], equal_nan=True), where


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transposes(kernels, dtype):
    sides = [1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 40]
    for rows, cols in [(r, c) for r in sides for c in sides] + [(98, 33)]:
        src = np.arange(rows * (cols + 2), dtype=dtype).reshape(rows, cols + 2)[:, :cols]
        whole = np.full((cols, rows + 3), -1, dtype)
        kernels.transpose(src, whole[:, :rows])
        assert np.array_equal(whole[:, :rows], src.T)
        assert (whole[:, rows:] == -1).all()


def test_generated_files_are_current(capsys):
    assert codegen.main(["--check", "--folder", str(ROOT)]) == 0


def test_codegen_refuses_unknown_names():
    op = MICROOPS[0]._replace(expr="cbrt(x)")
    with pytest.raises(ValueError, match="cbrt"):
        codegen.functor(op)
