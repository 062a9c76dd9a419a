"""Conditional neural processes: against torch in float64, sets without an order, training, bad input."""

from __future__ import annotations

import pickle
import re

import numpy as np
import optree
import pytest
import torch
from test_metric_learners import wide

import fastmeta as fm
from fastmeta.data import Episode, Sinusoid
from fastmeta.models import MLP
from fastmeta.train.trainer import Trainer

TASKS, INPUTS, TARGETS, FEATURES = 3, 3, 2, 5
ENCODER = MLP((INPUTS + TARGETS, 6, FEATURES), activation="tanh")
DECODER = MLP((FEATURES + INPUTS, 7, 2 * TARGETS), activation="tanh")
LEARNER = fm.NeuralProcess(ENCODER, DECODER)
PARAMS = wide(LEARNER.init(1))


def episodes(seed=0):
    rng = np.random.default_rng(seed)
    return Episode(*(rng.normal(size=(TASKS, n, k)) for n in (6, 4) for k in (INPUTS, TARGETS)))


E = episodes()


def mlp(layers, x):
    return torch.tanh(x @ layers[0]["w"] + layers[0]["b"]) @ layers[1]["w"] + layers[1]["b"]


def test_neural_processes_are_torchs(backend):
    tensors = optree.tree_map(lambda p: torch.tensor(p, requires_grad=True), PARAMS)
    losses, means, spreads = [], [], []
    for xs, ys, xq, yq in zip(*(torch.tensor(part) for part in E), strict=True):
        r = torch.stack([mlp(tensors["encoder"], torch.cat([x, y])) for x, y in zip(xs, ys, strict=True)]).mean(0)
        outputs = torch.stack([mlp(tensors["decoder"], torch.cat([r, x])) for x in xq])
        normal = torch.distributions.Normal(outputs[:, :TARGETS], 0.1 + 0.9 * torch.nn.functional.softplus(outputs[:, TARGETS:]))
        losses.append(-normal.log_prob(yq).mean())
        means.append(normal.mean.detach().numpy())
        spreads.append(normal.stddev.detach().numpy())
    want = torch.stack(losses).mean()
    want.backward()
    (loss, aux), gradient = LEARNER.value_and_grad(PARAMS, E)
    np.testing.assert_allclose(loss, want.item(), 1e-12)
    np.testing.assert_allclose(aux["outputs"], means, 1e-9)
    np.testing.assert_allclose(aux["spread"], spreads, 1e-9)
    for g, w in zip(optree.tree_leaves(gradient), optree.tree_leaves(tensors), strict=True):
        np.testing.assert_allclose(g, w.grad, 1e-8, atol=1e-12)
    measured = LEARNER.measure(PARAMS, E)
    np.testing.assert_allclose(measured["losses"], [[value.item()] for value in losses], 1e-9)
    assert set(measured) == {"losses"}
    adapted = LEARNER.adapt(PARAMS, E.support_x[1], E.support_y[1])
    np.testing.assert_allclose(LEARNER.predict(adapted, E.query_x[1]), means[1], 1e-9)
    for got, want in zip(LEARNER.distribution(adapted, E.query_x[1]), (means[1], spreads[1]), strict=True):
        np.testing.assert_allclose(got, want, 1e-9)


def test_neither_the_order_nor_the_number_of_support_examples_matters():
    order = np.random.default_rng(1).permutation(6)
    x, y = E.support_x[0], E.support_y[0]
    r = LEARNER.adapt(PARAMS, x, y)[1]
    np.testing.assert_allclose(LEARNER.adapt(PARAMS, (x[order], y[order]))[1], r, 1e-12)
    np.testing.assert_allclose(LEARNER.adapt(PARAMS, np.tile(x, (3, 1)), np.tile(y, (3, 1)))[1], r, 1e-12)
    one = [LEARNER.adapt(PARAMS, x[k : k + 1], y[k : k + 1])[1] for k in range(6)]
    np.testing.assert_allclose(np.mean(one, axis=0), r, 1e-12)
    assert np.ptp(one, axis=0).min() > 0.01


