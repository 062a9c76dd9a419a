"""Inner rules that are networks against the papers' equations in torch, in training, and where they start."""

from __future__ import annotations

import math

import numpy as np
import optree
import pytest
import torch
from regression_tasks import TASKS, W, check, linear, regression, vector

import fastmeta as fm
from fastmeta.algorithms.coordinates import preprocessed
from fastmeta.algorithms.flat import ravel, unravel
from fastmeta.data import Sinusoid
from fastmeta.models import MLP
from fastmeta.train.trainer import Trainer

HIDDEN = 4


class Linear:
    """`linear` with parameters of its own, float64."""

    def init(self, seed=0):
        rng = np.random.default_rng(seed)
        return {"a": rng.normal(size=2), "b": rng.normal(size=1)}

    def __call__(self, params, x):
        return linear(params, x)


def lstm_learner(steps=3, **options):
    return fm.LSTMMetaLearner(linear, loss=fm.nn.mse, inner_steps=steps, hidden=HIDDEN, **options)


def learned(steps=3):
    return fm.LearnedOptimizer(Linear(), loss=fm.nn.mse, inner_steps=steps, hidden=HIDDEN)


def drawn(tree, seed=0):
    """Numbers of order 1 in every place, float64, so that no part of a rule is near zero."""
    rng = np.random.default_rng(seed)
    return optree.tree_map(lambda p: rng.normal(size=p.shape), tree)


LSTM_PARAMS = {"weights": W, "rule": drawn(fm.LSTMMetaLearner(MLP((1, 1)), hidden=HIDDEN).init(0)["rule"])}
LEARNED_PARAMS = drawn(learned().init(0))


# ------------------------------------------------------------------------------------------- the equations, by torch


def sized(x):
    large = x.abs() >= math.exp(-10)
    first = torch.where(large, torch.log(torch.where(large, x.abs(), 1.0)) / 10, -1.0)
    return torch.stack([first, torch.where(large, torch.sign(x), math.exp(10) * x)], dim=-1)


def cell(p, x, state):
    i, f, g, o = (x @ p["w"] + state[0] @ p["u"] + p["b"]).chunk(4, dim=-1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def constants(w, x, y):
    """Support loss and gradient, of which the meta-gradient knows nothing."""
    error = x @ w - y
    return (error**2).mean().detach(), (2 * x.T @ error / len(x)).detach()


def zeros():
    return torch.zeros(3, HIDDEN, dtype=torch.float64), torch.zeros(3, HIDDEN, dtype=torch.float64)


def lstm_path(w, rule, x, y, steps):
    state, path = zeros(), [w]
    f = i = torch.zeros(3, 1, dtype=torch.float64)
    for _ in range(steps):
        loss, g = constants(w, x, y)
        state = cell(rule["lstm"], torch.cat([sized(g), sized(loss).expand(3, 2)], dim=1), state)
        f, i = (
            torch.sigmoid(torch.cat([state[0], w[:, None], last], dim=1) @ rule[name]["w"] + rule[name]["b"])
            for name, last in (("forget", f), ("input", i))
        )
        w = f[:, 0] * w - i[:, 0] * g
        path.append(w)
    return path


def learned_path(w, rule, x, y, steps):
    states, path = [zeros(), zeros()], [w]
    for _ in range(steps):
        h = sized(constants(w, x, y)[1])
        for k in range(2):
            states[k] = cell(rule["lstm"][k], h, states[k])
            h = states[k][0]
        w = w + 0.1 * (h @ rule["w"] + rule["b"])[:, 0]
        path.append(w)
    return path


def on_tape(tree):
    return optree.tree_map(lambda p: torch.tensor(p, requires_grad=True), tree)


def torchs(e):
    return zip(*map(torch.tensor, e), strict=True)


def check_trees(got, want):
    assert optree.tree_structure(got) == optree.tree_structure(want)
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(want), strict=True):
        check(a, b)


@pytest.mark.parametrize("steps", [1, 3])
def test_lstm_meta_learner_is_its_equations(steps, backend):
    e = regression()
    (loss, aux), g = lstm_learner(steps).value_and_grad(LSTM_PARAMS, e)
    params = on_tape(LSTM_PARAMS)
    start = torch.cat([params["weights"]["a"], params["weights"]["b"]])
    losses = [((xq @ lstm_path(start, params["rule"], x, y, steps)[-1] - yq) ** 2).mean() for x, y, xq, yq in torchs(e)]
    want = torch.stack(losses).mean()
    check(loss, want.item())
    check(aux["loss"], [value.item() for value in losses])
    leaves, tree = optree.tree_flatten(params)
    check_trees(g, optree.tree_unflatten(tree, [d.numpy() for d in torch.autograd.grad(want, leaves)]))


