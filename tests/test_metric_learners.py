"""Learners that compare: against closed forms and torch in float64, on labels they cannot use, in training."""

from __future__ import annotations

import pickle
import re
from functools import partial

import numpy as np
import optree
import pytest
import torch

import fastmeta as fm
from fastmeta.algorithms import Frozen
from fastmeta.data import Episode, EpisodeSampler, Sampler, SemiSupervised
from fastmeta.models import MLP, Conv4, RelationEncoder, RelationModule
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
    adapted = learner.adapt(params, fm.tree_map(lambda part: part[1], e))
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


def test_protonet_divides_by_its_temperature():
    def loss(params, embed, xs, ys, xq, yq):
        return scored(-DISTANCES["sqeuclidean"](embed(params, xq), means(embed(params, xs), ys)) / 3, yq)

    agree(fm.ProtoNet(MODEL, temperature=3.0), WEIGHTS, episodes(), loss)


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_soft_k_means_moves_prototypes_to_unlabelled_examples(refinements, backend):
    e = episodes(shots=5)
    e = e._replace(support_y=np.where(np.arange(20) % 3 == 2, -1, e.support_y))
    for y in e.support_y:
        assert set(y) == {-1, 0, 1, 2, 3}

    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params, xs), embed(params, xq)
        p = torch.stack([z[ys == c].mean(0) for c in range(WAYS)])
        for _ in range(refinements):
            w = torch.softmax(-DISTANCES["sqeuclidean"](z[ys < 0], p), 1)
            p = torch.stack([(z[ys == c].sum(0) + (w[:, c, None] * z[ys < 0]).sum(0)) / ((ys == c).sum() + w[:, c].sum()) for c in range(WAYS)])
        return scored(-DISTANCES["sqeuclidean"](q, p), yq)

    agree(fm.SemiSupervisedProtoNet(MODEL, refinements=refinements), WEIGHTS, e, loss)


# ------------------------------------------------------------------------------------- matching, relation, siamese


def matched(q, keys, ys, metric, temperature):
    """log of the attention paid to each class."""
    a = torch.softmax(-DISTANCES[metric](q, keys) / temperature, 1)
    return torch.stack([a[:, ys == c].sum(1) for c in range(WAYS)], 1).log()


@pytest.mark.parametrize(("metric", "temperature"), [("cosine", 1.0), ("cosine", 0.1), ("sqeuclidean", 1.0)])
def test_matching_networks_are_torchs(metric, temperature, backend):
    def loss(params, embed, xs, ys, xq, yq):
        logits = matched(embed(params, xq), embed(params, xs), ys, metric, temperature)
        return scored(logits, yq)

    learner, e = fm.MatchingNet(MODEL, metric, temperature), episodes()
    value, want, logits = by_torch(WEIGHTS, e, loss)
    (got, aux), gradient = learner.value_and_grad(WEIGHTS, e)
    np.testing.assert_allclose(got, value, 1e-9)
    np.testing.assert_allclose(fm.softmax(aux["outputs"]), np.exp(logits), 1e-8)  # scores are not normalised
    for g, w in zip(optree.tree_leaves(gradient), want, strict=True):
        np.testing.assert_allclose(g, w, 1e-8, atol=1e-10)


def test_classes_far_from_a_query_do_not_underflow():
    e = episodes(tasks=1)._replace(query_x=300 * episodes(tasks=1).query_x)
    e = Episode(*[part.astype(np.float32) if part.dtype.kind == "f" else part for part in e])
    (loss, aux), gradient = fm.MatchingNet(Frozen(), "sqeuclidean").value_and_grad((), e)
    distances = ((e.query_x[0][:, None].astype(np.float64) - e.support_x[0]) ** 2).sum(-1)
    nearest = np.stack([distances[:, e.support_y[0] == c].min(1) for c in range(WAYS)], 1)
    assert np.ptp(nearest, axis=1).max() > 1000  # softmax would be 0 in float32
    np.testing.assert_allclose(aux["outputs"][0], -nearest, 1e-3, atol=1.0)
    params = optree.tree_map(lambda p: p.astype(np.float32), WEIGHTS)
    _, gradient = fm.MatchingNet(MLP((INPUTS, 6, 3)), "sqeuclidean").value_and_grad(params, e)
    assert all(np.isfinite(g).all() for g in optree.tree_leaves(gradient))


