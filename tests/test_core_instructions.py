"""The native core against NumPy: every opcode but loops and convolutions."""

from __future__ import annotations

import itertools

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
    close,
    code,
    f32,
    phase,
    sample,
    tested,
    view,
)  # fmt: skip

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
@pytest.mark.parametrize("shape", [(3000, 70), (70, 3000), (40, 90, 60), (1, 200_000)])
def test_long_reductions_are_joined_from_parts(isa, dtype, shape):
    """Every way to reduce at once, each with the same bits at any number of threads; the last adds to what is there."""
    x = sample(shape, dtype)
    columns, rows = (1, *shape[1:]), (*shape[:-1], 1)
    b = Builder([(dtype, shape), (dtype, columns)], [(dtype, columns), (dtype, rows), (dtype, ()), (dtype, columns)])
    outs = [view(b.output(k), form, dtype) for k, form in enumerate((columns, rows, (), columns))]
    b.elementwise(columns, [view(b.input(1), columns, dtype)], [("copy", dtype, -1, 0)], [(1, STORE, outs[3])])
    targets = [outs[0].to(shape), outs[1].to(shape), view(b.output(2), (), dtype).to(shape), outs[3].to(shape)]
    stores = [(1, mode, target) for mode, target in zip((MAX, MIN, SUM, ACCUMULATE), targets, strict=True)]
    b.elementwise(shape, [view(b.input(0), shape, dtype)], [("multiply", dtype, 0, 0, 0)], stores)
    plan, start = b.plan(), sample(columns, dtype, 1)
    got = plan.run([x, start], 1)
    square = (x**2).astype(np.float64)
    np.testing.assert_array_equal(got[0], square.max(0, keepdims=True).astype(dtype))
    np.testing.assert_array_equal(got[1], square.min(-1, keepdims=True).astype(dtype))
    np.testing.assert_allclose(got[2], square.sum(), rtol=1e-5)
    np.testing.assert_allclose(got[3], start + square.sum(0, keepdims=True), rtol=1e-4, atol=1e-4)
    for threads in (2, 5):
        for one, many in zip(got, plan.run([x, start], threads), strict=True):
            np.testing.assert_array_equal(one, many)


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
@pytest.mark.parametrize("form_b", FORMS)
@pytest.mark.parametrize("form_a", FORMS)
def test_gemm_forms(isa, form_a, form_b, shape, dtype):
    """Of the factors, into every form of the product."""
    m, n, k = shape
    shape_a, shape_b, shapes_c = stored(form_a, m, k), stored(form_b, k, n), [stored(form_c, m, n) for form_c in FORMS]
    a, b_ = sample(shape_a, dtype), sample(shape_b, dtype, 1)
    b = Builder([(dtype, shape_a), (dtype, shape_b)], [(dtype, shape_c) for shape_c in shapes_c])
    va, vb = view(b.input(0), shape_a, dtype, make=FORMS[form_a]), view(b.input(1), shape_b, dtype, make=FORMS[form_b])
    for number, (make, shape_c) in enumerate(zip(FORMS.values(), shapes_c, strict=True)):
        b.gemm(dtype, (), m, n, [(k, va, vb)], view(b.output(number), shape_c, dtype, make=make))
    for make, c in zip(FORMS.values(), b.run(a, b_), strict=True):
        close(make(c), FORMS[form_a](a) @ FORMS[form_b](b_))


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


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(30))
def test_rows_of_small_products(isa, seed, dtype):
    """Batch axes of any strides: dense, turned round, exchanged, repeated; with an addend, a gate, and a product that comes out turned."""
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.choice([1, 2, 3, 5], rng.integers(1, 4)))
    m, n, k = (int(n) for n in rng.integers(1, 9, 3))
    rank = len(batch)

    def matrices(rows, cols):
        """The shape that is kept, and a view of it as matrices of the whole batch."""
        order = rng.permutation(rank)
        repeated = rng.random(rank) < 0.3
        kept = [1 if repeated[d] else batch[d] for d in order]
        turned, flipped = rng.random() < 0.3, rng.random() < 0.3
        shape = (*kept, cols, rows) if turned else (*kept, rows, cols)

        def make(a):
            a = a.transpose(*np.argsort(order), rank, rank + 1)
            a = a.swapaxes(-1, -2) if turned else a
            a = a[::-1] if flipped else a
            return np.broadcast_to(a, (*batch, rows, cols))

        return shape, make

    specs = [matrices(m, k), matrices(k, n), matrices(m, n), matrices(m, n)]
    arrays = [sample(shape, dtype, seed + i) for i, (shape, _) in enumerate(specs)]
    turned_c = rng.random() < 0.3
    stored_c = (*batch, n, m) if turned_c else (*batch, m, n)
    make_c = (lambda a: a.swapaxes(-1, -2)) if turned_c else (lambda a: a)
    b = Builder([(dtype, a.shape) for a in arrays], [(dtype, stored_c)])
    va, vb, cin, gate = (view(b.input(i), shape, dtype, make=make) for i, (shape, make) in enumerate(specs))
    c = view(b.output(0), stored_c, dtype, make=make_c)
    gated, added = rng.random() < 0.5, rng.random() < 0.5
    after = phase((*batch, m, n), [c, gate], [("gate", dtype, -1, 0, 1)], [(2, STORE, c)], rowwise=1)
    b.gemm(dtype, batch, m, n, [(k, va, vb)], c, alpha=0.5, cin=cin if added else None, phases=[after] if gated else [])
    x, y, start, positive = (make(a).astype(np.float64) for a, (_, make) in zip(arrays, specs, strict=True))
    want = 0.5 * (x @ y) + (start if added else 0)
    close(make_c(b.run(*arrays)[0]), np.where(positive > 0, want, 0) if gated else want, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["relu", "gate", "half_gate"])
