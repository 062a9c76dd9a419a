"""MAML against closed forms and against torch in float64."""

from __future__ import annotations

import numpy as np
import optree
import pytest
import torch

import fastmeta as fm
from fastmeta.algorithms import MAML, Learner
from fastmeta.data import Episode, Sinusoid
from fastmeta.models import MLP


def linear(params, x):
    return x @ params


def regression(tasks=4, n=6, d=3, seed=0):
    rng = np.random.default_rng(seed)
    x, xq = rng.normal(size=(2, tasks, n, d))
    w = rng.normal(size=(tasks, d))
    return Episode(x, np.einsum("tnd,td->tn", x, w), xq, np.einsum("tnd,td->tn", xq, w))


def closed(w, e, lr, steps, order):
    """Loss and meta-gradient of linear regression: the inner step is w' = A w + c with A = I - lr H."""
    losses, grads = [], []
    for x, y, xq, yq in zip(*e, strict=True):
        h = 2 * x.T @ x / len(x)
        a, c = np.eye(len(w)) - lr * h, lr * 2 * x.T @ y / len(x)
        fast, jacobian = w, np.eye(len(w))
        for _ in range(steps):
            fast, jacobian = a @ fast + c, a @ jacobian
        losses.append(np.mean((xq @ fast - yq) ** 2))
        g = 2 * xq.T @ (xq @ fast - yq) / len(xq)
        grads.append(g if order == 1 else jacobian.T @ g)
    return np.array(losses), np.mean(grads, axis=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_linear_regression_has_a_closed_form(order, steps):
    e, w = regression(), np.array([0.3, -1.0, 2.0])
    learner = MAML(linear, loss=fm.nn.mse, inner_lr=0.1, inner_steps=steps, order=order)
    (loss, aux), g = learner.value_and_grad(w, e)
    losses, want = closed(w, e, 0.1, steps, order)
    np.testing.assert_allclose(aux["loss"], losses, rtol=1e-11)
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-11)
    np.testing.assert_allclose(g, want, rtol=1e-9)
    assert aux["inner_losses"].shape == (4, steps)
    np.testing.assert_allclose(aux["inner_losses"][:, 0], ((e[0] @ w - e[1]) ** 2).mean(axis=1), rtol=1e-11)


