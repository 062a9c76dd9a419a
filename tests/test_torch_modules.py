"""What modules of PyTorch may have beside operations: several outputs, state, derivatives of their own, lengths; and tensors that need gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastmeta as fm
from fastmeta.interop.torch import from_torch, torch_loss


class Around(nn.Module):
    """A linear layer, a buffer, and what a function makes of them."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.layer, self.f = nn.Linear(3, 3), f
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.f(self, x)


def test_outputs_are_nested_as_the_modules() -> None:
    module = Around(lambda m, x: (m.layer(x), {"features": [x + 1, x.sum()], "state": None}))
    f, params = from_torch(module, torch.zeros(4, 3))
    x = torch.randn(2, 3)
    for y, rest in (f(params, x.numpy()), fm.jit(f)(params, x.numpy())):
        np.testing.assert_allclose(y, module(x)[0].detach(), rtol=0, atol=1e-6)
        assert rest.keys() == {"features", "state"} and rest["state"] is None
        assert type(rest["features"]) is list and rest["features"][0].shape == (2, 3) and rest["features"][1].shape == ()


def test_the_states_of_recurrent_layers_are_outputs() -> None:
    module = nn.LSTM(3, 4, batch_first=True)
    f, params = from_torch(module, torch.zeros(2, 5, 3))
    x = torch.randn(6, 5, 3)
    y, (h, c) = f(params, x.numpy())
    want, (want_h, want_c) = module(x)
    for got, tensor in ((y, want), (h, want_h), (c, want_c)):
        np.testing.assert_allclose(got, tensor.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [lambda **o: nn.GRU(3, 4, **o), lambda **o: nn.LSTM(3, 4, **o)], ids=["gru", "lstm"])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_run_on_tensors_at_once(make: Any, bias: bool) -> None:
    module = make(bias=bias)
    f, params = from_torch(module, torch.zeros(2, 5, 3))
    y, _ = f({name: torch.from_numpy(p) for name, p in params.items()}, torch.ones(2, 5, 3))
    np.testing.assert_allclose(y, module(torch.ones(2, 5, 3))[0].detach(), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------- what would be lost in silence


class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    module[0].register_full_backward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Around(lambda m, x: Through.apply(m.layer(x))), "derivatives that are PyTorch's, got Through with a backward of its own"),
        (hooked, "modules without backward hooks, got 0"),
        (lambda: Around(lambda m, x: m.layer(x) + m.total.mul_(0.9).add_(x.mean(0))), "no buffers but batch norm's statistics, got total of Around"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), r"got parametrizations\.weight\.0\._u of _SpectralNorm.*module\.eval"),
        (lambda: nn.Sequential(nn.Dropout1d(0.5)), r"random numbers \(module\.eval"),
    ],
    ids=["autograd function", "backward hook", "buffer", "spectral norm", "dropout of channels"],
)
def test_what_would_be_lost_is_refused(make: Any, message: str) -> None:
    with pytest.raises(NotImplementedError, match=r"\[from_torch\] expected .*" + message):
        from_torch(make(), torch.zeros(2, 3))


def test_an_import_changes_no_statistics() -> None:
    module = nn.BatchNorm1d(3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    from_torch(module, 5 + torch.arange(12.0).reshape(4, 3))
    assert module.running_mean.eq(0).all() and module.num_batches_tracked == 0
    assert torch.random.get_rng_state().equal(before)


# -------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("f", [lambda m, x: F.linear(x, m.layer.weight.data), lambda m, x: m.layer(x) if x.mean() > 0 else x], ids=["data", "if"])
def test_what_export_refuses_is_said_in_one_line(f: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^\[from_torch\] expected a module that torch\.export takes, got [^\n]*$"):
        from_torch(Around(f), torch.zeros(4, 3))


def test_a_number_of_examples_that_export_fixed_is_explained() -> None:
    f, params = from_torch(Around(lambda m, x: m.layer(x) * torch.arange(len(x))[:, None]), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"x of shape \[4, 3\], got \[5, 3\]\. torch\.export took the number of examples for fixed"):
        f(params, np.zeros((5, 3), np.float32))


@pytest.mark.parametrize("run", [lambda f, p, x: f(p, x), lambda f, p, x: fm.jit(f)(p, x)], ids=["at once", "jit"])
def test_tensors_that_need_a_gradient_are_for_torch_loss(run: Any) -> None:
    module = nn.Linear(3, 2)
    f, _ = from_torch(module, torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"\[array\] expected an array that NumPy can read, got Parameter .*torch_loss"):
        run(f, dict(module.named_parameters()), torch.zeros(4, 3))
    with torch.no_grad():
        assert run(f, dict(module.named_parameters()), torch.zeros(4, 3)).shape == (4, 2)
    with pytest.raises(TypeError, match=r"got Tensor \(.*BFloat16"):
        run(f, {name: p.detach() for name, p in module.named_parameters()}, torch.zeros(4, 3).bfloat16())


def test_tensors_of_other_transforms_are_refused() -> None:
    loss = torch_loss(fm.value_and_grad(lambda p, x: fm.sum(p * x)))
    with pytest.raises(ValueError, match=r"\[torch_loss\] expected tensors that hold numbers"):
        torch.func.vmap(lambda x: loss(torch.ones(3, requires_grad=True), x))(torch.ones(2, 3))


def test_an_episode_may_be_a_list_as_loaders_give_it() -> None:
    x, y = torch.randn(2, 4, 3), torch.randn(2, 4, 2)
    module = nn.Linear(3, 2)
    f, _ = from_torch(module, x[0])
    loss = torch_loss(fm.MAML(f, loss=fm.nn.mse).value_and_grad)
    values = [loss(dict(module.named_parameters()), episode)[0].item() for episode in ((x, y, x, y), [x, y, x, y])]
    assert values[0] == values[1]
    with pytest.raises(TypeError, match="expected an episode .*, got list"):
        loss(dict(module.named_parameters()), [x, y])
