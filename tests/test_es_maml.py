"""ES-MAML against its estimator in NumPy, against exact meta-gradients, and on losses that have no derivative."""

from __future__ import annotations

import numpy as np
import optree
import pytest
from regression_tasks import TASKS, W, by_hand, check, linear, regression, vector

import fastmeta as fm
from fastmeta.algorithms.es_maml import normal, searched
from fastmeta.data import Episode, EpisodeSampler, Sinusoid
from fastmeta.models import MLP
from fastmeta.plan import make_plan
from fastmeta.train.trainer import Trainer


def tree(flat):
    """Vectors [..., 3] as parameters of `linear`."""
    return {"a": flat[..., :2], "b": flat[..., 2:]}


def estimate(f, w, directions, sigma):
    """The antithetic estimator as the paper writes it."""
    return np.mean([(f(w + sigma * d) - f(w - sigma * d)) / (2 * sigma) * d for d in directions], axis=0)


def squared(w, x, y):
    return np.mean((x @ w - y) ** 2)


@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_papers_estimator(steps, backend):
    e, rng = regression(), np.random.default_rng(0)
    learner = fm.ESMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, sigma=0.3, inner_directions=4)
    outer, inner = rng.normal(size=(5, 3)), normal(np.random.default_rng([0, 2]), 4, W)
    inner = np.concatenate([inner["a"], inner["b"]], axis=1).astype(float)
    (loss, aux), g = learner.value_and_grad(W, e, tree(outer))
    values, grads = [], []
    for x, y, xq, yq in zip(*e, strict=True):

        def adapted(w, x=x, y=y):
            path = [w]
            for _ in range(steps):
                w = path[-1]
                path.append(w - 0.1 * estimate(lambda v: squared(v, x, y), w, inner, 0.3))
            return path

        path = adapted(vector(W))
        check(vector(learner.adapt(W, x, y)), path[-1])
        check(aux["inner_losses"][len(values)], [squared(w, x, y) for w in path[:-1]])
        values.append(squared(path[-1], xq, yq))
        grads.append(estimate(lambda v, xq=xq, yq=yq, adapted=adapted: squared(adapted(v)[-1], xq, yq), vector(W), outer, 0.3))
    check(aux["loss"], values)
    check(loss, np.mean(values))
    check(vector(g), np.mean(grads, axis=0))


BASIS = tree(np.sqrt(3.0) * np.eye(3))  # mean d d^T = I


@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_quadratic_with_a_basis_it_is_exact(steps):
    """The query loss after steps down a quadratic is a quadratic: no sigma is too large."""
    e = regression()
    learner = fm.ESMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, sigma=2.0, inner_directions=None)
    (loss, _), g = learner.value_and_grad(W, e, BASIS)
    value, want, _ = by_hand(np.full((steps, 3), 0.1), e)
    check(loss, value)
    check(vector(g), want)
    # estimated inner gradients are linear in the weights too: they have a derivative, here taken through the estimate
    learner = fm.ESMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, sigma=2.0)
    exact = fm.map_tasks(fm.grad(lambda p, e: learner.loss(p, e)[0]), in_axes=(None, 0), reduce="mean")
    check(vector(learner.value_and_grad(W, e, BASIS)[1]), vector(exact(W, e)))


def flat(params):
    return np.concatenate([np.ravel(p) for p in optree.tree_leaves(params)])


def smooth():
    rng = np.random.default_rng(3)
    model = MLP((2, 3, 1), activation="tanh")
    params = optree.tree_map(lambda p: rng.normal(size=p.shape), model.init(0))
    e = Episode(*(rng.normal(size=(TASKS, 6, n)) for n in (2, 1, 2, 1)))
    want = fm.MAML(model, loss=fm.nn.mse, inner_lr=0.1, inner_steps=2).value_and_grad(params, e)[1]
    return model, params, e, flat(want)


def estimated(directions, sigma):
    model, params, e, _ = smooth()
    learner = fm.ESMAML(model, loss=fm.nn.mse, inner_lr=0.1, inner_steps=2, sigma=sigma, inner_directions=None)
    return flat(learner.value_and_grad(params, e, directions)[1])


