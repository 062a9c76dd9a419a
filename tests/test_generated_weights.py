"""Learners that make weights from the support set, of a classifier's classes or of a whole net: against torch in float64, in training."""

from __future__ import annotations

import pickle
import re
from math import prod

import numpy as np
import optree
import pytest
import torch
from test_metric_learners import MODEL, QUERIES, TASKS, WAYS, agree, by_torch, episodes, points, scored, wide

import fastmeta as fm
from fastmeta.data import Episode, EpisodeSampler, Sinusoid
from fastmeta.models import MLP, RelationEncoder
from fastmeta.train.trainer import Trainer

# ------------------------------------------------------------------------------------- weights of a classifier's classes

GENERATOR = fm.WeightGenerator(MODEL, bases=7)


def varied(seed=1):
    """Meta-parameters of which none is 1 or the identity."""
    rng = np.random.default_rng(seed)
    params = wide(GENERATOR.init(seed))
    return params | {name: params[name] + 0.3 * rng.normal(size=params[name].shape) for name in params if name != "model"}


def generated(params, embed, xs, ys, xq, yq):
    """Class by class and example by example, as the paper has it."""
    unit = lambda v: v / v.norm(dim=-1, keepdim=True)
    weights = []
    for c in range(int(ys.max()) + 1):
        z = unit(embed(params["model"], xs[ys == c]))
        attended = []
        for example in z:
            near = (unit(params["keys"]) * unit(example @ params["query"])).sum(1)
            attention = torch.softmax(params["attention_scale"] * near, 0)
            attended.append((attention[:, None] * unit(params["bases"])).sum(0))
        weights.append(params["phi_avg"] * z.mean(0) + params["phi_att"] * torch.stack(attended).mean(0))
    logits = params["scale"] * unit(embed(params["model"], xq)) @ unit(torch.stack(weights)).T
    return scored(logits, yq)


@pytest.mark.parametrize("ways", [1, 2, WAYS])
def test_weight_generators_are_torchs(ways, backend):
    agree(GENERATOR, varied(), episodes(ways=ways), generated, rtol=1e-8)


def test_weight_generators_take_uneven_shots():
    e = episodes(tasks=TASKS, shots=3)
    agree(GENERATOR, varied(), e._replace(support_x=e.support_x[:, 2:], support_y=e.support_y[:, 2:]), generated, rtol=1e-8)


def test_without_attention_a_weight_generator_is_a_nearest_mean_by_cosine():
    unit, e = fm.Frozen(normalize=True), episodes()
    params = varied() | {"model": (), "phi_avg": np.ones(5), "phi_att": np.zeros(5), "bases": np.ones((7, 5)), "keys": np.ones((7, 5)), "query": np.eye(5), "scale": np.array(4.0)}
    (_, by_weights), _ = fm.WeightGenerator(unit, bases=7).value_and_grad(params, e)
    (_, nearest), _ = fm.ProtoNet(unit, metric="cosine", temperature=0.25).value_and_grad((), e)
    np.testing.assert_allclose(by_weights["outputs"] - 4, nearest["outputs"], 1e-9, atol=1e-12)


def test_weight_generators_train_on_some_ways_and_take_others():
    train = EpisodeSampler.from_arrays(*points(), ways=5, shots=1, queries=2, tasks=4)
    learner = fm.WeightGenerator(MLP((5, 16, 8)), bases=10, ways=5)
    trained = Trainer(learner, train, fm.optim.adam(3e-3)).run(60)
    tests = EpisodeSampler.from_arrays(*points(), ways=8, shots=2, queries=2, tasks=50, seed=9)
    assert learner.evaluate(trained.params, tests.batch(0))["accuracy"] > 0.9
    assert all(np.abs(trained.params[name] - fresh).max() > 0 for name, fresh in learner.init(0).items() if name != "model")


def test_the_start_of_a_weight_generator_is_of_its_seed():
    a, b, other = GENERATOR.init(0), GENERATOR.init(0), GENERATOR.init(1)
    assert {name: p.shape for name, p in a.items() if name != "model"} == {
        "bases": (7, 3), "keys": (7, 3), "query": (3, 3), "phi_avg": (3,), "phi_att": (3,), "scale": (), "attention_scale": (),
    }  # fmt: skip
    assert all(np.array_equal(x, y) for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True))
    assert not np.array_equal(a["bases"], other["bases"]) and not np.array_equal(a["bases"], a["keys"])


# ------------------------------------------------------------------------------------------------------ of a whole net

NET, INPUTS = MLP((5, 4, WAYS), activation="tanh"), 5
HYPER = fm.HyperNetwork(NET, MLP((INPUTS + WAYS, 6, 4), activation="tanh"), MLP((4, 6, 3), activation="tanh"))
REGRESSION = fm.HyperNetwork(NET, HYPER.encoder, HYPER.generator, loss=fm.nn.mse)


