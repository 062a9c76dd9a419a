"""Every row of the registry on every backend and dtype against its NumPy meaning, with derivatives of order 1 and 2."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastmeta as fm
from fastmeta.ops import convolution, elementwise, index, linalg, order, pooling, product, reduce, shape
from fastmeta.program import DTYPES, FLOATS, Primitive
from fastmeta.testing import check_grads
from fastmeta.trace import Tracer, running

ROWS = {
    op.name: op
    for module in (convolution, elementwise, index, linalg, order, pooling, product, reduce, shape)
    for op in [*vars(module).values(), *getattr(module, "REGISTRY", {}).values()]
    if isinstance(op, Primitive) and op.name not in ("const", "array", "input")
}
CASES = [pytest.param(op, spec, attrs, id=f"{name}-{spec.replace(' ', '_')}-{attrs}") for name, op in ROWS.items() for spec, attrs in op.samples]
RTOL = {"f32": 1e-4, "f64": 1e-9}
FLOAT = pytest.mark.parametrize("dtype", FLOATS)
CLEAR = 0.02  # distance that derivatives keep from kinks


def seed_of(*what: object) -> int:
    return zlib.crc32(repr(what).encode())


def sample(spec: str, dtype: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Arrays for a row's sample: f normal, p positive, i small integers, iN integers below N, b bool, s symmetric positive definite."""
    out = []
    for kind, bound, dims in re.findall(r"([fpibs])(\d*)\(([\d,]*)\)", spec):
        size = tuple(int(n) for n in dims.split(",") if n)
        if kind == "f":
            x = rng.standard_normal(size).astype(DTYPES[dtype])
        elif kind == "p":
            x = (rng.random(size) * 2 + 0.25).astype(DTYPES[dtype])
        elif kind == "s":
            x = rng.standard_normal(size)
            x = (x @ x.swapaxes(-1, -2) + np.eye(size[-1])).astype(DTYPES[dtype])
        elif kind == "b":
            x = rng.random(size) < 0.5
        else:
            x = rng.integers(0 if bound else -4, int(bound) if bound else 5, size, dtype=np.int32)
        out.append(np.asarray(x))
    assert len(out) == len(spec.split()), spec
    return out


def clear_sample(op: Primitive, spec: str, rng: np.random.Generator) -> list[np.ndarray]:
    """A sample in float64 away from kinks."""
    for _ in range(1000):
        xs = sample(spec, "f64", rng)
        if op.kinks is None or np.min(op.kinks(*xs)) > CLEAR:
            return xs
    raise AssertionError(f"{op.name}: no sample of {spec} away from its kinks")


def function_of(op: Primitive, attrs: tuple[Any, ...]) -> Callable[..., Any]:
    """The row as a traceable function."""

    def f(*xs: Any) -> Tracer:
        t = running.trace
        assert t is not None
        return Tracer(t.graph.emit(op, tuple(t.lift(x) for x in xs), attrs), t)

    return f


def close(got: Any, want: Any, dtype: str) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype.kind == "f":
        # What is left of terms that cancel keeps the rounding of the terms: of the size of the other elements.
        size = max(1.0, float(np.max(np.abs(want), initial=0, where=np.isfinite(want))))
        np.testing.assert_allclose(got, want, RTOL[dtype], RTOL[dtype] * 1e-2 * size)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_samples(name: str) -> None:
    assert ROWS[name].samples, f"the row {name} has no samples"


@FLOAT
@pytest.mark.parametrize("op, spec, attrs", CASES)
def test_value(op: Primitive, spec: str, attrs: tuple[Any, ...], dtype: str, backend: str) -> None:
    rng = np.random.default_rng(seed_of(op.name, spec, dtype))
    for _ in range(3):
        xs = sample(spec, dtype, rng)
        with np.errstate(all="ignore"):
            want = op.evaluate(*xs, *attrs)
        close(fm.jit(function_of(op, attrs))(*xs), want, dtype)