@pytest.mark.parametrize("phase", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_learned_optimizer_is_its_equations(steps, phase, backend):
    e, learner = regression(), learned(steps)
    (loss, aux), g = learner.value_and_grad(LEARNED_PARAMS, e, *(learner.phase(6) if phase else ()))
    rule, start = on_tape(LEARNED_PARAMS), torch.tensor(vector(Linear().init(7 if phase else 0)))
    losses = [
        torch.stack([((xq @ w - yq) ** 2).mean() for w in learned_path(start, rule, x, y, steps)[1:]]).mean()
        for x, y, xq, yq in torchs(e)
    ]
    want = torch.stack(losses).mean()
    check(loss, want.item())
    check(aux["loss"], [value.item() for value in losses])
    assert aux["inner_losses"].shape == (TASKS, steps)
    leaves, tree = optree.tree_flatten(rule)
    check_trees(g, optree.tree_unflatten(tree, [d.numpy() for d in torch.autograd.grad(want, leaves)]))


@pytest.mark.parametrize("steps", [1, 5])
def test_adapted_weights_are_those_of_the_equations(steps, backend):
    x, y = (torch.tensor(v[0]) for v in regression()[:2])
    with torch.no_grad():
        by_lstm = lstm_path(torch.tensor(vector(W)), on_tape(LSTM_PARAMS["rule"]), x, y, steps)[-1]
        by_rule = learned_path(torch.tensor(vector(Linear().init(0))), on_tape(LEARNED_PARAMS), x, y, steps)[-1]
    check(vector(lstm_learner().adapt(LSTM_PARAMS, x.numpy(), y.numpy(), steps=steps)), by_lstm)
    check(vector(learned().adapt(LEARNED_PARAMS, x.numpy(), y.numpy(), steps=steps)), by_rule)


# ------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_of_any_size_become_two_of_order_one(dtype, backend):
    edge = math.exp(-10)
    x = np.array([0.0, 1e-30, edge / 2, -edge / 2, edge, 1.0, -1.0, math.e**5, -1e30], dtype)
    want = [(-1, 0), (-1, 0), (-1, 0.5), (-1, -0.5), (-1, 1), (0, 1), (0, -1), (0.5, 1), (math.log(1e30) / 10, -1)]
    with np.errstate(all="raise", under="ignore"):
        got = fm.jit(preprocessed)(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6 if dtype == np.float32 else 1e-14)
    assert np.isnan(fm.jit(preprocessed)(np.array([np.nan], dtype))).all()  # a task that diverged still shows


def test_weights_as_one_vector_and_back():
    tree = {"w": np.arange(6.0).reshape(2, 3), "b": [np.array(6.0), np.arange(7.0, 9.0)]}
    flat = ravel(tree)
    np.testing.assert_array_equal(flat, [6, 7, 8, 0, 1, 2, 3, 4, 5])
    check_trees(unravel(flat, tree), tree)


# ------------------------------------------------------------------------------------------------------- where it starts


@pytest.mark.parametrize("seed", range(3))
def test_lstm_meta_learner_starts_as_gradient_descent(seed):
    model = MLP((1, 20, 20, 1), activation="tanh")
    learner, e = fm.LSTMMetaLearner(model, loss=fm.nn.mse), Sinusoid(tasks=1).batch(0)
    params = learner.init(seed)
    x, y = e.support_x[0], e.support_y[0]
    forget, rate = (1 / (1 + math.exp(-params["rule"][gate]["b"][0])) for gate in ("forget", "input"))
    assert 0.98 < forget < 0.994
    assert 0.006 < rate < 0.018
    slope = fm.grad(lambda w: fm.nn.mse(model(w, x), y))(params["weights"])
    w, g, moved = (ravel(tree) for tree in (params["weights"], slope, learner.adapt(params, x, y, steps=1)))
    assert (np.abs(moved - (forget * w - rate * g)) <= 0.15 * ((1 - forget) * np.abs(w) + rate * np.abs(g)) + 1e-6).all()


def test_lstm_meta_learner_draws_rule_and_weights_from_the_seed():
    learner = fm.LSTMMetaLearner(MLP((1, 4, 1)), hidden=HIDDEN)
    a, again, b = learner.init(0), learner.init(0), learner.init(1)
    check_trees(a, again)
    for part in (a, b):
        assert part["rule"]["lstm"]["w"].shape == (4, 4 * HIDDEN)
        assert all(leaf.dtype == np.float32 for leaf in optree.tree_leaves(part))
    assert a["rule"]["forget"]["b"] != b["rule"]["forget"]["b"]
    assert (a["weights"][0]["w"] != b["weights"][0]["w"]).all()


def test_learned_optimizer_starts_by_leaving_weights_where_they_are():
    learner = learned()
    params = optree.tree_map(lambda p: np.asarray(p, np.float64), learner.init(3))
    e = regression()
    check_trees(learner.adapt(params, e.support_x[0], e.support_y[0]), Linear().init(0))
    _, g = learner.value_and_grad(params, e)
    assert np.abs(g["w"]).min() > 0  # and moves from there


def test_every_meta_step_starts_from_other_weights_and_nothing_is_compiled_again():
    e, learner = regression(), learned()
    starts = [vector(learner.phase(step)[0]) for step in range(5)]
    check(starts[3], vector(learner.phase(3)[0]))
    firsts = {w[0] for w in starts}
    assert len(firsts) == 5
    assert vector(Linear().init(0))[0] not in firsts  # tests start from weights that training has not seen
    losses = {float(learner.value_and_grad(LEARNED_PARAMS, e, *learner.phase(step))[0][0]) for step in range(5)}
    assert len(losses) == 5
    assert len(learner._mapped.cache) == 1


def test_training_of_an_optimizer_goes_on_from_the_weights_it_would_have_had(tmp_path):
    def trainer(**options):
        learner = fm.LearnedOptimizer(MLP((1, 5, 1)), loss=fm.nn.mse, inner_steps=2, hidden=HIDDEN)
        return Trainer(learner, Sinusoid(tasks=2), fm.optim.adam(1e-3), **options)

    half = trainer(out=tmp_path).run(3)
    for a, b in zip(*(optree.tree_leaves(run.params) for run in (trainer().run(6), trainer().run(6, resume=half.checkpoint))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_learned_rule_is_an_optimizer_of_any_weights():
    e, learner = regression(), learned()
    x, y = e.support_x[0], e.support_y[0]
    rule, weights = learner.optimizer(LEARNED_PARAMS), Linear().init(0)
    state = rule.init(weights)
    for _ in range(3):
        updates, state = rule.update(fm.grad(lambda w: fm.nn.mse(linear(w, x), y))(weights), state, weights)
        weights = fm.optim.apply_updates(weights, updates)
    check_trees(learner.adapt(LEARNED_PARAMS, x, y, steps=3), weights)
    other = [np.ones((3, 2)), np.ones(())]
    assert optree.tree_map(np.shape, rule.update(other, rule.init(other))[0]) == [(3, 2), ()]


# --------------------------------------------------------------------------------------------------------- training


def waves(tasks, seed=0):
    return Sinusoid(tasks=tasks, seed=seed, x_range=(-2.0, 2.0))


def trained(learner, steps):
    rule = fm.optim.chain(fm.optim.clip_by_global_norm(1.0), fm.optim.adam(1e-2))
    return Trainer(learner, waves(8), rule).run(steps).params


def test_lstm_meta_learner_learns_to_fit_waves():
    learner = fm.LSTMMetaLearner(MLP((1, 20, 1), activation="tanh"), loss=fm.nn.mse, inner_steps=3, hidden=8)
    before, after = (learner.evaluate(p, waves(100, seed=1).batch(0))["losses"] for p in (learner.init(0), trained(learner, 300)))
    assert after[-1] < 0.3 * before[-1]
    assert after[3] < after[2] < after[1] < after[0]


def test_learned_optimizer_beats_gradient_descent_at_every_rate():
    model, unseen = MLP((1, 20, 1), activation="tanh"), waves(100, seed=1).batch(0)
    learner = fm.LearnedOptimizer(model, loss=fm.nn.mse, inner_steps=10, hidden=8)
    losses = learner.evaluate(trained(learner, 300), unseen, steps=20)["losses"]  # twice as many as in training
    for steps in (5, 10, 20):
        descent = [
            fm.FOMAML(model, loss=fm.nn.mse, inner_lr=rate).evaluate(model.init(0), unseen, steps=steps)["loss"]
            for rate in (0.01, 0.02, 0.05, 0.1, 0.15)
        ]
        assert losses[steps] < 0.85 * np.nanmin(descent), steps


# ------------------------------------------------------------------------------------------------------------ shown


def test_they_show_what_they_were_made_of():
    model = MLP((1, 4, 1))
    assert repr(fm.LSTMMetaLearner(model)) == f"LSTMMetaLearner({model!r}, hidden=20, inner_steps=5, batch_norm='batch')"
    assert repr(fm.LearnedOptimizer(model)) == f"LearnedOptimizer({model!r}, hidden=20, inner_steps=20, batch_norm='batch')"
