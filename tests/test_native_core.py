"""The native core against NumPy: every opcode, loops, threads, signals, and plans that must be refused."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
from plan_tools import (
    ACCUMULATE,
    ARGREDUCE,
    CUMSUM,
    FLOATS,
    GATHER,
    MAX,
    MIN,
    NUMBERS,
    ORDER,
    SCATTER,
    STORE,
    SUM,
    Builder,
    View,
    close,
    code,
    f32,
    phase,
    sample,
    tested,
    view,
)  # fmt: skip

from fastmeta import _core

# ---- PASS

BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "less": np.less, "equal": np.equal,
}  # fmt: skip
LAYOUTS = {
    "dense": ((33, 70), lambda a: a),
    "transposed": ((70, 33), lambda a: a.T),
    "flipped": ((33, 70), lambda a: a[:, ::-1]),
    "flipped rows": ((33, 70), lambda a: a[::-1]),
    "strided": ((33, 210), lambda a: a[:, 1::3]),
    "row": ((70,), lambda a: np.broadcast_to(a, (33, 70))),
    "column": ((33, 1), lambda a: np.broadcast_to(a, (33, 70))),
    "scalar": ((), lambda a: np.broadcast_to(a, (33, 70))),
}


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_binary_layouts(isa, first, second, dtype):
    (shape_x, make_x), (shape_y, make_y) = LAYOUTS[first], LAYOUTS[second]
    x, y = sample(shape_x, dtype), sample(shape_y, dtype, 1)
    b = Builder([(dtype, shape_x), (dtype, shape_y)], [(dtype, (33, 70))])
    loads = [view(b.input(0), shape_x, dtype, make=make_x), view(b.input(1), shape_y, dtype, make=make_y)]
    # min(x + y, x) - y through registers, the last straight to memory
    ops = [("add", dtype, 0, 0, 1), ("minimum", dtype, 0, 2, 0), ("subtract", dtype, -1, 3, 1)]
    b.elementwise((33, 70), loads, ops, [(4, STORE, view(b.output(0), (33, 70), dtype))])
    (out,) = b.run(x, y)
    x, y = make_x(x), make_y(y)
    close(out, np.minimum(x + y, x) - y)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (17,), (5, 3), (7, 300, 5), (2, 3, 4, 5), (4099,)])
def test_shapes(name, dtype, shape):
    x, y = sample(shape, dtype), sample(shape, dtype, 1)
    b = Builder([(dtype, shape)] * 2, [(dtype, shape)])
    rank = len(shape)
    b.elementwise(shape, [view(b.input(0), shape, dtype), view(b.input(1), shape, dtype)], [(name, dtype, -1 if rank else 0, 0, 1)], [(2, STORE, view(b.output(0), shape, dtype))])
    (out,) = b.run(x, y)
    np.testing.assert_array_equal(out, BINARY[name](x, y).astype(dtype))


@pytest.mark.parametrize("source", [*NUMBERS, np.bool_])
@pytest.mark.parametrize("target", [*NUMBERS, np.bool_])
@pytest.mark.parametrize("n", [1, 5, 3000])
def test_cast(isa, source, target, n):
    x = sample((n,), source)
    # There and to float64 and back, all in one register: sizes differ, so the core must keep them apart.
    b = Builder([(source, (n,))], [(target, (n,))])
    ops = [("cast", np.float64, 0, 0, source), ("cast", target, 0, 1, np.float64)]
    b.elementwise((n,), [view(b.input(0), (n,), source)], ops, [(2, STORE, view(b.output(0), (n,), target))])
    np.testing.assert_array_equal(b.run(x)[0], x.astype(np.float64).astype(target))
    direct = Builder([(source, (n,))], [(target, (n,))])
    direct.elementwise((n,), [view(direct.input(0), (n,), source)], [("cast", target, -1, 0, source)], [(1, STORE, view(direct.output(0), (n,), target))])
    np.testing.assert_array_equal(direct.run(x)[0], x.astype(target))


def test_cast_of_a_broadcast_bool():
    mask = sample((40, 1), np.bool_)
    b = Builder([(np.bool_, (40, 1))], [(f32, (40, 7))])
    b.elementwise((40, 7), [view(b.input(0), (40, 1), np.bool_).to((40, 7))], [("cast", f32, -1, 0, np.bool_)], [(1, STORE, view(b.output(0), (40, 7)))])
    np.testing.assert_array_equal(b.run(mask)[0], np.broadcast_to(mask, (40, 7)).astype(f32))


REDUCTIONS = {SUM: np.sum, MAX: np.max, MIN: np.min}
SHAPE = (5, 37, 19)
AXES = [axes for n in range(1, 4) for axes in itertools.combinations(range(3), n)]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("mode", REDUCTIONS)
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
def test_reduction(isa, dtype, mode, axes, order):
    shape = tuple(SHAPE[order.index(k)] for k in range(3))
    x = sample(shape, dtype)
    kept = tuple(1 if d in axes else n for d, n in enumerate(SHAPE))
    b = Builder([(dtype, shape)], [(dtype, kept)])
    load = view(b.input(0), shape, dtype, make=lambda a: a.transpose(order))
    b.elementwise(SHAPE, [load], [("multiply", dtype, 0, 0, 0)], [(1, mode, view(b.output(0), kept, dtype).to(SHAPE))])
    (out,) = b.run(x)
    close(out, REDUCTIONS[mode](x.transpose(order) ** 2, axis=axes, keepdims=True))


@pytest.mark.parametrize("mode", REDUCTIONS)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_reduction_into_odd_strides(mode, dtype):
    x = sample((20, 30), dtype)
    for make, axis, kept in ((lambda a: a[:, ::3].T, 0, (30, 1)), (lambda a: a[::-1], 1, (20, 1))):
        shape = (1, 90) if axis == 0 else (20, 1)
        b = Builder([(dtype, (20, 30))], [(dtype, shape)])
        target = view(b.output(0), shape, dtype, make=make)
        strides = (0, target.strides[0]) if axis == 0 else (target.strides[0], 0)
        b.elementwise((20, 30), [view(b.input(0), (20, 30), dtype)], [], [(0, mode, target._replace(strides=strides, shape=(20, 30)))])
        close(make(b.run(x)[0]), REDUCTIONS[mode](x, axis=axis).reshape(kept))


def test_reduction_of_nothing_gives_the_start_value():
    x = np.empty((0, 5), f32)
    for mode, start in ((SUM, 0), (MAX, -np.inf), (MIN, np.inf)):
        b = Builder([(f32, (0, 5))], [(f32, (1, 5))])
        b.elementwise((0, 5), [view(b.input(0), (0, 5))], [], [(0, mode, view(b.output(0), (1, 5))._replace(strides=(0, 1)))])
        np.testing.assert_array_equal(b.run(x)[0], np.full((1, 5), start, f32))


@pytest.mark.parametrize("mode", [MAX, MIN])
def test_nan_propagates(isa, mode):
    for at in (0, 50, 1999):
        x = sample((2000,))
        x[at] = np.nan
        b = Builder([(f32, (2000,))], [(f32, (1,))])
        b.elementwise((2000,), [view(b.input(0), (2000,))], [], [(0, mode, view(b.output(0), (1,)).to((2000,)))])
        assert np.isnan(b.run(x)[0][0])


def test_sum_of_many_is_accurate(isa):
    x = np.full((3_000_000,), 0.1, f32)
    b = Builder([(f32, x.shape)], [(f32, (1,))])
    b.elementwise(x.shape, [view(b.input(0), x.shape)], [], [(0, SUM, view(b.output(0), (1,)).to(x.shape))])
    assert abs(b.run(x)[0][0] / (x[0].astype(np.float64) * x.size) - 1) < 1e-5


@pytest.mark.parametrize("dtype", NUMBERS)
def test_accumulate(dtype):
    x, y = sample((6, 50), dtype), sample((6, 50), dtype, 1)
    b = Builder([(dtype, (6, 50))] * 2, [(dtype, (6, 50)), (dtype, (1, 50))])
    dims = (6, 50)
    out, rows = view(b.output(0), dims, dtype), view(b.output(1), (1, 50), dtype)
    load_x, load_y = view(b.input(0), dims, dtype), view(b.input(1), dims, dtype)
    b.phases(phase(dims, [load_x], [("copy", dtype, -1, 0)], [(1, STORE, out)]), phase(dims, [load_x], [], [(0, SUM, rows.to(dims))]))
    b.elementwise(dims, [load_y], [("multiply", dtype, 0, 0, 0)], [(1, ACCUMULATE, out), (0, ACCUMULATE, rows.to(dims))])
    got, got_rows = b.run(x, y)
    close(got, x + y * y)
    close(got_rows, (x + y).sum(0, keepdims=True))


@pytest.mark.parametrize("dtype", [*NUMBERS, np.bool_])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(4))))
def test_transposing_copy(isa, dtype, axes):
    shape = (3, 5, 36, 17)
    x = sample(shape, dtype)
    dims = tuple(shape[a] for a in axes)
    for ops in ([], [("copy", dtype, 0, 0)] if dtype != np.bool_ else []):
        b = Builder([(dtype, shape)], [(dtype, dims)])
        b.elementwise(dims, [view(b.input(0), shape, dtype, make=lambda a: a.transpose(axes))], ops, [(len(ops), STORE, view(b.output(0), dims, dtype))])
        np.testing.assert_array_equal(b.run(x)[0], x.transpose(axes))


def test_fill_and_flip():
    b = Builder([(f32, (40, 9))], [(f32, (40, 9)), (f32, (40, 9))], consts=np.array([2.5], f32).tobytes())
    b.elementwise((40, 9), [view(b.const(), ()).to((40, 9))], [], [(0, STORE, view(b.output(0), (40, 9)))])
    b.elementwise((40, 9), [view(b.input(0), (40, 9))], [], [(0, STORE, view(b.output(1), (40, 9), make=lambda a: a[::-1, ::-1]))])
    x = sample((40, 9))
    filled, flipped = b.run(x)
    assert (filled == 2.5).all()
    np.testing.assert_array_equal(flipped, x[::-1, ::-1])


def test_many_registers_and_stores():
    n = 777
    b = Builder([(f32, (n,))], [(f32, (n,))] * 20)
    ops, stores = [], []
    for k in range(20):
        ops.append(("add", f32, k, 0, k))  # k x + x
        stores.append((k + 1, STORE, view(b.output(k), (n,))))
    b.elementwise((n,), [view(b.input(0), (n,))], ops, stores)
    x = sample((n,))
    for k, out in enumerate(b.run(x)):
        close(out, (k + 2) * x)


# ---- GEMM

FORMS = {"dense": lambda a: a, "transposed": lambda a: a.T, "flipped": lambda a: a[::-1, ::-1], "strided": lambda a: a[::2, ::3]}


def stored(form, m, n):
    return {"transposed": (n, m), "strided": (2 * m, 3 * n)}.get(form, (m, n))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 40, 40), (40, 5, 3), (33, 70, 17), (1, 40, 300), (64, 1, 9), (3, 4, 0)])
@pytest.mark.parametrize("form_c", FORMS)
@pytest.mark.parametrize("form_b", FORMS)
@pytest.mark.parametrize("form_a", FORMS)
def test_gemm_forms(isa, form_a, form_b, form_c, shape, dtype):
    m, n, k = shape
    shape_a, shape_b, shape_c = stored(form_a, m, k), stored(form_b, k, n), stored(form_c, m, n)
    a, b_ = sample(shape_a, dtype), sample(shape_b, dtype, 1)
    b = Builder([(dtype, shape_a), (dtype, shape_b)], [(dtype, shape_c)])
    va, vb = view(b.input(0), shape_a, dtype, make=FORMS[form_a]), view(b.input(1), shape_b, dtype, make=FORMS[form_b])
    b.gemm(dtype, (), m, n, [(k, va, vb)], view(b.output(0), shape_c, dtype, make=FORMS[form_c]))
    close(FORMS[form_c](b.run(a, b_)[0]), FORMS[form_a](a) @ FORMS[form_b](b_))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("m,n", [(5, 7), (300, 40), (700, 130)])
@pytest.mark.parametrize("form_c", ["dense", "transposed"])
def test_gemm_products_cin_alpha_and_phases(isa, dtype, m, n, form_c):
    ks, batch = (7, 40), (2, 3)
    arrays = [sample((*batch, m, ks[0]), dtype), sample((ks[0], n), dtype, 1), sample((m, ks[1]), dtype, 2), sample((*batch, n, ks[1]), dtype, 3)]
    cin, bias = sample((m, n), dtype, 4), sample((n,), dtype, 5)
    dims = (*batch, m, n)
    make_c = FORMS[form_c] if form_c == "dense" else lambda a: a.swapaxes(-1, -2)
    stored_c = dims if form_c == "dense" else (*batch, n, m)
    b = Builder([(dtype, x.shape) for x in (*arrays, cin, bias)], [(dtype, stored_c), (dtype, dims), (dtype, (n,)), (dtype, (*batch, m)), (dtype, ())])
    va = view(b.input(0), arrays[0].shape, dtype)
    vb = view(b.input(1), arrays[1].shape, dtype).to((*batch, ks[0], n))
    va2 = view(b.input(2), arrays[2].shape, dtype).to((*batch, m, ks[1]))
    vb2 = view(b.input(3), arrays[3].shape, dtype, make=lambda a: a.swapaxes(-1, -2))
    c = view(b.output(0), stored_c, dtype, make=make_c)
    relu = view(b.output(1), dims, dtype)
    rowwise = phase(dims, [c, view(b.input(5), (n,), dtype).to(dims)], [("add", dtype, 0, 0, 1), ("relu", dtype, -1, 2)], [(3, STORE, relu)], rowwise=1)
    sums = phase(
        dims, [relu], [],
        [(0, SUM, view(b.output(2), (n,), dtype).to(dims)), (0, MAX, view(b.output(3), (*batch, m), dtype)._replace(strides=(3 * m, m, 1, 0)))],
        rowwise=1,
    )  # fmt: skip
    whole = phase(dims, [relu], [("multiply", dtype, 0, 0, 0)], [(1, SUM, view(b.output(4), (), dtype).to(dims))])
    b.gemm(dtype, batch, m, n, [(ks[0], va, vb), (ks[1], va2, vb2)], c, alpha=-0.5, cin=view(b.input(4), (m, n), dtype).to(dims), phases=[rowwise, sums, whole])
    got = b.run(*arrays, cin, bias)
    a1, b1, a2, b2 = (x.astype(np.float64) for x in arrays)
    want = -0.5 * (a1 @ b1 + a2 @ b2.swapaxes(-1, -2)) + cin
    want_relu = np.maximum(want + bias, 0)
    scale = np.sqrt(m * n) if dtype == f32 else 1
    np.testing.assert_allclose(make_c(got[0]), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], want_relu, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[2], want_relu.sum((0, 1, 2)), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(got[3], want_relu.max(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[4], (want_relu**2).sum(), rtol=1e-4)
    plan = b.plan()
    for threads in (2, 3, 8):  # block 0 works in a team
        for one, many in zip(got, plan.run((*arrays, cin, bias), threads), strict=True):
            np.testing.assert_array_equal(one, many)


def test_gemm_adds_to_itself():
    b = Builder([(f32, (50, 6)), (f32, (6, 20))], [(f32, (50, 20))], consts=np.array([1], f32).tobytes())
    out = view(b.output(0), (50, 20))
    b.elementwise((50, 20), [view(b.const(), ()).to((50, 20))], [], [(0, STORE, out)])
    b.gemm(f32, (), 50, 20, [(6, view(b.input(0), (50, 6)), view(b.input(1), (6, 20)))], out, cin=out)
    x, y = sample((50, 6)), sample((6, 20), seed=1)
    close(b.run(x, y)[0], x @ y + 1)


# ---- index instructions


@pytest.mark.parametrize("dtype", [*NUMBERS, np.bool_])
@pytest.mark.parametrize("shared_index", [False, True])
def test_gather(dtype, shared_index):
    o, n, j, i = 3, 7, 11, 5
    x = sample((o, n, i), dtype)
    index = np.random.default_rng(2).integers(0, n, (o, j, 1 if shared_index else i), dtype=np.int32)
    b = Builder([(dtype, x.shape), (np.int32, index.shape)], [(dtype, (o, j, i))])
    words = [code(dtype), o, n, j, i, *view(b.input(0), x.shape, dtype).words, *view(b.input(1), index.shape, np.int32).to((o, j, i)).words]
    b.emit(GATHER, [*words, *view(b.output(0), (o, j, i), dtype).words])
    np.testing.assert_array_equal(b.run(x, index)[0], np.take_along_axis(x, np.broadcast_to(index, (o, j, i)), 1))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("make", [lambda a: a, lambda a: a[:, :, ::-1]])
def test_scatter(dtype, make):
    o, n, j, i = 3, 7, 11, 5
    ct = sample((o, j, i), dtype)
    index = np.random.default_rng(2).integers(0, n, (o, j, i), dtype=np.int32)
    b = Builder([(dtype, ct.shape), (np.int32, index.shape)], [(dtype, (o, n, i))])
    words = [code(dtype), o, n, j, i, *view(b.input(0), ct.shape, dtype).words, *view(b.input(1), index.shape, np.int32).words]
    b.emit(SCATTER, [*words, *view(b.output(0), (o, n, i), dtype, make=make).words])
    want = np.zeros((o, n, i), dtype)
    for a, c, e in itertools.product(range(o), range(j), range(i)):
        want[a, index[a, c, e], e] += ct[a, c, e]
    np.testing.assert_array_equal(make(b.run(ct, index)[0]), want)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumsum(dtype, reverse):
    x = sample((3, 9, 5), dtype)
    b = Builder([(dtype, x.shape)], [(dtype, x.shape)])
    b.emit(CUMSUM, [code(dtype), *x.shape, reverse, *view(b.input(0), x.shape, dtype).words, *view(b.output(0), x.shape, dtype).words])
    want = np.cumsum(x[:, ::-1], 1, dtype=dtype)[:, ::-1] if reverse else np.cumsum(x, 1, dtype=dtype)
    close(b.run(x)[0], want)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("which", [0, 1])
def test_argreduce(dtype, which):
    x = np.round(sample((3, 9, 5), dtype))
    if dtype != np.int32:
        x[1, 4:6, 2] = np.nan
    b = Builder([(dtype, x.shape)], [(np.int32, (3, 5))])
    b.emit(ARGREDUCE, [code(dtype), *x.shape, which, *view(b.input(0), x.shape, dtype).words, *view(b.output(0), (3, 5), np.int32).words])
    np.testing.assert_array_equal(b.run(x)[0], (np.argmin if which else np.argmax)(x, 1))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("descending", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_order(dtype, descending, k):
    x = np.round(sample((3, 40, 5), dtype) * 3)  # with ties
    if dtype != np.int32:
        x[1, 4:9:2, 2] = np.nan
    b = Builder([(dtype, x.shape)], [(np.int32, (3, k, 5))])
    b.emit(ORDER, [code(dtype), *x.shape, k, descending, *view(b.input(0), x.shape, dtype).words, *view(b.output(0), (3, k, 5), np.int32).words])
    np.testing.assert_array_equal(b.run(x)[0], np.argsort(-x if descending else x, 1, kind="stable")[:, :k])


# ---- loops


def task_loop(tasks_reverse=0):
    """sum over tasks of x_t W + (task's own output tanh(x_t W)); W is made in block 0, in shared memory."""
    b = Builder([(f32, (-1, 6, 5)), (f32, (5, 4))], [(f32, (-1, 6, 4)), (f32, (6, 4)), (np.float64, (3,))], shared=80, arena=256)
    x, w, out, total, extra = b.input(0), b.input(1), b.output(0), b.output(1), b.output(2)
    shared, arena = b.shared(), b.arena()
    b.elementwise((5, 4), [view(w, (5, 4))], [("add", f32, -1, 0, 0)], [(1, STORE, view(shared, (5, 4)))])
    inner = b.block()
    x_t, out_t = b.slice(x, 0, 120), b.slice(out, 0, 96)
    acc, acc64 = b.sum(0, 96), b.sum(128, 24)
    h = view(arena, (6, 4), offset=64)
    tanh = phase((6, 4), [h], [("tanh", f32, -1, 0)], [(1, STORE, view(out_t, (6, 4)))], rowwise=1)
    b.gemm(f32, (), 6, 4, [(5, view(x_t, (6, 5)), view(shared, (5, 4)))], h, phases=[tanh], block=inner)
    b.elementwise((6, 4), [h], [], [(0, ACCUMULATE, view(acc, (6, 4)))], block=inner)
    b.elementwise((3,), [view(x_t, (3,))], [("cast", np.float64, 0, 0, f32)], [(1, ACCUMULATE, view(acc64, (3,), np.float64))], block=inner)
    b.loop(inner, -1, parallel=1, reverse=tasks_reverse, slices=[x_t, out_t], sums=[(acc, f32, 24, total, 0), (acc64, np.float64, 3, extra, 0)])
    # after the loop, in block 0
    b.elementwise((6, 4), [view(total, (6, 4))], [("negative", f32, -1, 0)], [(1, STORE, view(total, (6, 4)))])
    return b


@pytest.mark.parametrize("tasks", [1, 2, 7, 33, 200])
@pytest.mark.parametrize("reverse", [0, 1])
def test_parallel_loop(tasks, reverse):
    x, w = sample((tasks, 6, 5)), sample((5, 4), seed=1)
    plan = task_loop(reverse).plan()
    h = x @ (2 * w)
    first = plan.run([x, w], 1)
    close(first[0], np.tanh(h))
    np.testing.assert_allclose(first[1], -h.sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first[2], x.reshape(tasks, -1)[:, :3].sum(0, dtype=np.float64), rtol=1e-10, atol=1e-10)
    for threads in (2, 3, 8):
        for one, many in zip(first, plan.run((x, w), threads), strict=True):
            np.testing.assert_array_equal(one, many)


def scan(length, reverse, in_task):
    """carry = tanh(carry + x_k), all carries stacked; two carries take turns in the arena (or in shared memory)."""
    n = 7
    size = 4 * n
    lead = (-1,) if in_task else ()
    b = Builder([(f32, (*lead, length, n))], [(f32, (*lead, length, n)), (f32, (*lead, n))], shared=256, arena=256)
    x, stacked, last = b.input(0), b.output(0), b.output(1)
    memory, outer = (b.arena(), b.block()) if in_task else (b.shared(), 0)
    if in_task:
        x_t, stacked_t, last_t = b.slice(x, 0, size * length), b.slice(stacked, 0, size * length), b.slice(last, 0, size)
        b.loop(outer, -1, parallel=1, slices=[x_t, stacked_t, last_t])
        x, stacked, last = x_t, stacked_t, last_t
    inner = b.block()
    now, following = b.carry(memory, 0, size), b.carry(memory, 64, size)
    b.elementwise((n,), [view(memory, (n,))], [("subtract", f32, -1, 0, 0)], [(1, STORE, view(memory, (n,)))], block=outer)
    x_k, stacked_k = b.slice(x, 0, size), b.slice(stacked, 0, size)
    loads = [view(now, (n,)), view(x_k, (n,))]
    b.elementwise((n,), loads, [("add", f32, 0, 0, 1), ("tanh", f32, -1, 2)], [(3, STORE, view(following, (n,))), (3, STORE, view(stacked_k, (n,)))], block=inner)
    b.loop(inner, length, reverse=reverse, slices=[x_k, stacked_k], swaps=[(now, following)], block=outer)
    b.elementwise((n,), [view(memory, (n,), offset=64 * (length % 2))], [], [(0, STORE, view(last, (n,)))], block=outer)
    return b


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("in_task", [False, True])
def test_sequential_loop(length, reverse, in_task):
    x = sample((4, length, 7) if in_task else (length, 7))
    plan = scan(length, reverse, in_task).plan()
    stacked, last = plan.run([x], 2)
    rows = x if in_task else x[None]
    for t, row in enumerate(rows):
        carry = np.zeros(7, f32)
        for k in reversed(range(length)) if reverse else range(length):
            carry = np.tanh(carry + row[k])
            close((stacked[t] if in_task else stacked)[k], carry)
        close(last[t] if in_task else last, carry)


def test_static_parallel_loop_over_shared_memory():
    b = Builder([(f32, (6, 8))], [(f32, (8,))], shared=6 * 32)
    x, out, shared = b.input(0), b.output(0), b.shared()
    inner = b.block()
    x_t, squares = b.slice(x, 0, 32), b.slice(shared, 0, 32)
    b.elementwise((8,), [view(x_t, (8,))], [("multiply", f32, -1, 0, 0)], [(1, STORE, view(squares, (8,)))], block=inner)
    b.loop(inner, 6, parallel=1, slices=[x_t, squares])
    b.elementwise((6, 8), [view(shared, (6, 8))], [], [(0, SUM, view(out, (8,)).to((6, 8)))])
    x = sample((6, 8))
    close(b.run(x, threads=2)[0], (x * x).sum(0))


def test_sums_of_no_tasks_are_zero():
    b = Builder([(f32, (4,))], [(f32, (4,))])
    inner, acc = b.block(), b.sum(0, 16)
    b.elementwise((4,), [view(b.input(0), (4,))], [], [(0, ACCUMULATE, view(acc, (4,)))], block=inner)
    b.loop(inner, 0, parallel=1, sums=[(acc, f32, 4, b.output(0), 0)])
    np.testing.assert_array_equal(b.run(sample((4,)))[0], np.zeros(4, f32))


def gather_loop():
    b = Builder([(f32, (-1, 4)), (np.int32, (-1, 3))], [(f32, (-1, 3))])
    x, index, out, inner = b.input(0), b.input(1), b.output(0), b.block()
    x_t, index_t, out_t = b.slice(x, 0, 16), b.slice(index, 0, 12), b.slice(out, 0, 12)
    words = [0, 1, 4, 3, 1, *view(x_t, (1, 4, 1)).words, *view(index_t, (1, 3, 1), np.int32).words, *view(out_t, (1, 3, 1)).words]
    b.emit(GATHER, words, block=inner, tag=77)
    b.loop(inner, -1, parallel=1, slices=[x_t, index_t, out_t])
    return b.plan()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_bad_index(threads):
    plan = gather_loop()
    x, index = sample((40, 4)), np.zeros((40, 3), np.int32)
    index[31, 0], index[17, 2], index[17, 1] = -1, 9, 4
    for _ in range(5):
        with pytest.raises(tested.bad_index) as caught:
            plan.run([x, index], threads)
        assert caught.value.args == (77, 17, 4, 4) and isinstance(caught.value, IndexError)
    index[:] = 1
    np.testing.assert_array_equal(plan.run([x, index], threads)[0], x[:, [1, 1, 1]])


def test_bad_index_outside_tasks():
    for opcode in (GATHER, SCATTER):
        b = Builder([(f32, (1, 3, 1)), (np.int32, (1, 3, 1))], [(f32, (1, 3, 1))])
        words = [0, 1, 3, 3, 1, *view(b.input(0), (1, 3, 1)).words, *view(b.input(1), (1, 3, 1), np.int32).words, *view(b.output(0), (1, 3, 1)).words]
        b.emit(opcode, words, tag=5)
        with pytest.raises(tested.bad_index) as caught:
            b.run(sample((1, 3, 1)), np.array([[[0], [3], [-7]]], np.int32))
        assert caught.value.args == (5, -1, 3, 3)


# ---- calls


def test_mismatch_gives_none():
    plan = task_loop().plan()
    x, w = sample((4, 6, 5)), sample((5, 4))
    assert plan.run((x, w), 1) is not None
    for arrays in (
        (x,), (x, w, w), (x[0], w), (x[:, :5], w), (x.astype(np.float64), w), (x, w.T), (x[::2], w), (x[:0], w), (list(x), w),
        (x.astype(">f4"), w), (np.ma.masked_array(x), w), (x, sample((4, 5)).T), (x.view(np.int32), w),
    ):  # fmt: skip
        assert plan.run(arrays, 1) is None
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(f32).reshape(x.shape)
    assert plan.run((unaligned, w), 1) is None
    with pytest.raises(TypeError):
        plan.run(3, 1)


@pytest.mark.native
def test_no_threads():
    with pytest.raises(ValueError, match="threads"):
        task_loop().plan().run((sample((4, 6, 5)), sample((5, 4))), 0)


def test_tasks_must_agree():
    plan = gather_loop()
    assert plan.run([sample((4, 4)), np.zeros((5, 3), np.int32)], 1) is None


@pytest.mark.native
def test_large_outputs_come_from_a_pool():
    n = 1 << 19
    b = Builder([(f32, (n,))], [(f32, (n,))])
    b.elementwise((n,), [view(b.input(0), (n,))], [("add", f32, -1, 0, 0)], [(1, STORE, view(b.output(0), (n,)))])
    plan, x = b.plan(), sample((n,))
    (first,) = plan.run([x], 1)
    assert first.flags.writeable and first.flags.c_contiguous
    kept = first[5:]  # a view keeps the memory
    address = first.__array_interface__["data"][0]
    del first
    (second,) = plan.run([x], 1)
    assert second.__array_interface__["data"][0] != address
    del kept, second
    seen = {plan.run([x], 1)[0].__array_interface__["data"][0] for _ in range(8)}
    assert len(seen) <= 2
    np.testing.assert_array_equal(plan.run([x], 2)[0], 2 * x)


@pytest.mark.native
def test_team_on_a_single_task_gives_the_same_bits():
    n = 600
    b = Builder([(f32, (-1, n, n))], [(f32, (-1, n, n)), (f32, (-1, n))], arena=4 * n * n)
    x, out, rows, arena, inner = b.input(0), b.output(0), b.output(1), b.arena(), b.block()
    x_t, out_t, rows_t = b.slice(x, 0, 4 * n * n), b.slice(out, 0, 4 * n * n), b.slice(rows, 0, 4 * n)
    h = view(arena, (n, n))
    b.gemm(f32, (), n, n, [(n, view(x_t, (n, n)), view(x_t, (n, n), make=np.transpose))], h, block=inner)
    b.elementwise((n, n), [h, view(x_t, (n, n), make=np.transpose)], [("add", f32, 0, 0, 1), ("tanh", f32, -1, 2)], [(3, STORE, view(out_t, (n, n)))], block=inner)
    b.elementwise((n, n), [view(out_t, (n, n))], [], [(0, SUM, view(rows_t, (n, 1)).to((n, n)))], block=inner)
    b.loop(inner, -1, parallel=1, slices=[x_t, out_t, rows_t])
    plan, x = b.plan(), sample((1, n, n)) * f32(0.03)
    first = plan.run([x], 1)
    np.testing.assert_allclose(first[0][0], np.tanh(x[0] @ x[0].T + x[0].T), rtol=1e-4, atol=1e-5)
    for threads in (2, 3, 8):
        for one, many in zip(first, plan.run([x], threads), strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.native
def test_threads_at_once():
    plan = task_loop().plan()
    x, w = sample((64, 6, 5)), sample((5, 4), seed=1)
    want = plan.run([x, w], 1)
    failures = []

    def work():
        for _ in range(200):
            for one, many in zip(want, plan.run([x, w], 3), strict=True):
                if not np.array_equal(one, many):
                    failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.native
def test_fork():
    plan = task_loop().plan()
    x, w = sample((64, 6, 5)), sample((5, 4), seed=1)
    want = plan.run([x, w], 4)
    child = os.fork()
    if child == 0:  # no pytest in the child: only the status comes back
        try:
            got = plan.run([x, w], 4)
            os._exit(0 if all(np.array_equal(a, b) for a, b in zip(want, got, strict=True)) else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    for one, many in zip(want, plan.run([x, w], 4), strict=True):  # and the parent's pool still works
        np.testing.assert_array_equal(one, many)


def long_plans():
    """Each takes many seconds on its own."""
    scan = Builder([(f32, (-1, 64))], [(f32, (-1, 64))], arena=256)
    x, out, arena, task, inner = scan.input(0), scan.output(0), scan.arena(), scan.block(), scan.block()
    x_t, out_t = scan.slice(x, 0, 256), scan.slice(out, 0, 256)
    scan.loop(task, -1, parallel=1, slices=[x_t, out_t])
    scan.elementwise((64,), [view(x_t, (64,))], [], [(0, STORE, view(arena, (64,)))], block=task)
    scan.loop(inner, 1 << 32, block=task)
    scan.elementwise((64,), [view(arena, (64,))], [("sin", f32, -1, 0)], [(1, STORE, view(arena, (64,)))], block=inner)
    scan.elementwise((64,), [view(arena, (64,))], [], [(0, STORE, view(out_t, (64,)))], block=task)
    scan.work = 1 << 44
    yield "loop", scan, [sample((3, 64))]

    n = 4096
    gemm = Builder([(f32, (n, n))], [(f32, (n, n))])
    x = view(gemm.input(0), (n, n))
    gemm.gemm(f32, (), n, n, [(n, x, x)] * 4, view(gemm.output(0), (n, n)))
    gemm.work = 1 << 44
    yield "gemm", gemm, [np.zeros((n, n), f32)]

    wide = Builder([(f32, (1,))], [(f32, (1,))])
    load = view(wide.input(0), (1,)).to((1 << 36,))
    ops = [("sin", f32, 0, 0)] + [("sin", f32, 0, k) for k in range(1, 9)]
    wide.elementwise((1 << 36,), [load], ops, [(9, SUM, view(wide.output(0), (1,)).to((1 << 36,)))])
    wide.work = 1 << 43
    yield "pass", wide, [np.ones(1, f32)]


LONG = {name: (builder, arrays) for name, builder, arrays in long_plans()}


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_interrupt(name, threads):
    builder, arrays = LONG[name]
    plan = builder.plan()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        fired = []
        timer = threading.Timer(0.15, lambda: (fired.append(time.monotonic()), os.kill(os.getpid(), signal.SIGALRM)))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            plan.run(arrays, threads)
        latency = time.monotonic() - fired[0]
    finally:
        timer.join()  # the signal has come before its handler goes
        signal.signal(signal.SIGALRM, previous)
    assert latency < 2.0, f"{latency:.3f} s"  # the core looks every 50 ms; the rest is for a busy machine


@pytest.mark.native
def test_a_signal_handler_may_run_a_plan():
    builder, arrays = LONG["loop"]
    plan, small = builder.plan(), task_loop().plan()
    x, w = sample((9, 6, 5)), sample((5, 4), seed=1)
    want, got = small.run([x, w], 1), []

    def handler(number, frame):
        got.extend(small.run([x, w], 2))
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            plan.run(arrays, 2)
    finally:
        signal.signal(signal.SIGALRM, previous)
    for one, many in zip(want, got, strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.native
def test_profile():
    rows = task_loop().plan().profile([sample((4, 6, 5)), sample((5, 4))], 3)
    assert [(block, index, opcode) for block, index, opcode, _, _ in rows] == [(0, 0, 1), (0, 1, 7), (0, 2, 1), (1, 0, 2), (1, 1, 1), (1, 2, 1)]
    assert all(0 < nanoseconds < 1e9 for *_, nanoseconds in rows)


@pytest.mark.native
def test_isa():
    before = _core.isa()
    assert before in ("baseline", "avx2", "avx512") and _core.default_threads() >= 1
    with pytest.raises(ValueError, match="set_isa"):
        _core.set_isa("neon")
    assert _core.isa() == before


# ---- plans that must be refused


def doubling(**changes):
    settings = {"offset": 0, "stride": 1, "dims": (8,), "out": (8,), "reg": -1, "op": "add", "work": 1 << 20, "kind": "output"} | changes
    b = Builder([(f32, (8,))], [(f32, settings["out"])], arena=64, work=settings["work"])
    target = b.output(0) if settings["kind"] == "output" else b.input(0) if settings["kind"] == "input" else b.arena()
    load = view(b.input(0), (8,), offset=settings["offset"])._replace(strides=(settings["stride"],) * len(settings["dims"]))
    dims = settings["dims"]
    store = view(target, dims) if len(dims) == 1 else View(target, 0, code(f32), dims, (dims[1], 1))
    b.elementwise(settings["dims"], [load], [(settings["op"], f32, settings["reg"], 0, 0)], [(1, STORE, store)])
    return b


REFUSED = {
    "offset past the end": {"offset": 4},
    "negative offset": {"offset": -4},
    "unaligned": {"offset": 2, "dims": (7,)},
    "stride past the end": {"stride": 2},
    "negative stride": {"stride": -1},
    "overflowing stride": {"stride": 1 << 62},
    "dim past the end": {"dims": (9,), "stride": 0},
    "huge dims": {"dims": (1 << 40, 1 << 40), "stride": 0},
    "too much work": {"work": 10},
    "write to an input": {"kind": "input"},
    "arena in block 0": {"kind": "arena"},
    "register": {"reg": 32},
    "store number": {"reg": -2},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_operands(name):
    doubling().plan()
    with pytest.raises(ValueError, match=r"^\[plan\] .*expected .*got "):
        doubling(**REFUSED[name]).plan()


def refused(builder, text):
    with pytest.raises(ValueError, match=r"^\[plan\] .*" + text):
        builder.plan()


def test_refused_structures():
    b = doubling()
    b.block()
    refused(b, "a loop that names block 1")
    b = doubling()
    b.loop(b.block(), -1, parallel=1)
    refused(b, "an array whose dim 0 is -1")
    b = doubling()
    inner = b.block()
    b.loop(inner, 2)
    b.loop(inner, 2)
    refused(b, "a block of no other loop")
    b = doubling()
    b.loop(0, 2)
    refused(b, "block of LOOP")
    b = doubling()
    inner = b.block()
    b.elementwise((2,), [view(b.slice(0, 0, 4), (2,))], [], [(0, STORE, view(b.output(0), (2,)))], block=inner)
    refused(b, "a loop that names")
    b.loop(inner, 2)
    refused(b, "usable in block 1")
    # two tasks writing one place
    b = Builder([(f32, (-1, 8))], [(f32, (8,))])
    x, out, inner = b.input(0), b.output(0), b.block()
    x_t = b.slice(x, 0, 32)
    b.elementwise((8,), [view(x_t, (8,))], [], [(0, STORE, view(out, (8,)))], block=inner)
    b.loop(inner, -1, parallel=1, slices=[x_t])
    refused(b, "writable in block 1")
    # a slice beyond one row
    for offset, step in ((4, 32), (0, 36), (0, 28)):
        b = Builder([(f32, (-1, 8))], [(f32, (-1, 8))])
        x, out, inner = b.input(0), b.output(0), b.block()
        x_t, out_t = b.slice(x, offset, step), b.slice(out, 0, 32)
        b.elementwise((8,), [view(x_t, (8,))], [], [(0, STORE, view(out_t, (8,)))], block=inner)
        b.loop(inner, -1, parallel=1, slices=[x_t, out_t])
        refused(b, "")
    # a carry past its parent, pairs of two sizes
    for sizes in ((32, 32), (16, 8), (-8, -8)):
        b = doubling()
        b.shared_bytes = 32
        shared, inner = b.shared(), b.block()
        b.loop(inner, 2, swaps=[(b.carry(shared, 0, sizes[0]), b.carry(shared, 16, sizes[1]))])
        refused(b, "")
    # wrong types, dead registers, missing kernels
    for ops, stores in (
        ([("add", np.float64, 0, 0, 0)], [(1, STORE)]),
        ([("exp", np.int32, 0, 0)], [(1, STORE)]),
        ([("add", f32, 0, 0, 0), ("add", f32, 0, 0, 0), ("add", f32, 1, 1, 2)], [(3, STORE)]),
        ([("add", f32, 0, 0, 0), ("add", f32, 0, 0, 0)], [(1, STORE)]),
        ([("add", f32, 0, 0, 1)], [(1, STORE)]),
        ([("cast", np.int32, 0, 0, f32)], [(1, STORE)]),
        ([], [(0, 5)]),
        ([], [(1, STORE)]),
        ([], []),
    ):
        b = Builder([(f32, (8,))], [(f32, (8,))])
        b.elementwise((8,), [view(b.input(0), (8,))], ops, [(value, mode, view(b.output(0), (8,))) for value, mode in stores])
        refused(b, "")


def test_refused_words():
    words = doubling().words()
    for bad in (words[:-1], np.append(words, 0), words[:5], words[:0]):
        with pytest.raises(ValueError, match=r"^\[plan\]"):
            _core.Plan(bad, b"")
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        _core.Plan(words, b"x")
    for bad in (words.astype(np.int32), words.astype(np.float64), words[None], words[::-1]):
        with pytest.raises(ValueError, match=r"^\[plan\]"):
            _core.Plan(bad, b"")


def everything():
    """Small plans that use all there is, with their inputs."""
    x, w = sample((3, 6, 5)), sample((5, 4))
    loop = task_loop()
    yield loop, [x, w]
    for in_task in (False, True):
        yield scan(3, 1, in_task), [sample((2, 3, 7) if in_task else (3, 7))]
    b = Builder([(f32, (2, 5, 6)), (f32, (6, 4)), (np.int32, (2, 3, 4))], [(f32, (2, 5, 4)), (f32, (2, 3, 4)), (f32, (2, 5, 4)), (np.int32, (2, 4)), (np.bool_, (2, 5, 4)), (np.int32, (2, 3, 4))], consts=bytes(32), shared=320)
    c, shared = view(b.output(0), (2, 5, 4)), b.shared()
    total = phase((2, 5, 4), [c], [("relu", f32, 0, 0)], [(1, SUM, view(shared, (4,)).to((2, 5, 4)))], rowwise=1)
    b.gemm(f32, (2,), 5, 4, [(6, view(b.input(0), (2, 5, 6)), view(b.input(1), (6, 4)).to((2, 6, 4)))], c, alpha=2.0, cin=view(b.const(), (4,)).to((2, 5, 4)), phases=[total])
    index = view(b.input(2), (2, 3, 4), np.int32)
    b.emit(GATHER, [0, 2, 5, 3, 4, *c.words, *index.words, *view(b.output(1), (2, 3, 4)).words])
    b.emit(SCATTER, [0, 2, 5, 3, 4, *view(b.output(1), (2, 3, 4)).words, *index.words, *view(b.output(2), (2, 5, 4)).words])
    b.emit(CUMSUM, [0, 2, 5, 4, 1, *c.words, *view(shared, (2, 5, 4), offset=160).words])
    b.emit(ARGREDUCE, [0, 2, 5, 4, 0, *c.words, *view(b.output(3), (2, 4), np.int32).words])
    b.emit(ORDER, [0, 2, 5, 4, 3, 1, *c.words, *view(b.output(5), (2, 3, 4), np.int32).words])
    b.elementwise((2, 5, 4), [c, view(b.const(), ()).to((2, 5, 4))], [("less", f32, 0, 0, 1), ("cast", np.bool_, -1, 2, f32)], [(3, STORE, view(b.output(4), (2, 5, 4), np.bool_))])
    yield b, [sample((2, 5, 6)), sample((6, 4)), np.random.default_rng(1).integers(0, 5, (2, 3, 4), dtype=np.int32)]


def test_mutated_plans_are_refused_or_run():
    """FASTMETA_FUZZ gives another number of mutations; run it under AddressSanitizer to see what stays in its memory."""
    seed = int(os.environ.get("FASTMETA_FUZZ_SEED", "20240607"))
    count = int(os.environ.get("FASTMETA_FUZZ", "2000"))
    print("seed", seed)
    rng = np.random.default_rng(seed)
    plans = []
    for builder, arrays in everything():
        builder.work = 1 << 20
        assert builder.plan().run(arrays, 1) is not None
        plans.append((builder.words(), builder.consts, arrays))
    special = [-1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 63, 64, 255, 1 << 16, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 63), -(1 << 62), -2, -4, -8, -64]
    refused_count = ran = 0
    for _ in range(count):
        words, consts, arrays = plans[rng.integers(len(plans))]
        words = words.copy()
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(words)))
            if at == 10:  # the declared work: a plan may declare hours
                continue
            kind = rng.integers(3)
            words[at] = special[rng.integers(len(special))] if kind == 0 else words[at] + rng.integers(-4, 5) if kind == 1 else words[rng.integers(len(words))]
        try:
            plan = _core.Plan(words, consts)
        except ValueError as error:
            assert str(error).startswith("[plan] ") and "expected" in str(error)
            refused_count += 1
            continue
        with contextlib.suppress(_core.BadIndex, MemoryError):
            plan.run(arrays, int(rng.integers(1, 4)))
        ran += 1
    print(refused_count, "refused,", ran, "ran")
    assert refused_count > count // 4 and ran > count // 20
