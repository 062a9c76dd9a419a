"""Rows: loops over tasks that take a few at a time where these share weights, against the loops over one."""

from __future__ import annotations

import numpy as np
import pytest
from test_lanes import agree, check_rule, is_wide
from test_primitives import CASES
from test_programs import forced

import fastmeta as fm
from fastmeta import nn
from fastmeta.transforms import groups, rows
from fastmeta.transforms.batch import batch
from fastmeta.transforms.groups import over_tasks
from fastmeta.transforms.rows import GROUPS, MOST, Rows
from fastmeta.transforms.simplify import simplify
from fastmeta.tree import flatten

rng = np.random.default_rng(0)
INPUTS, HIDDEN, OUT = 6, 40, 5
WEIGHTS = {**nn.lstm_init(rng, inputs=INPUTS, hidden=HIDDEN), "out": rng.normal(size=(HIDDEN, OUT))}
WEIGHTS = {name: np.float64(w) for name, w in WEIGHTS.items()}


def together(f, *args) -> bool:
    return is_wide(f, *args, kind=Rows)


@pytest.mark.parametrize("tasks", [2, 7])
@pytest.mark.parametrize(("op", "spec", "attrs"), CASES)
def test_operations_that_have_a_rule(op, spec, attrs, tasks, monkeypatch):
    """With each choice of operands that differ between tasks, stacked and summed; 7 tasks leave places of the last group empty."""
    monkeypatch.setattr(groups, "form", forced(Rows))
    check_rule(op, spec, attrs, tasks, Rows, 3)


def recurrent(weights, x):
    """One sequence [time, inputs] through an LSTM: each step's products are of one row with weights that all tasks share."""
    h = nn.lstm({name: weights[name] for name in "wub"}, x)[0]
    return fm.mean(fm.square(fm.tanh(h @ weights["out"])))


def generated(weights, x):
    """A network whose weights a product of one row makes."""
    task = fm.tanh(fm.mean(x, axis=0, keepdims=True) @ weights["w"])
    made = (task @ weights["generator"])[0]
    return fm.mean(fm.square(fm.relu(x @ fm.reshape(made[: INPUTS * 30], (INPUTS, 30)) + made[INPUTS * 30 :])))


GENERATOR = {"w": rng.normal(size=(INPUTS, 50)), "generator": rng.normal(size=(50, INPUTS * 30 + 30))}


def adapted(loss):
    """The loss after one step, whose weights are each task's own."""
    return lambda weights, x: loss(fm.tree_map(lambda w, g: w - 0.1 * g, weights, fm.grad(loss)(weights, x)), x)


@pytest.mark.parametrize("tasks", [1, 7, 8, 17, 65])
@pytest.mark.parametrize("reduce", ["mean", "sum", None])
@pytest.mark.parametrize(("loss", "weights"), [(recurrent, WEIGHTS), (generated, GENERATOR)], ids=["recurrent", "generated"])
def test_shared_weights(tasks, reduce, loss, weights):
    """Gradients reduced by longer products inside of the groups, or stacked."""
    x = rng.normal(size=(tasks, 9, INPUTS))
    f = fm.map_tasks(fm.value_and_grad(loss, argnums=(0, 1)), in_axes=(None, 0), reduce=(reduce, (reduce, None)))
    assert together(f, weights, x) is (tasks >= GROUPS)
    agree(f, weights, x)


@pytest.mark.parametrize(("loss", "weights"), [(recurrent, WEIGHTS), (generated, GENERATOR)], ids=["recurrent", "generated"])
def test_second_order(loss, weights):
    x = rng.normal(size=(19, 9, INPUTS))
    agree(fm.map_tasks(fm.value_and_grad(adapted(loss)), in_axes=(None, 0), reduce="mean"), weights, x)
    agree(lambda w: fm.hvp(lambda w: fm.mean(fm.map_tasks(loss, in_axes=(None, 0))(w, x)))(w, w), weights)