def test_an_input_of_several_axes_is_flattened():
    x, y = E.support_x[0], E.support_y[0]
    flat, folded = (LEARNER.predict(LEARNER.adapt(PARAMS, v, y), v) for v in (x, x.reshape(6, 1, INPUTS)))
    np.testing.assert_array_equal(flat, folded)


def test_the_loss_is_differentiated_to_second_order():
    task = Episode(*[part[0, :2] for part in E])
    fm.testing.check_grads(lambda params: LEARNER.loss(params, task)[0], (PARAMS,), rtol=1e-4, atol=1e-5)


def test_it_learns_sinusoids_and_how_far_off_it_is():
    learner = fm.NeuralProcess(MLP((2, 64, 64)), MLP((65, 64, 64, 2)))
    trained = Trainer(learner, Sinusoid(tasks=16), fm.optim.adam(3e-3)).run(1000)
    tests = Sinusoid(tasks=200, seed=1).batch(0)
    before, after = (learner.evaluate(p, tests)["loss"] for p in (learner.init(0), trained.params))
    assert after < 1.4 < 2.1 < before  # nats; 2.15 of one normal distribution of all targets
    (_, aux), _ = learner.value_and_grad(trained.params, tests)
    off = np.square(aux["outputs"] - tests.query_y)
    assert np.mean(off) < 0.4 * np.mean(tests.query_y**2)
    assert 0.7 < np.mean(off / np.square(aux["spread"])) < 1.5


def test_it_is_pickled_as_it_was_made():
    assert repr(LEARNER) == f"NeuralProcess({ENCODER!r}, {DECODER!r})" == repr(pickle.loads(pickle.dumps(LEARNER)))


def other(decoder):
    learner = fm.NeuralProcess(ENCODER, decoder)
    return learner.measure(wide(learner.init(0)), E)


BAD = [
    (lambda: fm.NeuralProcess(ENCODER, None), TypeError, "[NeuralProcess] expected decoder a function, got NoneType"),
    (lambda: fm.NeuralProcess(3, DECODER), TypeError, "[NeuralProcess] expected encoder a function, got int"),
    (lambda: fm.NeuralProcess(ENCODER, lambda p, x: x).init(), TypeError, "[NeuralProcess] expected a model with init(seed), got function"),
    (lambda: LEARNER.adapt(PARAMS, E.support_x[0], np.zeros(6, int)), TypeError, "[NeuralProcess] expected float targets, got int32. Give labels as fm.one_hot"),
    (lambda: LEARNER.measure(PARAMS, E._replace(query_y=E.query_y[..., :1])), ValueError, "[NeuralProcess] expected targets [4, 2], as the decoder gives, got shape [4, 1]"),
    (lambda: LEARNER.measure(PARAMS, E._replace(query_y=E.query_y[..., 0])), ValueError, "[NeuralProcess] expected targets [4, 2], as the decoder gives, got shape [4]"),
    (lambda: other(MLP((8, 3))), ValueError, "[NeuralProcess] expected a decoder that gives [n, 2 targets], got shape [4, 3]"),
    (lambda: other(MLP((7, 4))), ValueError, "[MLP] expected x [n, ...] with 7 features, got shape [4, 8]"),
    (lambda: LEARNER.adapt(PARAMS, E.support_x[0]), TypeError, "[NeuralProcess] expected a support set (x, y), got 1 arguments"),
    (lambda: LEARNER.adapt(PARAMS, E.support_x[0], E.support_y[0, :4]), ValueError, "[NeuralProcess] expected as many support_x as support_y, got [6, 3] and [4, 2]"),
    (lambda: LEARNER.adapt(PARAMS, E.support_x[0, :0], E.support_y[0, :0]), ValueError, "[NeuralProcess] expected at least one support example, got 0"),
    (lambda: LEARNER.measure(PARAMS, E._replace(query_x=E.query_x[:, :3])), ValueError, "[NeuralProcess] expected as many query_x as query_y, got [3, 3] and [4, 2]"),
    (lambda: LEARNER.measure(PARAMS, E, steps=3), ValueError, "[NeuralProcess] expected no inner steps (None or 0), got 3"),
    (lambda: LEARNER.measure(PARAMS, E[:3]), TypeError, "[NeuralProcess] expected an episode (support_x, support_y, query_x, query_y), got a tuple of 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call()
