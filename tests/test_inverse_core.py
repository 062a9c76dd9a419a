"""Opcode 13 of the core, in plans built by hand, against NumPy's inverse."""

from __future__ import annotations

import numpy as np
import pytest
from plan_tools import FLOATS, INVERSE, Builder, code, f32, sample, view

import fastmeta as fm
from fastmeta.plan import make_plan

SIZES = [(1, 1), (3, 2), (40, 5), (2, 8), (2, 9), (3, 25), (2, 64), (1, 131)]  # matrices; rows: blocks of 8, vectors and parts of them
RTOL = {np.float32: 2e-5, np.float64: 1e-13}


def definite(count: int, n: int, dtype) -> np.ndarray:
    x = sample((count, n, n), np.float64)
    return (x @ x.swapaxes(1, 2) / n + np.eye(n)).astype(dtype)


def inverses(x, make=lambda a: a, into=lambda a: a, threads=1):
    """By the kernel, of make(x), written to into(a result like x)."""
    dtype, shape = x.dtype.type, x.shape
    b = Builder([(dtype, shape)], [(dtype, shape)])
    operands = [view(b.input(0), shape, dtype, make=make), view(b.output(0), shape, dtype, make=into)]
    b.emit(INVERSE, [code(dtype), *operands[0].shape[:2], *(word for o in operands for word in o.words), 0])
    return into(b.run(x, threads=threads)[0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", SIZES)
def test_inverse(isa, sizes, dtype):
    x = definite(*sizes, dtype)
    np.testing.assert_allclose(inverses(x), np.linalg.inv(x.astype(np.float64)), RTOL[dtype], RTOL[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_strides(isa, dtype):
    """Rows apart, read from the right and from below: a symmetric matrix stays the same."""
    x = sample((5, 40, 60), dtype)
    x[1:4, :34:2, 20:37] = definite(3, 17, dtype)
    want = np.linalg.inv(x[1:4, :34:2, 20:37].astype(np.float64))
    np.testing.assert_allclose(inverses(x, lambda a: a[1:4, :34:2, 20:37], lambda a: a[:3, 1:18, :17]), want, RTOL[dtype], RTOL[dtype])
    turned = inverses(x, lambda a: a[3:0:-1, 32::-2, 36:19:-1].swapaxes(1, 2), lambda a: a[1:4, 23:40, 43:])
    np.testing.assert_allclose(turned[::-1, ::-1, ::-1], want, RTOL[dtype], RTOL[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("at", [0, 7, 8, 20])
def test_what_is_not_positive_definite_is_nan_alone(isa, at, dtype):
    x = definite(4, 21, dtype)
    x[0, at, at] = -1
    x[2] = np.outer(x[2, at], x[2, at])  # of rank 1
    x[3, at, at] = np.nan
    got = inverses(x)
    assert np.isnan(got[[0, 2, 3]]).all()
    np.testing.assert_array_equal(got[1], inverses(x[1:2])[0])


@pytest.mark.parametrize(("noise", "limit"), [(1e-2, 1e-4), (1e-4, 6e-3), (1e-5, 6e-2)])
def test_nearly_singular_matrices_keep_what_digits_they_have(isa, noise, limit):
    """A Gaussian process on 40 points of a line: as near as Cholesky's factors come in float32 (2e-5, 2e-3, 2e-2)."""
    t = np.linspace(-3, 3, 40)
    x = (np.exp(-0.5 * (t[:, None] - t) ** 2) + noise * np.eye(40)).astype(f32)
    want = np.linalg.inv(x.astype(np.float64))
    assert np.abs(inverses(x[None])[0] - want).max() <= limit * np.abs(want).max()


def test_threads_do_not_show():
    """Of one call: 300 matrices are parts of a team's work."""
    x = definite(300, 40, f32)
    np.testing.assert_array_equal(inverses(x, threads=1), inverses(x, threads=2))


def test_one_instruction_where_there_are_kernels():
    x = definite(2, 6, f32)
    program = fm.jit(fm.inverse).program(x)
    assert make_plan(program).instructions == 1
    assert make_plan(program, kernels=False).instructions > 1
    for shape in ((2, 6, 6), (1, 2, 6, 6)):
        np.testing.assert_allclose(fm.jit(fm.inverse)(x.reshape(shape)), np.linalg.inv(x).reshape(shape), 1e-4, 1e-5)
    np.testing.assert_allclose(fm.jit(fm.inverse)(x[0]), np.linalg.inv(x[0]), 1e-4, 1e-5)


def test_no_matrices():
    assert fm.jit(fm.inverse)(np.zeros((0, 3, 3), f32)).shape == (0, 3, 3)
    assert fm.jit(fm.inverse)(np.zeros((2, 0, 0), f32)).shape == (2, 0, 0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [*SIZES, (0, 3), (2, 0)])
def test_logarithms_of_determinants(isa, sizes, dtype):
    """By the pivots of the inverse, which come with it or alone."""
    x = definite(*sizes, dtype) if min(sizes) else np.zeros((sizes[0], sizes[1], sizes[1]), dtype)
    want = np.linalg.slogdet(x.astype(np.float64))[1]
    alone, both = fm.jit(fm.logdet), fm.jit(lambda x: (fm.logdet(x), fm.inverse(x)))
    np.testing.assert_allclose(alone(x), want, 10 * RTOL[dtype], 10 * RTOL[dtype])
    got, inverse = both(x)
    np.testing.assert_array_equal(got, alone(x))
    np.testing.assert_array_equal(inverse, fm.jit(fm.inverse)(x))


def test_one_elimination_for_inverse_and_determinant():
    x = definite(2, 6, f32)
    counts = [make_plan(fm.jit(f).program(x)).instructions for f in (fm.logdet, lambda x: (fm.logdet(x), fm.inverse(x)))]
    assert counts == [2, 2]
    slow = x.copy()
    slow[0, 3, 3] = -1
    assert np.isnan(fm.jit(fm.logdet)(slow)[0]) and np.isfinite(fm.jit(fm.logdet)(slow)[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_pivots_apart(isa, dtype):
    x = definite(3, 10, dtype)
    b = Builder([(dtype, x.shape)], [(dtype, x.shape), (dtype, (3, 40))])
    apart = lambda a: a[::-1, 2:40:4]
    operands = [view(b.input(0), x.shape, dtype), view(b.output(0), x.shape, dtype), view(b.output(1), (3, 40), dtype, make=apart)]
    b.emit(INVERSE, [code(dtype), 3, 10, *operands[0].words, *operands[1].words, 1, *operands[2].words])
    got = apart(b.run(x)[1])
    np.testing.assert_allclose(got, np.diagonal(np.linalg.cholesky(x.astype(np.float64)), axis1=1, axis2=2) ** 2, 10 * RTOL[dtype])