def test_matching_by_the_squared_distance_is_a_prototypical_network_for_one_shot():
    e = episodes(shots=1)
    for a, b in zip(*(optree.tree_leaves(learner.value_and_grad(WEIGHTS, e)[1]) for learner in (fm.MatchingNet(MODEL, "sqeuclidean"), fm.ProtoNet(MODEL))), strict=True):
        np.testing.assert_allclose(a, b, 1e-8, atol=1e-12)


def torch_lstm(p, x, h, c):
    i, f, g, o = (x @ p["w"] + h @ p["u"] + p["b"]).split(h.shape[-1], -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_full_context_embeddings_are_torchs(metric, loops):
    steps, learner = 3, fm.MatchingNet(MODEL, metric, context=3)
    params = wide(learner.init(2))

    def along(p, z):
        h = c = torch.zeros(z.shape[1], dtype=z.dtype)
        outputs = []
        for x in z:
            h, c = torch_lstm(p, x, h, c)
            outputs.append(h)
        return torch.stack(outputs)

    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params["model"], xs), embed(params["model"], xq)
        z = z + along(params["support"]["forward"], z) + along(params["support"]["backward"], z.flip(0)).flip(0)
        h = c = torch.zeros_like(q)
        for _ in range(steps):
            h, c = torch_lstm(params["query"], torch.cat([q, torch.softmax(h @ z.T, 1) @ z], 1), h, c)
            h = h + q
        return scored(matched(h, z, ys, metric, 1.0), yq)

    e = episodes()
    value, want, logits = by_torch(params, e, loss)
    (got, aux), gradient = learner.value_and_grad(params, e)
    np.testing.assert_allclose(got, value, 1e-9)
    np.testing.assert_allclose(fm.softmax(aux["outputs"]), np.exp(logits), 1e-8)
    for g, w in zip(optree.tree_leaves(gradient), want, strict=True):
        np.testing.assert_allclose(g, w, 1e-7, atol=1e-10)


def test_relation_networks_are_torchs(backend):
    relation = MLP((6, 4, 1), activation="tanh")
    learner = fm.RelationNet(MODEL, relation)
    params = wide(learner.init(3))

    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params["model"], xs), embed(params["model"], xq)
        sums = torch.stack([z[ys == c].sum(0) for c in range(WAYS)])
        pairs = torch.cat([sums.expand(len(q), -1, -1), q[:, None].expand(-1, WAYS, -1)], -1)
        scores = embed(params["relation"], pairs)[..., 0]
        return ((torch.sigmoid(scores) - torch.nn.functional.one_hot(yq, WAYS)) ** 2).mean(), scores

    agree(learner, params, episodes(), loss)


def test_relation_networks_compare_maps_of_images():
    encoder, module = RelationEncoder(4), RelationModule(4)
    learner = fm.RelationNet(encoder, module)
    params = learner.init(0)
    assert encoder(params["model"], np.ones((3, 28, 28, 1), np.float32)).shape == (3, 5, 5, 4) == (3, *encoder.outputs)
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 6, 28, 28, 1)).astype(np.float32), np.tile([0, 1, 2], (2, 2))
    (_, aux), gradient = learner.value_and_grad(params, (x, y, x, y))
    assert aux["outputs"].shape == (2, 6, 3) and np.abs(gradient["model"][0]["w"]).max() > 0


@pytest.mark.parametrize("objective", ["contrastive", "weighted-l1"])
def test_siamese_networks_are_torchs(objective, backend):
    learner = fm.Siamese(MODEL, objective, margin=0.7)
    params = wide(learner.init(4))
    if objective == "weighted-l1":
        params["b"] += 0.3

    def loss(params, embed, xs, ys, xq, yq):
        model = params if objective == "contrastive" else params["model"]
        z, q = embed(model, xs), embed(model, xq)
        same = yq[:, None] == ys
        if objective == "contrastive":
            s = -torch.cdist(q, z)
            each = torch.where(same, s**2, torch.relu(0.7 + s) ** 2)
        else:
            s = (q[:, None] - z).abs() @ params["w"] + params["b"]
            each = torch.nn.functional.binary_cross_entropy_with_logits(s, same.double(), reduction="none")
        logits = torch.stack([s[:, ys == c].max(1).values for c in range(WAYS)], 1)
        return (each[same].mean() + each[~same].mean()) / 2, logits

    agree(learner, params, episodes(), loss)


