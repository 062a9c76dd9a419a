"""Batching: loops inside of tasks as straight code over all iterations, against the loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from test_primitives import CASES, sample, seed_of

import fastmeta as fm
from fastmeta.backends import Loaded
from fastmeta.backends.groups import load_in_groups
from fastmeta.ops.lanes import LANE_PRODUCT
from fastmeta.ops.structure import LOOP, Loop, loop
from fastmeta.oracle import evaluate
from fastmeta.plan import make_plan
from fastmeta.program import NAMES, Graph, Program, inline
from fastmeta.transforms.batch import ALL, LARGE, SOME, batch, mapped_inside
from fastmeta.transforms.fused import has_kernels
from fastmeta.transforms.rows import Rows
from fastmeta.transforms.simplify import simplify

N = 3


def in_task(body: Program, invariant: int, summed: int) -> tuple[Program, Program]:
    """A task whose loop runs the body: (the program of a loop over two tasks, the same batched)."""
    g = Graph()
    n = len(body.inputs)
    ins = [g.input(v.shape if k < invariant else (N, *v.shape), v.dtype) for k, v in enumerate(body.inputs)]
    spec = Loop(body, invariant, 0, n - invariant, len(body.outputs) - summed, summed, N)
    task = Program(ins, loop(g, spec, tuple(ins)), g)
    top = Graph()
    given = [top.input((2, *v.shape), v.dtype) for v in ins]
    p = Program(given, loop(top, Loop(task, 0, 0, n, len(task.outputs), 0, 2), tuple(given)), top)
    return p, batch(p)


def inner_loops(p: Program) -> list[Loop]:
    return [v.attrs[0] for s in p.live() if s.op is LOOP for v in s.attrs[0].body.live() if v.op is LOOP]


def program(op, arrays, attrs) -> Program:
    g = Graph()
    ins = [g.input(x.shape, NAMES[x.dtype]) for x in arrays]
    return Program(ins, [g.emit(op, tuple(ins), attrs)], g)


def check(p: Program, batched: Program, arrays: list[np.ndarray]) -> None:
    for got, want in zip(evaluate(batched, arrays), evaluate(p, arrays), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("op", "spec", "attrs"), CASES)
def test_operations_that_have_a_rule(op, spec, attrs):
    """With each choice of operands that differ between iterations, stacked and summed."""
    rng = np.random.default_rng(seed_of(op.name, spec, attrs))
    sets = [sample(spec, "f64", rng) for _ in range(2 * N)]
    for invariant, summed in itertools.product(range(len(sets[0])), (0, 1)):
        body = program(op, sets[0], attrs)
        if summed and body.outputs[0].dtype != "f64":
            continue
        p, batched = in_task(body, invariant, summed)
        has_rule = Rows.knows(op)
        assert bool(inner_loops(batched)) is not has_rule, op.name
        arrays = [
            np.stack([sets[t][k] for t in range(2)]) if k < invariant else np.stack([np.stack([sets[t * N + i][k] for i in range(N)]) for t in range(2)])
            for k in range(len(sets[0]))
        ]  # fmt: skip
        check(p, batched, arrays)


def test_nested_loops_and_what_does_not_differ():
    def task(x, w):
        kernel = fm.map_tasks(lambda a: fm.map_tasks(lambda b: fm.exp(-fm.sum(fm.square(a - b))) + fm.sum(w))(x))(x)
        return fm.sum(fm.square(kernel)) + fm.sum(fm.map_tasks(lambda _: fm.sum(w @ w))(x))

    x, w = np.random.default_rng(0).normal(size=(2, 5, 3)), np.random.default_rng(1).normal(size=(4, 4)) / 3
    step = fm.map_tasks(fm.value_and_grad(task, argnums=(0, 1)), in_axes=(0, None), reduce="mean")
    p = simplify(step.program(x, w))
    assert inner_loops(p) and not inner_loops(batch(p))
    fm.testing.check_grads(lambda x, w: step(x[None], w)[0], (x[0], w))


def test_gradients_of_shared_weights_are_one_product():
    """Not one for each example and their sum: nothing of the weights' size for each."""
    net = lambda w, x: fm.tanh(x @ w[0]) @ w[1]

    def each(w, x, y):
        return fm.mean(fm.map_tasks(lambda a, b: fm.sum(fm.square(net(w, a) - b)))(x, y))

    def rows(w, x, y):
        return fm.mean(fm.sum(fm.square(net(w, x) - y), axis=1))

    rng = np.random.default_rng(2)
    args = [rng.normal(size=(9, 40)), rng.normal(size=(40, 3))], rng.normal(size=(2, 50, 9)), rng.normal(size=(2, 50, 3))
    one, other = (fm.map_tasks(fm.value_and_grad(f), in_axes=(None, 0, 0), reduce="mean") for f in (each, rows))
    for got, want in zip(one(*args)[1], other(*args)[1], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10)
    plans = [make_plan(f.program(*args)) for f in (one, other)]
    assert plans[0].instructions <= plans[1].instructions + 3
    assert plans[0].arena < 1.5 * plans[1].arena


