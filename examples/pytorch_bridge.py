"""A PyTorch user's MAML meta-step, before and after: module, optimiser and data stay, the inner loop moves to fastmeta.

    python examples/pytorch_bridge.py [--tasks 8] [--rounds 4]

Prints both losses, the largest difference of the gradients, and the time of a meta-step of either.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import fastmeta as fm
from fastmeta.interop.torch import from_torch, torch_loss

LR = 0.4


def conv4(channels: int = 64, ways: int = 5) -> nn.Module:
    layers: list[nn.Module] = []
    for n in (1, channels, channels, channels):
        layers += [nn.Conv2d(n, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, ways))


def before(module: nn.Module) -> Callable[..., torch.Tensor]:
    """The loop as one writes it in PyTorch."""

    def meta_loss(xs: torch.Tensor, ys: torch.Tensor, xq: torch.Tensor, yq: torch.Tensor) -> torch.Tensor:
        params = dict(module.named_parameters())
        losses = []
        for a, b, c, d in zip(xs, ys, xq, yq, strict=True):
            inner = F.cross_entropy(torch.func.functional_call(module, params, (a,)), b)
            gradient = torch.autograd.grad(inner, list(params.values()), create_graph=True)
            fast = {name: p - LR * g for (name, p), g in zip(params.items(), gradient, strict=True)}
            losses.append(F.cross_entropy(torch.func.functional_call(module, fast, (c,)), d))
        return torch.stack(losses).mean()

    return meta_loss


def after(module: nn.Module, example: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The same with fastmeta inside."""
    net, _ = from_torch(module, example)

    def episode(params: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:  # one task, traced
        g = fm.grad(lambda p: fm.nn.cross_entropy(net(p, xs), ys))(params)
        fast = {name: p - LR * g[name] for name, p in params.items()}
        return fm.nn.cross_entropy(net(fast, xq), yq)

    loss = torch_loss(fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean"))
    return lambda *data: loss(dict(module.named_parameters()), *data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    module, n = conv4(), options.tasks
    data = [torch.randn(n, 5, 1, 28, 28), torch.arange(5).repeat(n, 1), torch.randn(n, 25, 1, 28, 28), torch.arange(5).repeat(n, 5)]
    contestants = {"PyTorch": before(module), "fastmeta": after(module, data[0][0])}
    gradients: dict[str, list[torch.Tensor]] = {}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, meta_loss in contestants.items():
            module.zero_grad()
            start = time.perf_counter()
            loss = meta_loss(*data)
            loss.backward()
            times[name].append(time.perf_counter() - start)
            gradients[name] = [p.grad.clone() for p in module.parameters() if p.grad is not None]
            if len(times[name]) == 1:
                print(f"{name}: loss {loss.item():.6f}")
    apart = max((a - b).abs().max().item() for a, b in zip(gradients["PyTorch"], gradients["fastmeta"], strict=True))
    scale = max(g.abs().max().item() for g in gradients["PyTorch"])
    print(f"largest difference of the gradients: {apart:.1e}, of entries up to {scale:.1e}")
    medians = {name: statistics.median(t[1:]) for name, t in times.items()}
    for name, t in medians.items():
        print(f"{name}: {1e3 * t:.0f} ms a meta-step of {n} tasks")
    print(f"fastmeta is {medians['PyTorch'] / medians['fastmeta']:.1f} x as fast")


if __name__ == "__main__":
    main()