@pytest.mark.parametrize("op, spec, attrs", CASES)
def test_gradients(op: Primitive, spec: str, attrs: tuple[Any, ...], backend: str) -> None:
    rng = np.random.default_rng(seed_of(op.name, spec))
    if not re.search("[fps]", spec) or op is shape.STOP_GRADIENT:
        return  # nothing to differentiate
    xs = clear_sample(op, spec, rng)
    with np.errstate(all="ignore"):
        out = op.evaluate(*xs, *attrs)
    if out.dtype.kind != "f" or out.dtype == np.float32:
        return  # no derivative, or only a difference of rounded values
    if not np.isfinite(out).all():
        assert any("p" in other for other, _ in op.samples), f"{op.name} needs a sample of positive numbers"
        return
    check_grads(function_of(op, attrs), xs)


@FLOAT
@pytest.mark.parametrize("op, spec, attrs", CASES)
def test_derivative_programs(op: Primitive, spec: str, attrs: tuple[Any, ...], dtype: str, engine: str) -> None:
    """First and second derivatives of all modes, each engine against the oracle."""
    rng = np.random.default_rng(seed_of(op.name, spec, dtype))
    xs = sample(spec, dtype, rng)
    at = [k for k, x in enumerate(xs) if x.dtype.kind == "f"]
    f = function_of(op, attrs)
    out = fm.jit(f)(*xs)
    if not at or out.dtype.kind != "f":
        return
    ts = [rng.standard_normal(xs[k].shape).astype(xs[k].dtype) for k in at]
    ct = rng.standard_normal(out.shape).astype(out.dtype)

    def of(*floats: Any) -> Any:
        full = list(xs)
        for k, x in zip(at, floats, strict=True):
            full[k] = x
        return f(*full)

    def forward(*ys: Any) -> Any:
        return fm.jvp(of, ys, ts)[1]

    def reverse(*ys: Any) -> Any:
        return fm.vjp(of, *ys)[1](ct)

    def all_modes(*ys: Any) -> Any:
        second = [fm.jvp(forward, ys, ts)[1], fm.jvp(reverse, ys, ts)[1], fm.vjp(forward, *ys)[1](ct), fm.vjp(reverse, *ys)[1](tuple(ts))]
        return [forward(*ys), reverse(*ys), second]

    args = [xs[k] for k in at]
    got = leaves(fm.jit(all_modes)(*args))
    with fm.set_backend("numpy"):
        want = leaves(fm.jit(all_modes)(*args))
    for g, w in zip(got, want, strict=True):
        close(g, w, dtype)


def leaves(tree: Any) -> list[Any]:
    return [x for sub in tree for x in leaves(sub)] if isinstance(tree, list | tuple) else [tree]


ELEMENTWISE = [op for op in ROWS.values() if op.elementwise and op.micro is not None]


@FLOAT
@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
def test_elementwise_of_every_length(op: Primitive, dtype: str) -> None:
    rng = np.random.default_rng(seed_of(op.name, dtype))
    spec = op.samples[0][0]
    for n in (0, 1, 3, 4, 5, 7, 8, 9, 31, 33, 1023, 1025, 5000):
        xs = sample(re.sub(r"\(.*?\)", f"({n},)", spec), dtype, rng)
        with np.errstate(all="ignore"):
            want = op.evaluate(*xs)
        close(fm.jit(function_of(op, ()))(*xs), want, dtype)


@FLOAT
@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
def test_special_values(op: Primitive, dtype: str) -> None:
    """NaN, infinities, zeros of both signs and large numbers keep their meaning."""
    real = np.array([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 30.0, -30.0, 200.0, -200.0, 1e30, -1e30, np.inf, -np.inf, np.nan], DTYPES[dtype])
    kinds = [k for k, _, _ in re.findall(r"([fpib])(\d*)\(([\d,]*)\)", op.samples[0][0])]
    grid = np.meshgrid(*[np.array([False, True]) if k == "b" else real for k in kinds], indexing="ij")
    xs = [np.ascontiguousarray(x).ravel() for x in grid]
    with np.errstate(all="ignore"):
        want = op.evaluate(*xs)
    got = fm.jit(function_of(op, ()))(*xs)
    assert got.dtype == want.dtype
    least = np.finfo(want.dtype).tiny if want.dtype.kind == "f" else 0  # the compiled core takes subnormal numbers for zero
    same = np.isclose(got, want, 1e-5, least, equal_nan=True) if want.dtype.kind == "f" else got == want
    assert same.all(), [(tuple(x[k] for x in xs), got[k], want[k]) for k in np.flatnonzero(~same)][:10]