def test_a_siamese_network_of_one_class_has_no_pairs_of_two():
    (loss, _), gradient = fm.Siamese(MODEL).value_and_grad(WEIGHTS, episodes(ways=1))
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in optree.tree_leaves(gradient))


# ----------------------------------------------------------------------------------------------------- covariances


@pytest.mark.parametrize("shots", [1, 3])
def test_simple_cnaps_are_torchs(shots, backend):
    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params, xs), embed(params, xq)
        logits = []
        for c in range(WAYS):
            own = z[ys == c]
            share = len(own) / (len(own) + 1)
            of_class = torch.cov(own.T) if len(own) > 1 else torch.zeros(3, 3)
            precision = torch.linalg.inv(share * of_class + (1 - share) * torch.cov(z.T) + 0.1 * torch.eye(3))
            d = q - own.mean(0)
            logits.append(-0.5 * torch.einsum("nd,de,ne->n", d, precision, d))
        return scored(torch.stack(logits, 1), yq)

    agree(fm.CovarianceNet(MODEL, ridge=0.1), WEIGHTS, episodes(shots=shots), loss, rtol=1e-8)


def test_covariances_are_inverted_once_for_a_support_set():
    learner, e = fm.CovarianceNet(MODEL), fm.tree_map(lambda x: x[0], episodes(tasks=1))
    adapted = learner.adapt(WEIGHTS, e.support_x, e.support_y)
    fit = learner._adapting.program(WEIGHTS, (e.support_x, e.support_y), range(WAYS), None)
    predict = learner._predicting.program(*adapted[:2], e.query_x, None)
    assert "inverse" in str(fit) and "inverse" not in str(predict)


def test_uneven_shots_are_fine():
    e = episodes(tasks=1)
    e = e._replace(support_x=e.support_x[:, :-1], support_y=e.support_y[:, :-1])
    for learner in (fm.ProtoNet(MODEL), fm.MatchingNet(MODEL), fm.CovarianceNet(MODEL), fm.Siamese(MODEL), fm.WeightGenerator(MODEL, 3)):
        assert np.isfinite(learner.value_and_grad(wide(learner.init(1)), e)[0][0])


# -------------------------------------------------------------------------------------------------- task embeddings


def least_squares_slope(x, y):
    return fm.reshape(fm.sum(x * y) / fm.sum(x * x), (1,))


