"""Random networks of images, sequences and vectors, and random episodes of them, as `test_networks.py` and `fuzz.py` run them.

A case is a function of its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastmeta as fm
from fastmeta import nn

Rng = np.random.Generator
Apply = Callable[[Any, Any], Any]  # (parameters, x [n, ...]) -> [n, ...]
LARGEST = 4e6  # multiply-adds of a convolution

ACTIVATIONS: tuple[Callable[[Any], Any], ...] = (
    fm.tanh, fm.relu, fm.sigmoid, fm.sin, fm.erf, lambda x: x * fm.sigmoid(x), lambda x: fm.maximum(x, x * 0.1),
)  # fmt: skip


class Maker:
    """Layers as they are drawn: ``params`` grows with them."""

    def __init__(self, rng: Rng, batch: int) -> None:
        self.rng = rng
        self.batch = batch
        self.params: list[np.ndarray] = []
        self.names: list[str] = []

    def param(self, *shape: int) -> int:
        self.params.append(self.rng.standard_normal(shape) * 0.4)
        return len(self.params) - 1

    def one(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def activation(self) -> Callable[[Any], Any]:
        return ACTIVATIONS[self.rng.integers(len(ACTIVATIONS))]

    # -- images [h, w, c]

    def convolution(self, h: int, w: int, c: int) -> Apply | None:
        out, size, stride = self.one(1, 2, 5, 8, 16, 24, 64), self.one(1, 2, 3, 3, 5), self.one(1, 1, 2, 3)
        padding = ("same", "valid")[self.rng.integers(2)]
        if padding == "valid" and min(h, w) < size or size * size * c * out * h * w * self.batch > LARGEST:
            return None
        k, b, f = self.param(size, size, c, out), self.param(out), self.activation()
        return lambda p, x: f(nn.conv2d(x, p[k], stride=stride, padding=padding) + p[b])

    def depthwise(self, h: int, w: int, c: int) -> Apply:
        k = self.param(3, 3, c)
        return lambda p, x: nn.depthwise_conv2d(x, p[k])

    def pool(self, h: int, w: int, c: int) -> Apply | None:
        kind, window = (nn.max_pool2d, nn.avg_pool2d)[self.rng.integers(2)], (self.one(1, 2), self.one(2, 3))
        stride = None if self.rng.random() < 0.6 else (1, self.one(1, 2))
        return None if h < window[0] or w < window[1] else lambda p, x: kind(x, window=window, stride=stride)

    def image_norm(self, h: int, w: int, c: int) -> Apply | None:
        if self.batch * h * w == 1:  # no statistics of one pixel
            return None
        if c % 2 == 0 and self.rng.random() < 0.4:
            return lambda p, x: nn.group_norm(x, groups=2)
        g, b = self.param(c), self.param(c)
        return lambda p, x: nn.batch_norm(x, p[g], p[b])

    def image_move(self, h: int, w: int, c: int) -> Apply:
        return (
            lambda p, x: fm.concat([x, fm.flip(x, axis=1)], axis=3),
            lambda p, x: nn.global_average_pool(x),
            lambda p, x: fm.reshape(x, (x.shape[0], -1)),
            lambda p, x: x + fm.roll(x, 1, axis=2),
            lambda p, x: fm.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0))),
        )[self.rng.integers(5)]

    # -- sequences [time, features]

    def recurrent(self, time: int, features: int) -> Apply:
        hidden, kind = self.one(2, 5, 8), ("lstm", "gru")[self.rng.integers(2)]
        gates = {"lstm": 4, "gru": 3}[kind]
        keys = {"w": self.param(features, gates * hidden), "u": self.param(hidden, gates * hidden), "b": self.param(gates * hidden)}
        if kind == "gru":
            keys["bn"] = self.param(hidden)
        layer = getattr(nn, kind)
        return lambda p, x: fm.moveaxis(layer({name: p[k] for name, k in keys.items()}, fm.moveaxis(x, 1, 0))[0], 0, 1)

    def attention(self, time: int, features: int) -> Apply:
        q, k, v = self.param(features, 8), self.param(features, 8), self.param(features, 6)
        return lambda p, x: nn.attention(x @ p[q], x @ p[k], x @ p[v])

    def sequence_move(self, time: int, features: int) -> Apply:
        return (
            lambda p, x: x[:, -1],
            lambda p, x: fm.mean(x, axis=1),
            lambda p, x: fm.stack([x[:, i] * (i + 1) for i in range(x.shape[1])][::-1], axis=1),
            lambda p, x: fm.concat([x, fm.tanh(x)], axis=2),
        )[self.rng.integers(4)]

    # -- vectors [features]

    def linear(self, features: int) -> Apply:
        out = self.one(1, 3, 8, 16, 33, 40)
        w, b, f = self.param(features, out), self.param(out), self.activation()
        return lambda p, x: f(nn.linear(x, p[w], p[b]))

    def vector_norm(self, *shape: int) -> Apply:
        g, b = self.param(shape[-1]), self.param(shape[-1])
        return lambda p, x: nn.layer_norm(x, p[g], p[b])

    def vector_move(self, features: int) -> Apply:
        return (
            lambda p, x: fm.concat([x[:, 1:], x[:, :1] * 2], axis=1),
            lambda p, x: fm.softmax(x, axis=1) * 3,
            lambda p, x: fm.sqrt(1 + x * x) - fm.log1p(fm.exp(-fm.abs(x))),
            lambda p, x: fm.cumulative_sum(x, axis=1) * 0.3,
            lambda p, x: fm.kernels.pairwise_distance(x, fm.stop_gradient(x)[:3] + 0.1, metric="sqeuclidean") * 0.2,
            lambda p, x: fm.take(x, np.arange(x.shape[1], dtype=np.int32)[::-1] // 2, axis=1),
        )[self.rng.integers(6)]

    def residual(self, *shape: int) -> Apply:
        f = self.activation()
        return lambda p, x: x + f(x)

    def layer(self, shape: tuple[int, ...]) -> Apply | None:
        kinds: dict[int, tuple[Callable[..., Apply | None], ...]] = {
            3: (self.convolution, self.convolution, self.convolution, self.depthwise, self.pool, self.image_norm, self.image_move, self.residual),
            2: (self.recurrent, self.recurrent, self.attention, self.vector_norm, self.sequence_move),
            1: (self.linear, self.linear, self.vector_norm, self.vector_move, self.residual),
        }
        kind = kinds[len(shape)][self.rng.integers(len(kinds[len(shape)]))]
        self.names.append(kind.__name__)
        return kind(*shape)


class Case(NamedTuple):
    episode: Callable[..., Any]  # (parameters, support x and y, query x and y) -> loss
    arguments: tuple[Any, ...]  # float64; the parameters, then arrays by task
    reduce: str | None
    note: str


def random_case(seed: int) -> Case:
    rng = np.random.default_rng((seed, 11))
    batch, tasks = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    m = Maker(rng, batch)
    shapes = ((m.one(*range(1, 17)), m.one(*range(1, 17)), m.one(1, 2, 3, 4, 8)), (m.one(2, 3, 5), m.one(1, 3, 8, 16, 20)), (m.one(1, 3, 8, 16, 20, 33),))
    shape = inside = shapes[rng.choice(3, p=(0.5, 0.2, 0.3))]
    layers = []
    for _ in range(rng.integers(1, 6)):
        f = m.layer(inside)
        if f is None:
            continue
        layers.append(f)
        with fm.set_backend("numpy"):
            inside = np.shape(f(m.params, np.zeros((batch, *inside))))[1:]
    classes, labelled = m.one(2, 5), bool(rng.random() < 0.4)
    w, b = m.param(int(np.prod(inside)), classes), m.param(classes)

    def loss(p: Any, x: Any, y: Any) -> Any:
        for f in layers:
            x = f(p, x)
        out = nn.linear(fm.reshape(x, (batch, -1)), p[w], p[b])
        return nn.cross_entropy(out, y) if labelled else nn.mse(out, y)

    steps, rule, scanned, first = int(rng.integers(1, 4)), ("sgd", "momentum", "adaptive")[rng.integers(3)], bool(rng.random() < 0.4), bool(rng.random() < 0.2)

    def inner(p: Any, m: Any, x: Any, y: Any) -> Any:
        g = fm.grad(loss)(p, x, y)
        if first:
            g = [fm.stop_gradient(a) for a in g]
        if rule == "momentum":
            g = m = [0.5 * a + d for a, d in zip(m, g, strict=True)]
        if rule == "adaptive":
            m = [0.5 * a + 0.5 * d * d for a, d in zip(m, g, strict=True)]
            g = [d / fm.sqrt(a + 1e-3) for a, d in zip(m, g, strict=True)]
        return [a - 0.05 * d for a, d in zip(p, g, strict=True)], m

    def episode(p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        state = list(p), [fm.zeros_like(a) for a in p]
        if scanned:
            state, _ = fm.scan(lambda s, _: (inner(*s, xs, ys), None), state, length=steps)
        else:
            for _ in range(steps):
                state = inner(*state, xs, ys)
        return loss(state[0], xq, yq)

    def data() -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((tasks, batch, *shape))
        return x, rng.integers(0, classes, (tasks, batch), dtype=np.int32) if labelled else rng.standard_normal((tasks, batch, classes))

    arguments = (m.params, *data(), *data())
    reduce = (None, "mean", "sum")[rng.integers(3)]
    note = f"seed {seed}: {m.names} on {tasks} x {batch} x {shape}, {steps} {rule} steps, scan {scanned}, first order {first}, reduce {reduce}"
    return Case(episode, arguments, reduce, note)


def check_case(seed: int, tolerance: float = 1e-8) -> bool:
    """The engine's loss and meta-gradient are the oracle's.  False where nothing can be compared: the adaptation explodes."""
    import optree

    case = random_case(seed)

    def results() -> list[np.ndarray]:
        step = fm.map_tasks(fm.value_and_grad(case.episode), in_axes=(None, 0, 0, 0, 0), reduce=case.reduce)
        return optree.tree_leaves(step(*case.arguments))

    with fm.set_backend("numpy"), np.errstate(all="ignore"):
        want = results()
    if not all(np.isfinite(w).all() and np.abs(w).max() < 1e5 for w in want):
        return False
    for k, (g, w) in enumerate(zip(results(), want, strict=True)):
        gap = np.abs(g - w).max() / (1 + np.abs(w).max())
        assert gap <= tolerance, f"{case.note}: result {k} {w.shape} is off by {gap}"
    return True
