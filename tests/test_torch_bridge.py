"""fastmeta inside PyTorch: imported modules against the modules, losses against PyTorch's own autograd."""

from __future__ import annotations

import copy
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_backbones import BACKBONES, Strided

import fastmeta as fm
from fastmeta.backends import arrays
from fastmeta.interop.torch import from_torch, to_torch_state_dict, torch_loss
from fastmeta.interop.torch.guards import holds


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    torch.manual_seed(3)
    make, example = BACKBONES[request.param]
    module, x = make().double(), example(6)
    return module, x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients_are_those_of_the_module(backbone: tuple[nn.Module, Any], training: bool) -> None:
    module, x = backbone
    module(x)  # running statistics that are not those of a fresh module
    module.train(training)
    f, params = from_torch(module, x[:4])
    want = module(x)
    weights = torch.randn_like(want)
    gradient = fm.grad(lambda p, x: fm.sum(fm.square(f(p, x)) * weights.numpy()))(params, x)
    expected = torch.autograd.grad((want.square() * weights).sum(), list(module.parameters()))
    for (name, _), g in zip(module.named_parameters(), expected, strict=True):
        np.testing.assert_allclose(gradient[name], g, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(fm.jit(f)(params, x.numpy()), want.detach(), rtol=0, atol=1e-9)


class Then(nn.Module):
    """A linear layer and a function, or a layer, of what it gives."""

    def __init__(self, f: Any, shape: tuple[int, ...] = (6,)) -> None:
        super().__init__()
        self.first, self.f, self.shape = nn.Linear(6, int(np.prod(shape))), f, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(self.first(x).reshape(-1, *self.shape))


class Both(nn.Module):
    """A layer of two inputs, or of one and a state, that are one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x.cos())


class First(nn.Module):
    """The first result of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


FUNCTIONS: dict[str, Any] = {
    "other names": lambda x: torch.divide(torch.multiply(x, torch.negative(x)), 3) - torch.true_divide(torch.subtract(x, 2, alpha=3), 2) + torch.absolute(x) * torch.special.expit(x) + x.clip(-0.3, 0.4),
    "angles": lambda x: torch.atan(x) + torch.asin(x.tanh()) * torch.acos(0.5 * x.tanh()) + torch.sinh(x) * torch.cosh(x) + torch.atan2(x, x + 3), "cumprod": lambda x: x.cumprod(1),
    "inner": lambda x: torch.inner(x, x[:3]), "stable": lambda x: x.sort(stable=True, dim=0)[0] * x.gather(1, torch.argsort(x, stable=True, dim=1, descending=True)),
    "broadcast": lambda x: sum(torch.broadcast_tensors(x[:, :1], x[0])), "columns": lambda x: torch.column_stack([x, x[:, 0]]), "depth": lambda x: torch.dstack([x, x]).sum(2) + torch.dstack([x[0], x[1]]).prod(2),
    "share": lambda x: x * (1.0 / x.shape[0]), "concat": lambda x: torch.concat([x, torch.concatenate([x, x], dim=1)], dim=1),
    "normalize": lambda x: F.normalize(x, dim=-1), "norm 1": lambda x: torch.linalg.vector_norm(x, 1, dim=1), "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "cosine": lambda x: F.cosine_similarity(x[:, None], x[None, :4], dim=-1), "einsum": lambda x: torch.einsum("ij, kj -> ik", x, x), "logsumexp": lambda x: x.logsumexp(1),
    "var": lambda x: x.var(dim=1), "biased": lambda x: x.var(dim=0, unbiased=False, keepdim=True), "std": lambda x: x.std(dim=1, keepdim=True), "rms": nn.RMSNorm(6), "correction": lambda x: torch.var(x, dim=1, correction=2),
    "softplus": lambda x: F.softplus(8 * x, beta=2.0, threshold=3.0), "logsigmoid": F.logsigmoid, "mish": F.mish, "hardswish": lambda x: F.hardswish(4 * x),
    "prelu": nn.PReLU(6), "clamp": lambda x: x.clamp_min(-0.3).clamp_max(0.4), "square": lambda x: x.square(), "repeat": lambda x: x.repeat(1, 2), "split": lambda x: x.split(4, 1)[1] * x.split([2, 4], dim=1)[0],
    "chunk": lambda x: x.chunk(2, dim=-1)[0], "unbind": lambda x: sum(a * k for k, a in enumerate(x.unbind(1))), "squeeze": lambda x: x[:, :1].squeeze(), "reciprocal": lambda x: 1 / (x + 9),
    "masked_fill": lambda x: x.masked_fill(x > 0.1, float("-inf")).softmax(1), "relu6": lambda x: F.relu6(9 * x), "hardtanh": lambda x: F.hardtanh(x, -0.2, 0.3), "max.dim": lambda x: x.max(1)[0] * x.min(dim=1).values,
    "places": lambda x: x.max(1, keepdim=True).indices * x + x.argmin(1, keepdim=True), "amin": lambda x: x.amin(1) + x.amax((0, 1)), "max": lambda x: x.max() * x - x.min(), "log1p": lambda x: (x * x).log1p(), "expm1": torch.expm1,
    "sign": lambda x: x.sign() * x.floor() + x.ceil() * x + (3 * x).round() * x, "logs": lambda x: x.exp().log2() + x.abs().add(1).log10(), "pow.Scalar": lambda x: 2**x + torch.exp2(x), "cumsum": lambda x: x.cumsum(1), "glu": F.glu, "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5), "elu": lambda x: F.elu(x, 0.7), "addcmul": lambda x: torch.addcmul(x, x, x.sin(), value=0.5), "addcdiv": lambda x: torch.addcdiv(x, x, x.exp(), value=0.5), "lerp": lambda x: torch.lerp(x, x.sin(), 0.3),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, None] * x[:, None], x[:, :, None], x[:, None], beta=0.3, alpha=2), "outer": lambda x: torch.outer(x[:, 0], x[1]), "dot": lambda x: torch.dot(x[0], x[1]) * x, "mv": lambda x: torch.mv(x, x[0]),
    "addmv": lambda x: torch.addmv(x[:, 0], x, x[0], alpha=2), "bools": lambda x: torch.where(~(x > 0) & (x < 0.5) | (x > 1) ^ (x < -1), x, 2 * x), "logical": lambda x: torch.where(torch.logical_not(x > 0).logical_or(x > 1), x, x * x),
    "type_as": lambda x: (x > 0).type_as(x) * x, "copy": lambda x: x * (x > 0).double() + x.double(), "var_mean": lambda x: sum(torch.var_mean(x, 1)) + sum(torch.std_mean(x, 1, correction=0)), "flip": lambda x: x.flip(1), "roll": lambda x: x.roll((1, -2), (0, 1)),
    "roll flat": lambda x: x[:4].roll(2), "diagonal": lambda x: (x.T @ x).diagonal(1) + (x.T @ x).diagonal(-1), "diag": lambda x: torch.diag(x[0]) + torch.diag_embed(x), "trace": lambda x: torch.trace(x.T @ x) * x, "tile": lambda x: x.tile(1, 2),
    "interleave": lambda x: x.repeat_interleave(2, 1), "hstack": lambda x: torch.hstack([x, x * x]), "vstack": lambda x: torch.vstack([x[0], x]), "prod": lambda x: x.prod(1), "any": lambda x: (x > 1).any(1) * (x < 2).all(1) * x[:, 0], "triu": lambda x: (x.T @ x).triu(1) + (x.T @ x).tril(),
    "constants": lambda x: x + torch.ones(6) + torch.zeros(6) + torch.full((6,), 2.0) * torch.arange(6) + torch.arange(1.0, 7) * torch.linspace(0, 1, 6) + x @ torch.eye(6).double() + torch.arange(12, 0, -2),
    "like": lambda x: x + torch.ones_like(x) * torch.full_like(x, 2) + torch.zeros_like(x > 0, dtype=x.dtype) + x.new_zeros(6) + x.new_ones(6) + x.new_full((6,), 2) * x.new_tensor([3.0]),
    "joined dtypes": lambda x: x * torch.tensor(2.0) + torch.ones(6, dtype=torch.float32) * torch.cat([x, torch.ones(1, 6)])[:-1], "pad": lambda x: F.pad(x, (1, 2), value=0.5), "cut": lambda x: F.pad(x, (-1, 2, 0, 1)), "three": lambda x: x**3,
    "index_select": lambda x: x.index_select(1, torch.tensor([0, 2, 2])), "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)), "gather fewer": lambda x: x.gather(0, torch.tensor([[1, 0], [2, 2]])), "index": lambda x: x[torch.tensor([[0, 2], [1, -1]])],
    "index list": lambda x: x[:, [0, -2, 0]], "index two": lambda x: x[torch.tensor([0, 2]), torch.tensor([1, -1])], "index rows": lambda x: x[torch.arange(2), x[:2].argmax(1)], "along": lambda x: x.gather(1, x.argsort(1)),
    "index_add": lambda x: torch.zeros(4, 6).double().index_add(0, torch.tensor([0, 1, 1]), x[:3], alpha=2), "scatter_add": lambda x: torch.zeros(4, 6).double().scatter_add(0, torch.tensor([0, 1, 1])[:, None].expand(3, 6), x[:3]),
    "scatter_add 1": lambda x: torch.zeros(9, 8).double().scatter_add(1, torch.tensor([[0, 7, 7, 3, 1, 2], [3, 3, 3, 0, 0, 0]]), x[:2]), "scatter": lambda x: x.scatter(1, x.argmax(1, keepdim=True), 0.0), "one_hot": lambda x: F.one_hot(x.argmax(1), 6) * x,
    "topk": lambda x: x.topk(2, 1)[0], "sort": lambda x: x.sort(1, descending=True)[0], "index_fill": lambda x: x.index_fill(1, torch.tensor([1, 3]), 0.0), "cosine of ranks": lambda x: F.cosine_similarity(x, x[0], dim=1) + F.cosine_similarity(x[:, :1], x, dim=-1),
    "cdist": lambda x: torch.cdist(x, x[:3]) + torch.cdist(x, x[:3], p=1), "pairwise": lambda x: F.pairwise_distance(x, x[1]), "linalg norm": lambda x: torch.linalg.norm(x, dim=1) + torch.linalg.norm(x), "permuted": lambda x: torch.einsum("ij -> ji", x)[:2],
    "implied": lambda x: torch.einsum("ij,jk", x, x.T), "of others": lambda x: torch.einsum("...i,...i->...", x, x)[:, None] + torch.einsum("...j, jk", x, x.T @ x), "threshold": lambda x: F.threshold(x, 0.1, 2.0), "sums of bools": lambda x: ((x > 0) + (x > 1)) * x + (x > 0) * (x < 1), "numbers": lambda x: torch.where(x > 0, 1, 0) * x + torch.where(x > 0, 0.5, 2), "floored": lambda x: x.div(0.3, rounding_mode="floor") * x, "softshrink": F.softshrink, "maximum": lambda x: torch.max(x, x[0]) + torch.min(x, x[1]), "clamp by": lambda x: x.clamp(-x[0].abs(), x[1].abs()),
    "finite": lambda x: torch.where(x.isfinite() & ~x.isnan() & ~x.isinf(), x, 0.0), "logaddexp": lambda x: torch.logaddexp(x, 2 * x), "tan": torch.tan, "tensordot": lambda x: torch.tensordot(x[:, :, None] * x[:, None], x, ([0, 2], [0, 1])), "remainder": lambda x: x % 0.7 + x.detach() // 0.3 * x, "bilinear layer": Both(nn.Bilinear(6, 6, 3)), "sum as": lambda x: x.float().sum(1, dtype=torch.float64) + x.softmax(1, dtype=torch.float64).mean(1),
}  # fmt: skip


def written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1] = 0.0
    y[:, 2:4] = x[:, :2]
    return y.add_(1).mul_(x)


