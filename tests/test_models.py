"""Models: shapes, initial values, modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmeta as fm
from fastmeta.models import MLP

FUNCTIONS = {
    "relu": lambda v: np.maximum(v, 0), "leaky_relu": lambda v: np.where(v > 0, v, 0.01 * v), "gelu": lambda v: torch.nn.functional.gelu(torch.tensor(v)).numpy(),
    "silu": lambda v: v / (1 + np.exp(-v)), "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "sin": np.sin,
}  # fmt: skip


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_forward_is_what_it_says(activation):
    model = MLP((3, 7, 5, 2), activation=activation)
    params = [{k: v.astype(np.float64) + 0.1 for k, v in layer.items()} for layer in model.init(4)]
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = x
    for k, layer in enumerate(params):
        y = y @ layer["w"] + layer["b"]
        y = FUNCTIONS[activation](y) if k < 2 else y
    np.testing.assert_allclose(model(params, x), y, rtol=1e-12)
    np.testing.assert_allclose(fm.jit(model.__call__)(params, x), y, rtol=1e-12)


def test_batch_norm_is_torchs():
    model = MLP((4, 6, 3), batch_norm=True)
    params = [{k: v.astype(np.float64) for k, v in layer.items()} for layer in model.init(1)]
    params[0]["scale"] += np.arange(6) / 10
    params[0]["shift"] -= np.arange(6) / 5
    x = np.random.default_rng(0).normal(size=(9, 2, 2))
    h = torch.tensor(x.reshape(9, 4) @ params[0]["w"])
    h = torch.nn.functional.batch_norm(
        h, None, None, torch.tensor(params[0]["scale"]), torch.tensor(params[0]["shift"]), training=True, eps=1e-3
    )
    want = torch.relu(h).numpy() @ params[1]["w"] + params[1]["b"]
    np.testing.assert_allclose(model(params, x), want, rtol=1e-10)


def test_init_is_seeded_and_scaled():
    model = MLP((784, 256, 5))
    a, b, c = model.init(0), model.init(0), model.init(1)
    np.testing.assert_array_equal(a[0]["w"], b[0]["w"])
    assert (a[0]["w"] != c[0]["w"]).any()
    assert a[0]["w"].std() == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    assert a[1]["w"].std() == pytest.approx((1 / 256) ** 0.5, rel=0.1)
    for activation in FUNCTIONS:
        gain = 1 if activation in ("tanh", "sigmoid", "sin") else 2
        assert MLP((784, 256, 5), activation).init(0)[0]["w"].std() == pytest.approx((gain / 784) ** 0.5, rel=0.02)
    assert all(v.dtype == np.float32 for layer in a for v in layer.values())


def test_inputs_with_more_axes_are_flattened():
    model = MLP((784, 8, 5))
    params = model.init(0)
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
    np.testing.assert_array_equal(model(params, x), model(params, x.reshape(3, 784)))


BAD = [
    (lambda: MLP((3,)), ValueError, r"\[MLP\] expected two sizes or more, each at least 1, got \(3,\)"),
    (lambda: MLP((3, 0, 2)), ValueError, "each at least 1"),
    (lambda: MLP((3, 1.5)), TypeError, "whole numbers, got 1.5"),
    (lambda: MLP((3, True)), TypeError, "whole numbers"),
    (lambda: MLP(3), TypeError, "a sequence of whole numbers"),
    (lambda: MLP((3, 2), activation="mish"), ValueError, "one of relu, leaky_relu, gelu, silu, tanh, sigmoid, sin, got 'mish'"),
    (lambda: MLP((3, 2), batch_norm=1), TypeError, "batch_norm True or False"),
    (
        lambda: MLP((3, 2))(MLP((3, 2)).init(), np.ones((2, 4), np.float32)),
        ValueError,
        r"3 features, got shape \[2, 4\]",
    ),
    (lambda: MLP((3, 2))(MLP((3, 2)).init(), np.ones(3, np.float32)), ValueError, "3 features"),
    (
        lambda: MLP((3, 2))(MLP((3, 4, 2)).init(), np.ones((2, 3), np.float32)),
        ValueError,
        "1 layers of parameters, got 2",
    ),
    (
        lambda: MLP((3, 2))(MLP((3, 2)).init(), np.ones((2, 3), np.float32), mode="running"),
        ValueError,
        "either state or return_statistics=True in mode 'running', got neither",
    ),
    (
        lambda: MLP((3, 4, 2), batch_norm=True)(MLP((3, 4, 2), batch_norm=True).init(), np.ones((1, 3), np.float32)),
        ValueError,
        "more than one element per channel",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_weights_of_rows_fill_up_batches():
    """A set that is filled up has the losses, gradients and accuracy of the set; unequal weights are torch's."""
    rng = np.random.default_rng(3)
    z, labels, target = rng.normal(size=(5, 4)), np.array([0, 3, 1, 2, 0]), rng.normal(size=(5, 4))
    mask, w = np.array([True, True, False, True, False]), rng.uniform(0.1, 2, 5)
    for f, y in ((fm.nn.cross_entropy, labels), (fm.nn.mse, target), (fm.nn.accuracy, labels)):
        np.testing.assert_allclose(f(z, y, weights=mask), f(z[mask], y[mask]), rtol=1e-6)
        rows = np.array([f(z[k : k + 1], y[k : k + 1]) for k in range(5)])
        np.testing.assert_allclose(f(z, y, weights=w), (w * rows).sum() / w.sum(), rtol=1e-6)
        with pytest.raises(ValueError, match=rf"\[{f.__name__}\] expected weights of shape \(5,\), got \(4,\)"):
            f(z, y, weights=w[:4])
    gradient = fm.grad(lambda z: fm.nn.cross_entropy(z, labels, weights=mask))(z)
    t = torch.tensor(z, requires_grad=True)
    torch.nn.functional.cross_entropy(t[torch.tensor(mask)], torch.tensor(labels[mask])).backward()
    np.testing.assert_allclose(gradient, t.grad, rtol=0, atol=1e-12)
