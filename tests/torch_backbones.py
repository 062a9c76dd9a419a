"""Backbones of few-shot learning as PyTorch users write them, narrow: {name: (module, example)}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Sequential):
    def __init__(self, n: int, m: int, stride: int = 1, pool: bool = True):
        layers: list[nn.Module] = [nn.Conv2d(n, m, 3, stride=stride, padding=1), nn.BatchNorm2d(m), nn.ReLU(inplace=True)]
        super().__init__(*layers, *([nn.MaxPool2d(2)] if pool else []))


def conv4() -> nn.Module:
    return nn.Sequential(Block(1, 6), Block(6, 6), Block(6, 6), Block(6, 6), nn.Flatten(), nn.Linear(6, 5))


class Strided(nn.Module):
    """The net of MAML on Omniglot."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block(n, 5, stride=2, pool=False) for n in (1, 5, 5, 5)])
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean(dim=[2, 3]))


class Residual(nn.Module):
    """A block of ResNet12."""

    def __init__(self, n: int, m: int):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(k, m, 3, padding=1, bias=False) for k in (n, m, m)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(m) for _ in range(3)])
        self.short = nn.Sequential(nn.Conv2d(n, m, 1, bias=False), nn.BatchNorm2d(m))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = F.leaky_relu(y if k < 2 else y + self.short(x), 0.1)
        return F.max_pool2d(y, 2)


class ResNet12(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(3, 4), Residual(4, 5), Residual(5, 6), Residual(6, 7))
        self.head = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


class Basic(nn.Module):
    """A block of ResNet18."""

    def __init__(self, n: int, m: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n, m, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(m)
        self.conv2 = nn.Conv2d(m, m, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(m)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(n, m, 1, stride, bias=False), nn.BatchNorm2d(m)) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def resnet18() -> nn.Module:
    stem = [nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, Basic(4, 4, 1), Basic(4, 6, 2), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(6, 5))


class Wide(nn.Module):
    """A pre-activation block of a wide ResNet, with its dropout, and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.conv1 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.short = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.stem(x)))
        out = self.conv2(self.drop(F.relu(self.bn2(self.conv1(y))))) + self.short(y)
        out = F.avg_pool2d(F.relu(self.bn3(out)), 4)
        return self.head(out.view(-1, 6))


class Transformer(nn.Module):
    """One layer of a vision transformer on patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.position
        z = self.norm1(y)
        y = y + self.attention(z, z, z, need_weights=False)[0]
        y = y + self.mlp(self.norm2(y))
        return self.head(y[:, 0])


class Sequence(nn.Module):
    """A bidirectional LSTM or GRU of two layers over embedded tokens."""

    def __init__(self, kind: type[nn.Module] = nn.LSTM, **options: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.layers = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out, _ = self.layers(self.embedding(tokens))
        return torch.softmax(self.head(torch.tanh(out.mean(dim=1))), dim=-1)


def mobile() -> nn.Module:
    """Depthwise-separable convolution, group norm and other activations."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6(),
        nn.Conv2d(6, 4, 1), nn.ELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.LogSoftmax(dim=-1),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.GELU(approximate="tanh"), nn.Linear(9, 5), nn.Sigmoid())


def images(n: int, channels: int, size: int) -> torch.Tensor:
    return torch.randn(n, channels, size, size)


BACKBONES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "conv4": (conv4, lambda n: images(n, 1, 16)),
    "strided": (Strided, lambda n: images(n, 1, 20)),
    "resnet12": (ResNet12, lambda n: images(n, 3, 16)),
    "resnet18": (resnet18, lambda n: images(n, 3, 32)),
    "wide": (Wide, lambda n: images(n, 3, 8)),
    "transformer": (Transformer, lambda n: images(n, 3, 8)),
    "sequence": (Sequence, lambda n: torch.randint(0, 11, (n, 6))),
    "gru": (lambda: Sequence(nn.GRU), lambda n: torch.randint(0, 11, (n, 6))),
    "gru without biases": (lambda: Sequence(nn.GRU, bias=False), lambda n: torch.randint(0, 11, (n, 6))),
    "mobile": (mobile, lambda n: images(n, 3, 8)),
    "mlp": (mlp, lambda n: torch.randn(n, 7)),
}
