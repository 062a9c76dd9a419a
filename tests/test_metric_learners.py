"""Learners that compare: against closed forms and torch in float64, on labels they cannot use, in training."""

from __future__ import annotations

import re

import numpy as np
import optree
import pytest
import torch

import fastmeta as fm
from fastmeta.data import Episode, EpisodeSampler
from fastmeta.models import MLP, Conv4
from fastmeta.train.trainer import Trainer

TASKS, WAYS, SHOTS, QUERIES, INPUTS = 3, 4, 2, 3, 5


def episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES, seed=0):
    """Shuffled labels, in float64."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(tasks, ways, INPUTS))

    def draw(n):
        y = np.stack([rng.permutation(np.repeat(np.arange(ways), n)) for _ in range(tasks)])
        return np.take_along_axis(centres, y[:, :, None], 1) + 0.5 * rng.normal(size=(tasks, ways * n, INPUTS)), y

    return Episode(*draw(shots), *draw(queries))


def wide(params):
    return optree.tree_map(lambda p: p.astype(np.float64), params)


MODEL = MLP((INPUTS, 6, 3), activation="tanh")
WEIGHTS = wide(MODEL.init(1))


def by_torch(params, e, task_loss):
    """Mean loss and gradient, flat; ``task_loss(params, embed, xs, ys, xq, yq) -> (loss, logits)`` of torch tensors."""
    tensors = optree.tree_map(lambda p: torch.tensor(p, requires_grad=True), params)

    def embed(weights, x):
        return torch.tanh(x @ weights[0]["w"] + weights[0]["b"]) @ weights[1]["w"] + weights[1]["b"]

    each = [task_loss(tensors, embed, *[torch.tensor(part[t]) for part in e]) for t in range(len(e[0]))]
    loss = torch.stack([value for value, _ in each]).mean()
    loss.backward()
    gradient = [np.zeros(p.shape) if p.grad is None else p.grad.numpy() for p in optree.tree_leaves(tensors)]
    return loss.item(), gradient, torch.stack([logits for _, logits in each]).detach().numpy()


def agree(learner, params, e, task_loss, rtol=1e-9):
    """Loss, gradient, logits, accuracy; adapt and predict, and measure."""
    value, want, logits = by_torch(params, e, task_loss)
    (loss, aux), gradient = learner.value_and_grad(params, e)
    np.testing.assert_allclose(loss, value, rtol)
    for g, w in zip(optree.tree_leaves(gradient), want, strict=True):
        np.testing.assert_allclose(g, w, rtol, atol=rtol)
    np.testing.assert_allclose(aux["outputs"], logits, rtol, atol=rtol)
    accuracy = (logits.argmax(-1) == e.query_y).mean(-1)
    np.testing.assert_allclose(aux["accuracy"], accuracy, 1e-6)
    measured = learner.measure(params, e)
    np.testing.assert_allclose(measured["losses"].mean(), value, rtol)
    np.testing.assert_allclose(measured["accuracies"][:, 0], accuracy, 1e-6)
    adapted = learner.adapt(params, e.support_x[1], e.support_y[1])
    np.testing.assert_allclose(learner.predict(adapted, e.query_x[1]), logits[1], rtol, atol=rtol)


def means(z, y):
    return torch.stack([z[y == c].mean(0) for c in range(int(y.max()) + 1)])


def scored(logits, yq):
    return torch.nn.functional.cross_entropy(logits, yq), logits


# ------------------------------------------------------------------------------------------------------ ProtoNet

DISTANCES = {
    "sqeuclidean": lambda a, b: ((a[:, None] - b) ** 2).sum(-1),
    "euclidean": torch.cdist,
    "cosine": lambda a, b: 1 - torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1),
    "l1": lambda a, b: (a[:, None] - b).abs().sum(-1),
    "dot": lambda a, b: -a @ b.T,
}


@pytest.mark.parametrize("metric", DISTANCES)
def test_protonet_is_torchs(metric, backend):
    def loss(params, embed, xs, ys, xq, yq):
        return scored(-DISTANCES[metric](embed(params, xq), means(embed(params, xs), ys)), yq)

    agree(fm.ProtoNet(MODEL, metric=metric), WEIGHTS, episodes(), loss)


def test_any_number_of_classes_in_tests_and_ways_in_training():
    train = EpisodeSampler.from_arrays(*points(), ways=5, shots=1, queries=2, tasks=4)
    learner = fm.ProtoNet(MLP((INPUTS, 16, 8)), ways=5)
    trained = Trainer(learner, train, fm.optim.adam(1e-2), validation=train, validate_every=30, validation_episodes=20).run(60)
    for ways in (2, 3, 8):
        tests = EpisodeSampler.from_arrays(*points(), ways=ways, shots=1, queries=2, tasks=50, seed=9)
        assert learner.evaluate(trained.params, tests.batch(0))["accuracy"] > 0.9
    assert trained.history[-1][1] < trained.history[0][1]


def points(classes=10, each=8):
    """Examples of well separated classes, float32."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    return (3 * rng.normal(size=(classes, INPUTS))[y] + 0.2 * rng.normal(size=(len(y), INPUTS))).astype(np.float32), y


