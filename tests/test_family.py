"""MAML's family against hand-derived gradients in float64, in training, and on bad input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import optree
import pytest

import fastmeta as fm
from fastmeta.algorithms.imaml import conjugate_gradients
from fastmeta.data import Episode, Sinusoid
from fastmeta.errors import DivergedError
from fastmeta.models import MLP
from fastmeta.plan import make_plan
from fastmeta.train.trainer import Trainer

TASKS = 3
W = {"a": np.array([0.3, -1.0]), "b": np.array([2.0])}  # of `linear`; as one vector: [a, a, b]


def linear(params, x):
    return x[:, :2] @ params["a"] + x[:, 2:] @ params["b"]


def regression(seed=0, n=6):
    rng = np.random.default_rng(seed)
    x, xq = rng.normal(size=(2, TASKS, n, 3))
    y, yq = rng.normal(size=(2, TASKS, n))
    return Episode(x, y, xq, yq)


def vector(params):
    return np.concatenate([params["a"], params["b"]])


def slope(w, x, y):
    return 2 * x.T @ (x @ w - y) / len(x)


def by_hand(rates, e, loss_weights=None, order=2):
    """Mean loss, its gradient in the weights [3] and in the rates [steps, 3] of w <- w - rates[k] * slope(w).

    The reverse pass: with u the gradient after step k, that of rates[k] is -u * slope and u becomes u - H (rates[k] * u).
    """
    steps = len(rates)
    loss_weights = [0.0] * (steps - 1) + [1.0] if loss_weights is None else loss_weights
    total, d_w, d_rates = 0.0, np.zeros(3), np.zeros((steps, 3))
    for x, y, xq, yq in zip(*e, strict=True):
        path = [vector(W)]
        for rate in rates:
            path.append(path[-1] - rate * slope(path[-1], x, y))
        u = np.zeros(3)
        for k in reversed(range(steps)):
            w = path[k + 1]
            total += loss_weights[k] * np.mean((xq @ w - yq) ** 2) / TASKS
            u = u + loss_weights[k] * slope(w, xq, yq)
            d_rates[k] -= u * slope(path[k], x, y) / TASKS
            if order == 2:
                u = u - 2 * x.T @ (x @ (rates[k] * u)) / len(x)
        d_w += u / TASKS
    return total, d_w, d_rates


def check(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------- FOMAML and ANIL


@pytest.mark.parametrize("steps", [1, 3])
def test_fomaml_is_the_query_gradient_at_the_adapted_weights(steps, backend):
    e = regression()
    learner = fm.FOMAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps)
    (loss, _), g = learner.value_and_grad(W, e)
    value, want, _ = by_hand(np.full((steps, 3), 0.1), e, order=1)
    check(loss, value)
    check(vector(g), want)


@pytest.mark.parametrize("head", [{"a": False, "b": True}, {"a": True, "b": False}])
@pytest.mark.parametrize("steps", [1, 3])
def test_anil_moves_the_head_and_differentiates_exactly(steps, head, backend):
    e = regression()
    learner = fm.ANIL(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, head=head)
    (loss, _), g = learner.value_and_grad(W, e)
    rates = 0.1 * np.array([head["a"], head["a"], head["b"]])
    value, want, _ = by_hand(np.tile(rates, (steps, 1)), e)
    check(loss, value)
    check(vector(g), want)


@pytest.mark.parametrize("steps", [1, 3])
def test_anil_is_maml_without_rates_for_the_body(steps):
    rng = np.random.default_rng(1)
    model = MLP((3, 5, 4, 2), activation="tanh")
    params = optree.tree_map(lambda p: rng.normal(size=p.shape), model.init(0))
    e = Episode(*(rng.normal(size=(TASKS, 6, n)) for n in (3, 2, 3, 2)))
    anil = fm.ANIL(model, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps)
    maml = fm.MAML(model, loss=fm.nn.mse, inner_lr=[0.0, 0.0, 0.1], inner_steps=steps)
    for a, b in zip(optree.tree_leaves(anil.value_and_grad(params, e)), optree.tree_leaves(maml.value_and_grad(params, e)), strict=True):
        check(a, b)


# -------------------------------------------------------------------------------------------- Meta-SGD and MAML++


@pytest.mark.parametrize("steps", [1, 3])
def test_meta_sgd_learns_a_rate_per_weight(steps, backend):
    e = regression()
    learner = fm.MetaSGD(linear, loss=fm.nn.mse, inner_steps=steps)
    rates = {"a": np.array([0.05, -0.1]), "b": np.array([0.2])}
    (loss, _), g = learner.value_and_grad({"weights": W, "rates": rates}, e)
    value, d_w, d_rates = by_hand(np.tile(vector(rates), (steps, 1)), e)
    check(loss, value)
    check(vector(g["weights"]), d_w)
    check(vector(g["rates"]), d_rates.sum(axis=0))
    if steps == 1:  # the closed form: minus query gradient times support gradient
        ws = [vector(W) - vector(rates) * slope(vector(W), x, y) for x, y in zip(*e[:2], strict=True)]
        each = [-slope(w, xq, yq) * slope(vector(W), x, y) for w, x, y, xq, yq in zip(ws, *e, strict=True)]
        check(vector(g["rates"]), np.mean(each, axis=0))


def test_meta_sgd_starts_from_a_constant():
    params = fm.MetaSGD(MLP((1, 4, 1)), inner_lr=0.25).init(3)
    assert optree.tree_structure(params["rates"]) == optree.tree_structure(params["weights"])
    for w, r in zip(optree.tree_leaves(params["weights"]), optree.tree_leaves(params["rates"]), strict=True):
        assert w.dtype == r.dtype
        np.testing.assert_array_equal(r, np.full(w.shape, 0.25, np.float32))


def plus_plus(steps=3, **changed):
    options = {"inner_steps": steps, "multi_loss": 10, "first_order": 4} | changed
    return fm.MAMLPlusPlus(linear, loss=fm.nn.mse, **options)


@pytest.mark.parametrize("step", [0, 3, 4, 7, 10])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_plus_plus_by_hand(steps, step, backend):
    e, learner = regression(), plus_plus(steps)
    a, b = np.array([0.05, 0.1, -0.1])[:steps], np.array([0.2, 0.02, 0.1])[:steps]
    (loss, aux), g = learner.value_and_grad({"weights": W, "rates": {"a": a, "b": b}}, e, *learner.phase(step))
    share = max(0.0, 1 - step / 10) / steps
    loss_weights = [share] * (steps - 1) + [1 - share * (steps - 1)]
    value, d_w, d_rates = by_hand(np.stack([a, a, b], axis=1), e, loss_weights, order=1 if step < 4 else 2)
    check(loss, value)
    check(aux["loss"].mean(), value)
    check(vector(g["weights"]), d_w)
    check(g["rates"]["a"], d_rates[:, :2].sum(axis=1))
    check(g["rates"]["b"], d_rates[:, 2])


@pytest.mark.parametrize("order", [1, 2])
def test_maml_plus_plus_with_equal_rates_and_the_last_loss_is_maml(order):
    e, learner = regression(), plus_plus()
    params = {"weights": W, "rates": {"a": np.full(3, 0.1), "b": np.full(3, 0.1)}}
    maml = fm.MAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=3, order=order)
    (want, _), g = maml.value_and_grad(W, e)
    for weights in (None, (0.0, 0.0, 1.0)):
        (loss, _), got = learner.value_and_grad(params, e, weights, "first" if order == 1 else "second")
        check(loss, want)
        check(vector(got["weights"]), vector(g))
    if order == 2:
        check(learner.value_and_grad(params, e)[0][0], want)


def test_maml_plus_plus_compiles_once_per_kind_of_phase():
    e, learner = regression(), plus_plus()
    params = {"weights": W, "rates": {"a": np.full(3, 0.1), "b": np.full(3, 0.1)}}
    losses = [float(learner.value_and_grad(params, e, *learner.phase(step))[0][0]) for step in range(12)]
    assert len(set(losses)) == 11  # every step its own weights, up to step 10
    assert len(learner._mapped.cache) == 3  # first and second order with weights, the last step alone
    for step in range(12):
        assert sum(learner.phase(step)[0] or (1.0,)) == pytest.approx(1.0, abs=1e-15)


def test_maml_plus_plus_repeats_its_last_rate():
    e, learner = regression(), plus_plus(2)
    params = {"weights": W, "rates": {"a": np.array([0.05, 0.1]), "b": np.array([0.2, 0.02])}}
    w, x, y = vector(W), e.support_x[0], e.support_y[0]
    for rate in ([0.05, 0.05, 0.2], [0.1, 0.1, 0.02], [0.1, 0.1, 0.02]):
        w = w - np.array(rate) * slope(w, x, y)
    check(vector(learner.adapt(params, x, y, steps=3)), w)


# ------------------------------------------------------------------------------------------------ Reptile and iMAML


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


def test_conjugate_gradients_of_nothing_and_of_nan():
    a = np.diag([1.0, 2.0])
    z, residual = conjugate_gradients(lambda v: fm.matmul(a, v), np.zeros(2), 3)
    np.testing.assert_array_equal(z, np.zeros(2))
    assert residual == 0.0
    z, residual = conjugate_gradients(lambda v: fm.matmul(a, v), np.array([np.nan, 1.0]), 3)
    assert np.isnan(z).any()
    assert np.isnan(residual)


# ---------------------------------------------------------------------------------------------------- every learner

MODEL = MLP((1, 20, 20, 1), activation="tanh")
LEARNERS = [
    fm.FOMAML(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=2),
    fm.ANIL(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=3),
    fm.MetaSGD(MODEL, loss=fm.nn.mse, inner_lr=0.05),
    fm.MAMLPlusPlus(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=3, multi_loss=100, first_order=50),
    fm.Reptile(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=5),
    fm.Reptile(MODEL, loss=fm.nn.mse, inner_lr=0.02, inner_steps=5, inner_rule="adam"),
    fm.IMAML(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=5, damping=0.5),
]
NAMES = ["FOMAML", "ANIL", "MetaSGD", "MAMLPlusPlus", "Reptile", "Reptile-adam", "IMAML"]
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)


@every_learner
def test_training_lowers_the_loss(learner):
    optimizer = fm.optim.sgd(0.5) if isinstance(learner, fm.Reptile) else fm.optim.adam(3e-3)
    trained = Trainer(learner, Sinusoid(tasks=8), optimizer).run(400)
    unseen = Sinusoid(tasks=100, seed=1).batch(0)
    before, after = (learner.evaluate(p, unseen)["loss"] for p in (learner.init(0), trained.params))
    assert after < 0.85 * before


def test_training_goes_on_in_the_phase_it_was_in(tmp_path):
    def trainer(**options):
        learner = fm.MAMLPlusPlus(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=2, multi_loss=8, first_order=4)
        return Trainer(learner, Sinusoid(tasks=2), fm.optim.adam(1e-3), **options)

    whole = trainer().run(10)
    half = trainer(out=tmp_path).run(3)
    for a, b in zip(optree.tree_leaves(whole.params), optree.tree_leaves(trainer().run(10, resume=half.checkpoint).params), strict=True):
        np.testing.assert_array_equal(a, b)


@every_learner
def test_a_run_that_diverges_names_learner_and_task(learner):
    class Spoiled(Sinusoid):
        def batch(self, step):
            e = super().batch(step)
            e.support_y[1] = np.inf
            return e

    with pytest.raises(DivergedError, match=rf"\[{type(learner).__name__}\] .* in task 1 at inner step 0 \(meta-step 0\)"):
        Trainer(learner, Spoiled(tasks=2), fm.optim.adam(1e-3)).run(1)


def test_costs_are_those_of_the_docs():
    """Floating-point operations of a meta-gradient with five inner steps, relative to MAML's."""
    e = Sinusoid(tasks=25).batch(0)

    def cost(kind):
        learner = kind(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=5)
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), e, *learner.phase(0))).flops

    page = (Path(__file__).parents[1] / "docs" / "learners.md").read_text()
    table = {name: float(value) for name, value in re.findall(r"^\| `fm\.(\w+)` \|.*\| (\d\.\d\d) \|", page, re.M)}
    assert table.keys() == {"MAML", *(type(learner).__name__ for learner in LEARNERS)}
    for name, value in table.items():
        assert cost(getattr(fm, name)) / cost(fm.MAML) == pytest.approx(value, abs=0.006), name