def lengths(p: Program) -> list[int]:
    return [s.length for s in inner_loops(p)]


@pytest.mark.parametrize(("rows", "examples", "left"), [
    (4, 64, []),  # all at once
    (4, ALL // 32, None),  # in groups
    (LARGE // 4 + 1, 64, [64]),  # one by one
])  # fmt: skip
def test_what_needs_much_memory_is_not_done_at_once(rows, examples, left):
    """Distances keep no array of all differences, say."""
    f = fm.map_tasks(lambda x, y: fm.sum(fm.map_tasks(lambda b: fm.sum(fm.abs(x - b)))(y)))
    p = f.program(np.ones((2, rows, 4), np.float32), np.ones((2, examples, 4), np.float32))
    batched = batch(simplify(p))
    if left is not None:
        assert lengths(batched) == left
    else:
        (groups,) = lengths(batched)
        assert groups < examples / 4
        assert make_plan(p).arena < 4 * SOME


@pytest.mark.parametrize("examples", [30, 31, 97])
def test_groups(examples, monkeypatch):
    """Some iterations at a time; where they leave places empty, these do not count."""
    monkeypatch.setattr("fastmeta.transforms.batch.ALL", 0)
    monkeypatch.setattr("fastmeta.transforms.batch.SOME", 1000)
    rng = np.random.default_rng(examples)
    w, x = rng.normal(size=(2, 5, 5)), rng.normal(size=(2, examples, 5))
    each = lambda w, x: fm.map_tasks(lambda a: fm.tanh(a @ w) @ fm.tanh(w @ a))(x)
    f = fm.map_tasks(fm.value_and_grad(lambda w, x: fm.sum(fm.square(each(w, x))), argnums=(0, 1)))
    p = simplify(f.program(w, x))
    assert all(1 < n < examples for n in lengths(batch(p))) and lengths(batch(p))
    leaves = [w, x]
    check(p, batch(p), leaves)


def recurrent(weights, x):
    """One sequence through a small cell."""
    step = lambda h, now: (fm.tanh(now @ weights[0] + h @ weights[1]),) * 2
    return fm.mean(fm.square(fm.scan(step, fm.zeros(3, dtype=x.dtype), x)[1] - x[:, :1]))


@pytest.mark.parametrize("some", [0, 3000])
def test_scans_of_rows_are_one_scan(some, monkeypatch):
    """Over all rows, or in groups that leave places empty: stacked and summed, and gradients of what the rows share."""

    def rows(weights, x):
        each = fm.map_tasks(recurrent, in_axes=(None, 0))(weights, x)
        return fm.sum(fm.square(each)) + fm.sum(fm.map_tasks(lambda x: recurrent(weights, x) ** 2, reduce="mean")(x))

    if some:
        monkeypatch.setattr("fastmeta.transforms.batch.ALL", 0)
        monkeypatch.setattr("fastmeta.transforms.batch.SOME", some)
    rng = np.random.default_rng(4)
    weights, x = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3)) / 2], rng.normal(size=(3, 17, 6, 2))
    f = fm.map_tasks(fm.value_and_grad(rows, argnums=(0, 1)), in_axes=(None, 0), reduce=("mean", ("mean", None)))
    p = simplify(f.program(weights, x))
    assert 17 in lengths(p)
    left = lengths(batch(p))
    assert 17 not in left and (set(left) == {6} if not some else max(left) < 17)
    check(p, batch(p), [*weights, x, np.float64(1 / 3)])  # the last is what means multiply by


