"""Convolutional workloads as data: their networks, written once over the few operations that contestants supply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bench.workloads import Array, Episodes, Params

PATH = 3  # convolutions of a block of ResNet12, beside its shortcut
SLOPE = 0.1  # of ResNet12's leaky ReLU


class Ops(NamedTuple):
    """What a network is made of; images in whatever layout the contestant likes, weights [k, k, in, out]."""

    normalized: Callable[[Array, Params, int], Array]  # x, [scale, shift, w], stride: convolution and batch norm
    relu: Callable[[Array], Array]
    leaky: Callable[[Array], Array]
    pool: Callable[[Array], Array]  # 2x2, the maximum
    mean: Callable[[Array], Array]  # over height and width: [n, channels]
    flat: Callable[[Array], Array]  # [n, height * width * channels]


@dataclass(frozen=True)
class ImageWorkload:
    """Second-order MAML of a convolutional network with batch statistics and cross-entropy.

    Parameters in order: of every convolution scale, shift, w [k, k, in, out]; in ResNet12 the path of a block, then its
    shortcut; of the linear layer b, w.
    """

    name: str
    net: str  # conv4 or resnet12
    channels: tuple[int, ...]
    input: tuple[int, int, int]
    steps: int
    tasks: int
    rate: float
    queries: int
    strided: bool = False
    mean: bool = False  # head of the spatial mean, else of the flattened map
    ways: int = 5
    rounds: int = 10
    usual: tuple[str, ...] = ("fastmeta", "torch-loop", "torch-loop-nhwc", "torch-func", "jax")

    contestants: ClassVar[dict[str, tuple[str, str]]] = {
        "fastmeta": ("bench.images_ours", "maml"),
        "torch-loop": ("bench.images_torch", "loop"),
        "torch-loop-nhwc": ("bench.images_torch", "loop_channels_last"),
        "torch-func": ("bench.images_torch", "func"),
        "jax": ("bench.images_jax", "mapped"),
        "jax-vmap": ("bench.images_jax", "batched"),
    }
    reference: ClassVar[str] = "bench.images_torch"
    # One unit that rounding puts on the other side of its kink moves a meta-gradient by up to 1e-2: float32 tells little.
    tolerance: ClassVar[float] = 5e-2
    double: ClassVar[bool] = True

    @property
    def eps(self) -> float:
        """Of batch norm, as in fastmeta's models."""
        return 1e-3 if self.net == "conv4" else 1e-5

    def convolutions(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Kernel, channels in and out, height and width of the result, of every convolution in the order of parameters."""
        h, w, before = self.input
        for m in self.channels:
            if self.strided:
                h, w = -(-h // 2), -(-w // 2)
            yield 3, before, m, h, w
            if self.net == "resnet12":
                yield from [(3, m, m, h, w)] * (PATH - 1)
                yield 1, before, m, h, w
            if not self.strided:
                h, w = h // 2, w // 2
            before = m

    @property
    def features(self) -> int:
        """The inputs of the linear layer."""
        if self.mean:
            return self.channels[-1]
        h, w = self.input[:2]
        for _ in self.channels:
            h, w = (-(-h // 2), -(-w // 2)) if self.strided else (h // 2, w // 2)
        return h * w * self.channels[-1]

    @property
    def flops(self) -> int:
        """Operations of convolutions and linear layer per task, direct, primal activations kept for the second order."""
        every = inner = 2 * self.features * self.ways
        for k, n, m, h, w in self.convolutions():
            work = 2 * k * k * n * m * h * w
            every += work
            inner += work if n != self.input[2] else 0  # no gradient to the images
        return self.steps * self.ways * (4 * every + 5 * inner) + self.queries * (2 * every + inner)

    def params(self, seed: int = 0) -> Params:
        """Meta-parameters, float32: He-normal weights; scales and shifts a little off one and zero."""
        rng = np.random.default_rng(seed)
        out: Params = []
        for k, n, m, *_ in self.convolutions():
            out += [1 + 0.1 * rng.normal(size=m), 0.1 * rng.normal(size=m), rng.normal(0, math.sqrt(2 / (k * k * n)), (k, k, n, m))]
        out += [0.1 * rng.normal(size=self.ways), rng.normal(0, math.sqrt(1 / self.features), (self.features, self.ways))]
        return [p.astype(np.float32) for p in out]

    def episodes(self, seed: int = 1) -> Episodes:
        """One example a class to adapt to, images [n, h, w, c] scattered about a pattern for each class."""
        rng = np.random.default_rng(seed)
        patterns = rng.random((self.tasks, self.ways, *self.input), np.float32)

        def part(n: int) -> tuple[np.ndarray, np.ndarray]:
            y = np.tile(np.arange(n, dtype=np.int32) % self.ways, (self.tasks, 1))
            return patterns[:, y[0]] + rng.random((self.tasks, n, *self.input), np.float32), y

        return *part(self.ways), *part(self.queries)


def predict(workload: ImageWorkload, params: Params, x: Array, ops: Ops) -> Array:
    """Logits [n, ways] of images x."""
    *layers, b, w = params
    return embed(workload, layers, x, ops) @ w + b


def embed(workload: ImageWorkload, layers: Params, x: Array, ops: Ops) -> Array:
    """Features [n, features] of images x: the network without its linear layer."""
    rest = iter([layers[k : k + 3] for k in range(0, len(layers), 3)])
    for _ in workload.channels:
        if workload.net == "conv4":
            x = ops.relu(ops.normalized(x, next(rest), 2 if workload.strided else 1))
            x = x if workload.strided else ops.pool(x)
            continue
        image = x
        for k in range(PATH):
            x = ops.normalized(x, next(rest), 1)
            x = ops.leaky(x) if k < PATH - 1 else x
        x = ops.pool(ops.leaky(x + ops.normalized(image, next(rest), 1)))
    return ops.mean(x) if workload.mean else ops.flat(x)


FAST = ("fastmeta", "torch-loop")  # where the others take minutes, or are slower: nhwc
OMNIGLOT: dict[str, Any] = {"net": "conv4", "channels": (64,) * 4, "input": (28, 28, 1), "steps": 1, "tasks": 8, "rate": 0.4, "queries": 25}
WORKLOADS = {
    w.name: w
    for w in (
        ImageWorkload("conv4-omni", **OMNIGLOT),
        ImageWorkload("conv4-strided", **OMNIGLOT, strided=True, mean=True),
        ImageWorkload("conv4-mini", "conv4", (32,) * 4, (84, 84, 3), steps=5, tasks=4, rate=0.01, queries=75, rounds=4, usual=FAST),
        ImageWorkload("resnet12", "resnet12", (64, 160, 320, 640), (32, 32, 3), steps=1, tasks=2, rate=0.01, queries=75, mean=True, rounds=4, usual=FAST),
    )
}