@pytest.mark.parametrize("batch, m, n, ks", [((), 10, 40, [1]), ((), 10, 37, [1, 1]), ((), 9, 5, [2]), ((2,), 10, 33, [12, 3]), ((), 300, 70, [40]), ((), 70, 20, [3000]), ((), 6, 1, [8]), ((), 1, 9, [4])])
def test_relu_and_gates_of_a_product_in_its_kernel(isa, dtype, op, batch, m, n, ks):
    """The same bits as an instruction of its own gives, and what follows sees them."""
    dims = (*batch, m, n)
    arrays = [sample(shape, dtype, seed) for seed, k in enumerate(ks) for shape in ((*batch, m, k), (*batch, k, n))]
    arrays[0][..., m // 2, 0] = np.nan  # a row of them
    gate = sample((*batch, m, n + 3), dtype, 9)
    gate[..., 0, 0] = np.nan
    gate[..., 0, n - 1] = 0

    def built(apart: bool) -> list[np.ndarray]:
        b = Builder([(dtype, x.shape) for x in (*arrays, gate)], [(dtype, dims), (dtype, (*batch, m))])
        operands = [view(b.input(k), x.shape, dtype) for k, x in enumerate(arrays)]
        products = [(k, operands[2 * p], operands[2 * p + 1]) for p, k in enumerate(ks)]
        c = view(b.output(0), dims, dtype)
        loads = [c] if op == "relu" else [c, view(b.input(len(arrays)), gate.shape, dtype, make=lambda a: a[..., :n])]
        after = phase(dims, loads, [(op, dtype, -1, *range(len(loads)))], [(len(loads), STORE, c)], rowwise=not apart)
        rows = view(b.output(1), (*batch, m), dtype)
        largest = phase(dims, [c], [], [(0, MAX, rows._replace(strides=(*rows.strides, 0)))])
        b.gemm(dtype, batch, m, n, products, c, alpha=-0.5, phases=[] if apart else [after, largest])
        if apart:
            b.phases(after)
            b.phases(largest)
        return b.run(*arrays, gate)

    got, want = built(False), built(True)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    value = -0.5 * sum(np.matmul(arrays[2 * p], arrays[2 * p + 1], dtype=np.float64) for p in range(len(ks)))
    seen = gate[..., :n]
    tie = value / 2 if op == "half_gate" else 0
    value = np.where(value < 0, 0, value) if op == "relu" else np.where(seen > 0, value, np.where(seen == 0, tie, 0))
    tolerance = 1e-4 if dtype == f32 else 1e-11
    np.testing.assert_allclose(got[0], value, tolerance, tolerance * max(1, sum(ks) ** 0.5 / 10))


@pytest.mark.parametrize("turned", [False, True])
def test_gemm_of_overlapping_rows(isa, turned):
    """Windows of a signal: rows that begin an element apart, which is no matrix that a BLAS would take."""
    m, n, k = 40, 24, 17
    x, y = sample((m + k - 1,)), sample((k, n), seed=1)
    b = Builder([(f32, x.shape), (f32, y.shape)], [(f32, (n, m) if turned else (m, n))])
    rows = view(b.input(0), (m, k))._replace(strides=(1, 1))
    turn = (lambda a: a.T) if turned else (lambda a: a)
    b.gemm(f32, (), m, n, [(k, rows, view(b.input(1), y.shape))], view(b.output(0), turn(np.empty((m, n))).shape, make=turn))
    close(turn(b.run(x, y)[0]), np.lib.stride_tricks.sliding_window_view(x, k) @ y)


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
@pytest.mark.parametrize("i", [1, 5, 16, 75])
def test_gather(isa, dtype, shared_index, i):
    o, n, j = 3, 7, 11
    x = sample((o, n, i), dtype)
    index = np.random.default_rng(2).integers(0, n, (o, j, 1 if shared_index else i), dtype=np.int32)
    b = Builder([(dtype, x.shape), (np.int32, index.shape)], [(dtype, (o, j, i))])
    words = [code(dtype), o, n, j, i, *view(b.input(0), x.shape, dtype).words, *view(b.input(1), index.shape, np.int32).to((o, j, i)).words]
    b.emit(GATHER, [*words, *view(b.output(0), (o, j, i), dtype).words])
    np.testing.assert_array_equal(b.run(x, index)[0], np.take_along_axis(x, np.broadcast_to(index, (o, j, i)), 1))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("make", [lambda a: a, lambda a: a[:, :, ::-1]])
@pytest.mark.parametrize("shared_index", [False, True])
@pytest.mark.parametrize("i", [1, 5, 16, 75])
def test_scatter(isa, dtype, make, shared_index, i):
    o, n, j = 3, 7, 11
    ct = sample((o, j, i), dtype)
    index = np.random.default_rng(2).integers(0, n, (o, j, 1 if shared_index else i), dtype=np.int32)
    b = Builder([(dtype, ct.shape), (np.int32, index.shape)], [(dtype, (o, n, i))])
    words = [code(dtype), o, n, j, i, *view(b.input(0), ct.shape, dtype).words, *view(b.input(1), index.shape, np.int32).to((o, j, i)).words]
    want = np.zeros((o, n, i), dtype)
    everywhere = np.broadcast_to(index, (o, j, i))
    for adds in (0, 1):  # first to zeros, then to what is there
        b.emit(SCATTER, [*words, *view(b.output(0), (o, n, i), dtype, make=make).words, adds])
        for a, c, e in itertools.product(range(o), range(j), range(i)):
            want[a, everywhere[a, c, e], e] += ct[a, c, e]
    np.testing.assert_array_equal(make(b.run(ct, index)[0]), want)


@pytest.mark.parametrize("opcode", [GATHER, SCATTER])
@pytest.mark.parametrize("bad", [-1, 7])
@pytest.mark.parametrize("at", [0, 5, 1999])
def test_a_bad_index_among_rows(opcode, bad, at):
    n, j, i = 7, 2000, 20  # more than what is moved between two looks at the clock
    rows, table = ((n, i), (j, i)) if opcode == GATHER else ((j, i), (n, i))
    index = np.zeros(j, np.int32)
    index[at] = bad
    index[min(at + 1, j - 1)] = bad
    b = Builder([(f32, rows), (np.int32, (j, 1))], [(f32, table)])
    three = [view(b.input(0), (1, *rows)), view(b.input(1), (1, j, 1), np.int32).to((1, j, i)), view(b.output(0), (1, *table))]
    b.emit(opcode, [0, 1, n, j, i, *(word for v in three for word in v.words), *[0] * (opcode == SCATTER)])
    with pytest.raises(tested.bad_index) as raised:
        b.run(sample(rows), index[:, None])
    assert raised.value.args[2:] == (bad, n)


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


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("descending", [0, 1])
@pytest.mark.parametrize("n", [1, 16, 63, 64, 65, 129, 256, 257, 512, 513])
def test_order_of_many(isa, dtype, descending, n):
    """By counting up to some length, which the instruction set decides, and by a heap; zeros of both signs are one number."""
    x = np.round(sample((2, n), dtype) * 100)
    x[:, ::7] = 0
    if dtype != np.int32:
        x[:, ::5] *= -1  # -0.0 too
        x[0, n // 3 :: 11] = np.nan
        x[1, n // 2 :: 13] = -np.inf
        x[1, n // 4 :: 17] = np.inf
    else:
        x[0, ::9] = np.iinfo(dtype).max
        x[1, ::9] = np.iinfo(dtype).min
    known = x.astype(np.int64) if dtype == np.int32 else x  # whose negatives are numbers
    want = np.argsort(-known if descending else known, 1, kind="stable")
    for k in {n, n // 8, n // 8 + 1} - {0}:
        b = Builder([(dtype, x.shape)], [(np.int32, (2, k))])
        b.emit(ORDER, [code(dtype), *x.shape, 1, k, descending, *view(b.input(0), (*x.shape, 1), dtype).words, *view(b.output(0), (2, k, 1), np.int32).words])
        np.testing.assert_array_equal(b.run(x)[0], want[:, :k])


@pytest.mark.native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [64, 600])
def test_order_takes_what_is_too_small_for_zero(dtype, n):
    x = np.full((1, n), np.finfo(dtype).tiny / 4, dtype)
    x[:, ::3] = 0
    b = Builder([(dtype, x.shape)], [(np.int32, x.shape)])
    b.emit(ORDER, [code(dtype), *x.shape, 1, n, 0, *view(b.input(0), (*x.shape, 1), dtype).words, *view(b.output(0), (1, n, 1), np.int32).words])
    np.testing.assert_array_equal(b.run(x)[0], [np.arange(n)])