def test_small_matrices_of_their_own_run_side_by_side():
    """Networks of a few units that adapt to each row; through larger ones, and weights that rows share, rows are rows of products."""

    def adapted(weights, x):
        return recurrent([w - 0.1 * g for w, g in zip(weights, fm.grad(recurrent)(weights, x), strict=True)], x)

    rng = np.random.default_rng(5)
    weights, x = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3)) / 2], rng.normal(size=(2, 21, 4, 2))
    for loss, side_by_side in ((adapted, True), (recurrent, False)):
        f = fm.map_tasks(fm.value_and_grad(lambda w, x, loss=loss: fm.sum(fm.square(fm.map_tasks(loss, in_axes=(None, 0))(w, x)))), in_axes=(None, 0), reduce="sum")
        p = simplify(f.program(weights, x))
        assert (LANE_PRODUCT in operations(batch(p))) is side_by_side
        check(p, batch(p), [*weights, x])


def operations(p: Program) -> set[Any]:
    found = {v.op for v in p.live()}
    return found.union(*[operations(v.attrs[0].body) for v in p.live() if v.op is LOOP])


@pytest.mark.parametrize("rows", [6, 4000])
def test_calls_with_a_kernel_run_by_their_bodies_where_that_spares_a_loop(rows):
    """Distances of a few rows, under a map; of many they are the kernel's."""

    def task(w, x):
        return fm.map_tasks(lambda a: fm.sum(fm.kernels.pairwise_distance(fm.reshape(fm.tanh(w @ a), (rows, 4)), fm.ones((9, 4), dtype=w.dtype), metric="l1")))(x)

    rng = np.random.default_rng(6)
    w, x = rng.normal(size=(rows * 4, 3)).astype(np.float32), rng.normal(size=(2, 7, 3)).astype(np.float32)
    f = fm.map_tasks(task, in_axes=(None, 0))
    loaded: list[Program] = []
    load_in_groups(f.program(w, x), lambda p: loaded.append(p) or Loaded(lambda arrays: None))
    (p,) = loaded
    assert mapped_inside(batch(simplify(p))) == int(rows > 6)
    assert has_kernels(p) is (rows > 6)
    want = [[np.abs(np.tanh(w @ a).reshape(rows, 1, 4) - 1).sum() * 9 for a in xs] for xs in x]
    np.testing.assert_allclose(f(w, x), want, 1e-4)


def test_a_batched_body_keeps_what_it_computes_once():
    g = Graph()
    w, x = g.input((2, 2), "f64"), g.input((2, 2), "f64")
    square = inline(g, program(fm.ops.product.MATMUL, [np.ones((2, 2))] * 2, ()), [w, w])[0]
    body = Program([w, x], [g.emit(fm.ops.elementwise.ADD, (square, x), ())], g)
    p, batched = in_task(body, 1, 0)
    products = [v for v in next(v for v in batched.live() if v.op is LOOP).attrs[0].body.live() if v.op is fm.ops.product.MATMUL]
    assert [v.shape for v in products] == [(2, 2)]
    rng = np.random.default_rng(3)
    check(p, batched, [rng.normal(size=(2, 2, 2)), rng.normal(size=(2, N, 2, 2))])
