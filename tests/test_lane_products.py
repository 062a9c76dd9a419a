"""Products of many tasks side by side: GEMM whose last batch axis has unit stride, in plans built by hand and of programs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from plan_tools import FLOATS, Builder, sample, view

import fastmeta as fm
from fastmeta.ops.lanes import LANE_PRODUCT, lane_product
from fastmeta.ops.structure import LOOP
from fastmeta.oracle import evaluate
from fastmeta.plan import make_plan, prepare
from fastmeta.program import Graph, Primitive, Program
from fastmeta.transforms.batch import batch
from fastmeta.transforms.groups import grouped
from fastmeta.transforms.lanes import Lanes
from fastmeta.transforms.simplify import simplify

RTOL = {np.float32: 2e-6, np.float64: 1e-14}
SHAPES = [(1, 1, 1), (8, 8, 1), (1, 7, 9), (3, 4, 5), (13, 2, 1), (7, 1, 7), (9, 6, 2), (16, 16, 16)]  # m, k, n: tiles whole and in part, C as it is and turned
LANES = [2, 7, 16, 23, 64, 70]


def products(dtype, lead, m, n, lanes, pairs, *, alpha=1.0, cin=None, in_place=False, turn=(False, False), threads=1):
    """alpha * the sum of x y (+ cin) of each lane; ``turn``: the operands are kept with their matrices turned."""
    inputs = [np.swapaxes(a, -2, -3) if turn[k % 2] else a for k, a in enumerate(itertools.chain(*pairs))]
    given = [np.ascontiguousarray(a) for a in inputs] + ([] if cin is None else [cin])
    shape = (*lead, m, n, lanes)
    b = Builder([(dtype, a.shape) for a in given], [(dtype, shape)])

    def lanes_before(base, a, turned=False):
        def make(x):
            x = np.moveaxis(x, -1, -3)
            return np.swapaxes(x, -1, -2) if turned else x

        return view(base, a.shape, dtype, make=make)

    operands = [lanes_before(b.input(k), a, turn[k % 2]) for k, a in enumerate(given[: len(inputs)])]
    out = lanes_before(b.output(0), np.empty(shape))
    start = None
    if cin is not None:
        start = lanes_before(b.input(len(inputs)), cin)
        if in_place:
            flat = (cin.size,)
            b.elementwise(flat, [view(b.input(len(inputs)), flat, dtype)], [], [(0, 0, view(b.output(0), flat, dtype))])
            start = out
    ks = [x.shape[-2] for x, _ in pairs]
    b.gemm(dtype, (*lead, lanes), m, n, [(k, operands[2 * p], operands[2 * p + 1]) for p, k in enumerate(ks)], out, alpha=alpha, cin=start)
    return b.run(*given, threads=threads)[0]


def reference(pairs, alpha=1.0, cin=None):
    total = alpha * sum(np.einsum("...mkl,...knl->...mnl", *(a.astype(np.float64) for a in pair)) for pair in pairs)
    return total if cin is None else total + cin


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products(isa, shape, lanes, dtype):
    """With and without an addend, in place too; each operand as it is and turned."""
    m, k, n = shape
    x, y, start = sample((m, k, lanes), dtype), sample((k, n, lanes), dtype, 1), sample((m, n, lanes), dtype, 2)
    for turn in itertools.product((False, True), repeat=2):
        for cin, in_place, alpha in ((None, False, 1.0), (None, False, -0.5), (start, False, 0.5), (start, True, 1.0)):
            got = products(dtype, (), m, n, lanes, [(x, y)], alpha=alpha, cin=cin, in_place=in_place, turn=turn)
            np.testing.assert_allclose(got, reference([(x, y)], alpha, cin), RTOL[dtype], 4 * k * RTOL[dtype])


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_products_in_rows_of_batches(isa, dtype):
    lead, m, n, lanes = (3, 2), 5, 4, 19
    pairs = [(sample((*lead, m, k, lanes), dtype, k), sample((*lead, k, n, lanes), dtype, k + 9)) for k in (3, 1, 6)]
    cin = sample((*lead, m, n, lanes), dtype, 5)
    got = products(dtype, lead, m, n, lanes, pairs, alpha=2.0, cin=cin)
    np.testing.assert_allclose(got, reference(pairs, 2.0, cin), RTOL[dtype], 50 * RTOL[dtype])
    np.testing.assert_array_equal(got, products(dtype, lead, m, n, lanes, pairs, alpha=2.0, cin=cin, threads=2))


def test_a_lane_is_the_same_whatever_is_beside_it(isa):
    x, y = sample((5, 9, 40)), sample((9, 3, 40), seed=1)
    whole = products(np.float32, (), 5, 3, 40, [(x, y)])
    x[..., 7], y[..., 20] = np.nan, np.inf
    again = products(np.float32, (), 5, 3, 40, [(x, y)])
    assert np.isnan(again[..., 7]).all() and not np.isfinite(again[..., 20]).any()
    rest = [k for k in range(40) if k not in (7, 20)]
    np.testing.assert_array_equal(again[..., rest], whole[..., rest])


def laned(build, *arrays) -> Program:
    g = Graph()
    ins = [g.input(a.shape, "f64") for a in arrays]
    return Program(ins, [build(*ins)], g)


@pytest.mark.parametrize(("m", "k", "n"), [(3, 4, 5), (20, 10, 9)])
def test_backends_without_the_kernel_expand_it(m, k, n):
    """By elements where it is small, else as products task by task; one instruction where there is the kernel."""
    x, y = sample((2, m, k, 6), np.float64), sample((2, k, n, 6), np.float64, 1)
    p = laned(lane_product, x, y)
    want = np.einsum("bmkl,bknl->bmnl", x, y)
    np.testing.assert_allclose(evaluate(p, [x, y])[0], want, 1e-13)
    assert make_plan(p).instructions == 1
    for kernels in (True, False):
        ready = prepare(p, kernels)
        assert any(v.op is LANE_PRODUCT for v in ready.live()) == kernels
        np.testing.assert_allclose(evaluate(ready, [x, y])[0], want, 1e-13, 1e-13)


def test_operands_that_do_not_go_together_are_refused():
    x = sample((3, 4, 5), np.float64)
    for other in ((4, 5), (3, 2, 5), (4, 2, 6), (1, 4, 2, 5)):
        with pytest.raises((ValueError, TypeError), match=r"lane_product\] expected \[\.\.\., m, k, lanes\]"):
            laned(lane_product, x, sample(other, np.float64))


def operations(p: Program) -> set[Primitive]:
    """All of a program's, loops' bodies included."""
    return {v.op for v in p.live()} | {op for v in p.live() if v.op is LOOP for op in operations(v.attrs[0].body)}


def recurrent(w, u, x):
    """A recurrent network with weights of its own, whose steps multiply small matrices that no two tasks share."""

    def step(h, t):
        h = fm.tanh(w @ h + u @ t)
        return h, fm.sum(h * h)

    return fm.mean(fm.scan(step, 0.0 * w[0], x)[1])


@pytest.mark.parametrize("tasks", [16, 37])
def test_networks_of_their_own_weights(tasks):
    """Second order too: against one task at a time."""
    w, u, x = sample((tasks, 5, 5), np.float64), sample((tasks, 5, 2), np.float64, 1), sample((tasks, 9, 2), np.float64, 2)

    def adapted(w, u, x):
        g = fm.grad(recurrent)(w, u, x[:5])
        return recurrent(w - 0.1 * g, u, x[5:])

    each = fm.value_and_grad(adapted, argnums=(0, 1))
    f = fm.map_tasks(each)
    value, gradients = f(w, u, x)
    alone = fm.jit(each)
    for t in range(tasks):
        want, (gw, gu) = alone(w[t], u[t], x[t])
        for got, exact in ((value[t], want), (gradients[0][t], gw), (gradients[1][t], gu)):
            np.testing.assert_allclose(got, exact, 1e-9, 1e-12)
    assert LANE_PRODUCT in operations(grouped(batch(simplify(f.program(w, u, x))), (Lanes, 16)))
