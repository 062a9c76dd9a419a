"""Array functions that are a few others, against NumPy, their derivatives where two forms meet included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_array import FLOATS, check, normal

import fastmeta as fm


def test_composed_elementwise() -> None:
    for dtype in FLOATS:
        x = np.array([-np.inf, -2.5, -1.0, -0.0, 0.3, 7.0, np.inf, np.nan], dtype)
        for name in ("ceil", "isnan", "isinf", "isfinite", "reciprocal"):
            with np.errstate(divide="ignore"):
                check(getattr(fm, name), getattr(np, name)(x), x)
        x, y = normal((4, 5), dtype), normal((5,), dtype, 1)
        check(fm.tan, np.tan(x), x, tolerance=1e-4 if dtype == np.float32 else 1e-12)
        check(fm.log2, np.log2(abs(x)), abs(x))
        check(fm.log10, np.log10(abs(x)), abs(x))
        check(fm.logaddexp, np.logaddexp(x, y), x, y)
        edge = np.array([np.inf, -np.inf, np.inf, 1e3, np.nan], dtype)
        with np.errstate(invalid="ignore"):
            check(fm.logaddexp, np.logaddexp(edge, edge[[0, 1, 1, 3, 0]]), edge, edge[[0, 1, 1, 3, 0]])
    for dtype in (*FLOATS, np.int32, bool):
        x = normal((2, 3)).astype(dtype)
        check(lambda v: fm.full_like(v, 3), np.full_like(x, 3), x)
    x, y = normal((4, 5)), normal((5,), np.float64, 1)
    fm.testing.check_grads(fm.logaddexp, (x, y))
    fm.testing.check_grads(fm.tan, (x / 3,))
    same = fm.jit(fm.grad(lambda a, b: fm.sum(fm.logaddexp(a, b)), argnums=(0, 1)))(y, y)
    np.testing.assert_allclose(same, np.full((2, 5), 0.5), rtol=1e-12)


def test_round_goes_to_the_even_one_of_two() -> None:
    """At halves, beside them, where x + 0.5 is rounded itself, and where every number is whole."""
    for dtype in FLOATS:
        halves = np.arange(-40, 41, dtype=dtype) / 2
        most = 2.0 ** np.finfo(dtype).nmant
        large = np.array([most - 0.5, most + 1, most / 2 + 0.5, most / 2 - 0.5, 3 * most, np.finfo(dtype).max, np.inf, np.nan, 1e-30, 0.3], dtype)
        x = np.concatenate([halves, np.nextafter(halves, dtype(99)), np.nextafter(halves, dtype(-99)), large, -large, 100 * normal((500,), dtype)])
        check(fm.round, np.round(x), x)
        assert np.array_equal(np.signbit(fm.jit(fm.round)(-large[-2:])), [True] * 2)
        slope = fm.grad(lambda x: fm.sum(x * fm.round(x)))
        np.testing.assert_array_equal(slope(halves), np.round(halves))
        np.testing.assert_array_equal(fm.grad(lambda x, slope=slope: fm.sum(slope(x)))(halves), np.zeros_like(halves))
    check(fm.round, np.array([-3, 2], np.float32), np.array([-3, 2]))


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_infinite_without_a_warning() -> None:
    np.testing.assert_array_equal(fm.jit(lambda x: x * 1e300)(np.array([1.0, -2.0], np.float32)), [np.inf, -np.inf])


def test_second_derivatives_where_two_forms_meet() -> None:
    """Of softplus at 0: a quarter."""
    x = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    for f in (fm.nn.softplus, lambda x: fm.logaddexp(fm.zeros_like(x), x)):
        slope = lambda x, f=f: fm.sum(fm.grad(lambda x: fm.sum(f(x)))(x))
        p = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
        np.testing.assert_allclose(fm.grad(slope)(x), p * (1 - p), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(fm.logaddexp(np.array([np.inf, -np.inf, np.inf, 3.0]), np.array([np.inf, -np.inf, 1.0, 3.0])), np.logaddexp([np.inf, -np.inf, np.inf, 3.0], [np.inf, -np.inf, 1.0, 3.0]))


def test_whole_quotients_and_what_is_left() -> None:
    x = np.array([7, -7, 7, -7, 6, 0, 2**31 - 1, -(2**31), 5, -5], np.int32)
    y = np.array([2, 2, -2, -2, 3, 5, 1, 3, 0, 0], np.int32)
    with np.errstate(divide="ignore"):
        quotient = np.floor_divide(x, y)
    check(fm.floor_divide, quotient, x, y)
    check(fm.remainder, x - quotient * y, x, y)
    check(lambda v: 100 // v + v // 4, 100 // y[:8] + y[:8] // 4, y[:8])
    check(lambda v: v % 5 - -7 % (v + 10), x[:6] % 5 - -7 % (x[:6] + 10), x[:6])
    check(lambda v: fm.floor_divide(v, 2), np.array([0, 0], np.int32), np.array([True, False]))
    for dtype in FLOATS:
        a, b = normal((4, 5), dtype) * 9, normal((5,), dtype, 1)
        check(fm.floor_divide, np.floor(a / b), a, b)
        check(fm.remainder, a - np.floor(a / b) * b, a, b, tolerance=1e-5 if dtype == np.float32 else 1e-12)
        a, b = np.array([0.9, -0.9, 1, -1, 0, 3, -3, 1, 12345.6], dtype), np.array([0.1, 0.1, np.inf, np.inf, np.inf, -np.inf, -np.inf, 0.1, 0.1], dtype)
        check(fm.floor_divide, np.floor_divide(a, b), a, b)
        check(fm.remainder, np.remainder(a, b), a, b, tolerance=1e-6 if dtype == np.float32 else 1e-11)
        many = normal((10_000,), dtype) * 1e5
        left = np.asarray(fm.remainder(many, dtype(0.1)))
        assert (left >= 0).all() and (left <= dtype(0.1)).all()
        edge = np.array([0, 1, -1, 1e-30, -1e-30, 3.5, -3.5, np.inf, -np.inf, np.nan], dtype)
        a, b = (part.ravel() for part in np.meshgrid(edge, np.delete(edge, [3, 4])))
        with np.errstate(divide="ignore", invalid="ignore"):
            check(fm.floor_divide, np.floor_divide(a, b), a, b)
            check(fm.remainder, np.remainder(a, b), a, b)
    check(fm.remainder, np.array([np.nan, np.nan]), np.array([np.inf, 1.0]), np.array([np.inf, 0.0]))
    fm.testing.check_grads(fm.remainder, (normal((4, 5), np.float64), np.full(5, 0.37)))


@pytest.mark.parametrize("y", [49, 98, 103, -7, 0.1, 0.3, 7.7, -1e-3])
def test_whole_quotients_by_a_constant(y: float) -> None:
    """A compiled division by what is the same for many is a product with its reciprocal, which may miss a whole number."""
    for dtype in (np.int32, *FLOATS) if isinstance(y, int) else FLOATS:
        x = (np.arange(-300, 301) * dtype(y)).astype(dtype)
        if dtype in FLOATS:
            x = np.concatenate([x, np.nextafter(x[x != 0], dtype(np.inf)), np.nextafter(x[x != 0], dtype(-np.inf))])
        for f, of in ((fm.floor_divide, np.floor_divide), (fm.remainder, np.remainder)):
            want = of(x, dtype(y))
            np.testing.assert_array_equal(fm.jit(lambda x, f=f: f(x, y))(x), want)
            np.testing.assert_array_equal(fm.jit(f)(np.stack([x, x]), np.full((2, 1), y, dtype)), np.stack([want, want]))


def test_composed_reductions() -> None:
    x = (normal((3, 4, 5)) > 0.8).astype(np.float64) * normal((3, 4, 5), np.float64, 1)
    for v in (x, x.astype(np.float32), x.astype(bool), (x * 9).astype(np.int32), x[:, :0]):
        for axis in (None, 0, -1, (0, 2)):
            for keepdims in (False, True):
                for name in ("any", "all"):
                    want = getattr(np, name)(v, axis=axis, keepdims=keepdims)
                    check(lambda v, name=name, axis=axis, keepdims=keepdims: getattr(fm, name)(v, axis=axis, keepdims=keepdims), want, v)
    x, y = normal((3, 4, 5)), normal((4, 5), np.float64, 1)
    check(lambda v: fm.std(v, axis=(0, 2), keepdims=True), np.std(x, axis=(0, 2), keepdims=True), x)
    check(fm.vecdot, (x * y).sum(-1), x, y)
    check(lambda a, b: fm.vecdot(a, b, axis=1), (x * y).sum(1), x, y)
    check(lambda v: fm.var(v, axis=1, correction=1), np.var(x, axis=1, correction=1), x)
    check(lambda v: fm.std(v, correction=0.5, keepdims=True), np.std(x, correction=0.5, keepdims=True), x)
    fm.testing.check_grads(lambda v: (fm.std(v, axis=1), fm.var(v, axis=0, correction=1)), (x,))


def test_composed_shapes() -> None:
    for dtype in (*FLOATS, np.int32, bool):
        x = (normal((2, 3, 4)) * 3).astype(dtype)
        check(fm.matrix_transpose, np.swapaxes(x, 1, 2), x)
        for a, b in itertools.product(range(-3, 3), repeat=2):
            check(lambda v, a=a, b=b: fm.moveaxis(v, a, b), np.moveaxis(x, a, b), x)
        for a, b in (((0, 1), (1, 2)), ((0, 2), (-1, 0)), ((2, 1, 0), (0, 1, 2)), ((-1,), (0,))):
            check(lambda v, a=a, b=b: fm.moveaxis(v, a, b), np.moveaxis(x, a, b), x)
        for k, by in ((5, None), (-7, None), (1, (0, 2)), ((1, -2), (0, 2)), ((1, 1), (1, 1)), ((2,), 1)):
            check(lambda v, k=k, by=by: fm.roll(v, k, by), np.roll(x, k, by), x)
        for axis in range(-3, 3):
            for k in (-5, -1, 0, 1, 2, 3):
                check(lambda v, k=k, axis=axis: fm.roll(v, k, axis=axis), np.roll(x, k, axis), x)
            for k in range(3):
                check(lambda v, k=k, axis=axis: fm.repeat(v, k, axis=axis), np.repeat(x, k, axis), x)
            check(lambda v, axis=axis: fm.stack(list(fm.unstack(v, axis=axis)), axis=axis), x, x)
        for times in (2, (0,), (2, 1, 3), (2, 1, 1, 2)):
            check(lambda v, times=times: fm.tile(v, times), np.tile(x, times), x)
        for k in (-2, 0, 1):
            check(lambda v, k=k: fm.tril(v, k), np.tril(x, k), x)
            check(lambda v, k=k: fm.triu(v, k), np.triu(x, k), x)
    check(lambda v: fm.roll(v, 3, axis=1), np.zeros((2, 0)), np.zeros((2, 0)))
    fm.testing.check_grads(lambda v: fm.tile(fm.roll(fm.repeat(v, 2, axis=0), 1, axis=1), (1, 2)) ** 3, (normal((3, 4)),))
    vectors = [normal((n,), np.float64, n) for n in (3, 2, 4)]
    for k, indexing in itertools.product(range(4), ("xy", "ij")):
        for a in range(k):
            check(lambda *v, a=a, indexing=indexing: fm.meshgrid(*v, indexing=indexing)[a], np.meshgrid(*vectors[:k], indexing=indexing)[a], *vectors[:k])
        assert len(fm.meshgrid(*vectors[:k])) == k
    check(lambda i, v: fm.meshgrid(i, v)[0], np.meshgrid(np.arange(3), np.zeros(0))[0], np.arange(3), np.zeros(0))
    fm.testing.check_grads(lambda a, b: [x * y for x, y in [fm.meshgrid(a, b)]], tuple(vectors[:2]))
    for bad in (lambda v: fm.roll(v, 1, axis=2), lambda v: fm.moveaxis(v, 0, 5), lambda v: fm.tril(v[0]), lambda v: fm.repeat(v, 2, axis=-3)):
        with pytest.raises(ValueError, match=r"\[(roll|moveaxis|tril|repeat)\] expected"):
            bad(np.ones((2, 3)))
