"""The workloads as data, and the parts of an episode that operators alone can say, shared by every contestant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

Array = Any  # an array or a tracer of any contestant
Params = list[Array]  # [w1, b1, w2, b2, ...], w [in, out], b [out]
State = tuple[Params, ...]  # what the inner rule carries from step to step
Result = tuple[Array, Sequence[Array]]  # mean query loss, its gradient to the meta-parameters
Build = Callable[[Any, Params, "Episodes"], Callable[[], Result]]  # binds the data, returns one meta-step
Episodes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # xs, ys, xq, yq with a leading task axis

DECAY, DECAY2, EPSILON = 0.9, 0.999, 1e-6


class Workload(Protocol):
    """What the harness knows of a workload."""

    name: str
    steps: int
    tasks: int
    rounds: int  # unless told otherwise
    contestants: ClassVar[dict[str, tuple[str, str]]]  # name -> module and function
    usual: tuple[str, ...]  # those that run unless told otherwise; the others are compared with the first
    reference: ClassVar[str]  # the module whose `reference` is the truth in float64
    tolerance: ClassVar[float]  # relative l2 distance from it that float32 results may have
    double: ClassVar[bool]  # contestants also run in float64, where they must agree to 1e-9

    @property
    def flops(self) -> int: ...
    def params(self) -> Params: ...
    def episodes(self) -> Episodes: ...


@dataclass(frozen=True)
class Perceptron:
    """Second-order MAML of a perceptron: `steps` inner steps on the support set, then the query loss's gradient."""

    name: str
    sizes: tuple[int, ...] = (1, 40, 40, 1)
    activation: str = "relu"  # relu, tanh or sin
    loss: str = "mse"  # mse or cross_entropy
    rule: str = "sgd"  # sgd, momentum or adam
    steps: int = 5
    tasks: int = 32
    rate: float = 0.01
    shots: int = 10
    queries: int = 10
    rounds: int = 10

    contestants: ClassVar[dict[str, tuple[str, str]]] = {
        "fastmeta": ("bench.ours", "unrolled"),
        "fastmeta-scan": ("bench.ours", "scanned"),
        "jax": ("bench.peers_jax", "unrolled"),
        "jax-scan": ("bench.peers_jax", "scanned"),
        "torch-compile": ("bench.peers_torch", "compiled"),
        "torch-bmm": ("bench.peers_torch", "bmm"),
        "torch-func": ("bench.peers_torch", "func"),
        "torch-loop": ("bench.peers_torch", "loop"),
    }
    usual: ClassVar[tuple[str, ...]] = tuple(contestants)
    reference: ClassVar[str] = "bench.peers_torch"
    tolerance: ClassVar[float] = 1e-4
    double: ClassVar[bool] = False

    @property
    def rates(self) -> list[float]:
        """The learning rate of every inner step; for Adam with its bias correction (Kingma & Ba 2015, section 2)."""
        return adam_rates(self.rate, self.steps) if self.rule == "adam" else [self.rate] * self.steps

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products per task, primal activations kept for the second order."""
        products = [2 * i * o for i, o in zip(self.sizes, self.sizes[1:], strict=False)]
        every, inner = sum(products), sum(products[1:])  # no gradient to the data: the first layer lacks a product
        return self.steps * self.shots * (4 * every + 5 * inner) + self.queries * (2 * every + inner)

    def params(self, seed: int = 0) -> Params:
        """Meta-parameters, float32: He-normal weights, small biases."""
        rng = np.random.default_rng(seed)
        out: Params = []
        for i, o in zip(self.sizes, self.sizes[1:], strict=False):
            out += [rng.normal(0, math.sqrt(2 / i), (i, o)), rng.normal(0, 0.1, o)]
        return [p.astype(np.float32) for p in out]

    def episodes(self, seed: int = 1) -> Episodes:
        """Sinusoids of random amplitude and phase, or Gaussian classes for `cross_entropy`."""
        rng = np.random.default_rng(seed)
        n = self.shots + self.queries
        if self.loss == "mse":
            x, y = sinusoids(rng, self.tasks, n)
        else:
            y = np.tile(np.arange(n, dtype=np.int32) % self.sizes[-1], (self.tasks, 1))
            centres = rng.normal(size=(self.tasks, self.sizes[-1], self.sizes[0]))
            x = np.take_along_axis(centres, y[..., None], 1) + rng.normal(size=(self.tasks, n, self.sizes[0]))
            x = x.astype(np.float32)
        s, dense = self.shots, np.ascontiguousarray
        return dense(x[:, :s]), dense(y[:, :s]), dense(x[:, s:]), dense(y[:, s:])


def in_double(params: Params, episodes: Episodes) -> tuple[Params, Episodes]:
    """The same numbers in float64, labels as they are."""

    def wide(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64) if a.dtype == np.float32 else a

    xs, ys, xq, yq = map(wide, episodes)
    return list(map(wide, params)), (xs, ys, xq, yq)


def sinusoids(rng: np.random.Generator, tasks: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """x, y [tasks, points, 1] of the sinusoid regression of Finn et al. 2017, section 5.1."""
    amplitude, phase = rng.uniform(0.1, 5, (tasks, 1, 1)), rng.uniform(0, math.pi, (tasks, 1, 1))
    x = rng.uniform(-5, 5, (tasks, points, 1))
    return x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32)


def adam_rates(rate: float, steps: int) -> list[float]:
    return [rate * math.sqrt(1 - DECAY2**t) / (1 - DECAY**t) for t in range(1, steps + 1)]


def predict(params: Params, x: Array, activation: Callable[[Array], Array]) -> Array:
    *hidden, (w, b) = zip(params[::2], params[1::2], strict=True)
    for weight, bias in hidden:
        x = activation(x @ weight + bias)
    return x @ w + b


def rule_state(rule: str, params: Params, zeros_like: Callable[[Array], Array]) -> State:
    return tuple([zeros_like(p) for p in params] for _ in range({"sgd": 0, "momentum": 1, "adam": 2}[rule]))


def update(
    rule: str, params: Params, state: State, grads: Sequence[Array], rate: Array, sqrt: Callable[[Array], Array]
) -> tuple[Params, State]:
    """One step of the inner rule. Adam's epsilon is under the root: a dead unit has v = 0, where sqrt has no slope."""
    if rule == "sgd":
        return [p - rate * g for p, g in zip(params, grads, strict=True)], ()
    if rule == "momentum":
        m = [DECAY * m + g for m, g in zip(*state, grads, strict=True)]
        return [p - rate * m for p, m in zip(params, m, strict=True)], (m,)
    m = [DECAY * m + (1 - DECAY) * g for m, g in zip(state[0], grads, strict=True)]
    v = [DECAY2 * v + (1 - DECAY2) * g * g for v, g in zip(state[1], grads, strict=True)]
    return [p - rate * m / sqrt(v + EPSILON) for p, m, v in zip(params, m, v, strict=True)], (m, v)


WORKLOADS = {
    w.name: w
    for w in (
        Perceptron("sin-K1", steps=1),
        Perceptron("sin-K5"),
        Perceptron("tanh-64", sizes=(1, 64, 64, 64, 1), activation="tanh"),
        Perceptron("sine-64", sizes=(1, 64, 64, 64, 1), activation="sin"),
        Perceptron("relu-128", sizes=(1, 128, 128, 1), rate=0.001),
        Perceptron("xent", sizes=(32, 40, 40, 5), loss="cross_entropy"),
        Perceptron("momentum", rule="momentum"),
        Perceptron("adam", rule="adam"),
        Perceptron("tiny", sizes=(1, 1, 1, 1), steps=1, tasks=1, shots=1, queries=1),  # what a call costs besides work
        Perceptron("sin-train", steps=1, tasks=25),
    )
}
