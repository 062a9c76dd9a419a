"""Learners that read the support set: against torch in float64, step by step over whole sequences; in training; bad input."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from test_metric_learners import INPUTS, MODEL, SHOTS, WAYS, agree, episodes, scored, torch_lstm, wide

import fastmeta as fm
from fastmeta.algorithms.mann import DECAY, STRENGTH
from fastmeta.data import Episode, Sampler, Shuffled
from fastmeta.models import MLP
from fastmeta.train.trainer import Trainer

SLOTS, WIDTH, HIDDEN, READS, FILTERS = 12, 3, 5, 2, 4
MEMORY = fm.MANN(MODEL, WAYS, SLOTS, WIDTH, HIDDEN, READS)
CAUSAL = fm.SNAIL(MODEL, WAYS, SHOTS, FILTERS)


def fresh(learner, seed=0):
    """Parameters in float64, biases and gates too."""
    rng = np.random.default_rng(seed)
    return fm.tree_map(lambda p: p + 0.3 * rng.normal(size=p.shape), wide(learner.init(seed)))


def linear(p, x):
    return x @ p["w"] + p["b"]


def each_query(z, q, labels):
    """The whole sequence of each query: embeddings [support + 1, features] and labels [support, ways]."""
    return [(torch.cat([z, one[None]]), labels) for one in q]


# ---------------------------------------------------------------------------------------------------------- MANN


def mann(params, z, labels):
    """Equations 2 to 8 of Santoro et al. 2016, one step after the other; the scores of the last."""
    h = c = torch.zeros(HIDDEN, dtype=z.dtype)
    memory, usage = torch.zeros(SLOTS, WIDTH, dtype=z.dtype), torch.zeros(SLOTS, dtype=z.dtype)
    near, read = torch.zeros(READS, SLOTS, dtype=z.dtype), torch.zeros(READS * WIDTH, dtype=z.dtype)
    label = torch.zeros_like(labels[0])
    for t, x in enumerate(z):
        h, c = torch_lstm(params["controller"], torch.cat([x, label, read]), h, c)
        keys = torch.tanh(linear(params["key"], h)).reshape(READS, WIDTH)
        cosines = torch.nn.functional.cosine_similarity(keys[:, None], memory[None], dim=-1)
        before, near = near, torch.softmax(params["strength"][:, None] * cosines, 1)
        read = (near @ memory).reshape(-1)
        memory, write = memory.clone(), []
        for k, row in enumerate(torch.sort(usage.detach(), stable=True).indices[:READS]):
            memory[row] = 0.0
            least, alpha = torch.nn.functional.one_hot(row, SLOTS), torch.sigmoid(params["gate"][k])
            write.append(alpha * before[k] + (1 - alpha) * least)
        for k in range(READS):
            memory = memory + write[k][:, None] * keys[k]
        usage = DECAY * usage + near.sum(0) + sum(write)
        label = labels[t] if t < len(labels) else None
    return linear(params["out"], torch.cat([h, read]))


def test_memory_augmented_networks_are_torchs(loops, backend):
    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params["model"], xs), embed(params["model"], xq)
        labels = torch.nn.functional.one_hot(ys, WAYS).double()
        return scored(torch.stack([mann(params, *sequence) for sequence in each_query(z, q, labels)]), yq)

    learner = fm.MANN(MODEL, WAYS, SLOTS, WIDTH, HIDDEN, READS)  # traced in this test
    agree(learner, fresh(learner), episodes(), loss, rtol=1e-8)


def test_the_least_used_row_is_emptied_and_written():
    learner = fm.MANN(MODEL, WAYS, slots=3, width=2, hidden=4, reads=1)
    params, key = wide(learner.init(0)), np.array([0.6, -0.2])
    params["key"] = {"w": np.zeros((4, 2)), "b": np.arctanh(key)}
    params["gate"] = np.array([np.log(1 / 3)])  # a quarter to the rows that were read
    memory, before, usage = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]]), np.array([[0.2, 0.3, 0.5]]), np.array([0.5, 0.1, 0.3])
    state = np.zeros(4), np.zeros(4), memory, before, usage, np.zeros(2)
    _, _, new, read_weights, new_usage, read = learner._step(params, state, np.ones(MODEL.outputs + WAYS))
    cosines = memory @ key / np.linalg.norm(memory, axis=1) / np.linalg.norm(key)
    weights = np.exp(STRENGTH * cosines) / np.exp(STRENGTH * cosines).sum()
    np.testing.assert_allclose(read_weights, [weights], 1e-12)
    np.testing.assert_allclose(read, weights @ memory, 1e-12)  # before anything is written
    written = np.array([0.05, 0.075 + 0.75, 0.125])
    np.testing.assert_allclose(new, np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]) + written[:, None] * key, 1e-12)
    np.testing.assert_allclose(new_usage, DECAY * usage + weights + written, 1e-12)


def test_labels_are_heard_beside_embeddings_from_the_start():
    w = fm.MANN(MODEL, WAYS, hidden=100).init(0)["controller"]["w"]
    of_label = np.abs(w[MODEL.outputs : MODEL.outputs + WAYS]).max()
    assert 0.95 < of_label < 1 and np.abs(w[: MODEL.outputs]).max() < 0.1 and np.abs(w[MODEL.outputs + WAYS :]).max() < 0.1


def test_labels_arrive_one_step_late():
    """The last support label reaches no state, but every query."""
    params, x = fresh(MEMORY), episodes(tasks=1).support_x[0]
    y = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    changed = np.array([0, 1, 2, 3, 0, 1, 2, 0])
    (_, (state, label), _), (_, (same, other), _) = (MEMORY.adapt(params, x, labels) for labels in (y, changed))
    for a, b in zip(state, same, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal([label, other], np.eye(WAYS)[[3, 0]])
    a, b = (MEMORY.predict(MEMORY.adapt(params, x, labels), x) for labels in (y, changed))
    assert np.abs(a - b).max(axis=1).min() > 1e-3


# --------------------------------------------------------------------------------------------------------- SNAIL


def snail(params, z, labels):
    """The network over a whole sequence, blocks as the figures of Mishra et al. 2018 have them; the scores of the last row."""
    x = torch.cat([z, torch.cat([labels, torch.zeros_like(labels[:1])])], 1)
    n, dilation = len(x), 1
    for block in params["blocks"]:
        if "now" in block:
            kernel = torch.stack([block["before"].T, block["now"].T], 2)  # [out, in, 2]
            padded = torch.nn.functional.pad(x.T, (dilation, 0))
            value, gate = torch.nn.functional.conv1d(padded[None], kernel, block["b"], dilation=dilation)[0].T.chunk(2, 1)
            more, dilation = torch.tanh(value) * torch.sigmoid(gate), 2 * dilation
        else:
            query, key, value = (linear(block[name], x) for name in ("query", "key", "value"))
            scores = query @ key.T / np.sqrt(query.shape[1])
            later = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
            more, dilation = torch.softmax(scores.masked_fill(later, -torch.inf), 1) @ value, 1
        x = torch.cat([x, more], 1)
    return linear(params["out"], x)[-1]


@pytest.mark.parametrize(("ways", "shots"), [(WAYS, SHOTS), (3, 1), (1, 1), (5, 3)])
def test_snail_is_torchs_over_whole_sequences(ways, shots, backend):
    def loss(params, embed, xs, ys, xq, yq):
        z, q = embed(params["model"], xs), embed(params["model"], xq)
        labels = torch.nn.functional.one_hot(ys, ways).double()
        return scored(torch.stack([snail(params, *sequence) for sequence in each_query(z, q, labels)]), yq)

    learner = fm.SNAIL(MODEL, ways, shots, FILTERS)
    agree(learner, fresh(learner), episodes(ways=ways, shots=shots), loss, rtol=1e-8)


def test_convolutions_reach_the_whole_support_set_and_sizes_are_the_papers():
    assert fm.SNAIL(MODEL, 5, 1)._dilations == [0, 1, 2, 4, 0, 1, 2, 4, 0]
    assert fm.SNAIL(MODEL, 5, 5)._dilations[1:6] == [1, 2, 4, 8, 16]  # 26 rows
    assert fm.SNAIL(MODEL, 1, 3)._dilations == [0, 1, 2, 0, 1, 2, 0]  # 4 rows
    blocks = fm.SNAIL(MLP((2, 64)), 5, 1).init(0)["blocks"]
    assert [b["b"].size // 2 if "b" in b else (b["key"]["b"].size, b["value"]["b"].size) for b in blocks] == [
        (64, 32), 128, 128, 128, (256, 128), 128, 128, 128, (512, 256),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("learner", [MEMORY, CAUSAL], ids=repr)
def test_queries_do_not_see_each_other(learner, backend):
    params, e = fresh(learner), episodes()
    adapted = learner.adapt(params, e.support_x[0], e.support_y[0])
    whole = learner.predict(adapted, e.query_x[0])
    for k in (0, 7):
        np.testing.assert_allclose(learner.predict(adapted, e.query_x[0][k : k + 1]), whole[k : k + 1], 1e-9)


class Clusters(Sampler):
    """New classes in every task, class by class."""

    def __init__(self, ways, tasks=16, seed=0):
        self.ways, self.tasks, self.seed = ways, tasks, seed

    def batch(self, step):
        rng = np.random.default_rng([self.seed, step])
        centres = rng.normal(size=(self.tasks, self.ways, INPUTS))

        def draw(n):
            y = np.tile(np.repeat(np.arange(self.ways, dtype=np.int32), n), (self.tasks, 1))
            x = np.take_along_axis(centres, y[:, :, None], 1) + 0.1 * rng.normal(size=(*y.shape, INPUTS))
            return x.astype(np.float32), y

        return Episode(*draw(1), *draw(5))


LEARN = [
    (fm.SNAIL(MLP((INPUTS, 32, 16)), ways=5, shots=1, filters=16), 3e-3, 400, 0.85),
    (fm.MANN(MLP((INPUTS, 32, 16)), ways=3, slots=8, width=16, hidden=32, reads=2), 5e-3, 800, 0.92),  # 0.83 by the LSTM alone
]


@pytest.mark.parametrize(("learner", "rate", "steps", "least"), LEARN, ids=["SNAIL", "MANN"])
def test_training_learns_to_read_labels(learner, rate, steps, least):
    """In orders that training did not choose: rows in random order, and class by class."""
    trained = Trainer(learner, Shuffled(Clusters(learner.ways)), fm.optim.adam(rate)).run(steps)
    tests = Clusters(learner.ways, tasks=200, seed=1)
    for sampler in (Shuffled(tests), tests):
        assert learner.evaluate(trained.params, sampler.batch(0))["accuracy"] > least


def test_without_shuffling_a_network_learns_places():
    learner, rate, steps, _ = LEARN[0]
    with pytest.warns(RuntimeWarning, match="class by class"):
        trained = Trainer(learner, Clusters(5), fm.optim.adam(rate)).run(steps)
    tests = Clusters(5, tasks=200, seed=1)
    placed, mixed = (learner.evaluate(trained.params, sampler.batch(0))["accuracy"] for sampler in (tests, Shuffled(tests)))
    assert placed > 0.85 and mixed < 0.65


def test_shuffled_episodes():
    sampler = Clusters(5)
    whole, mixed = sampler.batch(3), Shuffled(sampler).batch(3)
    for a, b in zip(mixed, Shuffled(sampler).batch(3), strict=True):
        np.testing.assert_array_equal(a, b)
    for x, y, given in zip(mixed.support_x, mixed.support_y, whole.support_x, strict=True):
        assert sorted(y) == list(range(5))
        np.testing.assert_array_equal(x, given[y])  # one example a class, in order
    assert len({tuple(y) for y in mixed.support_y}) > 8
    assert not np.array_equal(mixed.support_y, Shuffled(sampler).batch(4).support_y)
    np.testing.assert_array_equal(mixed.query_x, whole.query_x)
    np.testing.assert_array_equal(mixed.query_y, whole.query_y)


def test_a_trainer_warns_of_support_sets_that_come_class_by_class():
    learner = fm.SNAIL(MLP((INPUTS, 4)), ways=5, shots=1, filters=4)
    message = "[SNAIL] expected support examples in random order, got class by class in all 16 tasks"
    with pytest.warns(RuntimeWarning, match=re.escape(message)):
        Trainer(learner, Clusters(5), fm.optim.sgd(1e-3)).run(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(learner, Shuffled(Clusters(5)), fm.optim.sgd(1e-3)).run(1)


E, THREE = episodes(), episodes(ways=3)
BAD = [
    (lambda: fm.MANN(MODEL, None), TypeError, "[MANN] expected ways, the number of classes: the network has an output for each, got None"),
    (lambda: fm.SNAIL(MODEL, None, 1), TypeError, "[SNAIL] expected ways, the number of classes: the network has an output for each, got None"),
    (lambda: fm.MANN(3, 5), TypeError, "[MANN] expected model a function, got int"),
    (lambda: fm.MANN(MODEL, 0), ValueError, "[MANN] expected ways at least 1, got 0"),
    (lambda: fm.MANN(MODEL, 5, slots=0), ValueError, "[MANN] expected slots at least 1, got 0"),
    (lambda: fm.MANN(MODEL, 5, width=0), ValueError, "[MANN] expected width at least 1, got 0"),
    (lambda: fm.MANN(MODEL, 5, hidden=2.5), TypeError, "[MANN] expected hidden a whole number, got 2.5"),
    (lambda: fm.MANN(MODEL, 5, reads=0), ValueError, "[MANN] expected reads at least 1, got 0"),
    (lambda: fm.MANN(MODEL, 5, slots=3), ValueError, "[MANN] expected reads at most slots, 3, got 4"),
    (lambda: fm.SNAIL(MODEL, 5, 0), ValueError, "[SNAIL] expected shots at least 1, got 0"),
    (lambda: fm.SNAIL(MODEL, 5, 1, filters=3), ValueError, "[SNAIL] expected filters at least 4, got 3"),
    (lambda: MEMORY.measure(fresh(MEMORY), THREE), ValueError, "[MANN] expected tasks of 4 classes, as ways says, got 3"),
    (lambda: MEMORY.value_and_grad(fresh(MEMORY), THREE), ValueError, "[MANN] expected tasks of 4 classes, as ways says, got 3"),
    (lambda: MEMORY.adapt(fresh(MEMORY), THREE.support_x[0], THREE.support_y[0]), ValueError, "[MANN] expected tasks of 4 classes, as ways says, got 3"),
    (lambda: CAUSAL.check(episodes(ways=5)), ValueError, "[SNAIL] expected tasks of 4 classes, as ways says, got 5"),
    (lambda: CAUSAL.measure(fresh(CAUSAL), episodes(shots=1)), ValueError, "[SNAIL] expected 4 ways * 2 shots = 8 support examples, got 4"),
    (lambda: CAUSAL.adapt(fresh(CAUSAL), E.support_x[0][:7], np.array([0, 1, 2, 3, 0, 1, 2])), ValueError, "[SNAIL] expected 4 ways * 2 shots = 8 support examples, got 7"),
    (lambda: MEMORY.measure(fresh(MEMORY), E._replace(query_y=E.query_y + 1)), ValueError, "[MANN] expected query labels in 0..3, the support's, got 1..4"),
    (lambda: Shuffled(3), TypeError, "[Shuffled] expected a sampler with batch(step), got int"),
    (lambda: Shuffled(Clusters(2)).batch(-1), ValueError, "[Shuffled] expected step at least 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message, backend):
    with pytest.raises(kind, match=re.escape(message)):
        call()