def lines(tasks, seed=0):
    """y = a x for each task."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-2, 2, (tasks, 1, 1))
    sx, qx = rng.normal(size=(2, tasks, 6, 1))
    return Episode(sx, a * sx, qx, a * qx), a[:, 0]


def test_task_embeddings_are_torchs(backend):
    model = MLP((2, 6, 3), activation="tanh")
    params, (e, slopes) = wide(model.init(0)), lines(5)
    tensors = optree.tree_map(lambda p: torch.tensor(p, requires_grad=True), params)
    z = torch.stack([torch.tanh(torch.tensor(np.concatenate([x, y], 1)) @ tensors[0]["w"]) @ tensors[1]["w"] for x, y in zip(*e[:2], strict=True)]).mean(1)
    off = ~torch.eye(5, dtype=bool)
    apart = (z[:, None] - z)[off].norm(dim=-1)
    wanted = torch.tensor(np.abs(slopes - slopes.T))[off]
    want = ((apart - wanted) ** 2).mean()
    want.backward()
    learner = fm.TaskEmbedding(model, least_squares_slope)
    (loss, aux), gradient = learner.value_and_grad(params, e)
    np.testing.assert_allclose(loss, want.item(), 1e-9)
    np.testing.assert_allclose(aux["optima"], slopes, 1e-12)
    np.testing.assert_allclose(gradient[0]["w"], tensors[0]["w"].grad, 1e-7, atol=1e-10)
    np.testing.assert_allclose(gradient[1]["w"], tensors[1]["w"].grad, 1e-7, atol=1e-10)
    np.testing.assert_allclose(learner.measure(params, e)["losses"].mean(), want.item(), 1e-9)
    first = learner.adapt(params, e.support_x[0], e.support_y[0])
    np.testing.assert_allclose(learner.predict(first, aux["embeddings"])[1:], apart.detach()[:4], 1e-9)


def test_task_embeddings_train_to_distances_of_optima():
    class Lines(Sampler):
        def batch(self, step):
            return Episode(*[part.astype(np.float32) for part in lines(16, seed=step + 1)[0]])

    learner = fm.TaskEmbedding(MLP((2, 32, 16)), least_squares_slope, head=MLP((16, 32, 2)))
    trained = Trainer(learner, Lines(), fm.optim.adam(5e-3)).run(400)
    before, after = (learner.evaluate(p, Lines().batch(1000))["loss"] for p in (learner.init(0), trained.params))
    assert after < 0.05 * before


def test_any_number_of_classes_in_tests_and_ways_in_training():
    train = EpisodeSampler.from_arrays(*points(), ways=5, shots=1, queries=2, tasks=4)
    learner = fm.ProtoNet(MLP((INPUTS, 16, 8)), ways=5)
    trained = Trainer(learner, train, fm.optim.adam(1e-2), validation=train, validate_every=30, validation_episodes=20).run(60)
    for ways in (2, 3, 8):
        tests = EpisodeSampler.from_arrays(*points(), ways=ways, shots=1, queries=2, tasks=50, seed=9)
        assert learner.evaluate(trained.params, tests.batch(0))["accuracy"] > 0.9
    assert trained.history[-1][1] < trained.history[0][1]


LEARNERS = [
    fm.ProtoNet(MODEL), fm.SemiSupervisedProtoNet(MODEL), fm.MatchingNet(MODEL, context=2), fm.RelationNet(MODEL, MLP((6, 4, 1), activation="tanh")),
    fm.Siamese(MODEL), fm.Siamese(MODEL, "weighted-l1"), fm.CovarianceNet(MODEL),
    fm.WeightGenerator(MODEL, bases=7),
    fm.MANN(MODEL, 2, slots=12, width=3, hidden=4, reads=2), fm.SNAIL(MODEL, 2, SHOTS, filters=4),
]  # fmt: skip


@pytest.mark.parametrize("learner", LEARNERS, ids=repr)
def test_a_learner_is_pickled_as_it_was_made(learner):
    assert repr(pickle.loads(pickle.dumps(learner))) == repr(learner)


@pytest.mark.parametrize("learner", LEARNERS, ids=repr)
def test_losses_are_differentiated_to_second_order(learner):
    task = Episode(*[part[0] for part in episodes(ways=2, queries=1)])
    if isinstance(learner, fm.SemiSupervisedProtoNet):
        task = task._replace(support_y=np.where(np.arange(4) == 3, -1, np.array([0, 1, 0, 1])))
    fm.testing.check_grads(lambda params: learner.loss(params, task, range(2))[0], (wide(learner.init(5)),), rtol=1e-4, atol=1e-5)


def test_semi_supervised_episodes():
    x, y = points()
    tasks = EpisodeSampler.from_arrays(x, y, ways=3, shots=4, queries=2, tasks=5)
    whole, part = tasks.batch(3), SemiSupervised(tasks, labelled=1).batch(3)
    np.testing.assert_array_equal(part.support_y, np.where(np.arange(12) % 4 == 0, whole.support_y, -1))
    np.testing.assert_array_equal(part.support_x, whole.support_x)
    learner = fm.SemiSupervisedProtoNet(MLP((INPUTS, 16, 8)), ways=3)
    trained = Trainer(learner, SemiSupervised(tasks, labelled=1), fm.optim.adam(1e-2)).run(40)
    assert learner.evaluate(trained.params, SemiSupervised(tasks).batch(50))["accuracy"] > 0.9


NORMED = MLP((INPUTS, 6, 3), activation="tanh", batch_norm=True)


MAKE = [
    fm.ProtoNet, fm.MatchingNet, fm.Siamese, fm.CovarianceNet, fm.SemiSupervisedProtoNet, partial(fm.WeightGenerator, bases=7),
    partial(fm.MANN, ways=WAYS, slots=6, width=3, hidden=4, reads=2), partial(fm.SNAIL, ways=WAYS, shots=SHOTS, filters=4),
]  # fmt: skip


@pytest.mark.parametrize("make", MAKE, ids=lambda make: getattr(make, "func", make).__name__)
def test_running_batch_norm_makes_predictions_independent_of_other_queries(make, backend):
    learner, e = make(NORMED, batch_norm="running"), episodes()
    params, state = wide(learner.init(0)), wide(learner.init_state())
    (_, aux), _ = learner.value_and_grad(params, e)
    batch, _ = make(NORMED).value_and_grad(params, e)
    np.testing.assert_allclose(aux["outputs"], batch[1]["outputs"], 1e-12)  # in training both are by the batch
    hidden = np.concatenate([e.support_x, e.query_x], axis=1) @ learner._weights(params)[0]["w"]
    np.testing.assert_allclose(aux["statistics"][0]["mean"], hidden.mean(axis=1), 1e-9)
    state = learner.update_state(state, aux)
    np.testing.assert_allclose(state[0]["variance"], 0.9 + 0.1 * hidden.var(axis=1).mean(axis=0), 1e-9)
    adapted = learner.adapt(params, e.support_x[0], e.support_y[0], state=state)
    whole = learner.predict(adapted, e.query_x[0], state)
    np.testing.assert_allclose(learner.predict(adapted, e.query_x[0][:1]), whole[:1], 1e-9)
    accuracy = (whole.argmax(1) == e.query_y[0]).mean()
    np.testing.assert_allclose(learner.measure(params, e, state=state)["accuracies"][0], accuracy, 1e-6)


def test_a_trainer_carries_the_running_statistics():
    train = EpisodeSampler.from_arrays(*points(), ways=5, shots=1, queries=2, tasks=4)
    learner = fm.ProtoNet(MLP((INPUTS, 16, 8), batch_norm=True), ways=5, batch_norm="running")
    trained = Trainer(learner, train, fm.optim.adam(1e-2)).run(60)
    assert learner.evaluate(trained.params, train.batch(70), state=trained.state)["accuracy"] > 0.9
    assert not np.allclose(trained.state[0]["variance"], 1.0)


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
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(support_y=np.where(E.support_y == 1, 2**30, E.support_y))), ValueError,
     f"[ProtoNet] expected support examples of every class 0..{2**30}, got {E.support_y.shape[1]} examples in all"),
    (lambda p: fm.ProtoNet(MODEL).value_and_grad(p, changed(support_y=E.support_y - 1)), ValueError, "[ProtoNet] expected labels of at least 0, got -1"),
    (lambda p: fm.ProtoNet(MODEL).value_and_grad(p, changed(query_y=E.query_y + 1)), ValueError, "[ProtoNet] expected query labels in 0..3, the support's, got 1..4"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(query_y=1.0 * E.query_y)), TypeError, "[ProtoNet] expected query_y of whole numbers, the classes, got float64"),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, E.support_x[0], 1.0 * E.support_y[0]), TypeError, "[ProtoNet] expected support_y of whole numbers, the classes, got float64"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(query_x=E.query_x[..., :4])), ValueError, "[ProtoNet] expected support and queries alike, got [8, 5] and [12, 4]"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, changed(support_y=E.support_y[:, :7])), ValueError, "[ProtoNet] expected as many support_x as support_y, got "),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, E.support_x[0]), TypeError, "[ProtoNet] expected a support set (x, y), got 1 arguments"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, E, steps=2), ValueError, "[ProtoNet] expected no inner steps (None or 0), got 2"),
    (lambda p: fm.ProtoNet(MODEL).adapt(p, [[0.0] * 5, [1.0]], np.array([0, 1])), ValueError, "expected rows of one shape"),
    (lambda p: fm.ProtoNet(MODEL, temperature=0), ValueError, "[ProtoNet] expected temperature above 0, got 0"),
    (lambda p: fm.MatchingNet(MODEL, temperature=-1.0), ValueError, "[MatchingNet] expected temperature above 0, got -1.0"),
    (lambda p: fm.MatchingNet(MODEL, metric="l2"), ValueError, "[MatchingNet] expected metric one of sqeuclidean, "),
    (lambda p: fm.MatchingNet(MODEL, context=-1), ValueError, "[MatchingNet] expected context at least 0, got -1"),
    (lambda p: fm.Siamese(MODEL, objective="triplet"), ValueError, "[Siamese] expected objective one of contrastive, weighted-l1, got 'triplet'"),
    (lambda p: fm.Siamese(MODEL, margin=0.0), ValueError, "[Siamese] expected margin above 0, got 0.0"),
    (lambda p: fm.RelationNet(MODEL, None), TypeError, "[RelationNet] expected relation a function, got NoneType"),
    (lambda p: fm.RelationNet(MODEL, MLP((6, 2))).measure({"model": p, "relation": wide(MLP((6, 2)).init())}, E), ValueError,
     "[RelationNet] expected one score for each of 48 pairs, got shape [48, 2]"),
    (lambda p: fm.CovarianceNet(MODEL, ridge=0.0), ValueError, "[CovarianceNet] expected ridge above 0, got 0.0"),
    (lambda p: fm.SemiSupervisedProtoNet(MODEL).measure(p, changed(support_y=E.support_y - 2)), ValueError, "[SemiSupervisedProtoNet] expected labels of at least -1, got -2"),
    (lambda p: RelationEncoder(input=(9, 28, 1)), ValueError, "[RelationEncoder] expected input at least 10, got 9"),
    (lambda p: RelationEncoder(input=28), ValueError, "[RelationEncoder] expected input (height, width, channels), got 28"),
    (lambda p: RelationModule(4)(RelationModule(4).init(), np.ones((2, 5, 5, 4), np.float32)), ValueError, "[RelationModule] expected x [n, 5, 5, 8], got shape [2, 5, 5, 4]"),
    (lambda p: RelationEncoder(4)(RelationEncoder(4).init(), np.ones((2, 28, 28, 1), np.float32), mode="running"), ValueError, "[RelationEncoder] expected mode 'batch', got 'running'"),
    (lambda p: SemiSupervised(3), TypeError, "[SemiSupervised] expected a sampler with batch(step), got int"),
    (lambda p: SemiSupervised(fm.data.Sinusoid(), labelled=0), ValueError, "[SemiSupervised] expected labelled at least 1, got 0"),
    (lambda p: SemiSupervised(fm.data.Sinusoid()).batch(0), ValueError, "[SemiSupervised] expected support labels of whole numbers, got float32"),
    (lambda p: fm.ProtoNet(MODEL, batch_norm="per_step"), ValueError, "[ProtoNet] expected batch_norm 'batch' or 'running', got 'per_step'"),
    (lambda p: fm.ProtoNet(lambda p, x: x, batch_norm="running"), TypeError, "[ProtoNet] expected a model with init_state for batch_norm 'running', got function"),
    (lambda p: fm.ProtoNet(NORMED, batch_norm="running").measure(p, E), ValueError, "[ProtoNet] expected state, that of the training, for batch_norm 'running', got none"),
    (lambda p: fm.ProtoNet(MODEL).measure(p, E, state=[]), ValueError, "[ProtoNet] expected no state for batch_norm 'batch', got list"),
    (lambda p: fm.TaskEmbedding(MODEL, None), TypeError, "[TaskEmbedding] expected optimum a function, got NoneType"),
    (lambda p: fm.TaskEmbedding(MODEL, least_squares_slope).measure(p, lines(1)[0]), ValueError, "[TaskEmbedding] expected at least two tasks in a batch, got 1"),
    (lambda p: fm.TaskEmbedding(MODEL, least_squares_slope).measure(p, E), TypeError, "[TaskEmbedding] expected float targets, got int32. Give labels as fm.one_hot"),
    (lambda p: fm.jit(lambda e: fm.ProtoNet(MODEL).value_and_grad(p, e))(E), ValueError, "[ProtoNet] expected ways, the number of classes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call(WEIGHTS)


@pytest.mark.parametrize("learner", [fm.ProtoNet(MLP((2, 3))), fm.MAML(MLP((2, 2)))])
def test_examples_may_be_lists(learner):
    x = [[0.0, 1.0], [2.0, -1.0]]
    adapted = learner.adapt(learner.init(0), x, [0, 1])
    np.testing.assert_array_equal(learner.predict(adapted, x), learner.predict(adapted, np.float32(x)))