def steps(f: Any) -> nn.Module:
    """Of sequences [n, 2, 8]."""
    return Then(f, (2, 8))


def pictures(f: Any, channels: int = 4) -> nn.Module:
    """Of images [n, channels, 6, 8] that stay channels last."""
    return Then(nn.Sequential(nn.Conv2d(2, channels, 1), f), (2, 6, 8))


class Function(nn.Module):
    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(x)


def attention(**options: Any) -> nn.Module:
    return steps(lambda x: F.scaled_dot_product_attention(x.mT, 2 * x.mT, x.mT, **options))


VISIBLE = torch.ones(8, 8).tril().bool() & (torch.arange(8)[:, None] != 2)  # query 2 sees none
OTHERS: dict[str, Any] = {
    "weight norm": Then(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))), "weight norm of rows": pictures(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 2, 3), dim=1)),
    "conv1d": Then(nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.PReLU(3), nn.Conv1d(3, 3, 3, padding="same", groups=3)), (2, 9)),
    "instance norm": Then(nn.Sequential(nn.InstanceNorm2d(2, affine=True), nn.PReLU()), (2, 4, 5)),
    "instance norm of steps": steps(nn.InstanceNorm1d(2, affine=True, track_running_stats=True)), "group norm of steps": steps(nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4))),
    "dilated steps": steps(nn.Conv1d(2, 3, 3, dilation=2, padding=2, stride=2)), "even kernel": pictures(nn.Conv2d(4, 2, (2, 4), padding="same")), "dilated": pictures(nn.Conv2d(4, 3, 3, dilation=(1, 2), padding="same")),
    "dilated depthwise": pictures(nn.Conv2d(4, 4, 3, dilation=2, groups=4)), "groups": pictures(nn.Conv2d(4, 6, 3, groups=2, padding=(1, 0))), "channel multiplier": pictures(nn.Conv2d(4, 8, 3, groups=4, stride=2)),
    "transposed": pictures(nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)), "transposed groups": pictures(nn.ConvTranspose2d(4, 6, (2, 3), groups=2)), "transposed steps": steps(nn.ConvTranspose1d(2, 3, 3, stride=2)),
    "max pool of steps": steps(nn.MaxPool1d(3, 2, padding=1)), "avg pool of steps": steps(nn.AvgPool1d(2)), "adaptive of steps": steps(nn.AdaptiveAvgPool1d(4)), "adaptive max of steps": steps(nn.AdaptiveMaxPool1d(1)),
    "adaptive max": pictures(nn.AdaptiveMaxPool2d((3, 2))), "ceil": pictures(nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d((3, 2), ceil_mode=True))), "avg pool": pictures(nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)),
    "divisor": pictures(nn.AvgPool2d(2, divisor_override=3)), "nearest": pictures(nn.Upsample(scale_factor=2)), "nearest of size": pictures(Function(lambda x: F.interpolate(x, size=(12, 24)))), "nearest steps": steps(nn.Upsample(scale_factor=3)),
    "pixel shuffle": pictures(nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.PixelShuffle(2))), "channel shuffle": pictures(nn.ChannelShuffle(2)), "reflected": pictures(nn.ReflectionPad2d((1, 2, 0, 3))), "replicated": steps(nn.ReplicationPad1d((1, 2))),
    "circular": pictures(nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")), "padded": pictures(nn.ConstantPad2d((1, 2, 3, 0), 0.5)), "written": Then(written), "bilinear": pictures(nn.Upsample(scale_factor=2.5, mode="bilinear")), "bilinear corners": pictures(nn.Upsample((5, 19), mode="bilinear", align_corners=True)), "adaptive uneven": pictures(nn.AdaptiveAvgPool2d((4, 3))),
    "rnn": steps(First(nn.RNN(8, 3, 2, bidirectional=True, batch_first=True))), "rnn of relu": steps(First(nn.RNN(8, 3, nonlinearity="relu", bias=False, batch_first=True))), "rnn cell": Then(Both(nn.RNNCell(6, 6))), "lstm cell": Then(First(nn.LSTMCell(6, 4))),
    "gru cell": Then(Both(nn.GRUCell(6, 6, bias=False))), "causal": attention(is_causal=True), "bool mask": attention(attn_mask=VISIBLE), "float mask": attention(attn_mask=torch.randn(8, 8).double(), scale=0.3), "image pointwise": pictures(Function(lambda x: x.clamp(-0.3, 0.2) + torch.ones_like(x))),
}  # fmt: skip


