"""Convolution, pooling and image layers: against torch in float64, second order on both backends, and what plans make of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import optree
import pytest
import torch
from torch.nn import functional as tf

import fastmeta as fm
from fastmeta.models import Conv4
from fastmeta.ops.convolution import CONV, CONV_INPUT, CONV_WEIGHT
from fastmeta.ops.pooling import POOL_INDEX, POOL_PUT, POOL_TAKE
from fastmeta.ops.structure import LOOP
from fastmeta.plan import make_plan, prepare
from fastmeta.plan.convolution import flops, geometry
from fastmeta.plan.encode import GEMM, I_CONV, PASS, Encoder
from fastmeta.plan.fuse import fuse
from fastmeta.program import Graph, Program, Var

RNG = np.random.default_rng


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def oihw(w: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.transpose(w, (3, 2, 0, 1)).copy(), requires_grad=True)


def leaves_close(got: Any, want: Any, rtol: float) -> None:
    got, want = optree.tree_leaves(got), optree.tree_leaves(want)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol, atol=rtol)


# ------------------------------------------------------------------------------------------------- against torch


@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 1), (2, 1), ((2, 3), 2), (3, 0)], ids=str)
@pytest.mark.parametrize("shape, kernel", [((2, 7, 8, 3), (3, 3)), ((1, 6, 5, 2), (1, 1)), ((3, 9, 6, 1), (5, 2))], ids=str)
def test_conv2d_and_its_gradients_are_torchs(shape: Any, kernel: Any, stride: Any, padding: int, backend: str) -> None:
    rng = RNG(0)
    x, w = rng.normal(size=shape), rng.normal(size=(*kernel, shape[-1], 4))
    tx, tw = nchw(x), oihw(w)
    ty = tf.conv2d(tx, tw, stride=stride, padding=padding)
    ct = rng.normal(size=nhwc(ty).shape)
    gx, gw = torch.autograd.grad(ty, (tx, tw), nchw(ct).detach())
    y, back = fm.vjp(lambda x, w: fm.nn.conv2d(x, w, stride=stride, padding=padding), x, w)
    np.testing.assert_allclose(y, nhwc(ty), rtol=1e-9, atol=1e-9)
    leaves_close(back(ct), (nhwc(gx), np.transpose(gw.numpy(), (2, 3, 1, 0))), 1e-9)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_two_convolutions_of_one_small_map(kernel: int, stride: int, backend: str) -> None:
    """Their gradients meet in one instruction, also where a map is smaller than the stride and some taps meet no pixel."""
    rng = RNG(kernel * 10 + stride)
    for h, w in ((1, 1), (1, 4), (2, 1), (2, 3), (5, 1)):
        x, (a, b) = rng.normal(size=(3, h, w, 2)), rng.normal(size=(2, kernel, kernel, 2, 4))

        def f(x: Any, *weights: Any) -> Any:
            return sum(fm.sum(fm.nn.conv2d(x, k, stride=stride) * (n + 1.0)) for n, k in enumerate(weights))

        def alone(x: Any, k: Any, scale: float) -> Any:
            return fm.sum(fm.nn.conv2d(x, k, stride=stride)) * scale

        want = fm.grad(alone)(x, a, 1.0) + fm.grad(alone)(x, b, 2.0)
        np.testing.assert_allclose(fm.grad(f)(x, a, b), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n, k, s", [(28, 3, 2), (7, 3, 2), (7, 2, 1), (5, 4, 3), (6, 1, 4), (4, 5, 1)])
def test_same_padding_is_tensorflows(n: int, k: int, s: int) -> None:
    """Output ceil(n / s), the odd zero at the end."""
    rng = RNG(1)
    x, w = rng.normal(size=(2, n, n, 2)), rng.normal(size=(k, k, 2, 3))
    out = -(-n // s)
    extra = max((out - 1) * s + k - n, 0)
    first = extra // 2
    padded = tf.pad(nchw(x), (first, extra - first) * 2)
    y = fm.nn.conv2d(x, w, stride=s)
    assert y.shape == (2, out, out, 3)
    np.testing.assert_allclose(y, nhwc(tf.conv2d(padded, oihw(w), stride=s)), rtol=1e-9, atol=1e-9)


def test_depthwise_is_torchs(backend: str) -> None:
    rng = RNG(2)
    x, w = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(3, 2, 3))
    tx, tw = nchw(x), torch.tensor(np.transpose(w, (2, 0, 1))[:, None].copy(), requires_grad=True)
    ty = tf.conv2d(tx, tw, stride=2, padding=1, groups=3)
    ct = rng.normal(size=nhwc(ty).shape)
    gx, gw = torch.autograd.grad(ty, (tx, tw), nchw(ct).detach())
    y, back = fm.vjp(lambda x, w: fm.nn.depthwise_conv2d(x, w, stride=2, padding=1), x, w)
    np.testing.assert_allclose(y, nhwc(ty), rtol=1e-9)
    leaves_close(back(ct), (nhwc(gx), np.transpose(gw[:, 0].numpy(), (1, 2, 0))), 1e-9)


GEOMETRIES = [
    {"padding": (2, 0)}, {"padding": (0, 1), "stride": (1, 2)}, {"dilation": 2}, {"dilation": (1, 3), "padding": (1, 2)}, {"dilation": (2, 3), "stride": (2, 1), "padding": 2}, {"dilation": 2, "padding": "same"},
]  # fmt: skip


@pytest.mark.parametrize("at", GEOMETRIES, ids=str)
@pytest.mark.parametrize("shape, kernel", [((2, 7, 8, 3), (3, 2)), ((1, 9, 7, 1), (1, 3)), ((2, 6, 8, 4), (1, 1))], ids=str)
def test_dilation_and_numbers_for_each_axis_are_torchs(shape: Any, kernel: Any, at: dict[str, Any], backend: str) -> None:
    rng, c = RNG(8), shape[-1]
    at = {"padding": "valid"} | at
    x, w, each = rng.normal(size=shape), rng.normal(size=(*kernel, c, 4)), rng.normal(size=(*kernel, c))
    for f, v, tw, groups in ((fm.nn.conv2d, w, oihw(w), 1), (fm.nn.depthwise_conv2d, each, torch.tensor(np.transpose(each, (2, 0, 1))[:, None].copy(), requires_grad=True), c)):
        tx = nchw(x)
        ty = tf.conv2d(tx, tw, groups=groups, **at)
        ct = rng.normal(size=nhwc(ty).shape)
        gx, gw = torch.autograd.grad(ty, (tx, tw), nchw(ct).detach())
        y, back = fm.vjp(lambda x, v, f=f: f(x, v, **at), x, v)
        np.testing.assert_allclose(y, nhwc(ty), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(f(x.astype(np.float32), v.astype(np.float32), **at), y, rtol=1e-4, atol=1e-5)
        leaves_close(back(ct), (nhwc(gx), np.transpose(gw.numpy(), (2, 3, 1, 0)).reshape(v.shape)), 1e-9)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, (0, 1)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2)], ids=str)
def test_transposed_convolution_is_torchs(stride: Any, padding: Any, kernel: Any, backend: str) -> None:
    rng = RNG(13)
    x, w = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(*kernel, 3, 2))
    tx, tw = nchw(x), torch.tensor(np.transpose(w, (2, 3, 0, 1)).copy(), requires_grad=True)
    ty = tf.conv_transpose2d(tx, tw, stride=stride, padding=padding)
    ct = rng.normal(size=nhwc(ty).shape)
    gx, gw = torch.autograd.grad(ty, (tx, tw), nchw(ct).detach())
    f = lambda x, w: fm.nn.conv_transpose2d(x, w, stride=stride, padding=padding)
    y, back = fm.vjp(f, x, w)
    np.testing.assert_allclose(y, nhwc(ty), rtol=1e-9, atol=1e-9)
    leaves_close(back(ct), (nhwc(gx), np.transpose(gw.numpy(), (2, 3, 0, 1))), 1e-9)
    np.testing.assert_allclose(f(x.astype(np.float32), w.astype(np.float32)), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_convolution_undoes_the_shape(stride: Any, kernel: Any, padding: str) -> None:
    """It is the convolution's transpose: <conv2d(y, w), x> = <y, conv_transpose2d(x, w turned)>."""
    rng = RNG(14)
    x, w = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(*kernel, 3, 2))
    y = fm.nn.conv_transpose2d(x, w, stride=stride, padding=padding)
    if padding == "same":
        assert y.shape[1:3] == tuple(np.multiply((4, 5), stride))
    z = rng.normal(size=y.shape)
    seen = fm.nn.conv2d(z, np.swapaxes(w, 2, 3), stride=stride, padding=padding)
    np.testing.assert_allclose(np.sum(seen * x), np.sum(z * y), rtol=1e-9)
    fm.testing.check_grads(lambda x, w: fm.nn.conv_transpose2d(x, w, stride=stride, padding=padding), (x[:1], w))