def torch_maml(params, e, *, lr, steps, order, clip, classify, activation):
    """The same by torch, task by task: mean query loss, its gradient, accuracy."""
    leaves = [torch.tensor(p, requires_grad=True) for layer in params for p in (layer["b"], layer["w"])]

    def forward(ps, x):
        for k in range(0, len(ps), 2):
            x = x @ ps[k + 1] + ps[k]
            x = activation(x) if k + 2 < len(ps) else x
        return x

    criterion = torch.nn.functional.cross_entropy if classify else torch.nn.functional.mse_loss
    total = 0.0
    for x, y, xq, yq in zip(*e, strict=True):
        x, y, xq, yq = (torch.tensor(v.astype(np.int64) if v.dtype == np.int32 else v) for v in (x, y, xq, yq))
        fast = list(leaves)
        for _ in range(steps):
            gs = torch.autograd.grad(criterion(forward(fast, x), y), fast, create_graph=order == 2)
            if clip is not None:
                norm = sum((g**2).sum() for g in gs).sqrt()
                gs = [g * torch.clamp(clip / norm, max=1.0) for g in gs]
            fast = [p - lr * g for p, g in zip(fast, gs, strict=True)]
        total = total + criterion(forward(fast, xq), yq)
    total = total / len(e[0])
    return total.item(), [g.numpy() for g in torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("classify", [False, True])
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize(("order", "steps"), [(2, 1), (2, 3), (1, 1), (1, 3)])
def test_gradient_is_torchs(order, steps, clip, classify):
    rng = np.random.default_rng(1)
    model = MLP((3, 5, 4, 3), activation="tanh")
    params = optree.tree_map(lambda p: rng.normal(size=p.shape) * 0.5, model.init(0))
    x, xq = rng.normal(size=(2, 3, 7, 3))
    if classify:
        y, yq = rng.integers(0, 3, (2, 3, 7)).astype(np.int32)
    else:
        y, yq = rng.normal(size=(2, 3, 7, 3))
    loss = fm.nn.cross_entropy if classify else fm.nn.mse
    learner = MAML(model, loss=loss, inner_lr=0.3, inner_steps=steps, order=order, inner_clip=clip)
    e = Episode(x, y, xq, yq)
    (value, aux), g = learner.value_and_grad(params, e)
    want, grads = torch_maml(
        params, e, lr=0.3, steps=steps, order=order, clip=clip, classify=classify, activation=torch.tanh
    )
    assert value == pytest.approx(want, rel=1e-12)
    for a, b in zip(optree.tree_leaves(g), grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    if classify:
        np.testing.assert_allclose(aux["accuracy"], (aux["outputs"].argmax(-1) == yq).mean(axis=1), rtol=1e-6)
    else:
        assert "accuracy" not in aux


def test_adapt_predict_and_measure_agree():
    learner = MAML(MLP((1, 8, 1)), loss=fm.nn.mse, inner_lr=0.01)
    params, e = learner.init(3), Sinusoid(tasks=5).batch(0)
    measured = learner.measure(params, e, 4)
    assert measured["losses"].shape == (5, 5)
    assert measured["inner_losses"].shape == (5, 4)
    for t in range(5):
        for k in range(5):
            adapted = learner.adapt(params, e.support_x[t], e.support_y[t], steps=k)
            error = np.mean((learner.predict(adapted, e.query_x[t]) - e.query_y[t]) ** 2)
            assert measured["losses"][t, k] == pytest.approx(error, rel=1e-5)
    once = learner.adapt(params, (e.support_x[0], e.support_y[0]))
    again = learner.adapt(params, Episode(*[v[0] for v in e]))
    np.testing.assert_array_equal(once[0]["w"], again[0]["w"])
    result = learner.evaluate(params, e, 4)
    assert result["loss"] == pytest.approx(measured["losses"][:, -1].mean())
    assert result["loss_interval"] == pytest.approx(1.96 * measured["losses"][:, -1].std(ddof=1) / 5**0.5)
    assert learner.evaluate(params, e, 0)["losses"] == pytest.approx([measured["losses"][:, 0].mean()])


def test_rates_may_be_a_tree_and_zero_keeps_a_part():
    model = MLP((1, 4, 1))
    learner = MAML(model, loss=fm.nn.mse, inner_lr=[{"w": 0.0, "b": 0.1}, 0.2], inner_steps=2)
    params, e = learner.init(0), Sinusoid(tasks=1).batch(0)
    adapted = learner.adapt(params, e.support_x[0], e.support_y[0])
    np.testing.assert_array_equal(adapted[0]["w"], params[0]["w"])
    assert (adapted[0]["b"] != params[0]["b"]).any()
    assert (adapted[1]["w"] != params[1]["w"]).any()
    (_, _), g = learner.value_and_grad(params, e)
    assert np.abs(g[0]["w"]).sum() > 0


def test_one_task_that_diverges_leaves_the_others_alone():
    learner = MAML(MLP((1, 8, 1)), loss=fm.nn.mse, inner_lr=0.01, inner_steps=2)
    params, e = learner.init(0), Sinusoid(tasks=3).batch(0)
    bad = Episode(e.support_x.copy(), *e[1:])
    bad.support_x[1] = 1e30
    a, b = learner.measure(params, e), learner.measure(params, bad)
    assert not np.isfinite(b["losses"][1, -1])
    np.testing.assert_array_equal(a["losses"][[0, 2]], b["losses"][[0, 2]])


def test_same_bits_at_any_number_of_threads():
    learner = MAML(MLP((1, 40, 40, 1)), loss=fm.nn.mse, inner_steps=2)
    params, e = learner.init(0), Sinusoid(tasks=25).batch(0)
    before, results = fm.backends.num_threads(), []
    try:
        for n in (1, 2, 3):
            fm.set_num_threads(n)
            results.append(optree.tree_leaves(learner.value_and_grad(params, e)))
    finally:
        fm.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def good(**changed):
    return MAML(**({"model": MLP((1, 4, 1)), "loss": fm.nn.mse} | changed))


def batch(**changed):
    e = Sinusoid(tasks=2).batch(0)
    return e._replace(**{k: f(getattr(e, k)) for k, f in changed.items()})


BAD = [
    (lambda: good(inner_lr=0.0), ValueError, r"\[MAML\] expected inner_lr above 0, got 0.0"),
    (lambda: good(inner_lr=-0.1), ValueError, "inner_lr above 0"),
    (lambda: good(inner_lr=float("nan")), ValueError, "inner_lr above 0"),
    (lambda: good(inner_lr="0.1"), TypeError, "inner_lr a number or a tree"),
    (lambda: good(inner_lr=[0.0, 0.0]), ValueError, "inner_lr above 0"),
    (lambda: good(inner_lr=[0.1, 0.1, 0.1]).init(), ValueError, "MAML inner_lr"),
    (lambda: good(inner_steps=0), ValueError, "inner steps at least 1, got 0"),
    (lambda: good(inner_steps=1.5), TypeError, "inner steps a whole number"),
    (lambda: good(order=3), ValueError, "order 1 or 2, got 3"),
    (lambda: good(order=True), ValueError, "order 1 or 2"),
    (lambda: good(inner_clip=0.0), ValueError, "max_norm above 0"),
    (lambda: good(model=None), TypeError, "model a function"),
    (lambda: good(loss="mse"), TypeError, "loss a function"),
    (lambda: good().value_and_grad(good().init(), batch()[:3]), TypeError, r"an episode .* got a tuple of 3"),
    (lambda: good().value_and_grad(good().init(), "episode"), TypeError, "an episode"),
    (lambda: good().value_and_grad(good().init(), batch(support_x=lambda v: v[:, :0], support_y=lambda v: v[:, :0])), ValueError, "at least one support example"),
    (lambda: good().value_and_grad(good().init(), batch(query_x=lambda v: v[:, :0], query_y=lambda v: v[:, :0])), ValueError, "at least one query example"),
    (lambda: good().value_and_grad(good().init(), batch(support_y=lambda v: v[:, :3])), ValueError, "as many support_x as support_y"),
    (lambda: good().value_and_grad(good().init(), batch(support_x=lambda v: v[:1])), ValueError, "one number of tasks"),
    (lambda: good().value_and_grad(good().init(), Episode(*[v[:0] for v in batch()])), ValueError, "at least one task"),
    (lambda: good().adapt(good().init(), np.ones((2, 1), np.float32)), TypeError, "a support set"),
    (lambda: good().adapt(good().init(), np.ones((2, 1), np.float32), np.ones((2, 1), np.float32), steps=-1), ValueError, "inner steps at least 0"),
    (lambda: good().evaluate(good().init(), batch(), -1), ValueError, "inner steps at least 0"),
    (lambda: Learner(), TypeError, "abstract"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_label_out_of_range_names_task():
    learner = MAML(MLP((2, 4, 3)))
    x, y = np.ones((2, 3, 2), np.float32), np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    with pytest.raises(IndexError, match="got 3 in task 1"):
        learner.value_and_grad(learner.init(), Episode(x, y, x, y))