class Padded(nn.Module):
    """Embedded tokens with one that fills up."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).cumsum(1)


class Encoder(nn.Module):
    """A layer of a transformer that looks back only, and attention with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype), is_causal=True)
        return self.attention(y, y, y, key_padding_mask=torch.arange(5)[None].expand(len(x), 5) > 3)[0]


class Beside(nn.Module):
    """Several of them at once: an export takes longer than what it exports."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.of = nn.ModuleList([OTHERS[name] if name in OTHERS else Then(FUNCTIONS[name]) for name in names])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([module(x).flatten() for module in self.of])


def groups(names: Any, most: int = 12) -> list[list[str]]:
    names = list(names)
    return [names[k : k + most] for k in range(0, len(names), most)]


@pytest.mark.parametrize("names", groups([*FUNCTIONS, *OTHERS]), ids=lambda names: f"{names[0]} to {names[-1]}")
def test_single_operations(names: list[str]) -> None:
    torch.manual_seed(8)
    test_outputs_and_gradients_are_those_of_the_module((Beside(names).double(), torch.randn(5, 6, dtype=torch.float64)), True)


@pytest.mark.parametrize(("module", "x"), [(Padded(), torch.tensor([[1, 2, 0], [2, 2, 6], [3, 3, 2], [0, 5, 1]])), (Encoder(), torch.randn(4, 5, 8).double())], ids=["padding token", "encoder"])
def test_what_tokens_and_queries_may_not_see(module: nn.Module, x: torch.Tensor) -> None:
    test_outputs_and_gradients_are_those_of_the_module((module.double(), x), True)


KINKS: dict[str, Any] = {
    "clamp": lambda x: x.clamp(-1, 3), "clamp_min": lambda x: x.clamp_min(0).clamp_max(3), "relu6": F.relu6, "hardtanh": F.hardtanh, "hardswish": F.hardswish, "elu": F.elu, "selu": F.selu, "abs": torch.abs, "leaky": F.leaky_relu,
    "threshold": lambda x: F.threshold(x, 3.0, 2.0), "amax": lambda x: x.amax(0) + x.min(), "max.dim": lambda x: x.max(0)[0] - x.min(0)[0], "maximum": lambda x: torch.maximum(x, 0 * x), "logsigmoid": F.logsigmoid, "softplus": F.softplus,
    "std": lambda x: (0 * x).std() + (x * 0 + 3).var(), "norm": lambda x: (0 * x).norm() + torch.linalg.vector_norm(x, float("inf")), "cosine": lambda x: F.cosine_similarity(0 * x, x, dim=0), "cube": lambda x: x**3 + x**1 + x**0,
    "prod": lambda x: x.prod(), "cdist": lambda x: torch.cdist(x[:, None], x[:, None]), "pairwise": lambda x: F.pairwise_distance(x, x, eps=0.0), "sign": lambda x: x.sign() * x, "masked": lambda x: x.masked_fill(x == 0, float("-inf")).softmax(0),
}  # fmt: skip


class Columns(nn.Module):
    """Functions of a vector, each of a column of its own."""

    def __init__(self, functions: Any) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([f(x[:, k]).flatten() for k, f in enumerate(self.functions)])


def test_derivatives_where_they_jump() -> None:
    module = Columns(KINKS.values())
    x = torch.tensor([-3.0, 0.0, 3.0, 6.0, -1.0, 1.0, 0.0, 6.0, -3.0], dtype=torch.float64)[:, None].repeat(1, len(KINKS)).requires_grad_()
    f, _ = from_torch(module, torch.zeros_like(x))
    want = module(x)
    np.testing.assert_allclose(f({}, x.detach().numpy()), want.detach(), rtol=0, atol=1e-12)
    weights = torch.linspace(1, 2, want.numel(), dtype=torch.float64)
    got = fm.grad(lambda x: fm.sum(f({}, x) * weights.numpy()))(x.detach().numpy())
    (expected,) = torch.autograd.grad((want * weights).sum(), x)
    for name, column, true in zip(KINKS, got.T, expected.T, strict=True):
        np.testing.assert_allclose(column, true, rtol=0, atol=1e-12, err_msg=name)


PIECES: dict[str, Any] = {
    "softplus": F.softplus, "logsigmoid": F.logsigmoid, "mish": F.mish, "logaddexp": lambda x: torch.logaddexp(x, -x),
    "clamp": lambda x: x.clamp(-1, 3).square(), "relu6": lambda x: F.relu6(x) * x,
}  # fmt: skip


def test_second_derivatives_where_pieces_meet() -> None:
    module = Columns(PIECES.values())
    x = torch.tensor([-3.0, 0.0, 3.0, 6.0, -1.0], dtype=torch.float64)[:, None].repeat(1, len(PIECES)).requires_grad_()
    (first,) = torch.autograd.grad(module(x).sin().sum(), x, create_graph=True)
    (want,) = torch.autograd.grad(first.sum(), x)
    g, _ = from_torch(module, torch.zeros_like(x))
    inner = fm.grad(lambda x: fm.sum(fm.sin(g({}, x))))
    got = fm.grad(lambda x: fm.sum(inner(x)))(x.detach().numpy())
    for name, column, true in zip(PIECES, got.T, want.T, strict=True):
        np.testing.assert_allclose(column, true, rtol=0, atol=1e-9, err_msg=name)


TWICE = ["std", "var_mean", "celu", "glu", "baddbmm", "max.dim", "diagonal", "pad", "gather", "index two", "scatter_add 1", "cosine of ranks", "pairwise", "prod", "dilated", "groups", "transposed", "adaptive max", "pixel shuffle", "circular", "bilinear", "rnn", "lstm cell", "bool mask", "instance norm of steps", "written"]  # one or more of each file


@pytest.mark.parametrize("names", groups(TWICE, 7), ids=lambda names: f"{names[0]} to {names[-1]}")
def test_second_derivatives_of_single_operations(names: list[str]) -> None:
    torch.manual_seed(9)
    module = Beside(names).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    f, params = from_torch(module, x)
    parameters, tensors = zip(*module.named_parameters(), strict=True)
    first = torch.autograd.grad(module(x).sin().sum(), tensors, create_graph=True)
    want = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    inner = fm.grad(lambda p, x: fm.sum(fm.sin(f(p, x))))
    got = fm.grad(lambda p, x: sum(fm.sum(fm.square(g)) for g in inner(p, x).values()))(params, x.numpy())
    for name, g in zip(parameters, want, strict=True):
        np.testing.assert_allclose(got[name], g, rtol=1e-9, atol=1e-9, err_msg=name)


def inner_and_outer(model: Any, params: Any, xs: Any, ys: Any, xq: Any, yq: Any, grad: Any, loss: Any) -> Any:
    def inner(p: Any) -> Any:
        return loss(model(p, xs), ys)

    g = grad(inner, params)
    return loss(model({k: v - 0.4 * g[k] for k, v in params.items()}, xq), yq)


def maml_data(tasks: int, n: int = 5) -> list[torch.Tensor]:
    x = torch.randn(2, tasks, n, 1, 20, 20, dtype=torch.float64)
    y = torch.stack([torch.randperm(n) % 4 for _ in range(2 * tasks)]).view(2, tasks, n)
    return [x[0], y[0], x[1], y[1]]


def torch_meta_loss(module: nn.Module, data: list[torch.Tensor]) -> torch.Tensor:
    params = dict(module.named_parameters())

    def model(p: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, p, (x,))

    def grad(f: Any, p: Any) -> Any:
        return dict(zip(p, torch.autograd.grad(f(p), list(p.values()), create_graph=True), strict=True))

    losses = [inner_and_outer(model, params, *task, grad, F.cross_entropy) for task in zip(*data, strict=True)]
    return torch.stack(losses).mean()


def bridged_meta_loss(module: nn.Module, example: torch.Tensor) -> Any:
    f, _ = from_torch(module, example)

    def episode(p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        return inner_and_outer(f, p, xs, ys, xq, yq, lambda inner, p: fm.grad(inner)(p), fm.nn.cross_entropy)

    return torch_loss(fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean"))


def test_a_meta_loss_fills_grad_as_pytorch_does() -> None:
    torch.manual_seed(4)
    module = Strided().double()
    data = maml_data(3)
    want = torch_meta_loss(module, data)
    want.backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    loss = bridged_meta_loss(module, data[0][0])(dict(module.named_parameters()), *data)
    (2 * loss).backward()  # what comes from behind scales the gradient
    assert loss.item() == pytest.approx(want.item(), abs=1e-9)
    for name, p in module.named_parameters():
        np.testing.assert_allclose(p.grad, 2 * expected[name], rtol=0, atol=1e-9, err_msg=name)


def test_an_optimiser_of_pytorch_trains_through_the_bridge() -> None:
    torch.manual_seed(5)
    module = Strided().double()
    data = maml_data(4)
    loss = bridged_meta_loss(module, data[0][0])
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        value = loss(dict(module.named_parameters()), *data)
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_learner_takes_an_imported_module_and_its_aux_comes_along() -> None:
    torch.manual_seed(6)
    module = Strided().double()
    data = maml_data(2)
    f, _ = from_torch(module, data[0][0])
    learner = fm.MAML(f, loss=fm.nn.cross_entropy, inner_lr=0.4, inner_steps=1)
    params = {name: p.double() for name, p in module.named_parameters()}
    value, aux = torch_loss(learner.value_and_grad)(params, tuple(data))
    assert value.item() == pytest.approx(torch_meta_loss(module, data).item(), abs=1e-9)
    assert aux["inner_losses"].shape == (2, 1)


def _ranks(rank: int, port: int, gradients: Any) -> None:
    torch.manual_seed(7)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)

    class Meta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Strided().double()
            self.loss = bridged_meta_loss(self.net, torch.zeros(5, 1, 20, 20, dtype=torch.float64))

        def forward(self, *data: torch.Tensor) -> torch.Tensor:
            return self.loss(dict(self.net.named_parameters()), *data)

    meta = nn.parallel.DistributedDataParallel(Meta())
    data = maml_data(4)
    meta(*[x[2 * rank : 2 * rank + 2] for x in data]).backward()
    if rank == 0:
        gradients.put({name: p.grad.numpy().copy() for name, p in meta.module.net.named_parameters()})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # a thread of torch that asks for the GIL while Python ends would abort the process


def test_gradients_of_processes_are_averaged_under_ddp() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    gradients = context.SimpleQueue()
    processes = torch.multiprocessing.spawn(_ranks, (port, gradients), nprocs=2, join=False)
    got = gradients.get()
    while not processes.join():
        pass
    torch.manual_seed(7)
    module = Strided().double()
    data = maml_data(4)
    torch_meta_loss(module, data).backward()
    for name, p in module.named_parameters():
        np.testing.assert_allclose(got[name], p.grad, rtol=0, atol=1e-9, err_msg=name)


def test_parameters_go_there_and_back_in_one_memory() -> None:
    module = Strided()
    _, params = from_torch(module, torch.zeros(2, 1, 20, 20))
    weight = module.head.weight
    assert params["head.weight"].__array_interface__["data"][0] == weight.data_ptr()
    state = to_torch_state_dict({name: p + 1 for name, p in params.items()})
    other = Strided()
    missing = other.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("running" in k or "num_batches" in k for k in missing.missing_keys)
    torch.testing.assert_close(other.head.weight, weight + 1)


# ------------------------------------------------------------------------------------------------------- bad input


class Uses(nn.Module):
    def __init__(self, f: Any):
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = f
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x * self.w)


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, proj_size=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


@pytest.mark.parametrize(
    ("module", "x", "kind", "message"),
    [
        (Uses(lambda x: torch.fft.fft(x).real), torch.zeros(2, 3), NotImplementedError, r"aten\._?fft.*'inner' \(Module\)"),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.zeros(2, 3), NotImplementedError, r"random masks.* in '1' \(Dropout\)"),
        (Projected(), torch.zeros(5, 2, 3), NotImplementedError, "projections"),
        (nn.ConvTranspose2d(4, 4, 3, dilation=2), torch.zeros(2, 4, 7, 7), NotImplementedError, r"dilation \(2, 2\)"),
        (nn.MaxPool2d(2, dilation=2), torch.zeros(2, 4, 7, 7), NotImplementedError, r"dilation \(2, 2\)"),
        (nn.MaxPool2d(2, ceil_mode=True), torch.zeros(2, 4, 7, 8), NotImplementedError, "ceil_mode=True where windows"),
        (nn.AdaptiveMaxPool2d(3), torch.zeros(2, 4, 7, 8), NotImplementedError, "windows of several sizes"),
        (Uses(lambda x: F.adaptive_max_pool1d(x, 1, return_indices=True)[1]), torch.zeros(2, 4, 3), NotImplementedError, "the places of the maxima"),
        (nn.Upsample(scale_factor=1.5), torch.zeros(2, 4, 8, 8), NotImplementedError, "factors .* in place of whole numbers"),
        (nn.Conv2d(4, 2, 3), torch.zeros(4, 7, 8), NotImplementedError, "3 axes in place of images"),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), torch.zeros(3, dtype=torch.int64), NotImplementedError, "scale_grad_by_freq"),
        (nn.Embedding(4, 2, sparse=True), torch.zeros(3, dtype=torch.int64), NotImplementedError, "sparse"),
        (nn.Embedding(4, 2, max_norm=1.0), torch.zeros(3, dtype=torch.int64), NotImplementedError, "embedding_renorm"),
        (Uses(lambda x: x[x > 0]), torch.zeros(2, 3), NotImplementedError, "a mask of bools"),
        (Uses(lambda x: x[:, None][[0, 1], :, [1, 1]]), torch.zeros(2, 3), NotImplementedError, "other axes between them"),
        (Uses(lambda x: x.var(dim=1, correction=3)), torch.zeros(2, 3), NotImplementedError, "a correction of 3 to 3 elements"),
        (Uses(lambda x: torch.cdist(x, x, p=3.0)), torch.zeros(2, 3), NotImplementedError, "distances of order 3"),
        (Uses(lambda x: torch.linalg.norm(x, 1)), torch.zeros(2, 3), NotImplementedError, "a norm of matrices"),
        (Uses(lambda x: x.argmax(1) & 3), torch.zeros(2, 3), NotImplementedError, "bits of integers"),
        (Uses(lambda x: x.half().float()), torch.zeros(2, 3), NotImplementedError, "torch.float16 in place of"),
        (Uses(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)), torch.zeros(2, 3, 4), NotImplementedError, "dropout or grouped heads"),
        (Uses(lambda x: x.div(2, rounding_mode="trunc")), torch.zeros(2, 3), NotImplementedError, "rounding_mode='trunc'"),
        (Uses(lambda x: x + torch.full((3,), 2**40)), torch.zeros(2, 3), NotImplementedError, "beyond int32"),
        (Uses(lambda x: torch.diag_embed(x, 1)), torch.zeros(2, 3), NotImplementedError, "main diagonal"),
        (nn.Linear(3, 3).half(), torch.zeros(2, 3).half(), TypeError, r"float32 or float64, got weight of float16\. Convert them with module\.float\(\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 3)).bfloat16(), torch.zeros(2, 3), TypeError, r"float32 or float64, got 1\.weight of bfloat16"),
        (nn.Linear(3, 3), torch.zeros(2, 3).half(), TypeError, r"examples of .*, got 0 of float16\. Convert it with its float\(\)"),
        (nn.Identity, torch.zeros(2), TypeError, "an nn.Module, got type"),
        (nn.Linear(3, 3), np.zeros((2, 3)), TypeError, "an example of tensors, got .*ndarray"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(module: Any, x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=r"\[from_torch\].*" + message):
        from_torch(module, x)


def test_calls_that_do_not_fit_are_refused() -> None:
    f, params = from_torch(nn.Linear(3, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"input of shape \[n, 3\], got \[2, 4\]"):
        f(params, np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"parameters \['bias', 'weight'\], got \['weight'\]"):
        f({"weight": params["weight"]}, np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="1 inputs, got 2"):
        f(params, np.zeros((2, 3), np.float32), np.zeros(1, np.float32))


def test_losses_that_cannot_be_bridged_are_refused() -> None:
    w = torch.ones(2, requires_grad=True)
    per_task = fm.map_tasks(fm.value_and_grad(lambda p, x: fm.sum(p * x)), in_axes=(None, 0))
    with pytest.raises(ValueError, match=r'a scalar loss, got shape \(3,\).*reduce="mean"'):
        torch_loss(per_task)(w, torch.ones(3, 2))
    with pytest.raises(ValueError, match="in host memory, got a tensor on meta"):
        torch_loss(fm.value_and_grad(lambda p: fm.sum(p)))(w.to("meta"))


def test_buffers_and_mode_are_those_of_the_import() -> None:
    module = nn.BatchNorm1d(3).eval()
    f, params = from_torch(module, torch.zeros(4, 3))
    x = torch.arange(12.0).reshape(4, 3)
    before = module(x).detach()
    module.running_mean.fill_(5.0)
    module.train()
    np.testing.assert_allclose(f(params, x.numpy()), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [torch.tensor(3.0), torch.tensor(3.0, requires_grad=True)], ids=["constant", "variable"])
def test_there_is_no_derivative_of_the_derivative(scale: torch.Tensor) -> None:
    w = torch.ones(2, requires_grad=True)
    loss = scale * torch_loss(fm.value_and_grad(lambda p: fm.sum(fm.square(p))))(w)
    (g,) = torch.autograd.grad(loss, w, create_graph=True)
    torch.testing.assert_close(g.detach(), torch.full((2,), 6.0))
    penalised = w.square().sum() + g.square().sum()  # the first term alone would have a gradient
    with pytest.raises(RuntimeError, match=r"\[torch_loss\] expected a loss that is differentiated once"):
        torch.autograd.grad(penalised, w, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"\[torch_loss\] expected a loss that is differentiated once"):
        penalised.backward()


def test_tensors_of_the_host_are_not_on_a_gpu():
    """PyTorch's are asked directly, also those with gradients."""
    assert not arrays.on_device(torch.ones(3)) and not arrays.on_device(torch.ones(3, requires_grad=True))
    kind = arrays.Torch(torch, torch.ones(3))
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert kind.fits(x, arrays.DTYPES.index(np.dtype("float64"))) and not kind.fits(x, arrays.DTYPES.index(np.dtype("float32")))
    assert kind.address(x) == x.numpy().ctypes.data and kind.address(kind.put(np.ones(3))) % arrays.ALIGNED == 0
    assert kind.has([x, np.array(2.0)]) and not any(kind.has(given) for given in ([np.array(2.0)], [x, np.ones(3)], [x.requires_grad_()]))
    assert arrays.device_dtype(torch.ones(2, dtype=torch.bool)) == np.dtype(bool)
    with pytest.raises(TypeError, match="expected float32, float64, int32 or bool, or integers as int32 on a GPU, got bfloat16"):
        arrays.device_dtype(torch.ones(2, dtype=torch.bfloat16))