def test_conv4_without_classes_is_an_embedding():
    model, whole = Conv4(8, None), Conv4(8, 5)
    params, x = model.init(3), np.random.default_rng(0).random((6, 28, 28, 1)).astype(np.float32)
    assert model.outputs == whole.features == 8 and whole.outputs == 5 and len(params) == 4
    head = {"w": np.eye(8, 5, dtype=np.float32), "b": np.zeros(5, np.float32)}
    np.testing.assert_array_equal(model(params, x)[:, :5], whole([*params, head], x))
    with pytest.raises(ValueError, match="4 layers of parameters, got 5"):
        model(whole.init(0), x)


# ----------------------------------------------------------------------------------------------------- bad input


def changed(**parts):
    return episodes()._replace(**parts)


E = episodes()
BAD = [
    (lambda p: fm.ProtoNet(3), TypeError, "[ProtoNet] expected model a function, got int"),
    (lambda p: fm.ProtoNet(MODEL, metric="manhattan"), ValueError, "[ProtoNet] expected metric one of sqeuclidean, "),
    (lambda p: fm.ProtoNet(MODEL, ways=0), ValueError, "[ProtoNet] expected ways at least 1, got 0"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(support_y=np.where(E.support_y == 1, 0, E.support_y))), ValueError,
     "[ProtoNet] expected support examples of every class 0..3, got class 1 without one in task 0"),
    (lambda p: fm.ProtoNet(MODEL).value_and_grad(p, changed(support_y=E.support_y - 1)), ValueError, "[ProtoNet] expected labels of at least 0, got -1"),
    (lambda p: fm.ProtoNet(MODEL).value_and_grad(p, changed(query_y=E.query_y + 1)), ValueError, "[ProtoNet] expected query labels in 0..3, the support's, got 1..4"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(query_y=1.0 * E.query_y)), TypeError, "[ProtoNet] expected query_y of whole numbers, the classes, got float64"),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, E.support_x[0], 1.0 * E.support_y[0]), TypeError, "[ProtoNet] expected support_y of whole numbers, the classes, got float64"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(query_x=E.query_x[..., :4])), ValueError, "[ProtoNet] expected support and queries alike, got [8, 5] and [12, 4]"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(support_y=E.support_y[:, :7])), ValueError, "[ProtoNet] expected as many support_x as support_y, got "),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, E.support_x[0]), TypeError, "[ProtoNet] expected a support set (x, y), got 1 arguments"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, E, steps=2), ValueError, "[ProtoNet] expected no inner steps (None or 0), got 2"),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, [[0.0] * 5, [1.0]], np.array([0, 1])), ValueError, "expected rows of one shape"),
    (lambda p: fm.jit(lambda e: fm.ProtoNet(MODEL).value_and_grad(p, e))(E), ValueError, "[ProtoNet] expected ways where labels are traced"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call(WEIGHTS)
