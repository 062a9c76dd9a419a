"""Batch norm by averaged statistics: what they are, who sees them, and that training carries them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optree
import pytest
from test_train import assert_same_bits, classes

import fastmeta as fm
from fastmeta import optim
from fastmeta.data import Episode
from fastmeta.models import MLP, Conv4, ResNet12
from fastmeta.testing import check_grads
from fastmeta.train.checkpoint import load_checkpoint
from fastmeta.train.evaluate import evaluate
from fastmeta.train.trainer import Trainer

TASKS, STEPS = 3, 2
NET = MLP((4, 6, 5, 3), activation="tanh", batch_norm=True)
LEARNERS = [fm.MAML, fm.FOMAML, fm.ANIL, fm.MetaSGD, fm.MAMLPlusPlus, fm.Reptile, fm.IMAML, fm.LSTMMetaLearner, fm.ESMAML]
averaged = pytest.mark.parametrize("mode", ["running", "per_step"])
every_learner = pytest.mark.parametrize("kind", LEARNERS, ids=lambda kind: kind.__name__)


def wide(tree):
    return optree.tree_map(lambda x: np.asarray(x, np.float64), tree)


def episodes(seed=0):
    rng = np.random.default_rng(seed)
    x, xq = rng.normal(size=(2, TASKS, 7, 4))
    y, yq = rng.integers(0, 3, (2, TASKS, 7)).astype(np.int32)
    return Episode(x, y, 1.5 * xq + 0.3, yq)


def make(kind=fm.MAML, mode="running", **options):
    rule = {"hidden": 3} if kind is fm.LSTMMetaLearner else {"inner_lr": 0.3}
    return kind(NET, **(rule | {"inner_steps": STEPS, "batch_norm": mode} | options))


def moments(params, x):
    """Mean and variance in front of each batch norm of NET, by NumPy."""
    found = []
    for layer in params[:-1]:
        h = x @ layer["w"]
        mean, variance = h.mean(axis=0), h.var(axis=0)
        found.append({"mean": mean, "variance": variance})
        x = np.tanh((h - mean) / np.sqrt(variance + 1e-3) * layer["scale"] + layer["shift"])
    return found


def mean_over_tasks(found):
    return optree.tree_map(lambda *parts: np.mean(parts, axis=0), *found)


def close(got, want, rtol=1e-10):
    assert optree.tree_structure(got) == optree.tree_structure(want)
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    "model",
    [NET, Conv4(3, 4, (16, 16, 2)), Conv4(3, 4, (8, 8, 1), strided=True, head="mean"), ResNet12((2, 3, 3, 4), 4, (16, 16, 2))],
    ids=repr,
)
def test_a_models_own_statistics_as_state_change_nothing(model, backend):
    x = np.random.default_rng(0).normal(size=(5, *getattr(model, "input", (4,))))
    params = wide(model.init(0))
    want = model(params, x)
    y, statistics = fm.jit(lambda p, x: model(p, x, mode="running", return_statistics=True))(params, x)
    close(y, want)
    assert optree.tree_map(np.shape, statistics) == optree.tree_map(np.shape, model.init_state())
    close(fm.jit(lambda p, x, s: model(p, x, mode="running", state=s))(params, x, statistics), want)
    table = optree.tree_map(lambda a, b: np.stack([b, a, b]), statistics, wide(model.init_state()))
    assert optree.tree_map(np.shape, table) == optree.tree_map(np.shape, model.init_state(steps=2))
    by_step = fm.jit(lambda p, x, s, k: model(p, x, mode="per_step", step=k, state=s))
    close(by_step(params, x, table, 1), want)
    close(model(params, x, mode="per_step", step=1, state=table), want)
    assert not np.allclose(by_step(params, x, table, 0), want)


@pytest.mark.parametrize("model", [NET, Conv4(3, 4, (16, 16, 2)), ResNet12((2, 3, 3, 4), 4, (16, 16, 2))], ids=repr)
def test_a_scale_and_shift_for_every_step(model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *getattr(model, "input", (4,))))
    params = optree.tree_map(lambda p: p + rng.normal(size=p.shape), model.init(0, steps=2))
    for k in range(3):
        row = optree.tree_map_with_path(lambda path, p, k=k: p[k] if path[-1] in ("scale", "shift") else p, params)
        y, _ = fm.jit(lambda p, x, k: model(p, x, mode="per_step", step=k, return_statistics=True))(params, x, k)
        close(y, model(row, x))


def test_statistics_of_a_convolution_are_numpys():
    model = Conv4(3, 4, (16, 16, 2))
    params, x = wide(model.init(0)), np.random.default_rng(0).normal(size=(5, 16, 16, 2))
    _, (first, *_) = model(params, x, mode="running", return_statistics=True)
    h = fm.nn.conv2d(x, params[0]["w"])
    close(first, {"mean": h.mean(axis=(0, 1, 2)), "variance": h.var(axis=(0, 1, 2))})


@averaged
def test_derivatives_with_given_statistics(mode):
    state = wide(NET.init_state(steps=2 if mode == "per_step" else None))
    params, e = wide(NET.init(0)), episodes()
    step = 1 if mode == "per_step" else None
    check_grads(
        lambda p: fm.nn.cross_entropy(NET(p, e.query_x[0], mode=mode, step=step, state=state), e.query_y[0]), (params,)
    )


# --------------------------------------------------------------------------------------------------------- learners


def test_running_statistics_are_those_of_query_sets_at_the_adapted_weights(backend):
    learner, params, state = make(), wide(NET.init(0)), wide(NET.init_state())
    want = state
    for seed in range(3):
        e = episodes(seed)
        (_, aux), _ = learner.value_and_grad(params, e)
        state = learner.update_state(state, aux)
        adapted = [learner.adapt(params, x, y) for x, y in zip(e.support_x, e.support_y, strict=True)]
        found = mean_over_tasks([moments(w, xq) for w, xq in zip(adapted, e.query_x, strict=True)])
        want = optree.tree_map(lambda old, new: 0.9 * old + 0.1 * new, want, found)
    close(state, want)


def test_per_step_statistics_are_those_of_the_network_after_so_many_steps(backend):
    learner, params, e = make(mode="per_step"), wide(NET.init(0)), episodes()
    (_, aux), _ = learner.value_and_grad(params, e)
    state = learner.update_state(wide(learner.init_state()), aux)
    for k in range(STEPS + 1):
        seen = e.support_x if k < STEPS else e.query_x
        adapted = [learner.adapt(params, x, y, steps=k) for x, y in zip(*e[:2], strict=True)]
        found = mean_over_tasks([moments(w, x) for w, x in zip(adapted, seen, strict=True)])
        row = optree.tree_map(lambda table, k=k: table[k], state)
        close(row, optree.tree_map(lambda old, new: 0.9 * old + 0.1 * new, wide(NET.init_state()), found))
    rows = state[1]["mean"]
    assert all(not np.allclose(rows[a], rows[b]) for a, b in [(0, 1), (0, 2), (1, 2)])


@every_learner
@averaged
def test_statistics_are_in_no_gradient_and_change_none(kind, mode):
    """Training normalises by the batch in every mode: only what is kept beside the weights differs."""
    learner, plain, e = make(kind, mode), make(kind, "batch"), episodes()
    params = wide(plain.init(1))
    (loss, aux), gradient = learner.value_and_grad(params, e)
    (want, without), plain_gradient = plain.value_and_grad(params, e)
    close(loss, want)
    close(gradient, plain_gradient, rtol=1e-8)
    assert "statistics" not in without and plain.init_state() == ()
    leading = optree.tree_map(lambda s: (TASKS, *s.shape), learner.init_state())
    assert optree.tree_map(np.shape, aux["statistics"]) == leading


@averaged
@pytest.mark.parametrize("phase", [0, 5, 20])
def test_gradients_of_maml_plus_plus_with_statistics_and_affines_per_step(mode, phase):
    learner, e = make(fm.MAMLPlusPlus, mode, multi_loss=10), Episode(*(v[0] for v in episodes()))
    rng = np.random.default_rng(0)
    params = optree.tree_map(lambda p: p + 0.1 * rng.normal(size=p.shape), learner.init(0))
    weights, order = learner.phase(phase)
    shares = None if weights is None else [np.float64(w) for w in weights]
    check_grads(lambda p: learner.loss(p, e, shares, order)[0], (params,), order=1, modes=("rev",))


def test_maml_plus_plus_per_step_has_affines_per_step_that_inner_steps_leave_alone():
    learner, e = make(fm.MAMLPlusPlus, "per_step", multi_loss=0), episodes()
    params = wide(learner.init(0))
    assert params["weights"][0]["scale"].shape == (STEPS + 1, 6)
    _, gradient = learner.value_and_grad(params, e)
    assert all(np.abs(row).sum() > 1e-6 for row in gradient["weights"][0]["scale"])
    assert not gradient["rates"][0]["scale"].any()
    adapted = learner.adapt(params, e.support_x[0], e.support_y[0])
    np.testing.assert_array_equal(adapted[0]["scale"][STEPS], params["weights"][0]["scale"][STEPS])


@averaged
@every_learner
def test_a_prediction_does_not_depend_on_the_other_queries(kind, mode, backend):
    learner, e = make(kind, mode), episodes()
    params, x = wide(learner.init(0)), e.query_x[0]
    (_, aux), _ = learner.value_and_grad(params, e)
    state = learner.update_state(wide(learner.init_state()), aux)
    adapted = learner.adapt(params, e.support_x[0], e.support_y[0])
    together = learner.predict(adapted, x, state)
    for i in range(len(x)):
        np.testing.assert_allclose(learner.predict(adapted, x[i : i + 1], state)[0], together[i], rtol=1e-12)
    transductive = make(kind, "batch")
    if kind is not fm.MAMLPlusPlus or mode == "running":
        assert not np.allclose(transductive.predict(adapted, x[:3])[0], transductive.predict(adapted, x)[0], rtol=1e-3)


@averaged
def test_measure_is_predict_after_every_step(mode):
    """Beyond the steps of training too, where the last statistics serve."""
    learner, e = make(fm.MAMLPlusPlus, mode), episodes()
    params = wide(learner.init(0))
    (_, aux), _ = learner.value_and_grad(params, e)
    state = learner.update_state(wide(learner.init_state()), aux)
    measured = learner.measure(params, e, STEPS + 2, state)
    for t in range(TASKS):
        for k in range(STEPS + 3):
            adapted = learner.adapt(params, e.support_x[t], e.support_y[t], steps=k)
            logits = learner.predict(adapted, e.query_x[t], state, steps=k)
            assert measured["losses"][t, k] == pytest.approx(float(fm.nn.cross_entropy(logits, e.query_y[t])), rel=1e-9)
            assert measured["accuracies"][t, k] == pytest.approx((logits.argmax(-1) == e.query_y[t]).mean())


# --------------------------------------------------------------------------------------------------------- training


def trainer(kind, mode, **options):
    learner = kind(MLP((5, 8, 3), batch_norm=True), inner_lr=0.2, inner_steps=2, batch_norm=mode)
    return Trainer(learner, classes(), optim.adam(1e-2), **options)


@averaged
def test_the_trainer_averages_over_tasks_and_keeps_statistics_from_the_optimiser(mode):
    t = trainer(fm.MAMLPlusPlus, mode)
    trained = t.run(3)
    state = t.learner.init_state()
    for step in range(3):
        params = t.learner.init(0) if step == 0 else trainer(fm.MAMLPlusPlus, mode).run(step).params
        (_, aux), _ = t.learner.value_and_grad(params, classes().batch(step), *t.learner.phase(step))
        state = t.learner.update_state(state, aux)
    close(trained.state, state, rtol=1e-4)
    assert trained.state is trained.last_state
    assert optree.tree_structure(trained.optimizer.mean) == optree.tree_structure(trained.params)
    assert not any("variance" in map(str, path) for path in optree.tree_paths(trained.params))


@averaged
@pytest.mark.parametrize("kind", [fm.MAML, fm.MAMLPlusPlus])
def test_resumed_is_the_same_bits_with_state(tmp_path: Path, kind, mode):
    def make(folder):
        return trainer(
            kind, mode, out=tmp_path / folder, validation=classes(1), validate_every=4, validation_episodes=16
        )

    whole, half = make("a").run(12), make("b").run(6)
    part = make("b").run(12, half.checkpoint)
    assert_same_bits(
        (whole.params, whole.state, whole.last_params, whole.last_state, whole.optimizer),
        (part.params, part.state, part.last_params, part.last_state, part.optimizer),
    )
    assert [row[:3] for row in whole.validations] == [row[:3] for row in part.validations if row[0] != 6]
    learner = make("c").learner
    best = max(whole.validations, key=lambda row: row[2])
    again = evaluate(learner, whole.params, classes(1), episodes=16, state=whole.state)
    assert again["accuracy"] == pytest.approx(best[2])
    stored = load_checkpoint(
        whole.checkpoint, params=whole.params, extra={"state": learner.init_state(), "best_state": learner.init_state()}
    )
    assert_same_bits((stored.extra["state"], stored.extra["best_state"]), (whole.last_state, whole.state))


@averaged
def test_a_trained_learner_is_about_as_good_without_the_other_queries(mode):
    t = trainer(fm.MAML, mode)
    trained, unseen = t.run(150), classes(2)
    accuracy = evaluate(t.learner, trained.params, unseen, episodes=100, state=trained.state)["accuracy"]
    by_batch = evaluate(trainer(fm.MAML, "batch").learner, trained.params, unseen, episodes=100)["accuracy"]
    assert accuracy > by_batch - 0.15