class Numbered(nn.Module):
    """What depends on the number of examples."""

    def __init__(self, f: Callable[[Any], Any]) -> None:
        super().__init__()
        self.w, self.f = nn.Parameter(torch.ones(3, dtype=torch.float64)), f

    def forward(self, x: Any) -> Any:
        return self.f(self.w * x)


@pytest.mark.parametrize(
    ("f", "n", "other"),
    [
        (lambda y: y.sum(0) / len(y), 4, 8),
        (lambda y: y * 2 if y.shape[0] > 4 else y, 4, 8),
        (lambda y: y.view(5, y.size(0) // 5, -1).mean(1), 5, 10),
        (lambda y: torch.cat([c.mean(0, keepdim=True) for c in y.split(5)]), 10, 15),
        (lambda y: torch.stack([y[i].sum() for i in range(y.shape[0])]), 4, 6),
    ],
)
def test_what_export_saw_for_the_example_holds_for_its_number_of_examples(f: Callable[[Any], Any], n: int, other: int) -> None:
    g, params = from_torch(Numbered(f), torch.ones(n, 3, dtype=torch.float64))
    x = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(g(params, x), f(torch.from_numpy(x)), rtol=1e-12)
    with pytest.raises(ValueError, match=rf"\[from_torch\] expected (x of shape \[{n}, 3\]|inputs with .*x.shape\[0\].*import it with such an example)"):
        g(params, np.ones((other, 3)))


def test_what_is_computed_without_gradients_gets_none() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                h = torch.tanh(self.body(x))
            return self.head(h)

    net = Half().double()
    f, params = from_torch(net, torch.ones(5, 3, dtype=torch.float64))
    x = np.random.default_rng(0).normal(size=(5, 3))
    got = fm.grad(lambda p: fm.sum(fm.square(f(p, x))))(params)
    net(torch.tensor(x)).square().sum().backward()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(got[name], 0.0 if p.grad is None else p.grad, rtol=1e-9, err_msg=name)


def test_parameters_that_are_shared_have_one_name() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    net[2].weight = net[0].weight
    f, params = from_torch(net, torch.ones(4, 3, dtype=torch.float64))
    assert list(params) == [name for name, _ in net.named_parameters()] == ["0.weight"]
    x = torch.randn(4, 3, dtype=torch.float64)
    torch_loss(fm.value_and_grad(lambda p, x: fm.sum(fm.square(f(p, x)))))(dict(net.named_parameters()), x).backward()
    got, net[0].weight.grad = net[0].weight.grad, None
    net(x).square().sum().backward()
    np.testing.assert_allclose(got, net[0].weight.grad, rtol=1e-9)


def test_imported_modules_can_be_copied_and_sent() -> None:
    f, params = from_torch(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)), torch.ones(2, 1, 4, 4))
    x = np.random.default_rng(1).normal(size=(3, 1, 4, 4)).astype(np.float32)
    want = fm.jit(f)(params, x)
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f)), pickle.loads(pickle.dumps(fm.MAML(f))).model):
        np.testing.assert_array_equal(fm.jit(other)(params, x), want)


