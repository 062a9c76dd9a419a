"""Reptile and iMAML, which bring their own meta-gradients, against closed forms in float64 and against torch."""

from __future__ import annotations

import numpy as np
import optree
import pytest
import torch
from regression_tasks import TASKS, W, check, linear, regression, slope, vector

import fastmeta as fm
from fastmeta.algorithms.imaml import conjugate_gradients
from fastmeta.data import Episode, Sinusoid
from fastmeta.models import MLP, Conv4
from fastmeta.plan import make_plan


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [1, 4])
def test_reptile_is_the_way_back_from_the_adapted_weights(steps, rule, backend):
    e = regression()
    learner = fm.Reptile(linear, loss=fm.nn.mse, inner_lr=0.05, inner_steps=steps, inner_rule=rule)
    (loss, aux), g = learner.value_and_grad(W, e)
    ends = []
    for x, y in zip(*e[:2], strict=True):
        w, square = vector(W), np.zeros(3)
        for k in range(steps):
            move = slope(w, x, y)
            square = 0.999 * square + 0.001 * move**2
            w = w - 0.05 * (move if rule == "sgd" else move / (np.sqrt(square / (1 - 0.999 ** (k + 1))) + 1e-8))
        ends.append(w)
    check(vector(g), vector(W) - np.mean(ends, axis=0))
    check(aux["loss"], [np.mean((xq @ w - yq) ** 2) for w, xq, yq in zip(ends, *e[2:], strict=True)])
    check(loss, aux["loss"].mean())
    assert aux["inner_losses"].shape == (TASKS, steps)
    # with plain descent at rate 1, the parameters land on the mean of the adapted ones
    rule = fm.optim.sgd(1.0)
    check(vector(fm.optim.apply_updates(W, rule.update(g, rule.init(W), W)[0])), np.mean(ends, axis=0))


BATCHES = {  # rows of each inner step, of 6
    1: [[0], [1], [2], [3], [4]],
    2: [[0, 3], [1, 4], [2, 5], [0, 3], [1, 4]],
    4: [[0, 2, 4, 1], [3, 5, 0, 2], [4, 1, 3, 5], [0, 2, 4, 1], [3, 5, 0, 2]],
    6: [range(6)] * 5,
    10: [range(6)] * 5,
}


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("steps", [1, 5])
def test_reptile_goes_through_the_support_set_in_batches(steps, size, backend):
    e = regression()
    learner = fm.Reptile(linear, loss=fm.nn.mse, inner_lr=0.05, inner_steps=2, inner_batch=size)
    ends, losses = [], []
    for x, y in zip(*e[:2], strict=True):
        path = [vector(W)]
        for rows in BATCHES[size][:steps]:
            losses.append(np.mean((x[rows] @ path[-1] - y[rows]) ** 2))
            path.append(path[-1] - 0.05 * slope(path[-1], x[rows], y[rows]))
        ends.append(path)
        check(vector(learner.adapt(W, x, y, steps=steps)), path[-1])
    measured = learner.measure(W, e, steps)
    check(measured["inner_losses"], np.reshape(losses, (TASKS, steps)))
    check(measured["losses"], [[np.mean((xq @ w - yq) ** 2) for w in path] for path, xq, yq in zip(ends, *e[2:], strict=True)])
    if steps > 1:
        check(vector(learner.value_and_grad(W, e)[1]), vector(W) - np.mean([path[2] for path in ends], axis=0))


def test_batches_of_rows_that_come_class_by_class_have_every_class():
    """A net of biases alone has no slope where every class is there as often."""
    learner = fm.Reptile(lambda bias, x: x + bias, inner_lr=1.0, inner_batch=10)
    x, y = np.zeros((50, 5)), np.repeat(np.arange(5, dtype=np.int32), 10)
    check(learner.adapt(np.zeros(5), x, y, steps=7), np.zeros(5))
    assert np.abs(learner.adapt(np.zeros(5), x, y[::-1] // 2, steps=7)).max() > 0.1


def test_reptile_needs_no_memory_for_inner_steps_on_batches():
    def arena(steps):
        learner = fm.Reptile(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=steps, inner_batch=4)
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), Sinusoid(tasks=2).batch(0))).arena

    assert arena(1024) < 1.2 * arena(64)  # their losses are 4 bytes a step, their batches would be 32


def hessian(x):
    return 2 * x.T @ x / len(x)


@pytest.mark.parametrize("steps", [1, 7])
def test_imaml_solves_the_papers_system(steps, backend):
    """On a quadratic three iterations solve it, wherever the inner loop ends."""
    e = regression()
    learner = fm.IMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, damping=0.7, iterations=3)
    (loss, aux), g = learner.value_and_grad(W, e)
    grads, losses = [], []
    for x, y, xq, yq in zip(*e, strict=True):
        w = vector(W)
        for _ in range(steps):
            w = w - 0.1 * (slope(w, x, y) + 0.7 * (w - vector(W)))
        losses.append(np.mean((xq @ w - yq) ** 2))
        grads.append(np.linalg.solve(np.eye(3) + hessian(x) / 0.7, slope(w, xq, yq)))
    check(aux["loss"], losses)
    check(vector(g), np.mean(grads, axis=0))
    assert (aux["residual"] < 1e-10).all()


