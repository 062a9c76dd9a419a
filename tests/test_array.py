"""The array functions against NumPy and torch: eagerly, traced, on each backend, over shapes, axes and dtypes."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastmeta as fm

FLOATS = (np.float32, np.float64)
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (5,), (0,), (3, 4), (1, 4), (3, 1), (2, 0), (2, 3, 4), (2, 1, 3, 1), (130, 33))
Case = tuple[Any, ...]


def normal(shape: tuple[int, ...], dtype: Any = np.float64, *seed: Any) -> np.ndarray:
    return np.asarray(np.random.default_rng(zlib.crc32(repr((shape, seed)).encode())).standard_normal(shape), dtype)


def check(f: Callable[..., Any], want: Any, *xs: Any, tolerance: float | None = None) -> None:
    """f eagerly, traced, and traced on the oracle gives ``want``, its dtype (64-bit integers narrowed) and shape included."""
    want = np.asarray(want)
    want = want.astype(np.int32) if want.dtype == np.int64 else want
    oracle = fm.jit(f)
    with fm.set_backend("numpy"):
        slow = oracle(*xs)
    for got, how in ((f(*xs), "eager"), (fm.jit(f)(*xs), "native"), (slow, "numpy")):
        assert got.dtype == want.dtype and got.shape == want.shape, f"{how}: {got.dtype}{got.shape}, not {want.dtype}{want.shape}"
        rtol = tolerance or {4: 2e-6, 8: 1e-13}.get(want.dtype.itemsize, 0) * max(1, want.size and int(np.size(xs[0])) ** 0.5)
        np.testing.assert_allclose(got, want, rtol, rtol * max(1.0, np.abs(want).max(initial=0, where=np.isfinite(want))), err_msg=how)


# -- elementwise

UNARY: dict[str, Callable[..., Any]] = {
    "negative": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "exp": np.exp, "expm1": np.expm1, "sin": np.sin, "cos": np.cos,
    "tanh": np.tanh, "square": np.square, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0),
    "erf": lambda x: torch.erf(torch.tensor(x)).numpy(), "zeros_like": np.zeros_like, "ones_like": np.ones_like, "stop_gradient": np.copy,
}  # fmt: skip
POSITIVE: dict[str, Callable[..., Any]] = {"sqrt": np.sqrt, "log": np.log, "log1p": np.log1p, "rsqrt": lambda x: 1 / np.sqrt(x)}
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*UNARY, *POSITIVE])
def test_unary(name: str, dtype: Any) -> None:
    for shape in SHAPES:
        x = normal(shape, dtype)
        x = x if name in UNARY else np.asarray(np.abs(x) + dtype(0.1), dtype)
        check(getattr(fm, name), np.asarray((UNARY | POSITIVE)[name](x), dtype), x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts(name: str, dtype: Any) -> None:
    f, want = getattr(fm, name), getattr(np, name)
    for a, b in itertools.product(SHAPES, SHAPES):
        try:
            np.broadcast_shapes(a, b)
        except ValueError:
            with pytest.raises(ValueError, match="broadcast"):
                f(normal(a), normal(b))
            continue
        x, y = normal(a, dtype), normal(b, dtype, "y")
        y = np.where(y < 0.3, y, x.ravel()[0] if x.size else 0).astype(dtype).reshape(b)  # some are equal
        y = y if name != "divide" else np.asarray(y + np.copysign(dtype(0.1), y))
        check(f, want(x, y), x, y)


def test_power() -> None:
    for dtype in FLOATS:
        x, y = np.abs(normal((3, 4), dtype)), normal((4,), dtype)
        check(fm.power, x**y, x, y)
        for k in (0, 1, 2, 3, -1, 0.5, -2.0):
            check(lambda v, k=k: v**k, x**k, x)
        check(lambda v: v**3, -(x**3), -x)
        check(lambda v: 2.0**v, 2.0**x, x)


@pytest.mark.parametrize("k", [-4, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 5, 2.5])
def test_constant_exponents(k: float) -> None:
    """Values at the edges, and derivatives of both orders."""
    x = np.array([0.0, 0.3, 1.0, 2.5, np.inf, np.nan, *([-2.5, -0.0, -np.inf] if k % 1 == 0 else [])])
    with np.errstate(all="ignore"):
        check(lambda v: v**k, np.power(x, k), x)
    v = np.abs(normal((5,))) + 0.1
    slope = fm.grad(lambda v: fm.sum(v**k))
    np.testing.assert_allclose(slope(v), k * v ** (k - 1), rtol=1e-12)
    np.testing.assert_allclose(fm.grad(lambda v: fm.sum(slope(v)))(v), k * (k - 1) * v ** (k - 2.0), rtol=1e-12)


def test_clip() -> None:
    for dtype in (*FLOATS, np.int32):
        x, low = (3 * normal((3, 4))).astype(dtype), normal((4,)).astype(dtype)
        check(lambda x, low: fm.clip(x, low, low + 2), np.clip(x, low, low + 2), x, low)
        check(lambda x: fm.clip(x, max=1), np.minimum(x, 1).astype(dtype), x)
        check(lambda x: fm.clip(x, 0), np.maximum(x, 0).astype(dtype), x)
        check(fm.clip, x, x)
    x = np.array([-2.0, -1.0, 0.5, 1.0, 3.0])
    np.testing.assert_array_equal(fm.grad(lambda x: fm.sum(fm.clip(x, -1, 1)))(x), [0, 0.5, 1, 0.5, 0])


def test_where_and_logic() -> None:
    m, n = normal((3, 1)) > 0, normal((4,)) > 0
    for dtype in (*FLOATS, np.int32):
        x, y = (3 * normal((3, 4))).astype(dtype), (3 * normal((4,))).astype(dtype)
        check(fm.where, np.where(m, x, y), m, x, y)
        check(lambda m, x: fm.where(m, x, 1), np.where(m, x, dtype(1)), m, x)
    check(fm.logical_and, m & n, m, n)
    check(fm.logical_or, m | n, m, n)
    check(fm.logical_not, ~m, m)
    check(lambda m, n: (m & ~n) | (m == n), (m & ~n) | (m == n), m, n)
    with pytest.raises(TypeError, match="bool"):
        fm.where(np.ones(2), np.ones(2), np.ones(2))


INTEGERS: dict[str, Callable[..., Any]] = {
    "x + y": np.add, "x - y": np.subtract, "x * y": np.multiply, "-x + y": lambda x, y: y - x, "abs(x) + y": lambda x, y: np.abs(x) + y,
    "x < y": np.less, "x == y": np.equal, "x >= y": np.greater_equal,
}  # fmt: skip


@pytest.mark.parametrize("text", INTEGERS)
def test_integers(text: str) -> None:
    x, y = np.arange(-4, 5, dtype=np.int32), np.array([3, -1, 0] * 3, np.int32)
    check(lambda x, y: eval(text), INTEGERS[text](x, y), x, y)
    check(fm.maximum, np.maximum(x, y), x, y)
    check(fm.minimum, np.minimum(x, y), x, y)
    check(fm.sign, np.sign(x), x)
    check(fm.relu, np.maximum(x, 0), x)


def test_operators_of_tracers() -> None:
    x, y = normal((3, 3)), normal((3, 3), np.float64, "y")
    for f in (
        lambda x, y: x + y - 2 * x / (1 + y * y), lambda x, y: (x @ y) @ x.T, lambda x, y: -abs(x) ** 2 + 1.5, lambda x, y: 1 - x * np.ones(3),
        lambda x, y: np.ones((3, 3)) @ x + np.arange(3.0) * y, lambda x, y: np.ones(3) / (x * x + 1), lambda x, y: x.sum() + y.mean(axis=0) + x.max(axis=1),
        lambda x, y: x.reshape((9,))[2] * y.reshape(-1)[0] + x.min(), lambda x, y: (x > y) | (x <= 0.0) & (y != x), lambda x, y: x.astype(np.int32) + 1,
    ):  # fmt: skip
        np.testing.assert_allclose(fm.jit(f)(x, y), f(x, y), 1e-13, 1e-13)
    assert fm.jit(lambda x: [len(x), x.ndim, x.size, float(x.shape[0])])(x) == [3, 2, 9, 3.0]
    np.testing.assert_array_equal(fm.jit(lambda x: fm.stack([r * 2.0 for r in x]))(x), x * 2)


def test_logical_operators_are_of_bools() -> None:
    m, n = normal((3, 1)) > 0, normal((4,)) > 0
    for f in (lambda m, n: m & n, lambda m, n: m | n, lambda m, n: m ^ n, lambda m, n: ~m):
        check(f, f(m, n), m, n)
    flags = np.array([True, False, True])
    for f in (lambda v: flags & v, lambda v: flags | v, lambda v: flags ^ v, lambda v: True & v, lambda v: v | np.False_):
        check(f, f(~flags), ~flags)


METHODS: dict[str, Callable[..., Any]] = {
    "var": lambda x: x.var() + x.var(0) + x.var(axis=-1, keepdims=True), "std": lambda x: x.std(axis=1), "any": lambda x: (x > 1).any(axis=0), "all": lambda x: (x > 0).all(),
    "clip": lambda x: x.clip(-0.5, 1) + x.clip(min=0), "round": lambda x: (3 * x).round(), "ravel": lambda x: x.ravel(), "flatten": lambda x: x.flatten() * 2, "transpose": lambda x: x.transpose() @ x,
    "transpose axes": lambda x: x.transpose(1, 0) + x.transpose((1, 0)) + x.transpose(None), "squeeze": lambda x: x[:1].squeeze() + x[None, :1].squeeze(axis=(0, 1)), "mT": lambda x: x.mT @ x,
    "cumsum": lambda x: x.cumsum(axis=1), "flat cumsum": lambda x: x.cumsum(), "cumprod": lambda x: x.cumprod(0), "argsort": lambda x: x.argsort(), "argsort axis": lambda x: x.argsort(axis=0),
    "repeat": lambda x: x.repeat(2, axis=0), "flat repeat": lambda x: x.repeat(3), "take": lambda x: x.take([2, 0], axis=1), "flat take": lambda x: x.take([4, 7]), "positive": lambda x: +x,
    "dot": lambda x: x.dot(x.T) @ x.dot(x[0]) + x[0].dot(x.T) + x[0].dot(x[0]), "dot number": lambda x: x.dot(x[0, 0]), "trace": lambda x: x.trace() + x.trace(1) + x.trace(offset=-1),
    "diagonal": lambda x: x.diagonal(), "axes": lambda x: (x[:, None] * x[None]).trace() + (x[:, None] * x[None]).diagonal(1, axis1=2, axis2=0).sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_numpys(name: str) -> None:
    for dtype in FLOATS:
        x = normal((4, 4), dtype)
        check(fm.jit(METHODS[name]), METHODS[name](x), x, tolerance=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(fm.jit(lambda v: v.sort(axis=0))(x), np.sort(x, axis=0))


def test_parameters_by_place() -> None:
    x = normal((3, 4))
    check(lambda v: fm.sum(v, 0), x.sum(0), x)
    check(lambda v: fm.sum(v, (0, 1), True), x.sum(keepdims=True), x)
    check(lambda v: fm.mean(v, -1, keepdims=True), x.mean(-1, keepdims=True), x)
    check(lambda v: fm.concat([v, v], 1), np.concatenate([x, x], 1), x)
    check(lambda v: fm.take(v, np.array([2, 0]), 1), x[:, [2, 0]], x)
    check(lambda v: fm.expand_dims(v, 1), x[:, None], x)
    check(lambda v: fm.nn.max_pool2d(v, (2, 1)), np.maximum(x[None, :1], x[None, 1:2])[..., None], x[None, :2, :, None])
    check(lambda v: v.sum(1), x.sum(1), x)
    for wrong in (lambda: fm.sum(x, 0, True, 1), lambda: fm.sum(x, 0, axis=1), lambda: fm.exp(x, 0)):
        with pytest.raises(TypeError, match="expected"):
            wrong()


@pytest.mark.parametrize("dtype", FLOATS)
def test_angles(dtype: Any) -> None:
    """To four units in the last place, at every size, at the edges, and with the signs of zeros."""
    tolerance, edge = 4 * float(np.finfo(dtype).eps), [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5]
    last = np.log(np.finfo(dtype).max)  # its hyperbolic sine is half of the largest number
    x = np.concatenate([normal((500,)) * 10.0 ** np.arange(-15, 10).repeat(20), edge, [last, -last, last + 0.6, -last - 0.6]]).astype(dtype)
    u = np.concatenate([np.tanh(normal((500,))), [0.0, 1.0, -1.0, 1 - 1e-7, 2.0]]).astype(dtype)
    y, z = np.concatenate([np.stack(np.meshgrid(edge, edge)).reshape(2, -1), np.stack([x, x[::-1]])], axis=1).astype(dtype)
    rows: dict[str, tuple[Any, ...]] = {"atan": (x,), "asin": (u,), "acos": (u,), "atan2": (y, z), "sinh": (x,), "cosh": (x,)}
    for name, args in rows.items():
        with np.errstate(invalid="ignore", over="ignore"):
            want = getattr(np, name.replace("a", "arc", 1) if name[0] == "a" else name)(*args)
        got = fm.jit(getattr(fm, name))(*args)
        check(getattr(fm, name), want, *args)
        assert np.array_equal(np.signbit(got)[want == want], np.signbit(want)[want == want])
        np.testing.assert_allclose(got, want, tolerance)


def test_derivatives_of_angles() -> None:
    x, u = normal((40,)) * 2, np.tanh(normal((40,)))
    fm.testing.check_grads(lambda x: [f(x) for f in (fm.atan, fm.sinh, fm.cosh)], (x,), rtol=1e-5)
    fm.testing.check_grads(lambda u: [fm.asin(u), fm.acos(u)], (u * 0.9,), rtol=1e-5)
    fm.testing.check_grads(fm.atan2, (x, normal((40,), np.float64, "y")), rtol=1e-5)
    slope = lambda f, *at: fm.grad(f)(*map(np.float64, at))
    np.testing.assert_allclose([slope(fm.atan, v) for v in (0, 1, -1, 1e20)], [1, 0.5, 0.5, 0], atol=1e-15)
    np.testing.assert_allclose([slope(fm.atan2, 0, 2), slope(fm.atan2, 0, -2), slope(fm.atan2, 3, 3), slope(fm.atan2, 3, 0)], [0.5, -0.5, 1 / 6, 0], atol=1e-15)
    assert slope(fm.asin, 1) == slope(fm.asin, -1) == np.inf and slope(fm.acos, 1) == -np.inf


# -- new arrays

NEW: dict[str, tuple[Callable[..., Any], Any]] = {
    "zeros": (lambda f: f.zeros((2, 3)), np.zeros((2, 3), np.float32)), "zeros int": (lambda f: f.zeros(3, dtype=np.int32), np.zeros(3, np.int32)), "zeros large": (lambda f: f.zeros((40, 50), np.float64), np.zeros((40, 50))),
    "ones": (lambda f: f.ones((2, 0)), np.ones((2, 0), np.float32)), "ones bool": (lambda f: f.ones((), dtype=bool), np.ones((), bool)),
    "full": (lambda f: f.full((2, 2), 0.1), np.full((2, 2), 0.1, np.float32)), "full int": (lambda f: f.full(2, 7), np.full(2, 7, np.int32)), "full bool": (lambda f: f.full(2, True), np.full(2, True)),
    "full dtype": (lambda f: f.full((2,), -0.5, dtype=np.float64), np.full(2, -0.5)), "full inf": (lambda f: f.full(2, -1e300), np.full(2, -np.inf, np.float32)), "full array": (lambda f: f.full((2, 3), np.arange(3.0), dtype=np.float32), np.full((2, 3), np.arange(3), np.float32)),
    "eye": (lambda f: f.eye(3), np.eye(3, dtype=np.float32)), "eye k": (lambda f: f.eye(3, 4, k=-1, dtype=np.float64), np.eye(3, 4, -1)), "eye large": (lambda f: f.eye(40), np.eye(40, dtype=np.float32)),
    "arange": (lambda f: f.arange(5), np.arange(5)), "arange float": (lambda f: f.arange(1, 2.1, 0.25), np.arange(1, 2.1, 0.25, np.float32)), "arange back": (lambda f: f.arange(5, -3, -2), np.arange(5, -3, -2)),
    "arange dtype": (lambda f: f.arange(3, dtype=np.float64), np.arange(3.0)), "arange none": (lambda f: f.arange(3, 1), np.arange(0)), "arange numpy": (lambda f: f.arange(np.int64(300)), np.arange(300)),
    "linspace": (lambda f: f.linspace(-1, 1, 7), np.linspace(-1, 1, 7, dtype=np.float32)), "linspace open": (lambda f: f.linspace(0, 1, 4, endpoint=False, dtype=np.float64), np.linspace(0, 1, 4, False)), "linspace none": (lambda f: f.linspace(0, 1, 0), np.zeros(0, np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("name", NEW)
def test_new_arrays(name: str) -> None:
    make, want = NEW[name]
    check(lambda v: make(fm), want, np.zeros(1))
    if want.dtype.kind == "f":  # met by arrays of tasks, in a derivative
        v = normal((3, *want.shape), want.dtype)
        np.testing.assert_allclose(fm.map_tasks(fm.grad(lambda v: fm.sum(make(fm) * v)))(v), np.broadcast_to(want, v.shape), rtol=1e-6)


def test_full_of_a_traced_number() -> None:
    x = np.float64(0.7)
    check(lambda v: fm.full((2, 3), v), np.full((2, 3), x), x)
    assert fm.jit(lambda i: fm.zeros(3)[i] + fm.arange(3)[i])(np.int32(1)) == 1


# -- dtypes


def test_promotion() -> None:
    f32, f64, i32, flag = np.ones(2, np.float32), np.ones(2), np.ones(2, np.int32), np.ones(2, bool)
    rows: list[tuple[Any, Any, Any]] = [
        (f32, f32, "f4"), (f64, f64, "f8"), (f32, i32, "f4"), (f64, i32, "f8"), (f32, flag, "f4"), (f64, flag, "f8"), (i32, flag, "i4"), (i32, i32, "i4"),
        (f32, 2, "f4"), (f32, 2.5, "f4"), (f64, 2.5, "f8"), (f64, True, "f8"), (i32, 2, "i4"), (i32, 2.5, "f4"), (i32, True, "i4"), (flag, 2, "i4"),
        (flag, 2.5, "f4"), (f32, np.float32(2), "f4"), (f64, np.float64(2), "f8"), (f32, np.float64(2), "f4"), (i32, np.float64(2), "f8"), (f32, np.int64(2), "f4"), (f32, np.arange(2), "f4"), (f32, np.ones(2, np.uint8), "f4"),
    ]  # fmt: skip
    for x, y, dtype in rows:
        for f in (fm.add, fm.multiply, fm.maximum):
            assert f(x, y).dtype == np.dtype(dtype) == f(y, x).dtype
            assert fm.jit(lambda a, y=y, f=f: f(a, y))(x).dtype == np.dtype(dtype)
    for g in (fm.add, fm.less, fm.maximum, fm.power):
        with pytest.raises(TypeError):
            g(f32, f64)
    for f in (fm.exp, fm.sqrt, fm.mean, fm.floor, lambda v: fm.divide(v, 2)):
        assert f(i32).dtype == np.float32
    assert fm.sum(flag).dtype == np.int32 and fm.sum(flag) == 2
    for big in (2**31, -(2**31) - 1):
        with pytest.raises(OverflowError, match="32 bits"):
            fm.add(np.array([big]), 1)
    assert fm.add(np.array([2**31 - 1], np.uint64), 0).tolist() == [2**31 - 1]
    with pytest.raises(TypeError, match="float16"):
        fm.exp(np.ones(2, np.float16))


def test_casts() -> None:
    x = np.array([0.0, 1.5, -2.7, 3.0])
    for source in (np.float32, np.float64, np.int32, bool):
        for target in (np.float32, np.float64, np.int32, bool):
            check(lambda v, target=target: fm.astype(v, dtype=target), x.astype(source).astype(target), x.astype(source))
    with pytest.raises(TypeError, match="int8"):
        fm.astype(x, dtype=np.int8)


# -- reductions


def axes_of(shape: tuple[int, ...]) -> list[Any]:
    n = len(shape)
    return [None, *range(-n, n), *(c for k in range(2, n + 1) for c in itertools.combinations(range(n), k)), *([(-1, 0)] if n > 1 else [])]


def log_sum_exp(x: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    return np.asarray(np.log(np.sum(np.exp(x), axis, keepdims=keepdims)))


REDUCTIONS: dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod, "var": np.var, "logsumexp": log_sum_exp}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str, dtype: Any) -> None:
    for shape in SHAPES:
        x = normal(shape, dtype)
        x = x if name != "prod" else np.asarray(np.exp(0.01 * x), dtype)
        for axis, keep in itertools.product(axes_of(shape), (False, True)):
            f = lambda v, axis=axis, keep=keep: getattr(fm, name)(v, axis=axis, keepdims=keep)
            reduced = [shape[a] for a in (range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,))]
            if 0 in reduced and name not in ("sum", "prod"):
                with pytest.raises(ValueError, match=r"\["):
                    f(x)
                continue
            with np.errstate(all="ignore"):
                want = np.asarray(REDUCTIONS[name](x, axis=axis, keepdims=keep), dtype)
            check(f, want, x, tolerance=1e-4 if dtype is np.float32 else 1e-12)


def test_median() -> None:
    for dtype in FLOATS:
        for shape in SHAPES:
            x = normal(shape, dtype)
            for axis, keep in itertools.product(axes_of(shape), (False, True)):
                if 0 not in shape:
                    check(lambda v, axis=axis, keep=keep: fm.median(v, axis=axis, keepdims=keep), np.median(x, axis=axis, keepdims=keep), x)
    x = np.array([[1.0, np.nan, 3.0, 2.0], [np.inf, 1.0, np.inf, 0.0], [2.0, 2.0, 1.0, -np.inf]])
    check(lambda v: fm.median(v, axis=1), np.median(x, axis=1), x)
    check(fm.median, np.float32(1.5), np.array([3, 1, 0, 2]))
    check(fm.median, np.float32(1), np.array([True, False, True]))
    for n in (1, 4, 5):
        fm.testing.check_grads(lambda v: fm.median(v, axis=1) ** 2, (normal((3, n)),))
    np.testing.assert_array_equal(fm.grad(fm.median)(np.array([3.0, 1.0, 0.0, 2.0])), [0, 0.5, 0, 0.5])


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name: str) -> None:
    for dtype in (*FLOATS, np.int32):
        for shape in SHAPES:
            x = (normal(shape) * 2).astype(dtype)
            x = np.round(x).astype(dtype)  # ties: the first counts
            for axis, keep in itertools.product([None, *range(-len(shape), len(shape))], (False, True)):
                if 0 in shape:
                    continue
                want = getattr(np, name)(x, axis=axis, keepdims=keep)
                check(lambda v, axis=axis, keep=keep: getattr(fm, name)(v, axis=axis, keepdims=keep), want, x)
    for nan in (0, 2, 4):
        x = np.array([1.0, 5.0, -3.0, 2.0, 0.0])
        x[nan] = np.nan
        check(getattr(fm, name), nan, x)


def test_integer_reductions() -> None:
    x = np.arange(12, dtype=np.int32).reshape(3, 4) - 5
    for axis in (None, 0, 1):
        check(lambda v, axis=axis: fm.sum(v, axis=axis), np.sum(x, axis), x)
        check(lambda v, axis=axis: fm.max(v, axis=axis), np.max(x, axis), x)
        check(lambda v, axis=axis: fm.min(v, axis=axis), np.min(x, axis), x)
        check(lambda v, axis=axis: fm.prod(v, axis=axis), np.prod(x, axis), x)
        check(lambda v, axis=axis: fm.mean(v, axis=axis), np.mean(x, axis).astype(np.float32), x)
        check(lambda v, axis=axis: fm.var(v, axis=axis), np.var(x, axis).astype(np.float32), x)
        check(lambda v, axis=axis: fm.sum(v, axis=axis), np.sum(x > 0, axis), x > 0)


def test_softmax_family() -> None:
    for dtype in FLOATS:
        for shape in ((5,), (3, 4), (2, 3, 4), (7, 1), (130, 33)):
            x = normal(shape, dtype) * dtype(3)
            for axis in range(-len(shape), len(shape)):
                t = torch.tensor(x)
                check(lambda v, axis=axis: fm.softmax(v, axis=axis), torch.softmax(t, axis).numpy(), x, tolerance=1e-5 if dtype is np.float32 else None)
                check(lambda v, axis=axis: fm.log_softmax(v, axis=axis), torch.log_softmax(t, axis).numpy(), x, tolerance=1e-5 if dtype is np.float32 else None)
    big = np.array([[1e4, 1e4 - 1, -1e4], [-np.inf, 0.0, -np.inf]])
    check(fm.softmax, torch.softmax(torch.tensor(big), -1).numpy(), big)
    check(lambda v: fm.logsumexp(v, axis=-1), torch.logsumexp(torch.tensor(big), -1).numpy(), big)
    check(lambda v: fm.logsumexp(v, axis=0), -np.inf, np.full(3, -np.inf))


def test_cumulative_sum() -> None:
    for dtype in (*FLOATS, np.int32):
        for shape in SHAPES[1:]:
            x = (normal(shape) * 4).astype(dtype)
            for axis in range(-len(shape), len(shape)):
                check(lambda v, axis=axis: fm.cumulative_sum(v, axis=axis), np.cumsum(x, axis, dtype=dtype), x, tolerance=1e-5 if dtype is np.float32 else None)
    check(fm.cumulative_sum, np.cumsum(np.arange(5)), np.arange(5))


def test_cumulative_prod() -> None:
    for dtype in (*FLOATS, np.int32):
        for shape in SHAPES[1:]:
            x = np.asarray(np.exp(0.1 * normal(shape)) if dtype != np.int32 else 2 * normal(shape) + 1).astype(dtype)
            for axis in range(-len(shape), len(shape)):
                check(lambda v, axis=axis: fm.cumulative_prod(v, axis=axis), np.cumprod(x, axis, dtype=dtype), x, tolerance=1e-5 if dtype is np.float32 else 1e-12)
    check(fm.cumulative_prod, np.cumprod(np.arange(1, 6)), np.arange(1, 6))
    check(fm.cumulative_prod, np.array([1, 1, 0]), np.array([True, True, False]))
    x = normal((3, 5))
    x[0, 1] = x[2, 0] = x[2, 3] = 0
    fm.testing.check_grads(lambda v: fm.cumulative_prod(v, axis=1), (x,))


# -- products

PRODUCTS = (
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)),
    ((1, 2, 3), (6, 3, 1)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((1, 1), (1, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((64, 70), (70, 33)), ((7, 130), (130, 9)),
    ((1, 50), (50, 1)), ((33, 1), (1, 40)), ((2, 3, 17, 5), (2, 3, 5, 9)),
)  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("a, b", PRODUCTS)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: Any) -> None:
    x, y = normal(a, dtype), normal(b, dtype, "y")
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    check(fm.matmul, x @ y, x, y, tolerance=tolerance)
    if x.ndim > 1 and y.ndim > 1:  # every transposed layout of the operands
        xt, yt = np.swapaxes(x, -1, -2).copy(), np.swapaxes(y, -1, -2).copy()
        flip = lambda v: fm.permute_dims(v, (*range(v.ndim - 2), v.ndim - 1, v.ndim - 2))
        if not x.size or not y.size or x.ndim != y.ndim:
            return
        check(lambda u, v: fm.matmul(flip_of(u, flip), v), x @ y, xt, y, tolerance=tolerance)
        check(lambda u, v: fm.matmul(u, flip_of(v, flip)), x @ y, x, yt, tolerance=tolerance)
        check(lambda u, v: fm.matmul(flip_of(u, flip), flip_of(v, flip)), x @ y, xt, yt, tolerance=tolerance)


def flip_of(x: Any, flip: Callable[[Any], Any]) -> Any:
    return flip(x)


EINSUMS = (
    ("i,i->", (3,), (3,)), ("i,j->ij", (3,), (4,)), ("ij,jk->ik", (2, 3), (3, 4)), ("ij,kj->ik", (2, 3), (4, 3)), ("ji,jk->ki", (3, 2), (3, 4)), ("nd,kd->nk", (5, 3), (2, 3)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)), ("bij,kj->bki", (5, 2, 3), (4, 3)), ("ij,ij->", (2, 3), (2, 3)), ("ij,ij->i", (2, 3), (2, 3)), ("ij,ij->ij", (2, 3), (2, 3)),
    ("ijk,jl->ikl", (2, 3, 4), (3, 5)), ("ab,cd->acbd", (2, 3), (4, 5)), ("ij,k->j", (2, 3), (4,)), ("ii,ij->j", (3, 3), (3, 2)), ("abc,cba->b", (2, 3, 4), (4, 3, 2)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij,jk", (2, 3), (3, 4)), ("ba,b", (2, 3), (2,)),
    ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)), ("ii->i", (3, 3)), ("ii->", (3, 3)), ("iij->ji", (3, 3, 2)), ("iii->i", (2, 2, 2)), ("ii", (3, 3)), ("ba", (2, 3)), ("i->i", (3,)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)), ("i,ij,j->", (3,), (3, 4), (4,)), ("ij,jk,ki", (2, 3), (3, 4), (4, 2)), ("ab,b,cb,c->a", (2, 3), (3,), (4, 3), (4,)), ("ii,i,i->i", (3, 3), (3,), (3,)), ("i,j,k->kij", (2,), (3,), (4,)),
    ("...ij,jk->...ik", (5, 2, 3), (3, 4)), ("...ij,...jk->...ik", (5, 2, 3), (5, 3, 4)), ("...ij,...jk", (6, 5, 2, 3), (5, 3, 4)), ("...ij,...j->...i", (6, 1, 2, 3), (5, 3)), ("i...->...", (2, 3, 4)), ("...ii->...i", (4, 3, 3)),
    ("...i->i...", (4, 3)), ("i...,i...->...", (2, 3), (2, 3)), ("...,...", (2, 3), (3,)), ("...ij,...jk,...k->...i", (5, 2, 3), (3, 4), (1, 4)), ("...", (2, 3)), ("b...d,...d->b...", (2, 3, 4), (3, 4)), ("...a,b->...ab", (2,), (3,)),
)  # fmt: skip


@pytest.mark.parametrize("spec, shapes", [(s, shapes) for s, *shapes in EINSUMS])
def test_einsum(spec: str, shapes: list[tuple[int, ...]]) -> None:
    for dtype in FLOATS:
        xs = [normal(s, dtype, k) for k, s in enumerate(shapes)]
        check(lambda *v: fm.einsum(spec, *v), np.einsum(spec, *xs), *xs, tolerance=1e-5 if dtype is np.float32 else 1e-13)
    if len(xs) > 2 or "..." in spec:
        fm.testing.check_grads(lambda *v: fm.einsum(spec, *v), tuple(xs))


TENSORDOTS = (
    ((3, 4), (4, 5), 1), ((2, 3, 4), (3, 4, 5), 2), ((3,), (4,), 0), ((2, 3), (2, 3), ((0, 1), (0, 1))), ((2, 3, 4), (4, 5, 2), ((0, -1), (2, 0))), ((2, 3), (3,), ((1,), (0,))), ((2, 3), (5, 3), (1, 1)), ((2, 0), (0, 3), 1), ((), (2, 3), 0),
)  # fmt: skip


@pytest.mark.parametrize("a, b, axes", TENSORDOTS)
def test_tensordot(a: tuple[int, ...], b: tuple[int, ...], axes: Any) -> None:
    for dtype in FLOATS:
        x, y = normal(a, dtype), normal(b, dtype, "y")
        check(lambda x, y: fm.tensordot(x, y, axes), np.tensordot(x, y, axes), x, y, tolerance=1e-5 if dtype is np.float32 else 1e-13)
    fm.testing.check_grads(lambda x, y: fm.tensordot(x, y, axes=axes), (x, y))
    check(fm.tensordot, np.float64(15), np.arange(6.0).reshape(2, 3), np.ones((2, 3)))


# -- norms, diagonals, equations


def test_norm() -> None:
    for dtype in FLOATS:
        for shape in SHAPES[1:]:
            x = normal(shape, dtype)
            for axis, keep in itertools.product([a for a in axes_of(shape) if a is None or 0 not in shape], (False, True)):
                for order in (1, 2, np.inf)[: 2 if 0 in shape else 3]:
                    want = np.asarray(np.linalg.vector_norm(x, axis=axis, keepdims=keep, ord=order), dtype)
                    check(lambda v, axis=axis, keep=keep, order=order: fm.norm(v, axis, keepdims=keep, ord=order), want, x, tolerance=1e-5 if dtype is np.float32 else 1e-12)
    check(fm.norm, np.float32(50000 * 5**0.5), np.array([50000, 100000]))
    x = normal((4, 3))
    fm.testing.check_grads(lambda v: [fm.norm(v, axis=1, ord=order) for order in (1, 2, float("inf"))], (x,))
    slope = fm.grad(lambda v: fm.sum(fm.norm(v, axis=0)))
    np.testing.assert_array_equal(slope(np.zeros((2, 3))), np.zeros((2, 3)))
    np.testing.assert_array_equal(fm.grad(lambda v: fm.sum(slope(v)))(np.zeros((2, 3))), np.zeros((2, 3)))


def test_diagonals() -> None:
    for dtype in (*FLOATS, np.int32, bool):
        for shape in ((4, 4), (3, 5), (5, 2), (1, 1), (0, 3), (2, 3, 4), (2, 1, 3, 3)):
            x = (3 * normal(shape)).astype(dtype)
            for k in range(-6, 7):
                check(lambda v, k=k: fm.diagonal(v, offset=k), np.diagonal(x, k, -2, -1), x)
                if x.dtype != bool:
                    check(lambda v, k=k: fm.trace(v, offset=k), np.trace(x, k, -2, -1), x)
                if len(shape) == 2:
                    check(lambda v, k=k: fm.diag(v, k), np.diag(x, k), x)
        for n, k in itertools.product((0, 1, 4), range(-3, 4)):
            v = (3 * normal((n,))).astype(dtype)
            check(lambda v, k=k: fm.diag(v, k), np.diag(v, k), v)
    fm.testing.check_grads(lambda v, w: (fm.diagonal(v, offset=-1) ** 2, fm.trace(v * v, offset=1), fm.diag(w, 2) ** 3), (normal((2, 4, 3)), normal((3,))))


def test_outer_and_solve() -> None:
    for dtype in (*FLOATS, np.int32):
        x, y = (3 * normal((3,))).astype(dtype), (3 * normal((4,))).astype(dtype)
        check(fm.outer, np.outer(x, y), x, y)
    for dtype in FLOATS:
        h = normal((2, 4, 4))
        a = (h @ h.mT + 4 * np.eye(4)).astype(dtype)
        b, v = normal((2, 4, 3), dtype), normal((4,), dtype)
        check(fm.solve, np.linalg.solve(a, b), a, b, tolerance=1e-4 if dtype is np.float32 else 1e-12)
        check(fm.solve, np.linalg.solve(a, v), a, v, tolerance=1e-4 if dtype is np.float32 else 1e-12)
    fm.testing.check_grads(lambda h, b: fm.solve(h @ fm.matrix_transpose(h) + 4 * np.eye(4), b), (h, normal((2, 4, 3))))
    fm.testing.check_grads(lambda x, y: fm.outer(x, y) ** 2, (normal((3,)), normal((4,))))


# -- shapes


def test_shapes() -> None:
    for dtype in (*FLOATS, np.int32, bool):
        x = (normal((2, 3, 4)) * 3).astype(dtype)
        for shape in ((24,), (4, 6), (-1, 8), (3, -1, 2), (1, 24, 1), (2, 3, 4)):
            check(lambda v, shape=shape: fm.reshape(v, shape), x.reshape(shape), x)
        for axes in itertools.permutations(range(3)):
            check(lambda v, axes=axes: fm.permute_dims(v, axes), x.transpose(axes), x)
            check(lambda v, axes=axes: fm.reshape(fm.permute_dims(v, axes), (-1,)), x.transpose(axes).ravel(), x)
        check(lambda v: fm.permute_dims(v, (-1, 0, 1)), x.transpose(2, 0, 1), x)
        for axis in range(-4, 4):
            check(lambda v, axis=axis: fm.expand_dims(v, axis=axis), np.expand_dims(x, axis), x)
            check(lambda v, axis=axis: fm.stack([v, v, fm.flip(v)], axis=axis), np.stack([x, x, np.flip(x)], axis), x)
        for axes in ((0, 1), (0, -1), (-1, 1, 3), (4, 2), ()):
            check(lambda v, axes=axes: fm.expand_dims(v, axes), np.expand_dims(x, axes), x)
        for axis in (None, 0, -1, (0, 2)):
            check(lambda v, axis=axis: fm.flip(v, axis=axis), np.flip(x, axis), x)
        for axis in range(-3, 3):
            y = np.concatenate([x, x[::-1]], axis)
            check(lambda v, axis=axis: fm.concat([v, fm.flip(v, axis=0)], axis=axis), y, x)
            check(lambda v, axis=axis: fm.concat([v], axis=axis), x, x)
        check(lambda v: fm.concat([v, v[:, :0], v[:, 1:2]], axis=1), np.concatenate([x, x[:, 1:2]], 1), x)
        check(lambda v: fm.squeeze(v[:1, :, :1], axis=(0, -1)), x[0, :, 0], x)
        check(lambda v: fm.pad(v, widths=((1, 0), (0, 2), (3, 1))), np.pad(x, ((1, 0), (0, 2), (3, 1))), x)
    for axis in (0, 1, 2):
        check(lambda v, axis=axis: fm.stack([v[..., 0], *[v[..., k % 4] for k in range(150)]], axis=axis), np.stack([x[..., max(k, 0) % 4] for k in range(-1, 150)], axis), x)
    x = normal((3, 1))
    for shape in ((3, 4), (2, 3, 4), (3, 1), (5, 3, 1)):
        check(lambda v, shape=shape: fm.broadcast_to(v, shape), np.broadcast_to(x, shape), x)
    for padded in (lambda v: fm.pad(v, ((1, 1), (0, 1)), value=-2.5), lambda v: fm.pad(v, ((1, 1), (0, 1)), np.float32(-2.5))):
        check(padded, np.pad(x, ((1, 1), (0, 1)), constant_values=-2.5), x)
    check(lambda v: fm.broadcast_to(v, (0, 3, 2)), np.broadcast_to(x, (0, 3, 2)), x)
    check(lambda a, b: fm.concat([a, b]), np.array([1.0, 2, 3], np.float32), np.array([1], np.float32), np.array([2, 3]))


# -- numbers


def test_numpys_numbers_beside_float32_are_pythons() -> None:
    """np.sqrt(64) is one of float64; alone and with float64 arrays it stays that."""
    x = normal((2, 4)).astype(np.float32)
    for f in (lambda v: v / np.sqrt(v.shape[-1]), lambda v: np.float64(2) * v, lambda v: fm.maximum(v, np.float64(0)), lambda v: v ** np.float64(2)):
        for dtype in FLOATS:
            assert fm.jit(f)(x.astype(dtype)).dtype == dtype
    assert fm.jit(lambda v, s: v * s)(x, np.float64(3)).dtype == np.float32
    assert fm.exp(np.float64(1)).dtype == fm.jit(fm.exp)(np.float64(1)).dtype == np.float64
    with pytest.raises(TypeError, match="one float dtype"):
        fm.jit(lambda v, w: v + w)(x, np.ones(4))


# -- neural


def test_losses_and_layers() -> None:
    for dtype in FLOATS:
        tolerance = 1e-5 if dtype is np.float32 else 1e-12
        x, y, k = normal((6, 4), dtype), normal((6, 4), dtype, "y"), np.array([0, 1, 2, 3, 3, 0])
        w, b = normal((4, 3), dtype), normal((3,), dtype)
        check(fm.nn.mse, np.mean((x - y) ** 2), x, y, tolerance=tolerance)
        check(fm.nn.cross_entropy, torch.nn.functional.cross_entropy(torch.tensor(x), torch.tensor(k)).numpy(), x, k, tolerance=tolerance)
        check(lambda v: fm.nn.cross_entropy(v, 2), torch.nn.functional.cross_entropy(torch.tensor(x[0]), torch.tensor(2)).numpy(), x[0], tolerance=tolerance)
        check(fm.nn.linear, x @ w + b, x, w, b, tolerance=tolerance)
        check(fm.nn.accuracy, np.mean(np.argmax(x, 1) == k).astype(np.float32), x, k)
        z = normal((5, 7, 4), dtype)
        scale, shift = normal((4,), dtype), normal((4,), dtype, "shift")
        want = torch.nn.functional.batch_norm(torch.tensor(z).permute(0, 2, 1), None, None, torch.tensor(scale), torch.tensor(shift), training=True)
        check(lambda z, s, t: fm.nn.batch_norm(z, s, t), want.permute(0, 2, 1).numpy(), z, scale, shift, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_of_numbers_have_no_dtype(dtype) -> None:
    """In a traced function: as exact as float64 has them, and beside arrays of either float dtype."""

    def f(x):
        scale = fm.sqrt(x.shape[0]) * fm.exp(0.5) + fm.maximum(1, 2) - fm.cos(0.1) * fm.divide(1, 3)
        assert type(scale) is float and type(fm.maximum(1, 2)) is int and fm.less(1, 2) is True
        return x * scale * fm.log2(8)

    x = np.arange(5, dtype=dtype)
    want = x * (np.sqrt(5) * np.exp(0.5) + 2 - np.cos(0.1) / 3) * 3
    got = fm.jit(f)(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, 1e-6 if dtype is np.float32 else 1e-14)
    assert np.isnan(fm.jit(lambda x: x * fm.log(-1))(x)).all() and fm.jit(lambda x: x + fm.divide(1.0, 0.0))(x)[0] == np.inf