def test_examples_of_many_forms() -> None:
    class Summed(nn.Module):
        def forward(self, *xs: Any) -> Any:
            return sum(xs[1:], xs[0])

    f, params = from_torch(Summed(), (torch.ones(4, 3), torch.ones(4, 3), torch.ones(1, 3)))
    assert f(params, np.ones((7, 3), np.float32), np.ones((7, 3), np.float32), np.ones((1, 3), np.float32)).shape == (7, 3)
    with pytest.raises(TypeError, match="expected examples of float32 or .*, got 1 of uint8"):
        from_torch(Summed(), (torch.ones(4, 3), torch.ones(4, 3, dtype=torch.uint8)))


def test_losses_that_are_none_are_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"expected a function that returns \(value, gradient\)"):
        torch_loss(fm.grad(lambda p: fm.sum(p * p)))(p)
    second = torch_loss(fm.value_and_grad(lambda p, x: fm.sum(p) + fm.sum(x * x), argnums=1))
    with pytest.raises(TypeError, match="expected a gradient like params"):
        second(p, torch.ones(3))
    with pytest.raises(ValueError, match="beside params that need no gradient, got one of shape \\[2\\] that does"):
        second(p, torch.nn.Linear(2, 2)(p))


@pytest.mark.parametrize(
    ("guard", "truth"),
    [
        ("L['x'].size()[0] == 4", True), ("(-5) + L['x'].size()[0] >= 0", False), ("2 <= L['xs'][1].size()[0] < 9", True),
        ("not (L['x'].size()[1] // 2 == 1 and max(3, L['x'].size()[0] % 3) == 3)", False), ("L['x'].size()[0]**2 != 16 or abs(-1) > 2", False),
    ],
)  # fmt: skip
def test_guards_are_arithmetic(guard: str, truth: bool) -> None:
    assert holds(guard, {"x": (4, 3), "xs": [(1,), (8,)]}) is truth


def test_guards_that_are_more_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="open"):
        holds("open('x').size()[0] == 1", {})


def test_products_of_three() -> None:
    """Export holds the number of examples for them."""
    three = lambda x: torch.einsum("ni,nj,nk->nijk", x, x, x)
    x = torch.randn(4, 3, dtype=torch.float64)
    f, _ = from_torch(Function(three), x)
    np.testing.assert_allclose(f({}, x.numpy()), three(x), rtol=1e-12)