def hyper_params(seed=1):
    """Directions that are not zeros."""
    params = wide(HYPER.init(seed))
    return params | {"directions": 0.3 * np.random.default_rng(seed).normal(size=params["directions"].shape)}


PARAMS, E = hyper_params(), episodes()
TARGETS = Episode(E.support_x, np.random.default_rng(5).normal(size=(*E.support_y.shape, WAYS)), E.query_x, np.random.default_rng(6).normal(size=(*E.query_y.shape, WAYS)))


def made(params, embed, xs, ys):
    """The layers of the net, from one row of numbers in the order b, w of each layer."""
    if not ys.dtype.is_floating_point:
        ys = torch.nn.functional.one_hot(ys, WAYS)
    task = embed(params["encoder"], torch.cat([xs, ys], 1)).mean(0)
    row = embed(params["generator"], task) @ params["directions"]
    layers = []
    for layer in params["weights"]:
        layers.append({})
        for name in ("b", "w"):
            n = prod(layer[name].shape)
            layers[-1][name] = layer[name] + row[:n].reshape(layer[name].shape)
            row = row[n:]
    assert not len(row)
    return layers


def classified(params, embed, xs, ys, xq, yq):
    return scored(embed(made(params, embed, xs, ys), xq), yq)


def test_hypernetworks_are_torchs(backend):
    agree(HYPER, PARAMS, E, classified)


def test_hypernetworks_for_regression_are_torchs(backend):
    def loss(params, embed, xs, ys, xq, yq):
        outputs = embed(made(params, embed, xs, ys), xq)
        return ((outputs - yq) ** 2).mean(), outputs

    value, want, outputs = by_torch(PARAMS, TARGETS, loss)
    (got, aux), gradient = REGRESSION.value_and_grad(PARAMS, TARGETS)
    np.testing.assert_allclose(got, value, 1e-9)
    np.testing.assert_allclose(aux["outputs"], outputs, 1e-8)
    for g, w in zip(optree.tree_leaves(gradient), want, strict=True):
        np.testing.assert_allclose(g, w, 1e-8, atol=1e-10)
    measured = REGRESSION.measure(PARAMS, TARGETS)
    assert set(measured) == {"losses"} and measured["losses"].shape == (TASKS, 1)


def test_a_task_is_adapted_to_as_weights_of_the_model():
    weights = HYPER.adapt(PARAMS, E.support_x[0], E.support_y[0])
    assert optree.tree_structure(weights) == optree.tree_structure(PARAMS["weights"])
    np.testing.assert_allclose(NET(weights, E.query_x[0]), HYPER.predict(weights, E.query_x[0]), 1e-12)
    assert HYPER.predict(weights, E.query_x[0]).shape == (WAYS * QUERIES, WAYS)


def test_at_first_all_tasks_have_the_models_own_initial_weights():
    start, model = HYPER.init(3), NET.init(3)
    for x, y in zip(E.support_x, E.support_y, strict=True):
        weights = HYPER.adapt(start, x.astype(np.float32), y)
        assert all(np.array_equal(a, b) for a, b in zip(optree.tree_leaves(weights), optree.tree_leaves(model), strict=True))
    assert not np.array_equal(start["encoder"][1]["w"].ravel()[:6], start["generator"][0]["w"].ravel()[:6])


def test_neither_the_order_nor_the_number_of_support_examples_matters():
    order = np.random.default_rng(1).permutation(len(E.support_y[0]))
    x, y = E.support_x[0], E.support_y[0]
    want = optree.tree_leaves(HYPER.adapt(PARAMS, x, y))
    for again in ((x[order], y[order]), (np.tile(x, (2, 1)), np.tile(y, 2))):
        for a, b in zip(optree.tree_leaves(HYPER.adapt(PARAMS, again)), want, strict=True):
            np.testing.assert_allclose(a, b, 1e-12, atol=1e-14)


@pytest.mark.parametrize(("learner", "e"), [(HYPER, E), (REGRESSION, TARGETS)], ids=["classification", "regression"])
def test_the_loss_of_a_hypernetwork_is_differentiated_to_second_order(learner, e):
    task = Episode(*[part[0, :3] for part in e])
    fm.testing.check_grads(lambda params: learner.loss(params, task)[0], (PARAMS,), rtol=1e-4, atol=1e-5)


