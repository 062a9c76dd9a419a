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
    np.testing.assert_allclose(fm.jit(f)(params, x.numpy()), want.detach(), rtol=0, atol=1e-9)
    weights = torch.randn_like(want)
    gradient = fm.grad(lambda p, x: fm.sum(fm.square(f(p, x)) * weights.numpy()))(params, x)
    expected = torch.autograd.grad((want.square() * weights).sum(), list(module.parameters()))
    for (name, _), g in zip(module.named_parameters(), expected, strict=True):
        np.testing.assert_allclose(gradient[name], g, rtol=0, atol=1e-9, err_msg=name)


class Then(nn.Module):
    """A linear layer and a function, or a layer, of what it gives."""

    def __init__(self, f: Any, shape: tuple[int, ...] = (6,)) -> None:
        super().__init__()
        self.first, self.f, self.shape = nn.Linear(6, int(np.prod(shape))), f, shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(self.first(x).reshape(-1, *self.shape))


FUNCTIONS: dict[str, Any] = {
    "normalize": lambda x: F.normalize(x, dim=-1), "norm 1": lambda x: torch.linalg.vector_norm(x, 1, dim=1), "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "cosine": lambda x: F.cosine_similarity(x[:, None], x[None, :4], dim=-1), "einsum": lambda x: torch.einsum("ij, kj -> ik", x, x), "logsumexp": lambda x: x.logsumexp(1),
    "var": lambda x: x.var(dim=1), "biased": lambda x: x.var(dim=0, unbiased=False, keepdim=True), "std": lambda x: x.std(dim=1, keepdim=True), "rms": nn.RMSNorm(6), "correction": lambda x: torch.var(x, dim=1, correction=2),
    "softplus": lambda x: F.softplus(8 * x, beta=2.0, threshold=3.0), "logsigmoid": F.logsigmoid, "mish": F.mish, "hardswish": lambda x: F.hardswish(4 * x),
    "prelu": nn.PReLU(6), "clamp": lambda x: x.clamp_min(-0.3).clamp_max(0.4), "square": lambda x: x.square(), "repeat": lambda x: x.repeat(1, 2), "split": lambda x: x.split(4, 1)[1] * x.split([2, 4], dim=1)[0],
    "chunk": lambda x: x.chunk(2, dim=-1)[0],
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "conv1d": Then(nn.Sequential(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.PReLU(3), nn.Conv1d(3, 3, 3, padding="same", groups=3)), (2, 9)),
    "instance norm": Then(nn.Sequential(nn.InstanceNorm2d(2, affine=True), nn.PReLU()), (2, 4, 5)),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *OTHERS])
def test_single_operations(name: str) -> None:
    torch.manual_seed(8)
    module = (OTHERS[name] if name in OTHERS else Then(FUNCTIONS[name])).double()
    test_outputs_and_gradients_are_those_of_the_module((module, torch.randn(5, 6, dtype=torch.float64)), True)


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
        self.w = nn.Parameter(torch.ones(3))

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
        (nn.Conv2d(4, 4, 3, groups=2), torch.zeros(2, 4, 5, 5), NotImplementedError, "2 groups of 4 channels"),
        (Projected(), torch.zeros(5, 2, 3), NotImplementedError, "projections"),
        (nn.Conv2d(4, 4, 3, dilation=2), torch.zeros(2, 4, 7, 7), NotImplementedError, "dilation"),
        (nn.Linear(3, 3).half(), torch.zeros(2, 3).half(), TypeError, "float32 or float64, got weight of torch.float16"),
        (nn.Identity, torch.zeros(2), TypeError, "an nn.Module, got type"),
        (nn.Linear(3, 3), np.zeros((2, 3)), TypeError, "an example of tensors, got .*ndarray"),
        (Uses(lambda x: (x, x + 1)), torch.zeros(2, 3), ValueError, "one output, got 2 outputs"),
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
    loss = torch_loss(fm.value_and_grad(lambda p: fm.sum(fm.square(p))))(w)
    (g,) = torch.autograd.grad(loss, w, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        g.sum().backward()


def test_tensors_of_the_host_are_not_on_a_gpu():
    """PyTorch's are asked directly, also those with gradients."""
    assert not arrays.on_device(torch.ones(3)) and not arrays.on_device(torch.ones(3, requires_grad=True))
    kind = arrays.Library("torch", torch.ones(3))
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert kind.fits(x, np.dtype("float64"), 2) and not kind.fits(x, np.dtype("float32"), 2) and not kind.fits(x, np.dtype("float64"), 1)
    assert kind.address(x) == x.numpy().ctypes.data and kind.address(kind.put(np.ones(3))) % arrays.ALIGNED == 0
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
    with pytest.raises(ValueError, match=r"\[from_torch\] expected inputs with .*x.shape\[0\].*import it with such an example"):
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
    with pytest.raises(TypeError, match="expected examples of float32 or .*, got 1 of torch.uint8"):
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
