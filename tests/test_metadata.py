"""Metadata: it follows the drawn classes, and the learners that take it are torch's in float64, learn by it, and refuse what they cannot use."""

from __future__ import annotations

import pickle
import re

import numpy as np
import optree
import pytest
import torch
from episodes import same
from test_metric_learners import DISTANCES, INPUTS, MODEL, SHOTS, TASKS, WAYS, agree, episodes, means, scored, wide

import fastmeta as fm
from fastmeta.algorithms import SetLearner
from fastmeta.data import DescribedEpisode, Episode, EpisodeSampler, Prefetch, Sampler, SemiSupervised, Shuffled
from fastmeta.errors import DivergedError
from fastmeta.models import MLP
from fastmeta.train.evaluate import evaluate
from fastmeta.train.trainer import Trainer

TOLD = 3  # numbers of metadata


class Silent(Sampler):
    """The episodes of another sampler, of whose metadata nothing is told."""

    def __init__(self, sampler):
        self.sampler = sampler

    def batch(self, step):
        return Episode(*self.sampler.batch(step)[:4])


def leaves_agree(a, b, rtol=1e-9):
    for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol, atol=rtol)


# --------------------------------------------------------------------------------------------------------- sampling

NAMES = np.array(["wren", "auk", "kite", "emu", "owl"])  # not in order
X = np.arange(20.0)[:, None] % 5  # the place in NAMES
ATTRIBUTES = np.array([[1, 10], [3, 30], [2, 20], [4, 40], [0, 0]], np.int64)  # auk, emu, kite, owl, wren


def birds(**options):
    return EpisodeSampler.from_arrays(X, np.tile(NAMES, 4), **{"ways": 3, "shots": 2, "queries": 2, "tasks": 50, "metadata": ATTRIBUTES} | options)