@pytest.mark.parametrize("at", [{"padding": 2, "stride": 2}, {"dilation": 3}, {"padding": "valid", "dilation": 2, "stride": 2}], ids=str)
def test_conv1d_is_torchs(at: dict[str, Any], backend: str) -> None:
    rng = RNG(9)
    x, w = rng.normal(size=(2, 11, 3)), rng.normal(size=(3, 3, 4))
    tx, tw = (torch.tensor(np.transpose(v, axes).copy(), requires_grad=True) for v, axes in ((x, (0, 2, 1)), (w, (2, 1, 0))))
    ty = tf.conv1d(tx, tw, **({"padding": "same"} | at))
    ct = rng.normal(size=(ty.shape[0], ty.shape[2], ty.shape[1]))
    gx, gw = torch.autograd.grad(ty, (tx, tw), torch.tensor(ct).mT)
    y, back = fm.vjp(lambda x, w: fm.nn.conv1d(x, w, **at), x, w)
    np.testing.assert_allclose(y, ty.detach().mT, rtol=1e-9, atol=1e-9)
    assert fm.nn.conv1d(x.astype(np.float32), w.astype(np.float32), **at).dtype == np.float32
    leaves_close(back(ct), (gx.mT.numpy(), gw.permute(2, 1, 0).numpy()), 1e-9)


