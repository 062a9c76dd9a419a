"""Lanes: loops over tasks that take many at a time, against the loops over one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_batch import program
from test_primitives import CASES, sample, seed_of
from test_programs import forced

import fastmeta as fm
from fastmeta.ops.structure import LOOP, Loop, loop
from fastmeta.oracle import evaluate
from fastmeta.program import Graph, Program
from fastmeta.transforms import groups
from fastmeta.transforms.groups import form, over_tasks, widened
from fastmeta.transforms.lanes import LARGEST, Lanes
from fastmeta.transforms.simplify import simplify
from fastmeta.tree import flatten

rng = np.random.default_rng(0)


def tasks_of(body: Program, invariant: int, summed: int, tasks: int) -> Program:
    """The body for each task, its operands but the first ``invariant`` with an axis of tasks."""
    g = Graph()
    n = len(body.inputs)
    ins = [g.input(v.shape if k < invariant else (tasks, *v.shape), v.dtype) for k, v in enumerate(body.inputs)]
    return Program(ins, loop(g, Loop(body, invariant, 0, n - invariant, len(body.outputs) - summed, summed, tasks), tuple(ins)), g)


def lengths(p: Program) -> list[int]:
    return [v.attrs[0].length for v in p.live() if v.op is LOOP]


@pytest.mark.parametrize("tasks", [4, 19])
@pytest.mark.parametrize(("op", "spec", "attrs"), CASES)
def test_operations_that_have_a_rule(op, spec, attrs, tasks, monkeypatch):
    """With each choice of operands that differ between tasks, stacked and summed; 19 tasks leave places of the last group empty."""
    monkeypatch.setattr(groups, "form", forced(Lanes))
    check_rule(op, spec, attrs, tasks, Lanes, 3)


def check_rule(op, spec, attrs, tasks, kind, most):
    random = np.random.default_rng(seed_of(op.name, spec, attrs))
    sets = [sample(spec, "f64", random) for _ in range(tasks)]
    for invariant, summed in itertools.product(range(len(sets[0])), (0, 1)):
        body = program(op, sets[0], attrs)
        if summed and body.outputs[0].dtype != "f64":
            continue
        p = tasks_of(body, invariant, summed, tasks)
        wide = widened(p)
        has_rule = kind.knows(op)
        assert lengths(wide) == ([-(-tasks // most)] if has_rule and any(v.ins and not v.op.view for v in body.live()) else [tasks]), op.name
        arrays = [sets[0][k] if k < invariant else np.stack([one[k] for one in sets]) for k in range(len(sets[0]))]
        for got, want in zip(evaluate(wide, arrays), evaluate(p, arrays), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def filtered(y, noise):
    """A Kalman filter of numbers, whose steps carry two; the mean squared error of what it foresees."""

    def step(state, now):
        mean, spread = state
        spread = spread + noise[0]
        gain = spread / (spread + noise[1])
        return (mean + gain * (now - mean), (1 - gain) * spread), fm.square(now - mean)

    return fm.mean(fm.scan(step, (0.0 * y[0], 1.0 + 0.0 * y[0]), y)[1])


def recurrent(weights, x):
    """One sequence through a small cell whose weights all tasks share: products that differ in one operand only."""

    def step(h, now):
        h = fm.tanh(now @ weights[0] + h @ weights[1])
        return h, h

    return fm.mean(fm.square(fm.scan(step, fm.zeros(3, dtype=x.dtype), x)[1] - x[:, :1]))


def adapted(weights, x):
    return recurrent([w - 0.1 * g for w, g in zip(weights, fm.grad(recurrent)(weights, x), strict=True)], x)


def is_wide(f, *args, kind=Lanes) -> bool:
    """Whether tasks run together, and none in another way."""
    p = simplify(f.program(*args))
    spec = over_tasks(p)
    forms = [form(s, s.length) for v in p.live() if v.op is LOOP for s in [v.attrs[0]] if s.length > 0]
    forms += [form(spec, len(args[-1]))] if spec else []
    kinds = {of[0] for of in forms if of}
    assert kinds <= {kind}
    return bool(kinds)


def agree(f, *args, rtol=1e-9):
    """With the oracle, which runs tasks one by one."""
    with fm.set_backend("numpy"):
        wants = flatten(f(*args))[0]
    for got, want in zip(flatten(f(*args))[0], wants, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("tasks", [1, 3, 8, 16, 17, 50, 513])
def test_scans_of_any_number_of_tasks(tasks):
    y, noise = rng.normal(size=(tasks, 7)), rng.uniform(0.5, 1, (tasks, 2))
    each = fm.map_tasks(fm.value_and_grad(filtered, argnums=(0, 1)))
    mean = fm.value_and_grad(lambda noise, y: fm.mean(fm.map_tasks(filtered)(y, noise)))
    assert is_wide(each, y, noise) is is_wide(mean, noise, y) is (tasks >= 8)
    agree(each, y, noise)
    agree(mean, noise, y)


@pytest.mark.parametrize("tasks", [48, 53])
@pytest.mark.parametrize("reduce", ["mean", "sum", None])
def test_shared_weights(tasks, reduce):
    """Gradients of first and second order, reduced by longer products inside of the groups or stacked."""
    weights, x = [rng.normal(size=(2, 3)), rng.normal(size=(3, 3)) / 2], rng.normal(size=(tasks, 5, 2))
    for episode in (recurrent, adapted):
        f = fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0), reduce=reduce)
        assert is_wide(f, weights, x)
        agree(f, weights, x)
    agree(lambda w: fm.hvp(lambda w: fm.mean(fm.map_tasks(adapted, in_axes=(None, 0))(w, x)))(w, w), weights)


def test_float32_is_as_accurate_as_task_by_task():
    y, noise = rng.normal(size=(40, 30)), rng.uniform(0.5, 1, (40, 2))
    f = fm.map_tasks(fm.value_and_grad(filtered, argnums=(0, 1)))
    exact = flatten(f(y, noise))[0]
    for got, want in zip(flatten(f(np.float32(y), np.float32(noise)))[0], exact, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=2e-6 * np.max(np.abs(want)))


def test_tasks_do_not_meet():
    """A task's result is the same whichever tasks are beside it, NaN among them, and sums leave out what fills the last group."""
    y, noise = rng.normal(size=(19, 7)), rng.uniform(0.5, 1, (19, 2))
    f = fm.map_tasks(filtered)
    before = f(y, noise)
    y[3] = np.nan
    after = f(y, noise)
    assert np.isnan(after[3])
    np.testing.assert_array_equal(np.delete(after, 3), np.delete(before, 3))
    y[3], y[-1] = 0.0, 1e200  # the last overflows
    total = fm.map_tasks(filtered, reduce="sum")
    with np.errstate(over="ignore"):
        assert total(y, noise) == np.inf


def test_a_bad_index_tells_its_task():
    def pick(x, at):
        return fm.take(x, at, axis=0) * 2.0

    x, at = rng.normal(size=(30, 3)), np.zeros(30, np.int32)
    at[20] = 3
    for f in (fm.map_tasks(pick), fm.jit(lambda x, at: fm.map_tasks(pick)(x, at))):
        assert is_wide(f, x, at)
        with pytest.raises(IndexError, match="got 3 in task 20"):
            f(x, at)


def test_what_does_not_pay_runs_task_by_task():
    """A few tasks; networks, whose products fill vectors; operations without a rule; values of many elements."""
    wide = lambda f, *shape: is_wide(fm.map_tasks(f), rng.normal(size=shape))
    assert wide(lambda x: fm.sum(fm.tanh(x)), 32, 8) and not wide(lambda x: fm.sum(fm.tanh(x)), 7, 15)
    assert not wide(lambda x: fm.sum(fm.tanh(x @ x)), 32, 20, 20)
    assert not wide(lambda x: fm.kernels.pairwise_distance(x, x, metric="l1").sum(), 32, 3, 3)
    assert not wide(lambda x: fm.scan(lambda c, t: (0.9 * c + t, c), x[0], x)[1], 32, LARGEST + 1)