@pytest.mark.parametrize("classes", [None, ["kite", "auk", "owl", "wren"]], ids=["all", "a split"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_metadata_follows_the_drawn_classes(classes, dtype):
    x, rows = X.astype(np.int32), dict(zip(sorted(NAMES), ATTRIBUTES, strict=True))
    e = EpisodeSampler.from_arrays(x, np.tile(NAMES, 4), ways=3, shots=2, queries=2, tasks=50, classes=classes, dtype=dtype, metadata=ATTRIBUTES).batch(3)
    assert type(e) is DescribedEpisode and e.metadata.shape == (50, 3, 2) and e.metadata.dtype == ("float64" if dtype == "float64" else "float32")
    drawn = NAMES[e.support_x[:, ::2, 0].astype(int)]  # class by class
    assert set(drawn.ravel()) == set(NAMES if classes is None else classes)
    np.testing.assert_array_equal(e.metadata, [[rows[name] for name in task] for task in drawn])


def test_metadata_changes_no_draw():
    assert same(Episode(*birds().batch(7)[:4]), birds(metadata=None).batch(7))


def test_described_episodes_are_whole_new_pytrees():
    sampler = birds()
    first = sampler.batch(0)
    assert [a is b for a, b in zip(optree.tree_leaves(first), first, strict=True)] == [True] * 5
    assert all(part.flags.c_contiguous and part.flags.writeable for part in first)
    assert type(fm.tree_map(lambda part: part[0], first)) is DescribedEpisode
    first.metadata[...] = 9
    assert not same(first, sampler.batch(0))


def test_other_samplers_keep_metadata():
    sampler = birds()
    plain, mixed, partly = sampler.batch(2), Shuffled(sampler).batch(2), SemiSupervised(sampler).batch(2)
    with Prefetch(sampler) as ahead:
        assert same(ahead.batch(2), plain)
    for other in (mixed, partly):
        assert type(other) is DescribedEpisode and np.array_equal(other.metadata, plain.metadata)
    assert not np.array_equal(mixed.support_y, plain.support_y) and (partly.support_y == -1).any()


def test_tasks_of_regression_may_be_described():
    e = birds(ways=1, targets=X * 2).batch(0)
    assert e.metadata.shape == (50, 1, 2) and np.array_equal(e.query_y, 2 * e.query_x)


# -------------------------------------------------------------------------------------------------------------- AM3

NETS = {"transform": MLP((TOLD, 6, 3), activation="tanh"), "mixer": MLP((3, 4, 1), activation="tanh")}
AM3 = fm.AM3(MODEL, **NETS)
PARAMS = wide(AM3.init(1))


def described(ways=WAYS, **options):
    e = episodes(ways=ways, **options)
    return DescribedEpisode(*e, np.random.default_rng(7).normal(size=(len(e[0]), ways, TOLD)))


E = described()


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize("ways", [1, WAYS])
def test_am3_is_torchs(metric, ways, backend):
    def loss(params, embed, xs, ys, xq, yq, metadata):
        told = embed(params["transform"], metadata)
        prototypes = []
        for c, seen in enumerate(means(embed(params["model"], xs), ys)):
            share = 1 / (1 + torch.exp(-embed(params["mixer"], told[c])))
            prototypes.append(share * seen + (1 - share) * told[c])
        return scored(-DISTANCES[metric](embed(params["model"], xq), torch.stack(prototypes)) / 2, yq)

    agree(fm.AM3(MODEL, **NETS, metric=metric, temperature=2.0), PARAMS, described(ways=ways), loss)


def trusting(bias):
    """A mixer that gives all classes a share of sigmoid(bias)."""
    last = {"w": 0 * PARAMS["mixer"][1]["w"], "b": np.array([bias])}
    return PARAMS | {"mixer": [PARAMS["mixer"][0], last]}


def test_between_a_prototypical_network_and_metadata_alone():
    (_, both), _ = AM3.value_and_grad(trusting(50.0), E)
    (_, seen), _ = fm.ProtoNet(MODEL).value_and_grad(PARAMS["model"], Episode(*E[:4]))
    np.testing.assert_allclose(both["outputs"], seen["outputs"], 1e-9)
    (_, told), _ = AM3.value_and_grad(trusting(-50.0), E)
    (_, again), _ = AM3.value_and_grad(trusting(-50.0), E._replace(support_x=-E.support_x))
    np.testing.assert_allclose(told["outputs"], again["outputs"], 1e-9)
    assert not np.allclose(told["outputs"], seen["outputs"], 0.1)


def test_metadata_belongs_to_the_class_of_its_row():
    order = np.array([2, 0, 3, 1])  # class c becomes order[c]
    (_, want), _ = AM3.value_and_grad(PARAMS, E)
    (_, got), _ = AM3.value_and_grad(PARAMS, E._replace(support_y=order[E.support_y], query_y=order[E.query_y], metadata=E.metadata[:, np.argsort(order)]))
    np.testing.assert_allclose(got["outputs"][..., order], want["outputs"], 1e-9)


def test_am3s_loss_is_differentiated_to_second_order():
    task = fm.tree_map(lambda part: part[0], described(ways=2))
    learner = fm.AM3(MODEL, **NETS, ways=2)
    fm.testing.check_grads(lambda params: learner.loss(params, task)[0], (PARAMS,), rtol=1e-4, atol=1e-5)


def test_support_and_metadata_are_given_alike():
    x, y, metadata = E.support_x[0], E.support_y[0], E.metadata[0]
    for learner, params in ((AM3, PARAMS), (CONDITIONAL, MOVED)):
        want = learner.adapt(params, x, y, metadata)
        for given in (((x, y, metadata),), (fm.tree_map(lambda part: part[0], E),), (x, y, list(metadata))):
            leaves_agree(learner.adapt(params, *given), want)


def noisy_classes(tasks, classes, ways=5, seed=0):
    """Examples full of noise, and attributes that say where their class is."""
    rng = np.random.default_rng(0)
    attributes, labels = rng.normal(size=(120, 6)), np.repeat(np.arange(120), 20)
    x = np.tanh(attributes @ rng.normal(size=(6, 8)))[labels] + rng.normal(size=(2400, 8))
    return EpisodeSampler.from_arrays(x, labels, ways=ways, shots=1, queries=5, tasks=tasks, classes=classes, seed=seed, metadata=attributes)


def test_attributes_help_where_examples_are_noisy():
    train, tests = noisy_classes(16, range(90)), noisy_classes(200, range(90, 120), seed=1)
    kinds = {
        "told": (fm.AM3(MLP((8, 32, 16)), MLP((6, 32, 16)), MLP((16, 16, 1)), ways=5), lambda sampler: sampler),
        "not": (fm.ProtoNet(MLP((8, 32, 16)), ways=5), Silent),
    }
    share = {}
    for name, (learner, view) in kinds.items():
        trained = Trainer(learner, view(train), fm.optim.adam(3e-3), validation=view(noisy_classes(50, range(90), seed=2)), validate_every=100).run(300)
        share[name] = evaluate(learner, trained.params, view(tests))["accuracy"]
    assert share["told"] > share["not"] + 0.08 and share["told"] > 0.6, share


def test_am3_trains_on_some_ways_and_takes_others():
    learner = fm.AM3(MLP((8, 16, 8), batch_norm=True), MLP((6, 8)), MLP((8, 1)), ways=5, batch_norm="running")
    trained = Trainer(learner, noisy_classes(8, range(90)), fm.optim.adam(3e-3)).run(50)
    e = noisy_classes(20, range(90, 120), ways=8).batch(0)
    assert learner.evaluate(trained.params, e, state=trained.state)["accuracy"] > 2 / 8
    adapted = learner.adapt(trained.params, fm.tree_map(lambda part: part[0], e), state=trained.state)
    alone = learner.predict(adapted, e.query_x[0][:1])
    np.testing.assert_allclose(alone, learner.predict(adapted, e.query_x[0])[:1], 1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- conditional MAML

NET = MLP((INPUTS, 5, WAYS), activation="tanh")
FEATURES = MLP((WAYS * TOLD, 6, 2), activation="tanh")
CONDITIONAL = fm.ConditionalMAML(NET, FEATURES, inner_lr=0.3, inner_steps=2)
MOVED = wide(CONDITIONAL.init(1))
MOVED |= {"directions": 0.3 * np.random.default_rng(1).normal(size=MOVED["directions"].shape)}
TARGETS = np.random.default_rng(5).normal(size=(TASKS, WAYS * SHOTS, WAYS))
REGRESSION = DescribedEpisode(E.support_x, TARGETS, E.support_x + 0.3, -TARGETS, E.metadata)


def net(layers, x):
    return torch.tanh(x @ layers[0]["w"] + layers[0]["b"]) @ layers[1]["w"] + layers[1]["b"]


def start(params, metadata):
    """Where a task starts: one row of numbers in the order b, w of each layer."""
    row = net(params["features"], metadata.reshape(-1)) @ params["directions"]
    layers = []
    for layer in params["weights"]:
        layers.append({})
        for name in ("b", "w"):
            layers[-1][name] = layer[name] + row[: layer[name].numel()].reshape(layer[name].shape)
            row = row[layer[name].numel() :]
    assert not len(row)
    return layers


def by_torch(e, criterion, steps, order):
    """Mean query loss after the inner steps, and its gradient."""
    params = optree.tree_map(lambda p: torch.tensor(p, requires_grad=True), MOVED)
    total = 0.0
    for x, y, xq, yq, metadata in zip(*[torch.tensor(part) for part in e], strict=True):
        weights = start(params, metadata)
        for _ in range(steps):
            leaves, tree = optree.tree_flatten(weights)
            slopes = torch.autograd.grad(criterion(net(weights, x), y), leaves, create_graph=order == 2)
            weights = optree.tree_unflatten(tree, [w - 0.3 * g for w, g in zip(leaves, slopes, strict=True)])
        total = total + criterion(net(weights, xq), yq) / TASKS
    total.backward()
    return total.item(), optree.tree_map(lambda p: p.grad.numpy(), params)


@pytest.mark.parametrize(("steps", "order"), [(1, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("classify", [True, False])
def test_the_gradient_of_conditional_maml_is_torchs(classify, steps, order, backend):
    ours, torchs, e = (fm.nn.cross_entropy, torch.nn.functional.cross_entropy, E) if classify else (fm.nn.mse, torch.nn.functional.mse_loss, REGRESSION)
    learner = fm.ConditionalMAML(NET, FEATURES, loss=ours, inner_lr=0.3, inner_steps=steps, order=order)
    (loss, aux), gradient = learner.value_and_grad(MOVED, e)
    value, want = by_torch(e, torchs, steps, order)
    np.testing.assert_allclose(loss, value, 1e-9)
    leaves_agree(gradient, want)
    assert aux["inner_losses"].shape == (TASKS, steps) and ("accuracy" in aux) is classify


def test_at_first_conditional_maml_is_maml():
    params = wide(CONDITIONAL.init(3))
    leaves_agree(params["weights"], NET.init(3), 0)
    (want, _), weights = fm.MAML(NET, inner_lr=0.3, inner_steps=2).value_and_grad(params["weights"], Episode(*E[:4]))
    (loss, _), gradient = CONDITIONAL.value_and_grad(params, E)
    np.testing.assert_allclose(loss, want, 1e-12)
    leaves_agree(gradient["weights"], weights, 1e-12)
    assert np.abs(gradient["directions"]).max() > 0 and not np.any(optree.tree_leaves(gradient["features"])[0])


def test_without_inner_steps_weights_come_from_metadata_alone(backend):
    tensors = optree.tree_map(torch.tensor, MOVED)
    for t in range(TASKS):
        weights = CONDITIONAL.adapt(MOVED, E.support_x[t], E.support_y[t], E.metadata[t], steps=0)
        leaves_agree(weights, optree.tree_map(lambda w: w.numpy(), start(tensors, torch.tensor(E.metadata[t]))))
    assert CONDITIONAL.measure(MOVED, E, 0)["losses"].shape == (TASKS, 1)
    assert CONDITIONAL.evaluate(MOVED, E, 0)["loss"] == pytest.approx(CONDITIONAL.evaluate(MOVED, E)["losses"][0], rel=1e-12)


def test_adapt_predict_and_measure_of_conditional_maml_agree():
    learner = fm.ConditionalMAML(NET, FEATURES, loss=fm.nn.mse, inner_lr=0.1)
    measured = learner.measure(MOVED, REGRESSION, 4)
    assert measured["losses"].shape == (TASKS, 5) and measured["inner_losses"].shape == (TASKS, 4)
    for t, (x, y, xq, yq, metadata) in enumerate(zip(*REGRESSION, strict=True)):
        for k in range(5):
            adapted = learner.adapt(MOVED, x, y, metadata, steps=k)
            assert optree.tree_structure(adapted) == optree.tree_structure(MOVED["weights"])
            assert measured["losses"][t, k] == pytest.approx(np.mean((learner.predict(adapted, xq) - yq) ** 2), rel=1e-9)


def test_metadata_of_any_shape_is_taken_flat():
    want = CONDITIONAL.value_and_grad(MOVED, E)
    leaves_agree(CONDITIONAL.value_and_grad(MOVED, E._replace(metadata=E.metadata.reshape(TASKS, -1))), want, 1e-12)
    one = fm.ConditionalMAML(NET, MLP((1, 2)))
    assert np.isfinite(one.measure(wide(one.init(0)), E._replace(metadata=np.ones(TASKS)))["losses"]).all()


def test_inner_rates_are_a_tree_like_the_weights():
    learner = fm.ConditionalMAML(NET, FEATURES, inner_lr=[0.0, 0.1])
    task = (E.support_x[0], E.support_y[0], E.metadata[0])
    before, after = (learner.adapt(MOVED, *task, steps=k) for k in (0, 1))
    assert [np.allclose(a["w"], b["w"], 1e-12) for a, b in zip(before, after, strict=True)] == [True, False]
    with pytest.raises(ValueError, match=re.escape("[ConditionalMAML inner_lr]")):
        fm.ConditionalMAML(NET, FEATURES, inner_lr=[0.1]).init()


def sinusoids(tasks, classes, seed=0):
    """Of 400 sinusoids, whose phase is told."""
    rng = np.random.default_rng(0)
    number, x = np.repeat(np.arange(400), 40), rng.uniform(-5, 5, (16000, 1))
    phase, amplitude = rng.uniform(0, np.pi, (400, 1)), rng.uniform(0.1, 5, (400, 1))
    y = amplitude[number] * np.sin(x - phase[number])
    return EpisodeSampler.from_arrays(x, number, ways=1, shots=10, queries=10, tasks=tasks, targets=y, metadata=phase, classes=classes, seed=seed)


def conditional(**options):
    return fm.ConditionalMAML(MLP((1, 40, 40, 1), **options.pop("net", {})), MLP((1, 32, 16)), loss=fm.nn.mse, **options)


def test_a_phase_that_is_told_helps_to_fit_sinusoids():
    train, tests = sinusoids(16, range(300)), sinusoids(100, range(300, 400), seed=1)
    maml = fm.MAML(MLP((1, 40, 40, 1)), loss=fm.nn.mse)
    losses = []
    for learner, view in ((conditional(), lambda sampler: sampler), (maml, Silent)):
        trained = Trainer(learner, view(train), fm.optim.adam(1e-3), prefetch=2).run(1000)
        losses.append(evaluate(learner, trained.params, view(tests), episodes=100)["losses"])
    (at_first, told), (_, untold) = losses
    assert told < 0.6 * untold and told < at_first < 0.8 * untold, losses


@pytest.mark.parametrize("mode", ["running", "per_step"])
def test_conditional_maml_has_the_modes_of_batch_norm(mode):
    learner = conditional(net={"batch_norm": True}, batch_norm=mode, inner_steps=2)
    tests = sinusoids(50, range(300, 400), seed=1)
    trained = Trainer(learner, sinusoids(8, range(300)), fm.optim.adam(1e-3)).run(30)
    assert np.isfinite(learner.evaluate(trained.params, tests.batch(0), state=trained.state)["losses"]).all()
    e = fm.tree_map(lambda part: part[0], tests.batch(1))
    adapted = learner.adapt(trained.params, e)
    alone = learner.predict(adapted, e.query_x[:1], trained.state)
    np.testing.assert_allclose(alone, learner.predict(adapted, e.query_x, trained.state)[:1], 1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- both, and others


@pytest.mark.parametrize("kind", ["AM3", "ConditionalMAML"])
def test_a_resumed_run_is_the_same_bits(kind, tmp_path):
    def trainer(**options):
        if kind == "AM3":
            learner, sampler = fm.AM3(MLP((8, 4)), MLP((6, 4)), MLP((4, 1)), ways=5), noisy_classes(4, None)
        else:
            learner, sampler = conditional(), sinusoids(4, None)
        return Trainer(learner, sampler, fm.optim.adam(1e-3), **options)

    trainer(out=tmp_path).run(5)
    assert same(*(optree.tree_leaves(run.params) for run in (trainer().run(10), trainer(prefetch=2).run(10, resume=tmp_path))))


def test_a_task_that_diverges_is_named():
    class Spoiled(Silent):
        def batch(self, step):
            e = self.sampler.batch(step)
            e.support_y[1] = np.inf
            return e

    with pytest.raises(DivergedError, match=r"\[ConditionalMAML\] .* in task 1 at inner step 0 \(meta-step 0\)"):
        Trainer(conditional(), Spoiled(sinusoids(3, None)), fm.optim.adam(1e-3)).run(1)


@pytest.mark.parametrize(("learner", "params"), [(AM3, PARAMS), (CONDITIONAL, MOVED)], ids=["AM3", "ConditionalMAML"])
def test_a_learner_is_pickled_as_it_was_made(learner, params):
    want = learner.value_and_grad(params, E)
    again = pickle.loads(pickle.dumps(learner))
    assert repr(again) == repr(learner)
    leaves_agree(again.value_and_grad(params, E), want, 0)


def test_what_they_are_called():
    assert repr(AM3) == f"AM3({MODEL!r}, ways=None, batch_norm='batch', metric='sqeuclidean', temperature=1.0, transform={NETS['transform']!r}, mixer={NETS['mixer']!r})"
    assert repr(CONDITIONAL).startswith(f"ConditionalMAML({NET!r}, inner_lr=0.3, ") and f"features={FEATURES!r}" in repr(CONDITIONAL)


def test_no_net_starts_like_another():
    same_sizes = MLP((3, 3))
    am3, maml = fm.AM3(same_sizes, same_sizes, same_sizes).init(0), fm.ConditionalMAML(same_sizes, same_sizes).init(0)
    starts = [am3["model"], am3["transform"], am3["mixer"], maml["features"]]
    assert np.array_equal(am3["model"][0]["w"], maml["weights"][0]["w"]) and not maml["directions"].any()
    assert len({net[0]["w"].tobytes() for net in starts}) == 3 and np.array_equal(am3["transform"][0]["w"], maml["features"][0]["w"])


def test_a_set_learner_may_be_described_too():
    class Scaled(SetLearner):
        """The mean target, times what is told and a learned number."""

        described = True

        def init(self, seed=0):
            return np.float64(1.0)

        def _conditioned(self, params, metadata):
            return params * metadata

        def _fit(self, params, x, y):
            return params * fm.mean(y, axis=0)

        def _outputs(self, task, x):
            return fm.broadcast_to(task, (x.shape[0], *task.shape))

        def _objective(self, outputs, y):
            value = fm.nn.mse(outputs, y)
            return value, {"loss": value, "outputs": outputs}

    learner, y, told = Scaled(), REGRESSION.support_y, np.array([[1.0], [2.0], [-1.0]])
    (loss, _), _ = learner.value_and_grad(np.float64(2.0), REGRESSION._replace(metadata=told))
    means = [2.0 * told[t] * y[t].mean(axis=0) for t in range(TASKS)]
    np.testing.assert_allclose(loss, np.mean([(means[t] + y[t]) ** 2 for t in range(TASKS)]), 1e-12)
    np.testing.assert_allclose(learner.adapt(np.float64(2.0), E.support_x[1], y[1], told[1]), means[1], 1e-12)


FOUR = "an episode (support_x, support_y, query_x, query_y), got a tuple of 5. Metadata is for other learners; without it this one takes episode[:4]"
BAD = [
    (lambda: fm.MAML(NET).value_and_grad(NET.init(0), E), TypeError, f"[MAML] expected {FOUR}"),
    (lambda: fm.MAML(NET).measure(NET.init(0), E), TypeError, f"[MAML] expected {FOUR}"),
    (lambda: fm.ProtoNet(MODEL).value_and_grad(PARAMS["model"], E), TypeError, f"[ProtoNet] expected {FOUR}"),
    (lambda: fm.NeuralProcess(MODEL, MODEL).measure({}, E), TypeError, f"[NeuralProcess] expected {FOUR}"),
    (lambda: Trainer(fm.ProtoNet(MODEL, ways=3), birds(), fm.optim.adam(1e-3)).run(1), TypeError, f"[ProtoNet] expected {FOUR}"),
    (lambda: fm.MAML(NET).adapt(NET.init(0), E.support_x[0], E.support_y[0], E.metadata[0]), TypeError, "[MAML] expected a support set (x, y), got 3 arguments"),
    (lambda: AM3.value_and_grad(PARAMS, Episode(*E[:4])), TypeError, "[AM3] expected an episode (support_x, support_y, query_x, query_y, metadata), got a tuple of 4"),
    (lambda: CONDITIONAL.measure(MOVED, E[:4]), TypeError, "[ConditionalMAML] expected an episode (support_x, support_y, query_x, query_y, metadata), got a tuple of 4"),
    (lambda: CONDITIONAL.adapt(MOVED, E.support_x[0], E.support_y[0]), TypeError, "[ConditionalMAML] expected a support set (x, y, metadata), got 2 arguments"),
    (lambda: CONDITIONAL.adapt(MOVED, E[:4]), TypeError, "[ConditionalMAML] expected a support set (x, y, metadata), got 4 arguments"),
    (lambda: AM3.measure(PARAMS, E._replace(metadata=np.ones((TASKS, WAYS, TOLD), np.int32))), TypeError, "[AM3] expected metadata of floats, got int32"),
    (lambda: CONDITIONAL.adapt(MOVED, E.support_x[0], E.support_y[0], np.ones((WAYS, TOLD), np.int32), steps=0), TypeError, "[ConditionalMAML] expected metadata of floats, got int32"),
    (lambda: AM3.measure(PARAMS, E._replace(metadata=E.metadata[:, :3])), ValueError, "[AM3] expected [4, 3] of transform, a row for each class, got shape [3, 3]"),
    (lambda: AM3.measure(PARAMS, E._replace(metadata=E.metadata[..., :2])), ValueError, "[MLP] expected"),
    (lambda: fm.AM3(MODEL, MLP((TOLD, 2)), MLP((2, 1))).measure(PARAMS | wide({"transform": MLP((TOLD, 2)).init(), "mixer": MLP((2, 1)).init()}), E), ValueError, "[AM3] expected [4, 3] of transform, a row for each class, got shape [4, 2]"),
    (lambda: fm.AM3(MODEL, NETS["transform"], MLP((3, 3))).measure(PARAMS | {"mixer": wide(MLP((3, 3)).init())}, E), ValueError, "[AM3] expected [4, 1] of mixer, a row for each class, got shape [4, 3]"),
    (lambda: AM3.measure(PARAMS, E._replace(metadata=E.metadata[:2])), ValueError, "[map_tasks] expected one number of tasks in all mapped arguments, got [2, 3]"),
    (lambda: fm.AM3(MODEL, None, MODEL), TypeError, "[AM3] expected transform a function, got NoneType"),
    (lambda: fm.AM3(MODEL, MODEL, 0.5), TypeError, "[AM3] expected mixer a function, got float"),
    (lambda: fm.AM3(MODEL, lambda p, x: x, MODEL).init(), TypeError, "[AM3] expected a model with init(seed), got function"),
    (lambda: fm.AM3(MODEL, MODEL, MODEL, metric="l2"), ValueError, "[AM3] expected metric one of "),
    (lambda: fm.ConditionalMAML(NET, "attributes"), TypeError, "[ConditionalMAML] expected features a function, got str"),
    (lambda: fm.ConditionalMAML(NET, fm.Frozen()).init(), TypeError, "[ConditionalMAML] expected features.outputs, the number of its features, got Frozen without it"),
    (lambda: fm.ConditionalMAML(NET, FEATURES, inner_lr=-1), ValueError, "[ConditionalMAML] expected inner_lr above 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call()