@every_learner
def test_adapt_predict_and_measure_agree(learner):
    params, e = learner.init(1), Sinusoid(tasks=2).batch(0)
    measured = learner.measure(params, e, 4)
    assert measured["losses"].shape == (2, 5)
    assert measured["inner_losses"].shape == (2, 4)
    for t in range(2):
        for k in (0, 1, 4):
            adapted = learner.adapt(params, e.support_x[t], e.support_y[t], steps=k)
            error = np.mean((learner.predict(adapted, e.query_x[t]) - e.query_y[t]) ** 2)
            assert measured["losses"][t, k] == pytest.approx(error, rel=1e-4)
    (loss, aux), _ = learner.value_and_grad(params, e)
    at = learner.measure(params, e)["losses"][:, -1]
    np.testing.assert_allclose(aux["loss"], at, rtol=1e-4)
    assert loss == pytest.approx(at.mean(), rel=1e-4)


@every_learner
def test_classification_reports_accuracy(learner):
    rng = np.random.default_rng(0)
    model = MLP((2, 6, 3))
    options = {k: v for k, v in vars(learner).items() if k in ("inner_lr", "inner_rule", "damping")}
    learner = type(learner)(model, **options)
    e = Episode(*(v for _ in "sq" for v in (rng.normal(size=(2, 6, 2)).astype(np.float32), rng.integers(0, 3, (2, 6)).astype(np.int32))))
    (_, aux), _ = learner.value_and_grad(learner.init(0), e)
    np.testing.assert_allclose(aux["accuracy"], (aux["outputs"].argmax(-1) == e.query_y).mean(axis=1), rtol=1e-6)
    assert 0 <= learner.evaluate(learner.init(0), e)["accuracy"] <= 1
    assert repr(learner).startswith(f"{type(learner).__name__}({model!r}, inner_lr=")


