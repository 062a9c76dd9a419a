"""Indexing, taking, scattering and one-hot rows against NumPy, and what is out of range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_array import FLOATS, check, normal

import fastmeta as fm

KEYS: tuple[Any, ...] = (
    0, -1, np.int64(2), slice(None), slice(1, 3), slice(None, None, -1), slice(3, 0, -2), slice(-2, None), slice(10, 20), slice(2, 2), slice(None, None, 3), ..., None,
    (1, 2), (0, ..., 1), (..., -1), (slice(None), None, 1), (None, ..., None), (slice(1, 3), slice(None, None, 2), -1), (..., slice(None, None, -2), slice(0, 1)),
    (1, 2, 3), (1, 2, 3, None), (slice(None), slice(0, 0)), (-1, slice(None), slice(-1, -4, -1)), (),
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indexing(key: Any) -> None:
    x = normal((4, 3, 5))
    for dtype in (*FLOATS, np.int32, bool):
        v = (3 * x).astype(dtype)
        np.testing.assert_array_equal(fm.jit(lambda u: u[key])(v), v[key])
        assert fm.jit(lambda u: u[key])(v).shape == v[key].shape
    want = np.zeros_like(x)
    want[key] = 2 * x[key]
    np.testing.assert_allclose(fm.grad(lambda u: fm.sum(u[key] * u[key]))(x), want)


def test_indexing_by_arrays() -> None:
    x, k = normal((4, 3, 5)), np.array([[2, 0], [1, 1]])
    for f in (lambda u, k: u[k], lambda u, k: u[:, k], lambda u, k: u[..., k], lambda u, k: u[1:, k, ::-1], lambda u, k: u[None, k[0]],
              lambda u, k: u[1, k], lambda u, k: u[:, k, -1]):  # fmt: skip
        np.testing.assert_array_equal(fm.jit(f)(x, k), f(x, k))
    for f in (lambda u, k: u[1, :, k], lambda u, k: u[k, :, 0], lambda u, k: u[0, None, k], lambda u, k: u[k, ..., 1, :2]):  # with others between: the axes of k come first
        check(fm.jit(f), f(x, k), x, k)
    np.testing.assert_array_equal(fm.jit(lambda u: u[k])(x), x[k])
    np.testing.assert_array_equal(fm.jit(lambda u, k: u[k])(x, np.asarray(2)), x[2])


def test_indexing_by_pairs_of_arrays() -> None:
    """One element of each row, as a loss picks its labels; known indices may count from the end, and be lists."""
    x, rows, k = normal((4, 3, 5)), np.arange(4), np.array([2, 0, -1, 1])
    for f in (lambda u: u[rows, k], lambda u: u[[0, -1], [1, 2], 1:], lambda u: u[np.array([3, 3]), [0, 0], None], lambda u: u[[0, -1]], lambda u: u[:, np.array([-1, 0])]):
        np.testing.assert_array_equal(fm.jit(f)(x), f(x))
        want = np.zeros_like(x)
        np.add.at(want, next(key for key in [f(Key())]), 2 * f(x))
        np.testing.assert_allclose(fm.grad(lambda u, f=f: fm.sum(f(u) * f(u)))(x), want)
    labels = np.array([2, 0, 1, 1])
    np.testing.assert_array_equal(fm.jit(lambda u, k: u[rows, k])(x, labels), x[rows, labels])
    with pytest.raises(IndexError, match=r"expected an index in 0\.\.2.*got 3"):
        fm.jit(lambda u, k: u[rows, k])(x, np.array([0, 3, 0, 0]))


POINTS: dict[str, Callable[..., Any]] = {
    "last two": lambda u, i, j, k: u[:, j, k], "all": lambda u, i, j, k: u[i, j, k], "first two": lambda u, i, j, k: u[i, j], "with a slice": lambda u, i, j, k: u[1:, j, k][..., None], "apart": lambda u, i, j, k: u[i, :, k],
    "apart by none": lambda u, i, j, k: u[i, None, j], "with an integer": lambda u, i, j, k: u[i, 1, k], "broadcast": lambda u, i, j, k: u[i[:, None], j, k[:2]], "grid": lambda u, i, j, k: u[i[:, None], :, k],
    "one place": lambda u, i, j, k: u[i[0], j[1], k], "a list": lambda u, i, j, k: u[[0, -1, 2], j, k], "a tuple": lambda u, i, j, k: u[(0, -1, 2), :, k], "rows of lists": lambda u, i, j, k: u[[[0, 1, 2], [-1, 0, 1]], :, k], "ellipsis": lambda u, i, j, k: u[..., j, k], "ellipsis between": lambda u, i, j, k: u[i, ..., k], "none before": lambda u, i, j, k: u[None, :, j, k, None],
}  # fmt: skip


@pytest.mark.parametrize("name", POINTS)
def test_indexing_by_several_arrays(name: str) -> None:
    x, i, j, k = normal((4, 3, 5)), np.array([2, 0, 3]), np.array([1, 1, 0]), np.array([4, 0, 2])
    f = POINTS[name]
    if name in ("broadcast",):
        j = j[:2]
    for dtype in (*FLOATS, np.int32):
        v = (3 * x).astype(dtype)
        check(fm.jit(f), f(v, i, j, k), v, i, j, k)
        check(fm.jit(lambda v: f(v, i, j, k - 5)), f(v, i, j, k - 5), v)  # constants, from the end
    want = np.zeros_like(x)
    np.add.at(want.reshape(-1), f(np.arange(x.size).reshape(x.shape), i, j, k), 2 * f(x, i, j, k))
    np.testing.assert_allclose(fm.grad(lambda u, *at: fm.sum(f(u, *at) ** 2))(x, i, j, k), want, rtol=1e-12)
    fm.testing.check_grads(lambda u: f(u, i, j, k) ** 3, (x,))


@pytest.mark.parametrize("shape", [(4, 3, 5), (40, 30, 3)])
def test_an_index_outside_its_own_axis_raises(shape: tuple[int, ...]) -> None:
    """Also where the place among all elements would be there."""
    x, i, j = normal(shape), np.array([1, 0]), np.array([0, shape[1]])
    with pytest.raises(IndexError, match=rf"expected an index in 0\.\.{shape[1] - 1}, got {shape[1]}"):
        fm.jit(lambda u, i, j: u[i, j])(x, i, j)
    with pytest.raises(IndexError, match="expected an index in .*, got -1"):
        fm.jit(lambda u, i, j: u[i, j])(x, i - 1, j * 0)
    np.testing.assert_array_equal(fm.jit(lambda u, i, j: u[i, j])(x, i, j // 2), x[i, j // 2])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_indices_of_few_bits(dtype: Any) -> None:
    x, k = normal((200, 3)), np.array([0, 100, 3]).astype(dtype)
    for f in (lambda u: u[k], lambda u: u[k, k % 2]):
        check(fm.jit(f), f(x), x)
    np.testing.assert_array_equal(fm.jit(lambda u: fm.take(u, k, axis=0))(x), x[k])


def test_constant_masks() -> None:
    x = normal((4, 3, 5))
    rows, columns, both = np.array([True, False, True, True]), np.array([False, True, True]), normal((4, 3), np.float64, "m") > 0
    for f in (lambda u: u[rows], lambda u: u[:, columns], lambda u: u[both], lambda u: u[both, 1:], lambda u: u[x > 0], lambda u: u[rows, 0], lambda u: u[rows, :, [0, 1, 4]], lambda u: u[[True, False, False, True]],
              lambda u: u[both, 2], lambda u: u[..., np.zeros(5, bool)], lambda u: u[0, both[0]], lambda u: u[0, [], 1]):  # fmt: skip
        check(fm.jit(f), f(x), x)
        fm.testing.check_grads(lambda u, f=f: f(u) ** 2, (x,))


class Key:
    """Gives the key that it is indexed by."""

    def __getitem__(self, key: Any) -> Any:
        return key


def test_take_and_scatter() -> None:
    for dtype in (*FLOATS, np.int32):
        x = (3 * normal((4, 3, 5))).astype(dtype)
        for axis in range(-3, 3):
            n = x.shape[axis]
            for k in (np.array([0, n - 1, 1, 1]), np.array([[1, 0]]), np.asarray(1), np.zeros(0, np.int32)):
                check(lambda v, k, axis=axis: fm.take(v, k, axis=axis), np.take(x, k, axis), x, k)
            shape = list(x.shape)
            shape[axis] = 2
            k = np.random.default_rng(0).integers(0, n, shape)
            check(lambda v, k, axis=axis: fm.take_along_axis(v, k, axis=axis), np.take_along_axis(x, k, axis), x, k)
            rows = np.array([1, 0, 1])
            shape[axis] = 3
            u = (3 * normal(tuple(shape))).astype(dtype)
            want = np.moveaxis(x.copy(), axis, 0)
            np.add.at(want, rows, np.moveaxis(u, axis, 0))
            check(lambda v, r, u, axis=axis: fm.scatter_add(v, r, u, axis=axis), np.moveaxis(want, 0, axis), x, rows, u, tolerance=1e-5)
        thin = np.argmax(x, 2, keepdims=True)
        check(lambda v, k: fm.take_along_axis(v, k, axis=2), np.take_along_axis(x, thin, 2), x, thin)
        some = thin[:, :1]  # an index that repeats along the second axis
        check(lambda v, k: fm.take_along_axis(v, k, axis=2), np.take_along_axis(x, np.broadcast_to(some, (4, 3, 1)), 2), x, some)
    for k in (-1, [0, -2], [[-1], [2]]):
        check(lambda v, k=k: fm.take(v, k, axis=0), x[k], x)
    constant = np.array([[-1, 0]])
    np.testing.assert_array_equal(fm.jit(lambda v: fm.take(v, constant, 1))(x), x[:, constant])
    x, k = normal((5,)), np.array([3, 0])
    check(fm.take, x[k], x, k)
    want = x.copy()
    want[[3, 0]] += 1.0
    check(lambda v, k: fm.scatter_add(v, k, 1.0), want, x, k)


@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1, -(2**31)])
def test_an_index_outside_raises(bad: int, backend: str) -> None:
    x, k = normal((4, 3)), np.array([0, bad], np.int32)
    for f in (lambda v, k: fm.take(v, k, axis=0), lambda v, k: fm.scatter_add(v, k, 1.0), lambda v, k: fm.take_along_axis(v, k[:, None], axis=0)):
        with pytest.raises(IndexError, match=rf"expected an index in 0\.\.3.*got {bad}"):
            fm.jit(f)(x, k)
        with pytest.raises(IndexError, match="expected an index"):
            f(x, k)
        fm.jit(f)(x, np.array([0, 3], np.int32))  # and the next call is unharmed
    with pytest.raises(IndexError, match="in task 1"):
        fm.map_tasks(lambda v, k: fm.take(v, k, axis=0), in_axes=(None, 0))(x, np.array([[0], [bad]], np.int32))


def test_one_hot() -> None:
    k = np.array([[0, 2], [3, -1]])
    for dtype in FLOATS:
        want = (k[..., None] == np.arange(3)).astype(dtype)
        check(lambda v, dtype=dtype: fm.one_hot(v, 3, dtype=dtype), want, k)