def test_second_order_of_dilated_convolutions() -> None:
    rng = RNG(10)
    fm.testing.check_grads(lambda x, w: fm.nn.conv2d(x, w, dilation=(2, 1), stride=(1, 2)), (rng.normal(size=(2, 5, 6, 2)), rng.normal(size=(2, 3, 2, 3))))
    fm.testing.check_grads(lambda x, w: fm.nn.conv1d(x, w, dilation=3), (rng.normal(size=(2, 7, 2)), rng.normal(size=(3, 2, 3))))
    fm.testing.check_grads(lambda x, w: fm.nn.depthwise_conv2d(x, w, dilation=2, padding=(2, 1)), (rng.normal(size=(2, 4, 4, 2)), rng.normal(size=(2, 2, 2))))


def test_dilation_of_a_single_element_is_none() -> None:
    x, w = RNG(11).normal(size=(2, 6, 7, 3)), RNG(12).normal(size=(1, 3, 3, 4))
    programs = [str(fm.jit(lambda x, w, d=d: fm.nn.conv2d(x, w, dilation=d)).program(x, w)) for d in ((5, 1), (1, 1))]
    assert programs[0] == programs[1] and " conv(" in programs[0]


@pytest.mark.parametrize("window, stride", [(2, None), (3, 2), (2, 1), ((2, 3), None), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 6, 6, 1)], ids=str)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools_are_torchs(kind: str, shape: Any, window: Any, stride: Any, backend: str) -> None:
    rng = RNG(3)
    x = rng.integers(-2, 3, shape).astype(np.float64)  # many ties
    tx = nchw(x)
    ty = getattr(tf, f"{kind}_pool2d")(tx, window, stride)
    ct = rng.normal(size=nhwc(ty).shape)
    (gx,) = torch.autograd.grad(ty, tx, nchw(ct).detach())
    f = getattr(fm.nn, f"{kind}_pool2d")
    y, back = fm.vjp(lambda x: f(x, window=window, stride=stride), x)
    np.testing.assert_allclose(y, nhwc(ty), rtol=1e-12)
    np.testing.assert_allclose(back(ct)[0], nhwc(gx), rtol=1e-12, atol=1e-12)