# -------------------------------------------------------------------------------------------------------- bad input


def make(kind, **changed):
    return kind(**({"model": MLP((1, 4, 1)), "loss": fm.nn.mse} | changed))


def step(learner, **changed):
    e = Sinusoid(tasks=2).batch(0)
    return learner.value_and_grad(learner.init(0) | changed, e)


RATES = [{"w": np.ones(2), "b": np.ones(2)}]
BAD = [
    (lambda: make(fm.FOMAML, inner_lr=0.0), ValueError, r"\[FOMAML\] expected inner_lr above 0, got 0.0"),
    (lambda: make(fm.FOMAML, inner_lr=[0.1]).init(), ValueError, r"\[FOMAML inner_lr\] expected a prefix of"),
    (lambda: make(fm.FOMAML, inner_steps=0), ValueError, r"\[FOMAML\] expected inner steps at least 1, got 0"),
    (lambda: make(fm.ANIL, head=[False, 1]), TypeError, "head a tree of True and False"),
    (lambda: make(fm.ANIL, head=[False, False]), ValueError, "head with one part that adapts"),
    (lambda: make(fm.ANIL, head=[]), ValueError, "head with one part that adapts"),
    (lambda: make(fm.ANIL, head=[False, False, True]).init(), ValueError, r"\[ANIL head\] expected a prefix of"),
    (lambda: make(fm.ANIL, inner_lr=[0.1, 0.0]).init(), ValueError, "inner_lr above 0 for the head"),
    (lambda: make(fm.ANIL, model=linear).value_and_grad(W, regression()), TypeError, "a list of layers, got dict.*which part is the head"),
    (lambda: make(fm.MetaSGD, inner_lr=-0.1), ValueError, r"\[MetaSGD\] expected inner_lr above 0, got -0.1"),
    (lambda: make(fm.MetaSGD, inner_lr=[0.1, 0.2]), TypeError, "inner_lr a number"),
    (lambda: make(fm.MetaSGD, inner_steps=True), TypeError, "inner steps a whole number"),
    (lambda: step(make(fm.MetaSGD), rates=RATES), ValueError, r"\[MetaSGD\] expected rates of structure"),
    (lambda: step(make(fm.MetaSGD), rates=[RATES[0], RATES[0]]), ValueError, r"\[MetaSGD\] expected rates of shape \[4\], got \[2\]"),
    (lambda: step(make(fm.MetaSGD), more=1.0), TypeError, r'meta-parameters \{"weights", "rates"\}, got'),
    (lambda: make(fm.MetaSGD).value_and_grad(MODEL.init(0), Sinusoid(tasks=2).batch(0)), TypeError, r"\[MetaSGD\] expected meta-parameters .* got list"),
    (lambda: step(make(fm.MAMLPlusPlus), rates=[RATES[0], RATES[0]]), ValueError, r"\[MAMLPlusPlus\] expected rates of shape \[5\], got \[2\]"),
    (lambda: make(fm.MAMLPlusPlus, inner_lr=float("inf")), ValueError, "inner_lr above 0"),
    (lambda: make(fm.MAMLPlusPlus, multi_loss=-1), ValueError, "multi_loss at least 0, got -1"),
    (lambda: make(fm.MAMLPlusPlus, first_order=0.5), TypeError, "first_order a whole number"),
    (lambda: plus_plus().value_and_grad(W, regression(), None, "third"), ValueError, "order 'first' or 'second', got 'third'"),
    (lambda: plus_plus().value_and_grad(W, regression(), (0.5, 0.5)), ValueError, "3 weights of losses, got 2"),
    (lambda: make(fm.Reptile, inner_rule="rmsprop"), ValueError, r"\[Reptile\] expected inner_rule 'sgd' or 'adam', got 'rmsprop'"),
    (lambda: make(fm.Reptile, inner_rule=["sgd"]), ValueError, "inner_rule 'sgd' or 'adam'"),
    (lambda: make(fm.Reptile, inner_lr=0), ValueError, "inner_lr above 0"),
    (lambda: make(fm.Reptile, inner_steps=0), ValueError, "inner steps at least 1"),
    (lambda: make(fm.IMAML, damping=0.0), ValueError, r"\[IMAML\] expected damping above 0, got 0.0"),
    (lambda: make(fm.IMAML, damping=-1), ValueError, "damping above 0"),
    (lambda: make(fm.IMAML, damping="2"), TypeError, "damping a number, got '2'"),
    (lambda: make(fm.IMAML, iterations=0), ValueError, "iterations at least 1, got 0"),
    (lambda: make(fm.IMAML, inner_lr=float("nan")), ValueError, "inner_lr above 0"),
    (lambda: make(fm.IMAML, model=3), TypeError, r"\[IMAML\] expected model a function, got int"),
    (lambda: make(fm.IMAML).value_and_grad(MODEL.init(0), Sinusoid(tasks=2).batch(0)[:2]), TypeError, r"\[IMAML\] expected an episode"),
    (lambda: make(fm.Reptile).adapt(MODEL.init(0), np.ones((2, 1))), TypeError, r"\[Reptile\] expected a support set"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