def test_imaml_at_the_solution_is_the_derivative_of_the_solution():
    e = regression()

    def solved(w):  # mean query loss at the minimum of the inner problem
        total = 0.0
        for x, y, xq, yq in zip(*e, strict=True):
            best = np.linalg.solve(hessian(x) + 2 * np.eye(3), 2 * x.T @ y / len(x) + 2 * w)
            total += np.mean((xq @ best - yq) ** 2) / TASKS
        return total

    learner = fm.IMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=200, damping=2.0, iterations=3)
    (loss, _), g = learner.value_and_grad(W, e)
    check(loss, solved(vector(W)))
    ends = [(solved(vector(W) + d), solved(vector(W) - d)) for d in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(vector(g), [(a - b) / 2e-5 for a, b in ends], rtol=1e-8)


def test_imaml_reports_what_is_not_solved():
    e = regression()
    learner = fm.IMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=3, damping=0.5, iterations=1)
    (_, aux), _ = learner.value_and_grad(W, e)
    want = []
    for x, y, xq, yq in zip(*e, strict=True):
        b = slope(vector(learner.adapt(W, x, y)), xq, yq)
        a = np.eye(3) + hessian(x) / 0.5
        want.append(np.linalg.norm(b - a @ b * (b @ b) / (b @ a @ b)) / np.linalg.norm(b))
    check(aux["residual"], want)
    assert (aux["residual"] > 1e-3).all()


def test_imaml_stops_a_task_without_curvature_and_no_other(backend):
    def bowl(outputs, sign):  # the support problem of task 1 opens downwards
        return fm.mean(sign * fm.square(outputs))

    e = regression()
    sign = np.ones((TASKS, 6)) * np.array([1.0, -5.0, 1.0])[:, None]
    e = Episode(e.support_x, sign, e.query_x, np.ones((TASKS, 6)))
    learner = fm.IMAML(linear, loss=bowl, inner_lr=0.01, inner_steps=2, damping=0.1, iterations=3)
    (_, aux), g = learner.value_and_grad(W, e)
    np.testing.assert_allclose(aux["residual"], [0, 1, 0], atol=1e-10)
    others = Episode(*(v[[0, 2]] for v in e))
    check(vector(g) * 3, vector(learner.value_and_grad(W, others)[1]) * 2)


def test_imaml_needs_no_memory_for_inner_steps():
    def arena(steps):
        learner = fm.IMAML(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=steps)
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), Sinusoid(tasks=2).batch(0))).arena

    assert arena(64) <= 1.01 * arena(16)


def test_imaml_of_a_deep_strided_net_plans_and_is_the_oracles():
    """Its plan keeps masks of ReLU whose arguments are no longer in memory: where(y > 0, x, 0) may not read y then."""
    rng = np.random.default_rng(0)
    model = Conv4(channels=2, classes=2, strided=True, head="mean")
    learner = fm.IMAML(model, inner_lr=0.1, inner_steps=2, iterations=2)
    params = optree.tree_map(lambda p: np.asarray(p, np.float64), model.init(0))
    x, y = rng.normal(size=(1, 4, 28, 28, 1)), np.array([[0, 1, 0, 1]], np.int32)
    (loss, aux), g = learner.value_and_grad(params, Episode(x, y, x[:, ::-1], y))
    with fm.set_backend("numpy"):
        (want, told), exact = learner.value_and_grad(params, Episode(x, y, x[:, ::-1], y))
    check(loss, want)
    check(aux["residual"], told["residual"])
    for a, b in zip(optree.tree_leaves(g), optree.tree_leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)


def test_conjugate_gradients_stay_when_they_have_arrived():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 3)).astype(np.float32)
    a, b = a @ a.T + np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    z, residual = conjugate_gradients(lambda v: fm.matmul(a, v), b, 50)
    np.testing.assert_allclose(z, np.linalg.solve(a, b), rtol=1e-5)
    assert residual < 1e-6


def test_conjugate_gradients_of_nothing_and_of_nan():
    a = np.diag([1.0, 2.0])
    z, residual = conjugate_gradients(lambda v: fm.matmul(a, v), np.zeros(2), 3)
    np.testing.assert_array_equal(z, np.zeros(2))
    assert residual == 0.0
    z, residual = conjugate_gradients(lambda v: fm.matmul(a, v), np.array([np.nan, 1.0]), 3)
    assert np.isnan(z).any()
    assert np.isnan(residual)


def test_imaml_of_a_net_is_torchs():
    """The adapted weights, the dense Hessian there and the query gradient by torch; the solution by numpy."""
    rng = np.random.default_rng(2)
    model = MLP((2, 4, 2), activation="tanh")
    params = optree.tree_map(lambda p: rng.normal(size=p.shape), model.init(0))
    leaves, tree = optree.tree_flatten(params)  # b and w of each layer
    x, xq = rng.normal(size=(2, 1, 6, 2))
    y, yq = rng.integers(0, 2, (2, 1, 6)).astype(np.int32)
    learner = fm.IMAML(model, inner_lr=0.1, inner_steps=4, damping=3.0, iterations=40)
    (_, aux), g = learner.value_and_grad(params, Episode(x, y, xq, yq))

    ends = np.cumsum([p.size for p in leaves])
    start = torch.tensor(np.concatenate([p.ravel() for p in leaves]))

    def loss(flat, x, y):
        b, w, c, v = (p.reshape(q.shape) for p, q in zip(torch.tensor_split(flat, ends[:-1].tolist()), leaves, strict=True))
        return torch.nn.functional.cross_entropy(torch.tanh(torch.tensor(x) @ w + b) @ v + c, torch.tensor(y).long())

    flat = start.clone()
    for _ in range(4):
        slope = torch.func.grad(loss)(flat, x[0], y[0])
        flat = flat - 0.1 * (slope + 3.0 * (flat - start))
    system = np.eye(len(flat)) + torch.func.hessian(loss)(flat, x[0], y[0]).numpy() / 3.0
    want = np.linalg.solve(system, torch.func.grad(loss)(flat, xq[0], yq[0]).numpy())
    assert optree.tree_structure(g) == tree
    check(np.concatenate([p.ravel() for p in optree.tree_leaves(g)]), want)
    assert aux["residual"] < 1e-9
