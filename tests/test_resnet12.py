"""ResNet12: shapes, initial values, torch's output and second-order meta-gradient of the same weights, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import optree
import pytest
import torch
import torch.nn.functional as F

import fastmeta as fm
from fastmeta.models import ResNet12

SLOPES = [0.1, 0.0]


def small(slope: float = 0.1) -> ResNet12:
    return ResNet12(channels=(3, 4, 2, 5), classes=3, input=(17, 16, 2), slope=slope)


def doubled(params: Any) -> Any:
    """In float64, away from the initial scales and shifts."""
    rng = np.random.default_rng(5)
    return fm.tree_map(lambda a: a.astype(np.float64) + 0.1 * rng.standard_normal(a.shape), params)


def torch_resnet12(params: Any, x: torch.Tensor, slope: float) -> torch.Tensor:
    """The network as MetaOptNet's code writes it, for NCHW images and our weights."""

    def convolved(x: torch.Tensor, layer: Any) -> torch.Tensor:
        w = layer["w"].permute(3, 2, 0, 1)
        return F.batch_norm(F.conv2d(x, w, padding=w.shape[-1] // 2), None, None, layer["scale"], layer["shift"], training=True)

    for block in params[:-1]:
        first, second, third = block["path"]
        y = F.leaky_relu(convolved(x, first), slope)
        y = F.leaky_relu(convolved(y, second), slope)
        y = convolved(y, third) + convolved(x, block["shortcut"])
        x = F.max_pool2d(F.leaky_relu(y, slope), 2)
    return x.mean((2, 3)) @ params[-1]["w"] + params[-1]["b"]


@pytest.mark.parametrize("slope", SLOPES)
def test_output_is_torchs(slope: float) -> None:
    model = small(slope)
    params = doubled(model.init(0))
    x = np.random.default_rng(0).standard_normal((4, 17, 16, 2))
    want = torch_resnet12(fm.tree_map(torch.tensor, params), torch.tensor(x).permute(0, 3, 1, 2), slope)
    np.testing.assert_allclose(model(params, x), want.numpy(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fm.jit(model.__call__)(params, x), want.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slope", SLOPES)
def test_meta_gradient_is_torchs(slope: float) -> None:
    """One inner step and the exact second-order gradient: derivatives of order 1 and 2 of every layer."""
    model = small(slope)
    params = doubled(model.init(1))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 2, 6, 17, 16, 2))
    y = np.tile(np.arange(6) % 3, (2, 2, 1))
    learner = fm.MAML(model, inner_lr=0.05)
    (value, _), gradient = learner.value_and_grad(params, (x[0], y[0], x[1], y[1]))

    leaves, tree = optree.tree_flatten(fm.tree_map(lambda a: torch.tensor(a, requires_grad=True), params))
    images, labels = torch.tensor(x).permute(0, 1, 2, 5, 3, 4), torch.tensor(y)

    def loss(leaves: list[torch.Tensor], part: int, task: int) -> torch.Tensor:
        logits = torch_resnet12(optree.tree_unflatten(tree, leaves), images[part, task], slope)
        return F.cross_entropy(logits, labels[part, task])

    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        inner = torch.autograd.grad(loss(leaves, 0, task), leaves, create_graph=True)
        total = total + loss([p - 0.05 * g for p, g in zip(leaves, inner, strict=True)], 1, task) / 2
    assert float(value) == pytest.approx(total.item(), rel=1e-9)
    for got, want in zip(optree.tree_leaves(gradient), torch.autograd.grad(total, leaves), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-7, atol=1e-9)


def test_gradient_is_that_of_differences() -> None:
    model = small()
    params = doubled(model.init(2))
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((6, 17, 16, 2)), np.arange(6) % 3

    def loss(p: Any) -> Any:
        return fm.nn.cross_entropy(model(p, x), y)

    direction = fm.tree_map(lambda a: rng.standard_normal(a.shape), params)
    gradient = fm.grad(loss)(params)
    slope = sum(float(np.sum(g * d)) for g, d in zip(optree.tree_leaves(gradient), optree.tree_leaves(direction), strict=True))
    h = 1e-6
    ahead, behind = (float(fm.jit(loss)(fm.tree_map(lambda p, d, s=s: p + s * h * d, params, direction))) for s in (1, -1))
    assert slope == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_shapes_and_initial_values() -> None:
    model = ResNet12()
    params = model.init(0)
    assert [block["path"][0]["w"].shape[2:] for block in params[:-1]] == [(3, 64), (64, 160), (160, 320), (320, 640)]
    assert [block["shortcut"]["w"].shape for block in params[:-1]] == [(1, 1, 3, 64), (1, 1, 64, 160), (1, 1, 160, 320), (1, 1, 320, 640)]
    assert sum(leaf.size for leaf in optree.tree_leaves(params)) == 12_427_525
    assert all(leaf.dtype == np.float32 for leaf in optree.tree_leaves(params))
    assert params[2]["path"][1]["w"].std() == pytest.approx((2 / (9 * 320)) ** 0.5, rel=0.01)
    assert params[-1]["w"].std() == pytest.approx((1 / 640) ** 0.5, rel=0.05)
    np.testing.assert_array_equal(params[3]["shortcut"]["w"], model.init(0)[3]["shortcut"]["w"])
    assert (params[0]["shortcut"]["w"] != model.init(1)[0]["shortcut"]["w"]).any()
    assert repr(model) == "ResNet12(channels=(64, 160, 320, 640), classes=5, input=(32, 32, 3), slope=0.1)"


BAD = [
    (lambda: ResNet12(channels=(64, 160, 320)), ValueError, r"\[ResNet12\] expected channels of four blocks, got \(64, 160, 320\)"),
    (lambda: ResNet12(channels=64), ValueError, "channels of four blocks, got 64"),
    (lambda: ResNet12(channels=(64, 160, 320, 0)), ValueError, "channels at least 1, got 0"),
    (lambda: ResNet12(channels=(64, 160, 320, 6.5)), TypeError, r"channels a whole number, got 6\.5"),
    (lambda: ResNet12(classes=0), ValueError, "classes at least 1, got 0"),
    (lambda: ResNet12(input=(32, 32)), ValueError, r"input \(height, width, channels\), got \(32, 32\)"),
    (lambda: ResNet12(input=(32, 15, 3)), ValueError, "images of at least 16 x 16, to be halved 4 times"),
    (lambda: ResNet12(slope="leaky"), TypeError, "slope a number, got 'leaky'"),
    (lambda: ResNet12(slope=1.0), ValueError, r"slope of at least 0 and below 1, got 1\.0"),
    (lambda: small()(small().init(), np.ones((2, 16, 16, 2), np.float32)), ValueError, r"x \[n, 17, 16, 2\], got shape \[2, 16, 16, 2\]"),
    (lambda: small()(small().init()[1:], np.ones((2, 17, 16, 2), np.float32)), ValueError, "5 layers of parameters, got 4"),
    (lambda: small()(small().init(), np.ones((2, 17, 16, 2), np.float32), mode="training"), ValueError, "mode 'batch' or 'running' or 'per_step', got 'training'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_is_refused(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