def test_hypernetworks_learn_sinusoids():
    learner = fm.HyperNetwork(MLP((1, 32, 32, 1)), MLP((2, 64, 64)), MLP((64, 64, 16)), loss=fm.nn.mse)
    trained = Trainer(learner, Sinusoid(tasks=16), fm.optim.adam(1e-3)).run(600)
    tests = Sinusoid(tasks=200, seed=1).batch(0)
    before, after = (learner.evaluate(p, tests)["loss"] for p in (learner.init(0), trained.params))
    assert after < 0.5 * before and after < 0.35 * np.mean(tests.query_y**2)


def test_hypernetworks_learn_to_classify():
    """Nothing but the support set tells which of the classes has which label."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 10)
    x = (rng.normal(size=(40, 2))[labels] + 0.1 * rng.normal(size=(400, 2))).astype(np.float32)
    train, tests = (EpisodeSampler.from_arrays(x, labels, ways=2, shots=3, queries=5, tasks=n, classes=c) for n, c in ((16, range(30)), (100, range(30, 40))))
    learner = fm.HyperNetwork(MLP((2, 16, 2)), MLP((4, 32, 32)), MLP((32, 32, 16)))
    trained = Trainer(learner, train, fm.optim.adam(3e-3)).run(300)
    assert learner.evaluate(trained.params, tests.batch(0))["accuracy"] > 0.85


def test_a_hypernetwork_is_pickled_as_it_was_made():
    assert repr(HYPER) == f"HyperNetwork({NET!r}, {HYPER.encoder!r}, {HYPER.generator!r})"
    again = pickle.loads(pickle.dumps(REGRESSION))
    assert repr(again) == repr(REGRESSION) and again.loss_function is fm.nn.mse


BAD = [
    (lambda: fm.WeightGenerator(MODEL, bases=0), ValueError, "[WeightGenerator] expected bases at least 1, got 0"),
    (lambda: fm.WeightGenerator(MODEL, bases=1.5), TypeError, "[WeightGenerator] expected bases a whole number, got 1.5 (float)"),
    (lambda: fm.WeightGenerator(None, bases=3), TypeError, "[WeightGenerator] expected model a function, got NoneType"),
    (lambda: fm.WeightGenerator(fm.Frozen(), bases=3).init(), TypeError, "[WeightGenerator] expected model.outputs, the number of its features, got Frozen without it"),
    (lambda: fm.WeightGenerator(RelationEncoder(4), bases=3).init(), TypeError, "[WeightGenerator] expected model.outputs, the number of its features, got (5, 5, 4)"),
    (lambda: fm.MatchingNet(fm.Frozen(), context=1).init(), TypeError, "[MatchingNet] expected model.outputs, the number of its features, got Frozen without it"),
    (lambda: fm.Siamese(fm.Frozen(), "weighted-l1").init(), TypeError, "[Siamese] expected model.outputs, the number of its features, got Frozen without it"),
    (lambda: fm.HyperNetwork(3, MODEL, MODEL), TypeError, "[HyperNetwork] expected model a function, got int"),
    (lambda: fm.HyperNetwork(NET, None, MODEL), TypeError, "[HyperNetwork] expected encoder a function, got NoneType"),
    (lambda: fm.HyperNetwork(NET, MODEL, 16), TypeError, "[HyperNetwork] expected generator a function, got int"),
    (lambda: fm.HyperNetwork(NET, MODEL, MODEL, loss="mse"), TypeError, "[HyperNetwork] expected loss a function, got str"),
    (lambda: fm.HyperNetwork(lambda p, x: x, MODEL, MODEL).init(), TypeError, "[HyperNetwork] expected a model with init(seed), got function"),
    (lambda: fm.HyperNetwork(NET, MODEL, fm.Frozen()).init(), TypeError, "[HyperNetwork] expected generator.outputs, the number of its features, got Frozen without it"),
    (lambda: HYPER.measure(PARAMS, E._replace(support_y=E.support_y + 1)), IndexError, "[take] expected an index in 0..3, got 4 in task 0"),
    (lambda: HYPER.adapt(PARAMS, E.support_x[0], E.support_y[0] - 1), IndexError, "[take] expected an index in 0..3, got -1"),
    (lambda: HYPER.measure(PARAMS, E._replace(query_y=E.query_y + 1)), IndexError, "[cross_entropy] expected a label in 0..3, got 4 in task 0"),
    (lambda: REGRESSION.measure(PARAMS, TARGETS._replace(query_y=TARGETS.query_y[..., 0])), ValueError, "[mse] expected a target of shape"),
    (lambda: HYPER.measure(PARAMS, E, steps=1), ValueError, "[HyperNetwork] expected no inner steps (None or 0), got 1"),
    (lambda: HYPER.adapt(PARAMS, E.support_x[0], E.support_y[0, :3]), ValueError, "[HyperNetwork] expected as many support_x as support_y, got"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call()