def test_it_tends_to_mamls_gradient_with_the_square_of_sigma():
    _, params, _, want = smooth()
    n = len(want)
    leaves, structure = optree.tree_flatten(params)
    parts = np.split(np.sqrt(n) * np.eye(n), np.cumsum([p.size for p in leaves])[:-1], axis=1)
    basis = optree.tree_unflatten(structure, [d.reshape(n, *p.shape) for d, p in zip(parts, leaves, strict=True)])
    errors = [np.linalg.norm(estimated(basis, s) - want) for s in (1e-2, 1e-3)]
    assert errors[0] < 0.1 * np.linalg.norm(want)
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)


def test_it_tends_to_mamls_gradient_with_the_number_of_directions():
    """The relative error of K directions is about sqrt((n + 1) / K) for n parameters."""
    _, params, _, want = smooth()
    for seed in range(3):
        for count in (100, 10_000):
            directions = normal(np.random.default_rng(seed), count, params)
            error = np.linalg.norm(estimated(directions, 1e-3) - want) / np.linalg.norm(want)
            assert 0.4 < error / np.sqrt((len(want) + 1) / count) < 2, (seed, count)


def test_the_estimate_does_without_a_derivative():
    steps = lambda p: fm.sum(fm.floor(p["x"]))  # floor has none anywhere
    p, directions = {"x": np.array([0.5, 2.5])}, {"x": np.array([[1.0, 0.0], [0.0, -2.0]])}
    np.testing.assert_allclose(searched(steps, p, directions, sigma=0.6)["x"], [1 / 1.2, 2 / 1.2])


# ------------------------------------------------------------------------------------------------------- in training


def wrong(outputs, labels):
    return 1.0 - fm.nn.accuracy(outputs, labels)


def clusters(classes, tasks, seed=0):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(60), 20)
    x = (rng.normal(size=(60, 8))[y] + 0.5 * rng.normal(size=(1200, 8))).astype(np.float32)
    return EpisodeSampler.from_arrays(x, y, ways=2, shots=5, queries=5, tasks=tasks, classes=classes, seed=seed)


def test_it_learns_to_learn_from_wrong_and_right_alone():
    learner = fm.ESMAML(MLP((8, 16, 2), activation="tanh"), loss=wrong, inner_lr=1.0, sigma=0.3, directions=32)
    test = clusters(range(40, 60), 200).batch(0)
    trained = Trainer(learner, clusters(range(40), 16), fm.optim.adam(1e-2)).run(300)
    before = learner.evaluate(learner.init(0), test)["accuracy"]
    unadapted, after = learner.evaluate(trained.params, test)["accuracies"]
    assert before < 0.9
    assert after > 0.93
    assert unadapted < 0.6  # no classifier is right for all tasks: it adapts, without a derivative
    # nothing of this is left of exact inner gradients: the loss is flat
    flat_steps = fm.ESMAML(MLP((8, 16, 2), activation="tanh"), loss=wrong, inner_lr=1.0, inner_directions=None)
    x, y = test.support_x[0], test.support_y[0]
    np.testing.assert_array_equal(flat(flat_steps.adapt(trained.params, x, y)), flat(trained.params))


def test_weights_are_found_for_the_inner_directions_that_tests_take():
    """Along other directions than those of training, inner steps bring next to nothing."""
    make = lambda seed: fm.ESMAML(MLP((1, 10, 10, 1), activation="tanh"), loss=fm.nn.mse, inner_lr=0.03, inner_directions=8, seed=seed)
    trained = Trainer(make(0), Sinusoid(tasks=8), fm.optim.adam(1e-2)).run(500)
    unseen = Sinusoid(tasks=200, seed=1).batch(0)
    before, own = make(0).evaluate(trained.params, unseen)["losses"]
    others = [make(seed).evaluate(trained.params, unseen)["loss"] for seed in range(1, 8)]
    assert own < 0.75 * before
    assert np.mean(others) > 0.85 * before


def test_directions_are_those_of_seed_and_step():
    e, net = Sinusoid(tasks=2).batch(0), MLP((1, 4, 1))
    make = lambda seed=0: fm.ESMAML(net, loss=fm.nn.mse, directions=3, seed=seed)
    learner = make()
    params = learner.init(0)
    gradient = lambda learner, *phase: flat(learner.value_and_grad(params, e, *phase)[1])
    (first,) = learner.phase(0)
    assert optree.tree_map(np.shape, first) == optree.tree_map(lambda p: (3, *p.shape), params)
    np.testing.assert_array_equal(flat(make().phase(7)), flat(make().phase(7)))
    drawn = [learner.phase(0), learner.phase(1), make(1).phase(0), make(1).phase(1)]
    for k, a in enumerate(drawn):
        for b in drawn[:k]:
            assert not np.isclose(flat(a), flat(b)).any()
    np.testing.assert_array_equal(gradient(learner), gradient(learner, first))  # without a phase: step 0
    np.testing.assert_array_equal(gradient(learner, *learner.phase(1)), gradient(make(), *make().phase(1)))
    assert not np.isclose(gradient(learner), gradient(learner, *learner.phase(1))).any()
    adapted = [flat(x.adapt(params, e.support_x[0], e.support_y[0])) for x in (make(), make(), make(1))]
    np.testing.assert_array_equal(adapted[0], adapted[1])
    assert not np.isclose(adapted[0] - flat(params), adapted[2] - flat(params)).any()