def test_layer_and_group_norm_are_torchs(backend: str) -> None:
    rng = RNG(4)
    x, scale, shift = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=6), rng.normal(size=6)
    s, t = torch.tensor(scale), torch.tensor(shift)
    want = tf.layer_norm(torch.tensor(x), (6,), s, t, eps=1e-3).numpy()
    np.testing.assert_allclose(fm.jit(lambda *a: fm.nn.layer_norm(*a, eps=1e-3))(x, scale, shift), want, rtol=1e-9, atol=1e-12)
    want = nhwc(tf.group_norm(nchw(x), 3, s, t, eps=1e-3))
    np.testing.assert_allclose(fm.jit(lambda *a: fm.nn.group_norm(*a, groups=3, eps=1e-3))(x, scale, shift), want, rtol=1e-9, atol=1e-12)


def test_batch_norm_of_images_is_torchs_and_returns_its_statistics(backend: str) -> None:
    rng = RNG(5)
    x, scale, shift = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=6), rng.normal(size=6)
    want = nhwc(tf.batch_norm(nchw(x), None, None, torch.tensor(scale), torch.tensor(shift), training=True, eps=1e-3))
    y, (mean, variance) = fm.jit(lambda *a: fm.nn.batch_norm(*a, eps=1e-3, return_statistics=True))(x, scale, shift)
    np.testing.assert_allclose(y, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-9)
    one = fm.jit(lambda *a: fm.nn.batch_norm(a[0][:1, :1, :1], a[1], a[2], eps=1e-3, statistics=(a[3], a[4])))(x, scale, shift, mean, variance)
    np.testing.assert_allclose(one, want[:1, :1, :1], rtol=1e-9)


# ------------------------------------------------------------------------------------------------------- meanings


def test_a_window_with_nan_has_the_maximum_nan(backend: str) -> None:
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    x[0, 0, 1] = x[0, 1, 0] = np.nan
    y, back = fm.vjp(fm.nn.max_pool2d, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[np.nan, 7], [13, 15]])
    np.testing.assert_array_equal(np.flatnonzero(back(np.ones_like(y))[0]), [1, 7, 13, 15])  # the first NaN


def test_dropout_keeps_what_the_mask_keeps(backend: str) -> None:
    x, mask = np.arange(1.0, 7.0), np.array([True, False, True, True, False, True])
    y, back = fm.vjp(lambda x: fm.nn.dropout(x, mask, 0.25), x)
    np.testing.assert_allclose(y, np.where(mask, x / 0.75, 0))
    np.testing.assert_allclose(back(np.ones(6))[0], mask / 0.75)


def test_one_by_one_convolution_is_a_product_of_matrices() -> None:
    x, w = RNG(6).normal(size=(2, 3, 4, 5)), RNG(7).normal(size=(1, 1, 5, 6))
    assert "conv" not in str(fm.jit(fm.nn.conv2d).program(x, w))
    np.testing.assert_allclose(fm.nn.conv2d(x, w), x @ w[0, 0], rtol=1e-12)
    assert "conv" in str(fm.jit(lambda x, w: fm.nn.conv2d(x, w, stride=2)).program(x, w))


# --------------------------------------------------------------------------------------------------- second order


