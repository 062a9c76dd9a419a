"""Opcodes 10 and 11 of the core, in plans built by hand, against their definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from plan_tools import DISTANCE, FLOATS, PULL, Builder, code, f32, sample, view

import fastmeta as fm
from fastmeta import _core
from fastmeta.ops.distance import DISTANCE as ROW
from fastmeta.ops.distance import DISTANCE_PULL, KERNEL_METRICS, PULL_METRICS
from fastmeta.plan import make_plan

# rows of x and y, features: what is transposed, packed (8 rows of y and more, 48 to 128 features), and left as it is; parts of vectors; both orders
SIZES = [(1, 1, 1), (5, 3, 4), (2, 9, 33), (75, 5, 64), (64, 64, 128), (37, 13, 50), (9, 30, 61), (47, 29, 127), (17, 40, 130), (4, 6, 257), (33, 7, 1600)]
RTOL = {np.float32: 1e-5, np.float64: 1e-13}


def distances(x, y, metric, *, threads=1):
    (n, d), m = x.shape, len(y)
    dtype = x.dtype.type
    b = Builder([(dtype, x.shape), (dtype, y.shape)], [(dtype, (n, m))])
    operands = [view(b.input(0), x.shape, dtype), view(b.input(1), y.shape, dtype), view(b.output(0), (n, m), dtype)]
    b.emit(DISTANCE, [code(dtype), KERNEL_METRICS.index(metric), n, m, d, *(word for o in operands for word in o.words)])
    return b.run(x, y, threads=threads)[0]


def pulls(x, y, weight, metric, sides, *, turned=False, threads=1):
    (n, d), m = x.shape, len(y)
    dtype = x.dtype.type
    shapes = [(n, d), (m, d)]
    b = Builder([(dtype, x.shape), (dtype, y.shape), (dtype, weight.T.shape if turned else weight.shape)], [(dtype, shapes[s]) for s in sides])
    w = view(b.input(2), weight.T.shape, dtype, make=lambda a: a.T) if turned else view(b.input(2), weight.shape, dtype)
    words = [code(dtype), PULL_METRICS.index(metric), n, m, d, *view(b.input(0), x.shape, dtype).words, *view(b.input(1), y.shape, dtype).words, *w.words]
    for side in (0, 1):
        words += [1, *view(b.output(sides.index(side)), shapes[side], dtype).words] if side in sides else [0]
    b.emit(PULL, words)
    return b.run(x, y, np.ascontiguousarray(weight.T) if turned else weight, threads=threads)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", KERNEL_METRICS)
@pytest.mark.parametrize("sizes", SIZES)
def test_distance(isa, sizes, metric, dtype):
    n, m, d = sizes
    x, y = sample((n, d), dtype), sample((m, d), dtype, 1)
    want = ROW.evaluate(x.astype(np.float64), y.astype(np.float64), metric)
    np.testing.assert_allclose(distances(x, y, metric), want, RTOL[dtype], 1e-6 if dtype == f32 else 1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m", [3, 4, 11])  # up to 3 rows differences of directions, from 4 on products
@pytest.mark.parametrize("d", [161, 1030])
def test_cosines_of_long_rows(isa, d, m, dtype):
    """Rows of zeros, too large, too small, NaN and near each other beside common ones; a last block of a few rows."""
    x, y = sample((37, d), dtype), sample((m, d), dtype, 1)
    x[3], x[5, 7], y[1] = 0, np.nan, 0
    x[8] *= dtype(1e25 if dtype == f32 else 1e200)
    x[9] *= dtype(1e-25 if dtype == f32 else 1e-200)
    y[2] *= dtype(1e22 if dtype == f32 else 1e180)
    near = {35: 0, 12: 2, 33: m - 1}
    for i, j in near.items():
        x[i] = y[j] / np.abs(y[j]).max() * 2 + dtype(1e-3) * sample((d,), dtype, i)
    with np.errstate(invalid="ignore"):
        directions = [a.astype(np.float64) / np.maximum(np.abs(a).max(1, keepdims=True), 1e-300) for a in (x, y)]
        u, v = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-300) for a in directions)
    want = 0.5 * ((u[:, None] - v[None]) ** 2).sum(2)
    want[3], want[:, 1] = 1, 1
    got = distances(x, y, "cosine")
    assert np.isnan(got[5, [0, 2]]).all()
    rest = np.arange(37) != 5
    np.testing.assert_allclose(got[rest], want[rest], 1e-4 if dtype == f32 else 1e-12)


@pytest.mark.parametrize("metric", KERNEL_METRICS)
@pytest.mark.parametrize("d", [20, 61, 300])
@pytest.mark.parametrize("n", [6, 21])
def test_strides(isa, metric, n, d):
    x, y = sample((2 * n, 3 * d)), sample((11, d), seed=1)
    some = x[::-2, d : 2 * d]
    want = ROW.evaluate(some.astype(np.float64), y.astype(np.float64), metric)
    b = Builder([(f32, x.shape), (f32, y.shape)], [(f32, (11, 2 * n))])
    operands = [view(b.input(0), x.shape, make=lambda a: a[::-2, d : 2 * d]), view(b.input(1), y.shape), view(b.output(0), (11, 2 * n), make=lambda a: a.T[::2])]
    b.emit(DISTANCE, [0, KERNEL_METRICS.index(metric), n, 11, d, *(word for o in operands for word in o.words)])
    got = b.run(x, y)[0]
    np.testing.assert_allclose(got.T[::2], want, 1e-5, 1e-6)


@pytest.mark.parametrize("metric", KERNEL_METRICS)
@pytest.mark.parametrize("d", [64, 200])
def test_rows_do_not_change_each_other(isa, metric, d):
    """The bits of a distance depend on its two rows alone, also where some need differences and others do not."""
    x, y = sample((90, d)), sample((40, d), seed=1)
    x[45] = y[3] * np.float32(1 + 1e-6)
    x[50] *= np.float32(1e-25)
    all_of_them = distances(x, y, metric)
    for i in (0, 7, 40, 46, 50):
        np.testing.assert_array_equal(distances(x[i : i + 40], y, metric), all_of_them[i : i + 40])


@pytest.mark.parametrize("d", [3, 64, 128, 200])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_what_is_near_keeps_its_digits(isa, metric, d):
    """Near points, far from the origin: a product of the rows has nothing of their distance left."""
    y = 1000 + sample((40, d), np.float64)
    x = np.concatenate([y + 1e-2 * sample((40, d), np.float64, 2), y[:3]]).astype(f32)
    y = y.astype(f32)
    want = ROW.evaluate(x.astype(np.float64), y.astype(np.float64), metric)
    if metric == "sqeuclidean":
        np.testing.assert_allclose(distances(x, y, metric), want, 1e-5)
    else:  # directions are rounded to 6e-8 of their length
        np.testing.assert_allclose(distances(x, y, metric), want, 2e-3 if d > 3 else 2e-2, 2e-13)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", [5, 64, 300])
def test_rows_of_any_length_under_cosine(isa, d, dtype):
    far = 1e30 if dtype == f32 else 1e250
    scales = np.array([0, 1, far, 1 / far, 1, far / 1e5, 1e-3, 1, 1])[:, None]
    y = sample((len(scales), d), dtype)
    x = (y * scales).astype(dtype)
    got = distances(x, (y * scales[::-1]).astype(dtype), "cosine")
    want = ROW.evaluate(y.astype(np.float64), y.astype(np.float64), "cosine")
    want[0] = want[:, -1] = 1
    np.testing.assert_allclose(got, want, 1e-4 if dtype == f32 else 1e-12, 1e-6 if dtype == f32 else 1e-14)


@pytest.mark.parametrize("metric", KERNEL_METRICS)
@pytest.mark.parametrize("d", [64, 300])
@pytest.mark.parametrize("m", [6, 9])
def test_nan_stays_in_its_row(isa, metric, m, d):
    x, y = sample((40, d)), sample((m, d), seed=1)
    clean = distances(x, y, metric)
    x[33, 7] = np.nan
    got = distances(x, y, metric)
    assert np.isnan(got[33]).all()
    np.testing.assert_array_equal(np.delete(got, 33, 0), np.delete(clean, 33, 0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", PULL_METRICS)
@pytest.mark.parametrize("sizes", [*SIZES, (130, 70, 70)])
def test_pull(isa, sizes, metric, dtype):
    n, m, d = sizes
    x, y, weight = sample((n, d), dtype), sample((m, d), dtype, 1), sample((n, m), dtype, 2)
    x[0] = y[-1]  # no derivative between these two
    x[-1, : d // 2] = y[0, : d // 2]
    wide = [a.astype(np.float64) for a in (x, y, weight)]
    ways = [pulls(x, y, weight, metric, (0, 1), turned=turned) for turned in (False, True)]
    ways += [[pulls(x, y, weight, metric, (side,), turned=turned)[0] for side in (0, 1)] for turned in (False, True)]
    for side in (0, 1):
        want = DISTANCE_PULL.evaluate(*wide, metric, side)
        tolerance = (1e-5 if dtype == f32 else 1e-13) * np.abs(want).max()
        for way in ways:
            np.testing.assert_allclose(way[side], want, 0, tolerance + 1e-30)
            if metric != "products":  # whose order of additions depends on what is asked for
                np.testing.assert_array_equal(way[side], ways[0][side])


def test_products_of_far_rows(isa):
    """An offset of all rows costs no digits: they are centred."""
    x, y, w = sample((50, 70)), sample((20, 70), seed=1), sample((50, 20), seed=2)
    for far, near in zip(pulls(x + f32(1024), y + f32(1024), w, "products", (0, 1)), pulls(x, y, w, "products", (0, 1)), strict=True):
        np.testing.assert_allclose(far, near, 0, 1e-4 * np.abs(near).max())


def test_weights_without_unit_stride(isa):
    x, y, w = sample((9, 20)), sample((5, 20), seed=1), sample((18, 10), seed=2)
    b = Builder([(f32, x.shape), (f32, y.shape), (f32, w.shape)], [(f32, x.shape), (f32, y.shape)])
    operands = [view(b.input(0), x.shape), view(b.input(1), y.shape), view(b.input(2), w.shape, make=lambda a: a[::2, ::2])]
    words = [0, PULL_METRICS.index("products"), 9, 5, 20, *(word for o in operands for word in o.words)]
    b.emit(PULL, [*words, 1, *view(b.output(0), x.shape).words, 1, *view(b.output(1), y.shape).words])
    for got, want in zip(b.run(x, y, w), pulls(x, y, np.ascontiguousarray(w[::2, ::2]), "products", (0, 1)), strict=True):
        np.testing.assert_allclose(got, want, 0, 1e-5 * np.abs(want).max())


@pytest.mark.parametrize("metric", KERNEL_METRICS)
@pytest.mark.parametrize("sizes", [(3000, 40, 64), (30, 90, 2000)])
def test_threads_do_not_show(sizes, metric):
    n, m, d = sizes
    x, y, weight = sample((n, d)), sample((m, d), seed=1), sample((n, m), seed=2)

    def everything(threads):
        sides = [(0, 1), (0,), (1,)]
        pull = "products" if metric == "cosine" else metric
        return [distances(x, y, metric, threads=threads), *(a for s in sides for a in pulls(x, y, weight, pull, s, threads=threads))]

    one = everything(1)
    for threads in (2, 3):
        for a, b in zip(one, everything(threads), strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_instruction_for_both_sides():
    """The gradients to both sets, in a plan: one DISTANCE, one PULL, and nothing of size n x m x D."""
    x, y, w = sample((3, 20, 8)), sample((3, 5, 8), seed=1), sample((3, 20, 5), seed=2)
    f = fm.map_tasks(fm.value_and_grad(lambda x, y, w: fm.sum(w * fm.kernels.pairwise_distance(x, y, metric="l1")), argnums=(0, 1)))
    value, (gx, gy) = f(x, y, w)
    np.testing.assert_allclose(value, np.sum(w * np.stack([ROW.evaluate(a, b, "l1") for a, b in zip(x, y, strict=True)]), (1, 2)), 1e-5)
    for t in range(3):
        np.testing.assert_allclose(gx[t], DISTANCE_PULL.evaluate(x[t], y[t], w[t], "l1", 0), 1e-5, 1e-5)
        np.testing.assert_allclose(gy[t], DISTANCE_PULL.evaluate(x[t], y[t], w[t], "l1", 1), 1e-5, 1e-5)
    assert make_plan(f.program(x, y, w)).instructions == 4  # the loop, distances, the weighted sum, both derivatives


@pytest.mark.parametrize(
    "change", [{2: 0}, {3: 0}, {4: 0}, {1: 3}, {0: 2}, {9: 2}], ids=["no rows", "no other rows", "no features", "metric", "dtype", "features apart"]
)
def test_refused(change):
    b = Builder([(f32, (6, 8)), (f32, (3, 8))], [(f32, (6, 3))])
    operands = [view(b.input(0), (6, 8)), view(b.input(1), (3, 8)), view(b.output(0), (6, 3))]
    words = [0, 0, 6, 3, 4, *(word for o in operands for word in o.words)]
    b.emit(DISTANCE, words)
    assert b.plan() is not None
    for at, value in change.items():
        words[at] = value
    b.blocks[0].clear()
    b.emit(DISTANCE, words)
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        _core.Plan(b.words(), b"")