def test_a_meta_step_is_compiled_once():
    e = Sinusoid(tasks=2).batch(0)
    learner = fm.ESMAML(MLP((1, 4, 1)), loss=fm.nn.mse, directions=3)
    for step in range(4):
        learner.value_and_grad(learner.init(0), e, *learner.phase(step))
    assert len(learner._mapped.cache) == 1
    t = Trainer(learner, Sinusoid(tasks=2), fm.optim.adam(1e-3))
    t.run(4)
    assert len(t._meta_step.cache) == 1


def test_training_goes_on_with_the_directions_of_its_step(tmp_path):
    def trainer(**options):
        return Trainer(fm.ESMAML(MLP((1, 4, 1)), loss=fm.nn.mse), Sinusoid(tasks=2), fm.optim.adam(1e-3), **options)

    whole = trainer().run(10)
    half = trainer(out=tmp_path).run(3)
    np.testing.assert_array_equal(flat(whole.params), flat(trainer().run(10, resume=half.checkpoint).params))


def test_directions_are_tried_one_by_one():
    """A task's memory is that of its directions, which all tasks share, and of one inner loop."""

    def plan(directions):
        learner = fm.ESMAML(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=3, directions=directions)
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), Sinusoid(tasks=2).batch(0), *learner.phase(0)))

    few, many = plan(16), plan(256)
    assert many.arena < 1.1 * few.arena
    assert many.instructions == few.instructions


# --------------------------------------------------------------------------------------------------------- bad input


def make(**changed):
    return fm.ESMAML(**({"model": MLP((1, 4, 1)), "loss": fm.nn.mse} | changed))


def step(directions):
    learner = make()
    return learner.value_and_grad(learner.init(0), Sinusoid(tasks=2).batch(0), directions)


LAYER = {"w": np.ones((3, 1, 4), np.float32), "b": np.ones((3, 4), np.float32)}
BAD = [
    (lambda: make(sigma=0.0), ValueError, r"\[ESMAML\] expected sigma above 0, got 0.0"),
    (lambda: make(sigma=-0.1), ValueError, "sigma above 0, got -0.1"),
    (lambda: make(sigma="0.1"), TypeError, "sigma a number, got '0.1'"),
    (lambda: make(directions=0), ValueError, r"\[ESMAML\] expected directions at least 1, got 0"),
    (lambda: make(directions=2.5), TypeError, "directions a whole number, got 2.5"),
    (lambda: make(directions=None), TypeError, "directions a whole number, got None"),
    (lambda: make(inner_directions=0), ValueError, "inner_directions at least 1, got 0"),
    (lambda: make(inner_lr=0.0), ValueError, "inner_lr above 0"),
    (lambda: make(inner_lr=[0.1]), TypeError, "inner_lr a number"),
    (lambda: make(inner_steps=0), ValueError, "inner steps at least 1"),
    (lambda: make(seed=-1), ValueError, "seed at least 0, got -1"),
    (lambda: make(model=3), TypeError, r"\[ESMAML\] expected model a function, got int"),
    (lambda: make(model=linear).phase(0), TypeError, r"\[ESMAML\] expected a model with init\(seed\), by which directions have shapes, got function"),
    (lambda: step([LAYER]), ValueError, r"\[ESMAML\] expected directions of structure \[\{'b': \*, 'w': \*\}, \{'b': \*, 'w': \*\}\], got \[\{"),
    (lambda: step([LAYER, LAYER]), ValueError, r"\[ESMAML\] expected directions of shape \[directions, 1\], got \[3, 4\]"),
    (lambda: make().value_and_grad(make().init(0), Sinusoid(tasks=2).batch(0)[:2]), TypeError, r"\[ESMAML\] expected an episode"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