def test_groups_are_as_equal_as_can_be():
    """100 tasks by ten leave no place of the last group empty; 107 by thirteen would leave ten, by twelve there is one."""
    x = rng.normal(size=(2, 9, INPUTS))
    spec = over_tasks(batch(simplify(fm.map_tasks(fm.grad(recurrent), in_axes=(None, 0), reduce="mean").program(WEIGHTS, x))))
    assert [rows.width(spec, t) for t in (7, 8, 16, 17, 32, 64, 100, 107, 1024)] == [1, 2, 4, 4, 4, 8, 10, 12, MOST]


def test_tasks_do_not_meet():
    """A task's result is the same whichever tasks are beside it, NaN among them."""
    x = rng.normal(size=(17, 9, INPUTS))
    f = fm.map_tasks(recurrent, in_axes=(None, 0))
    assert together(f, WEIGHTS, x)
    before = f(WEIGHTS, x)
    x[3] = np.nan
    after = f(WEIGHTS, x)
    assert np.isnan(after[3])
    np.testing.assert_array_equal(np.delete(after, 3), np.delete(before, 3))


def test_a_bad_index_tells_its_task():
    def pick(w, x, at):
        return fm.sum(fm.take(x, at, axis=0)[None] @ w)

    x, at = rng.normal(size=(30, 3, 100)), np.zeros(30, np.int32)
    at[20] = 3
    f = fm.map_tasks(pick, in_axes=(None, 0, 0))
    assert together(f, rng.normal(size=(100, 100)), x, at)
    with pytest.raises(IndexError, match="got 3 in task 20"):
        f(rng.normal(size=(100, 100)), x, at)


def test_what_does_not_pay_runs_task_by_task():
    """Products of many rows, but with weights that leave the caches; weights of each task; weights that a cache next to the processor holds; too many values; operations without a rule."""

    def pays(f, *shape, w=(120, 120)) -> bool:
        return together(fm.map_tasks(lambda w, x: fm.sum(fm.tanh(f(w, x))), in_axes=(None, 0)), rng.normal(size=w), rng.normal(size=shape))

    assert pays(lambda w, x: x @ w, 32, 1, 120) and pays(lambda w, x: w @ x, 32, 120, 1) and pays(lambda w, x: x @ w, 32, 10, 120)
    assert not pays(lambda w, x: x @ w, 32, 40, 120) and pays(lambda w, x: x @ w, 32, 40, 600, w=(600, 500))
    assert not pays(lambda w, x: x @ w, 32, 90, 600, w=(600, 500))
    assert not pays(lambda w, x: (x @ w) @ (x.T @ x), 32, 40, 120)
    assert not pays(lambda w, x: x[:1] @ x, 32, 120, 120)
    assert not pays(lambda w, x: x @ w, 32, 1, 60, w=(60, 60))
    assert not pays(lambda w, x: fm.exp(x) @ w, 32, 1, rows.LARGEST + 1, w=(rows.LARGEST + 1, 10))
    assert not pays(lambda w, x: nn.max_pool2d(fm.reshape(x @ w, (1, 10, 12, 1))), 32, 1, 120)


def test_float32_is_as_accurate_as_task_by_task():
    x = rng.normal(size=(40, 30, INPUTS))
    f = fm.map_tasks(fm.value_and_grad(recurrent), in_axes=(None, 0), reduce="mean")
    exact = f(WEIGHTS, x)[1]
    got = f({name: np.float32(w) for name, w in WEIGHTS.items()}, np.float32(x))[1]
    for name, want in exact.items():
        np.testing.assert_allclose(got[name], want, atol=1e-5 * np.max(np.abs(want)))


def test_the_same_bits_at_any_number_of_threads(threads):
    """Groups are a function of the program and the number of tasks: threads only decide who runs them."""
    x = rng.normal(size=(37, 9, INPUTS))
    f = fm.map_tasks(fm.value_and_grad(recurrent, argnums=(0, 1)), in_axes=(None, 0), reduce=("mean", ("mean", None)))
    assert together(f, WEIGHTS, x)
    results = []
    for n in (1, 2, 5):
        fm.set_num_threads(n)
        results.append(flatten(f(WEIGHTS, x))[0])
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)