def episode_of(model: Any, steps: int = 2) -> Any:
    def loss(p: Any, x: Any, y: Any) -> Any:
        return fm.nn.cross_entropy(model(p, x), y)

    def episode(p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        for _ in range(steps):
            p = fm.tree_map(lambda a, g: a - 0.1 * g, p, fm.grad(loss)(p, xs, ys))
        return loss(p, xq, yq)

    return fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean")


def tasks(size: tuple[int, int, int], seed: int = 0) -> list[np.ndarray]:
    rng = RNG(seed)
    x, y = rng.normal(size=(2, 3, 4, *size)), rng.integers(0, 3, (2, 3, 4)).astype(np.int32)
    return [x[0], y[0], x[1], y[1]]


@pytest.mark.parametrize(
    "model",
    [
        Conv4(channels=3, classes=3, input=(17, 16, 2)),
        Conv4(channels=4, classes=3, input=(9, 10, 1), strided=True, head="mean"),
    ],
    ids=repr,
)
def test_meta_gradient_through_conv4_is_the_oracles(model: Conv4, loops: str) -> None:
    params = optree.tree_map(lambda v: v.astype(np.float64), model.init(0))
    data = tasks(model.input)
    got = episode_of(model)(params, *data)
    with fm.set_backend("numpy"):
        want = episode_of(model)(params, *data)
    leaves_close(got, want, 1e-9)
    assert all(np.abs(g).max() > 1e-6 for layer in got[1] for g in layer.values())


def test_meta_gradient_of_conv4_is_torchs() -> None:
    model = Conv4(channels=3, classes=3, input=(16, 17, 2))
    params = optree.tree_map(lambda v: v.astype(np.float64), model.init(1))
    data = tasks(model.input, seed=1)
    names = [(k, name) for k, layer in enumerate(params) for name in layer]
    weights = [torch.tensor(params[k][name], requires_grad=True) for k, name in names]

    def forward(ws: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        p = dict(zip(names, ws, strict=True))
        for k in range(4):
            x = tf.conv2d(x, p[k, "w"].permute(3, 2, 0, 1), padding=1)
            x = tf.max_pool2d(tf.relu(tf.batch_norm(x, None, None, p[k, "scale"], p[k, "shift"], training=True, eps=1e-3)), 2)
        return x.permute(0, 2, 3, 1).reshape(len(x), -1) @ p[4, "w"] + p[4, "b"]

    total = torch.zeros((), dtype=torch.float64)
    for xs, ys, xq, yq in zip(*data, strict=True):
        fast = weights
        for _ in range(2):
            loss = tf.cross_entropy(forward(fast, nchw(xs)), torch.tensor(ys.astype(np.int64)))
            fast = [w - 0.1 * g for w, g in zip(fast, torch.autograd.grad(loss, fast, create_graph=True), strict=True)]
        total = total + tf.cross_entropy(forward(fast, nchw(xq)), torch.tensor(yq.astype(np.int64))) / 3
    value, grads = episode_of(model)(params, *data)
    np.testing.assert_allclose(value, total.item(), rtol=1e-9)
    want = [g.numpy() for g in torch.autograd.grad(total, weights)]
    leaves_close([grads[k][name] for k, name in names], want, 1e-9)


# ---------------------------------------------------------------------------------------------------------- plans


def opcodes(p: Program) -> Counter[int]:
    return Counter(words[0] for block in Encoder(prepare(p)).blocks for words in block)


def inner(p: Program) -> Program:
    """The body of the one loop of a prepared program."""
    (v,) = [v for v in prepare(p).live() if v.op is LOOP]
    return v.attrs[0].body


def conv_words(g: Graph, v: Var) -> list[int]:
    """The words of the one CONV of a program with the result v."""
    blocks = Encoder(prepare(Program([x for x in g.nodes if x.op.name == "input"], [v], g))).blocks
    (words,) = [w for w in blocks[0] if w[0] == I_CONV]
    return words


def test_words_of_a_convolution() -> None:
    """[opcode, n_words, tag, dtype, kind, N, H, W, C, KH, KW, O, OH, OW, strides, pads, n_products, ...]"""
    at = ((2, 1), ((1, 0), (0, 2)))
    sizes = [2, 7, 6, 3, 3, 2, 4, 3, 7, 2, 1, 1, 0]
    for kind, (op, shapes, extra) in enumerate(
        [(CONV, ((2, 7, 6, 3), (3, 2, 3, 4)), ()), (CONV_INPUT, ((2, 3, 7, 4), (3, 2, 3, 4)), ((7, 6),)), (CONV_WEIGHT, ((2, 7, 6, 3), (2, 3, 7, 4)), ((3, 2),))]
    ):
        g = Graph()
        v = g.emit(op, tuple([g.input(s, "f64") for s in shapes]), (*at, *extra))
        assert geometry(v) == [kind, *sizes]
        assert flops(v) == 2 * 2 * 3 * 7 * 4 * 3 * 2 * 3
        words = conv_words(g, v)
        assert words[3:19] == [1, kind, *sizes, 1] and words[1] == len(words)
        assert words[19:] == [*words[19:21], 1, *strides(shapes[0]), *words[26:28], 1, *strides(shapes[1]), *words[33:35], 1, *strides(v.shape), 0, 0]


def strides(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[k + 1 :])) for k in range(4)]


