"""MAML's family against hand-derived gradients in float64, in training, and on bad input."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import optree
import pytest
from regression_tasks import TASKS, W, by_hand, check, linear, regression, slope, vector

import fastmeta as fm
from fastmeta.data import DescribedEpisode, Episode, Sinusoid
from fastmeta.errors import DivergedError
from fastmeta.models import MLP
from fastmeta.plan import make_plan
from fastmeta.train.trainer import Trainer

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


# ---------------------------------------------------------------------------------------------------- every learner

MODEL = MLP((1, 20, 20, 1), activation="tanh")
LEARNERS = [
    fm.FOMAML(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=2),
    fm.ANIL(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=3),
    fm.MetaSGD(MODEL, loss=fm.nn.mse, inner_lr=0.05),
    fm.MAMLPlusPlus(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=3, multi_loss=100, first_order=50),
    fm.Reptile(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=5),
    fm.Reptile(MODEL, loss=fm.nn.mse, inner_lr=0.02, inner_steps=5, inner_rule="adam"),
    fm.Reptile(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=5, inner_batch=4),
    fm.IMAML(MODEL, loss=fm.nn.mse, inner_lr=0.01, inner_steps=20, damping=2.0),
    fm.LSTMMetaLearner(MODEL, loss=fm.nn.mse, inner_steps=3, hidden=8),
    fm.LearnedOptimizer(MLP((1, 20, 1), activation="sin"), loss=fm.nn.mse, inner_steps=10, hidden=6),
    fm.ESMAML(MODEL, loss=fm.nn.mse, inner_lr=0.02, inner_steps=2),
    fm.ESMAML(MODEL, loss=fm.nn.mse, inner_lr=0.05, inner_steps=2, inner_directions=None),
]
NAMES = ["FOMAML", "ANIL", "MetaSGD", "MAMLPlusPlus", "Reptile", "Reptile-adam", "Reptile-batches", "IMAML", "LSTMMetaLearner", "LearnedOptimizer", "ESMAML", "ESMAML-gradients"]
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)


@every_learner
def test_training_lowers_the_loss(learner):
    optimizer = fm.optim.sgd(0.5) if isinstance(learner, fm.Reptile) else fm.optim.adam(3e-3)
    trained = Trainer(learner, Sinusoid(tasks=8), optimizer).run(400)
    unseen = Sinusoid(tasks=100, seed=1).batch(0)
    before, after = (learner.evaluate(p, unseen)["loss"] for p in (learner.init(0), trained.params))
    assert after < 0.85 * before


@every_learner
def test_a_learner_is_pickled_as_it_was_made(learner):
    episodes = Sinusoid(tasks=2).batch(0)
    params = learner.init(0)
    learner.value_and_grad(params, episodes, *learner.phase(0))  # compiled functions are left behind
    again = pickle.loads(pickle.dumps(learner))
    assert repr(again) == repr(learner)
    for a, b in zip(*(optree.tree_leaves(x.value_and_grad(params, episodes, *x.phase(0))) for x in (learner, again)), strict=True):
        np.testing.assert_array_equal(a, b)


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
    plain = Sinusoid(tasks=25).batch(0)

    def cost(kind, **options):
        learner = kind(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=5, **options)
        e = DescribedEpisode(*plain, np.ones((25, 2), np.float32)) if learner.described else plain
        return make_plan(fm.jit(learner.value_and_grad).program(learner.init(0), e, *learner.phase(0))).flops

    page = (Path(__file__).parents[1] / "docs" / "learners.md").read_text()
    table = {name: float(value) for name, value in re.findall(r"^\| `fm\.(\w+)` \|.*\| (\d+(?:\.\d\d)?) \|", page, re.M)}
    assert table.keys() == {"MAML", "ConditionalMAML", *(type(learner).__name__ for learner in LEARNERS)}
    for name, value in table.items():
        options = {"features": MLP((2, 32, 16))} if name == "ConditionalMAML" else {}
        assert cost(getattr(fm, name), **options) / cost(fm.MAML) == pytest.approx(value, rel=0.006, abs=0.006), name
    exact = float(re.search(r"`inner_directions=None`\) it costs (\d+\.\d)", page)[1])
    assert cost(fm.ESMAML, inner_directions=None) / cost(fm.MAML) == pytest.approx(exact, rel=0.006)


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
    after = learner.measure(params, e)["losses"][:, 1:]
    at = after.mean(axis=1) if isinstance(learner, fm.LearnedOptimizer) else after[:, -1]
    np.testing.assert_allclose(aux["loss"], at, rtol=1e-4)
    assert loss == pytest.approx(at.mean(), rel=1e-4)


@every_learner
def test_classification_reports_accuracy(learner):
    rng = np.random.default_rng(0)
    model = MLP((2, 6, 3))
    options = {k: v for k, v in vars(learner).items() if k in ("inner_lr", "inner_rule", "damping", "hidden", "inner_directions")}
    learner = type(learner)(model, **options)
    e = Episode(*(v for _ in "sq" for v in (rng.normal(size=(2, 6, 2)).astype(np.float32), rng.integers(0, 3, (2, 6)).astype(np.int32))))
    (_, aux), _ = learner.value_and_grad(learner.init(0), e)
    np.testing.assert_allclose(aux["accuracy"], (aux["outputs"].argmax(-1) == e.query_y).mean(axis=1), rtol=1e-6)
    assert 0 <= learner.evaluate(learner.init(0), e)["accuracy"] <= 1
    assert repr(learner).startswith(f"{type(learner).__name__}({model!r}, ")


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
    (lambda: make(fm.Reptile, inner_batch=0), ValueError, r"\[Reptile\] expected inner_batch at least 1, got 0"),
    (lambda: make(fm.Reptile, inner_batch=2.5), TypeError, "inner_batch a whole number, got 2.5"),
    (lambda: make(fm.IMAML, damping=0.0), ValueError, r"\[IMAML\] expected damping above 0, got 0.0"),
    (lambda: make(fm.IMAML, damping=-1), ValueError, "damping above 0"),
    (lambda: make(fm.IMAML, damping="2"), TypeError, "damping a number, got '2'"),
    (lambda: make(fm.IMAML, iterations=0), ValueError, "iterations at least 1, got 0"),
    (lambda: make(fm.IMAML, inner_lr=float("nan")), ValueError, "inner_lr above 0"),
    (lambda: make(fm.IMAML, model=3), TypeError, r"\[IMAML\] expected model a function, got int"),
    (lambda: make(fm.IMAML).value_and_grad(MODEL.init(0), Sinusoid(tasks=2).batch(0)[:2]), TypeError, r"\[IMAML\] expected an episode"),
    (lambda: make(fm.Reptile).adapt(MODEL.init(0), np.ones((2, 1))), TypeError, r"\[Reptile\] expected a support set"),
    (lambda: make(fm.LSTMMetaLearner, hidden=0), ValueError, r"\[LSTMMetaLearner\] expected hidden at least 1, got 0"),
    (lambda: make(fm.LSTMMetaLearner, hidden=2.0), TypeError, "hidden a whole number, got 2.0"),
    (lambda: make(fm.LSTMMetaLearner, inner_steps=0), ValueError, "inner steps at least 1"),
    (lambda: make(fm.LSTMMetaLearner, loss="mse"), TypeError, r"\[LSTMMetaLearner\] expected loss a function, got str"),
    (lambda: step(make(fm.LSTMMetaLearner), more=1.0), TypeError, r'meta-parameters \{"weights", "rule"\}, got'),
    (lambda: step(make(fm.LSTMMetaLearner), rule={"lstm": 1.0}), TypeError, r"""a rule \{"lstm", "forget", "input"\}, got \['lstm'\]"""),
    (lambda: step(make(fm.LSTMMetaLearner), rule=make(fm.LSTMMetaLearner, hidden=3).init(0)["rule"]), ValueError, r"\[lstm_cell\] expected h of shape \(13, 3\), got \(13, 20\)"),
    (lambda: make(fm.LearnedOptimizer, hidden=True), TypeError, r"\[LearnedOptimizer\] expected hidden a whole number"),
    (lambda: make(fm.LearnedOptimizer, inner_steps=0), ValueError, "inner steps at least 1"),
    (lambda: step(make(fm.LearnedOptimizer), more=1.0), TypeError, r'meta-parameters \{"lstm", "w", "b"\}, got'),
    (lambda: make(fm.LearnedOptimizer).value_and_grad(MODEL.init(0), Sinusoid(tasks=2).batch(0)), TypeError, r"\[LearnedOptimizer\] expected meta-parameters .* got list"),
    (lambda: make(fm.LearnedOptimizer, model=linear).phase(0), TypeError, r"\[LearnedOptimizer\] expected a model with init\(seed\), got function"),
    (lambda: make(fm.LearnedOptimizer, model=linear).adapt(make(fm.LearnedOptimizer).init(), np.ones((2, 1)), np.ones((2, 1))), TypeError, r"a model with init\(seed\), got function"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