def test_convolutions_of_one_geometry_accumulate_and_others_do_not() -> None:
    def f(x: Any, y: Any, w: Any) -> Any:
        return fm.nn.conv2d(x, w) + fm.nn.conv2d(y, w) + 1.5 * fm.nn.conv2d(x * y, w)

    x, w = np.ones((2, 5, 5, 3)), np.ones((3, 3, 3, 4))
    assert opcodes(fm.jit(f).program(x, x, w))[I_CONV] == 2  # the factor stays outside: no alpha

    def other(x: Any, w: Any, u: Any) -> Any:
        return fm.nn.conv2d(x, w) + fm.nn.conv2d(x, u)

    assert opcodes(fm.jit(other).program(x, w, np.ones((5, 5, 3, 4))))[I_CONV] == 2
    assert opcodes(fm.jit(other).program(x, w, 2 * w))[I_CONV] == 1


def test_an_addend_is_taken_in_only_where_it_is_dense() -> None:
    x, w, y, b = np.ones((2, 5, 5, 3)), np.ones((3, 3, 3, 4)), np.arange(200.0).reshape(2, 5, 5, 4), np.arange(4.0)

    def f(x: Any, w: Any, y: Any) -> Any:
        return fm.nn.conv2d(x, w) + y

    for addend in (y, b):
        with fm.set_backend("numpy"):
            want = fm.jit(f)(x, w, addend)
        np.testing.assert_allclose(fm.jit(f)(x, w, addend), want, rtol=1e-12)
        assert opcodes(fm.jit(f).program(x, w, addend)) == {I_CONV: 1}


def test_operands_are_copied_only_where_the_kernel_needs_it() -> None:
    x, w = RNG(0).normal(size=(2, 9, 9, 3)), RNG(1).normal(size=(3, 3, 3, 4))
    cases = [
        (lambda x, w: fm.nn.conv2d(x[:, ::2, 1:], w), 0),  # strided rows and columns
        (lambda x, w: fm.nn.conv2d(fm.flip(x, axis=1), w), 0),
        (lambda x, w: fm.nn.conv2d(x[..., ::2], w[:, :, ::2]), 2),  # strided channels, sliced weights
        (lambda x, w: fm.nn.conv2d(fm.permute_dims(x, (3, 1, 2, 0)), fm.flip(w, axis=0)[:, :, :2]), 2),
    ]
    for f, copies in cases:
        with fm.set_backend("numpy"):
            want = fm.jit(f)(x, w)
        np.testing.assert_allclose(fm.jit(f)(x, w), want, rtol=1e-9, atol=1e-12)
        (block,) = Encoder(prepare(fm.jit(f).program(x, w))).blocks
        assert [words[0] for words in block] == [PASS] * (copies > 0) + [I_CONV]
        assert sum(words[3] for words in block if words[0] == PASS) == copies  # phases of one instruction


def test_flops_of_a_convolution() -> None:
    x, w = np.ones((2, 8, 8, 3)), np.ones((3, 3, 3, 4))
    assert make_plan(fm.jit(fm.nn.conv2d).program(x, w)).flops == 2 * 2 * 8 * 8 * 4 * 27


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 9, 11, 2)])
def test_poolings_of_one_map_meet(shape) -> None:
    """Gradients in tiles of two sizes, in overlapping windows and of plain elementwise use, added up; and their products."""
    x, v = np.random.default_rng(0).normal(size=(2, *shape))

    def f(x):
        y = fm.tanh(1.5 * x) * x
        pooled = [fm.nn.max_pool2d(y, window=2), fm.nn.max_pool2d(y, window=4), fm.nn.max_pool2d(fm.nn.relu(y), window=3, stride=2)]
        return sum((fm.sum(fm.sin(p)) for p in pooled), start=fm.sum(y * y))

    for g in (fm.grad(f), lambda x: fm.hvp(f)(x, v)):
        with fm.set_backend("numpy"):
            want = fm.jit(g)(x)
        np.testing.assert_allclose(fm.jit(g)(x), want, rtol=1e-9, atol=1e-12)


def test_max_pooling_is_one_pass_and_so_is_its_gradient() -> None:
    x = np.ones((2, 8, 8, 3))
    assert opcodes(fm.jit(fm.nn.max_pool2d).program(x)) == {PASS: 1}
    back = fm.jit(fm.grad(lambda x, c: fm.sum(fm.nn.max_pool2d(x) * c))).program(x, np.arange(96.0).reshape(2, 4, 4, 3))
    assert opcodes(back) == {PASS: 3}  # where the maxima are, the gradient in tiles, and these as the result
    assert not {v.op for v in prepare(back).live()} & {POOL_INDEX, POOL_TAKE, POOL_PUT}


def test_second_order_products_of_conv4_share_instructions() -> None:
    """The tangent of x * w is dx * w + x * dw: one instruction, and so for its two transposes."""
    model = Conv4(channels=4, classes=3, input=(16, 16, 1), strided=True, head="mean")
    meta = episode_of(model, steps=1)
    groups, _ = fuse(inner(meta.program(model.init(0), *[x.astype(np.float32) if x.dtype == np.float64 else x for x in tasks(model.input)])))
    counts = Counter((g.products[0].op, len(g.products)) for g in groups if g.products)
    assert [counts[op, 2] for op in (CONV, CONV_INPUT, CONV_WEIGHT)] == [3, 3, 3]


def test_models_of_images_are_what_they_say() -> None:
    model = Conv4()
    params = model.init(0)
    assert [layer["w"].shape for layer in params] == [(3, 3, 1, 64), *[(3, 3, 64, 64)] * 3, (64, 5)]
    bound = (6 / (9 * 128)) ** 0.5
    assert bound * 0.99 < np.abs(params[1]["w"]).max() <= bound and params[1]["w"].std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert Conv4(32, 5, (84, 84, 3)).features == 5 * 5 * 32 and Conv4(strided=True).features == 2 * 2 * 64
    assert Conv4(strided=True, head="mean").init(0)[-1]["w"].shape == (64, 5)
    assert all(v.dtype == np.float32 for layer in params for v in layer.values())
    np.testing.assert_array_equal(params[0]["w"], model.init(0)[0]["w"])
    assert (params[0]["w"] != model.init(1)[0]["w"]).any()
    assert opcodes(fm.jit(model.__call__).program(params, np.ones((5, 28, 28, 1), np.float32)))[GEMM] == 1


def test_a_learner_takes_conv4() -> None:
    model = Conv4(channels=4, classes=3, input=(16, 16, 1))
    learner = fm.MAML(model, loss=fm.nn.cross_entropy, inner_lr=0.1, inner_steps=1)
    xs, ys, xq, yq = [x.astype(np.float32) if x.dtype == np.float64 else x for x in tasks(model.input)]
    (value, _), grads = learner.value_and_grad(learner.init(0), fm.data.Episode(xs, ys, xq, yq))
    assert np.isfinite(value) and optree.tree_structure(grads) == optree.tree_structure(learner.init(0))
