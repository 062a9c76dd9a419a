"""Episodes of other few-shot systems than MAML against JAX: `python -m bench.systems [NAMES] [--rounds 6] [--out F]`.

Each is written once, as its paper's users write it, and run by both libraries: the mean loss over a meta-batch and its gradient to
the shared parameters, by `map_tasks(value_and_grad)` here and there by `jit(vmap(value_and_grad))`, as jax, and by
`jit(value_and_grad)` of the mean of the mapped losses, as jax-mean: the second adds up over tasks inside of its products.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from bench.__main__ import begin, show

f32 = np.float32
rng = np.random.default_rng(0)


class System(NamedTuple):
    """``episode(L, params, *data)`` is the loss of one task in library L; data have a leading task axis."""

    params: Any
    data: tuple[np.ndarray, ...]
    episode: Callable[..., Any]


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(f32)


def labels(tasks: int, n: int, ways: int = 5) -> np.ndarray:
    return np.tile(np.arange(n, dtype=np.int32) % ways, (tasks, 1))


def weights(*sizes: int) -> list[dict[str, np.ndarray]]:
    return [{"w": normal(n, m, scale=(2 / n) ** 0.5), "b": np.zeros(m, f32)} for n, m in zip(sizes, sizes[1:], strict=False)]


def mlp(L: Any, layers: Any, x: Any) -> Any:
    for layer in layers[:-1]:
        x = L.relu(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def cross_entropy(L: Any, logits: Any, y: Any) -> Any:
    return -L.np.mean(L.np.sum(L.log_softmax(logits, axis=-1) * L.one_hot(y, logits.shape[-1]), axis=-1))


def lstm_gates(L: Any, z: Any, cell: Any) -> tuple[Any, Any]:
    n = z.shape[-1] // 4
    i, f, o, new = (z[..., k * n : (k + 1) * n] for k in range(4))
    cell = L.sigmoid(f + 1.0) * cell + L.sigmoid(i) * L.np.tanh(new)
    return L.sigmoid(o) * L.np.tanh(cell), cell


def standard(L: Any, x: Any) -> Any:
    x = x - L.np.mean(x, axis=-1, keepdims=True)
    return x * L.rsqrt(L.np.mean(x * x, axis=-1, keepdims=True) + 1e-5)


# ---- the systems


def neural_process() -> System:
    """Conditional neural process (Garnelo et al. 2018): encoder, mean, decoder; 10 points seen, 40 asked."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        seen = L.np.mean(mlp(L, p["encoder"], L.concat([xs, ys], axis=-1)), axis=0)
        out = mlp(L, p["decoder"], L.concat([L.np.broadcast_to(seen, (40, 128)), xq], axis=-1))
        spread = 0.1 + 0.9 * L.np.log(1.0 + L.np.exp(out[:, 1:]))
        return L.np.mean(L.np.log(spread) + 0.5 * ((yq - out[:, :1]) / spread) ** 2)

    return System({"encoder": weights(2, 128, 128, 128), "decoder": weights(129, 128, 128, 2)}, (normal(32, 10, 1), normal(32, 10, 1), normal(32, 40, 1), normal(32, 40, 1)), episode)


def ridge_head() -> System:
    """R2-D2 (Bertinetto et al. 2019): ridge regression on embeddings, 5-way 5-shot, 75 queries."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        s, q = mlp(L, p, xs), mlp(L, p, xq)
        kernel = s @ s.T + 10.0 * np.eye(25, dtype=f32)
        return cross_entropy(L, q @ (s.T @ L.solve(kernel, L.one_hot(ys, 5))), yq)

    return System(weights(64, 128, 64), (normal(32, 25, 64), labels(32, 25), normal(32, 75, 64), labels(32, 75)), episode)


def deep_kernel() -> System:
    """Deep kernel transfer (Patacchiola et al. 2020), its prediction: a Gaussian process on embeddings, 30 points seen and asked."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def kernel(a: Any, b: Any) -> Any:
            return L.np.exp(L.np.minimum(a @ b.T - 0.5 * L.np.sum(a * a, axis=-1)[:, None] - 0.5 * L.np.sum(b * b, axis=-1), 0.0))

        s, q = L.np.tanh(mlp(L, p, xs)), L.np.tanh(mlp(L, p, xq))
        return L.np.mean((kernel(q, s) @ L.solve(kernel(s, s) + 0.1 * np.eye(30, dtype=f32), ys) - yq) ** 2)

    return System(weights(1, 40, 40, 16), (normal(32, 30, 1), normal(32, 30, 1), normal(32, 30, 1), normal(32, 30, 1)), episode)


def weight_generator() -> System:
    """A hypernetwork: what a set encoder makes of 10 points is all 1,153 weights of a 1-32-32-1 network."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        task = L.np.mean(mlp(L, p["encoder"], L.concat([xs, ys], axis=-1)), axis=0)
        w = mlp(L, p["generator"], task[None])[0]
        h = L.relu(xq * w[:32] + w[32:64])
        h = L.relu(h @ L.np.reshape(w[64:1088], (32, 32)) + w[1088:1120])
        return L.np.mean((h @ L.np.reshape(w[1120:1152], (32, 1)) + w[1152] - yq) ** 2)

    return System({"encoder": weights(2, 64, 64), "generator": weights(64, 64, 1153)}, (normal(32, 10, 1), normal(32, 10, 1), normal(32, 20, 1), normal(32, 20, 1)), episode)


def relation_head() -> System:
    """Relation module (Sung et al. 2018) on embeddings: every query beside every class, 75 x 5 pairs."""

    def episode(L: Any, p: Any, xs: Any, xq: Any, yq: Any) -> Any:
        s, q = mlp(L, p["embed"], xs), mlp(L, p["embed"], xq)
        pairs = L.concat([L.np.broadcast_to(q[:, None], (75, 5, 64)), L.np.broadcast_to(s[None], (75, 5, 64))], axis=-1)
        return L.np.mean((L.sigmoid(mlp(L, p["relate"], pairs))[..., 0] - L.one_hot(yq, 5)) ** 2)

    return System({"embed": weights(64, 64, 64), "relate": weights(128, 64, 1)}, (normal(16, 5, 64), normal(16, 75, 64), labels(16, 75)), episode)


def transformer() -> System:
    """Regression in context (Garg et al. 2022): 2 layers, 4 heads, width 64, 41 tokens."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        h, earlier = x @ p["in"], np.tril(np.ones((41, 41), bool))
        for layer in p["layers"]:
            q, k, v = (L.np.permute_dims(L.np.reshape(standard(L, h) @ layer[n], (41, 4, 16)), (1, 0, 2)) for n in "qkv")
            scores = L.np.where(earlier, q @ L.np.permute_dims(k, (0, 2, 1)) * 0.25, -1e9)
            h = h + L.np.reshape(L.np.permute_dims(L.softmax(scores, axis=-1) @ v, (1, 0, 2)), (41, 64)) @ layer["o"]
            u = standard(L, h) @ layer["up"]
            h = h + (0.5 * u * (1.0 + L.np.tanh(0.797885 * (u + 0.044715 * u**3)))) @ layer["down"]
        return L.np.mean((h @ p["out"] - y) ** 2)

    layers = [{**{n: normal(64, 64, scale=0.12) for n in "qkvo"}, "up": normal(64, 256, scale=0.12), "down": normal(256, 64, scale=0.06)} for _ in range(2)]
    return System({"in": normal(21, 64, scale=0.2), "out": normal(64, 1, scale=0.1), "layers": layers}, (normal(32, 41, 21), normal(32, 41, 1)), episode)


def snail() -> System:
    """SNAIL's parts (Mishra et al. 2018): dilated causal convolutions and causal attention over 26 labelled embeddings."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        for k, w in enumerate(p["convolutions"]):
            before = L.concat([np.zeros((2**k, x.shape[1]), f32), x[: -(2**k)]], axis=0)
            x = L.concat([x, L.np.tanh(x @ w[0] + before @ w[1])], axis=-1)
        scores = L.np.where(np.tril(np.ones((26, 26), bool)), (x @ p["q"]) @ (x @ p["k"]).T * 0.25, -1e9)
        return cross_entropy(L, L.concat([x, L.softmax(scores, axis=-1) @ (x @ p["v"])], axis=-1) @ p["out"], y)

    params = {"convolutions": [normal(2, n, 64, scale=0.1) for n in (32, 96, 160)], "q": normal(224, 16, scale=0.1), "k": normal(224, 16, scale=0.1), "v": normal(224, 32, scale=0.1), "out": normal(256, 5, scale=0.1)}
    return System(params, (normal(16, 26, 32), labels(16, 26)), episode)


def memory() -> System:
    """Memory-augmented network (Santoro et al. 2016): an LSTM that reads 128 slots by cosine and writes them, 50 steps of one example."""
    slots, width, hidden, ways = 128, 20, 64, 5
    empty = normal(slots, width, scale=0.1)  # slots that differ

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        target = L.one_hot(y, ways)

        def step(state: Any, now: Any) -> Any:
            h, cell, rows, write, read = state
            h, cell = lstm_gates(L, now[0] @ p["w"] + h @ p["u"] + read @ p["r"] + p["b"], cell)
            key = L.np.tanh(h @ p["key"])
            rows = rows + write[:, None] * L.np.tanh(h @ p["add"])
            near = L.softmax((rows @ key) * L.rsqrt(L.np.sum(rows * rows, axis=-1) + 1e-6) * L.rsqrt(L.np.sum(key * key) + 1e-6), axis=-1)
            read = near @ rows
            logits = L.concat([h, read], axis=0) @ p["out"]
            return (h, cell, rows, 0.5 * write + 0.5 * near, read), -L.np.sum(L.log_softmax(logits, axis=-1) * now[1])

        start = (np.zeros(hidden, f32), np.zeros(hidden, f32), empty, np.full(slots, 1 / slots, f32), np.zeros(width, f32))
        shown = L.concat([x, L.concat([np.zeros((1, ways), f32), target[:-1]], axis=0)], axis=-1)
        return L.np.mean(L.scan(step, start, (shown, target))[1])

    shapes = {"w": (25 + ways, 4 * hidden), "u": (hidden, 4 * hidden), "r": (width, 4 * hidden), "key": (hidden, width), "add": (hidden, width), "out": (hidden + width, ways)}
    return System({"b": np.zeros(4 * hidden, f32), **{n: normal(*s, scale=0.1) for n, s in shapes.items()}}, (normal(16, 50, 25), labels(16, 50)), episode)


def learned_optimiser() -> System:
    """Learning to learn by gradient descent (Andrychowicz et al. 2016): an LSTM of 20 units for each of 61 weights, 20 steps."""
    hidden, n = 20, 61

    def episode(L: Any, p: Any, theta: Any, x: Any, y: Any) -> Any:
        def loss(theta: Any) -> Any:
            h = L.np.tanh(x * theta[:20] + theta[20:40])
            return L.np.mean((h @ L.np.reshape(theta[40:60], (20, 1)) + theta[60] - y) ** 2)

        def step(state: Any, _: Any) -> Any:
            theta, h, cell = state
            g = L.stop_gradient(L.grad(loss)(theta))
            h, cell = lstm_gates(L, L.np.stack([g, L.np.abs(g)], axis=-1) @ p["w"] + h @ p["u"] + p["b"], cell)
            theta = theta + 0.1 * L.np.reshape(h @ p["out"], (n,))
            return (theta, h, cell), loss(theta)

        start = np.zeros((n, hidden), f32)
        return L.np.mean(L.scan(step, (theta, start, start), None, length=20)[1])

    params = {"w": normal(2, 4 * hidden, scale=0.3), "u": normal(hidden, 4 * hidden, scale=0.2), "b": np.zeros(4 * hidden, f32), "out": normal(hidden, 1, scale=0.1)}
    return System(params, (normal(16, n, scale=0.5), normal(16, 10, 1), normal(16, 10, 1)), episode)


def marginal_likelihood() -> System:
    """Deep kernel transfer, its training: the kernel of two points mapped over all pairs, and the evidence of 40 points."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        h = L.np.tanh(mlp(L, p, x))
        kernel = L.vmap(lambda a: L.vmap(lambda b: L.np.exp(-0.5 * L.np.sum((a - b) ** 2)))(h))(h) + 0.1 * np.eye(40, dtype=f32)
        return 0.5 * L.np.sum(y * L.solve(kernel, y)) + 0.5 * L.logdet(kernel)

    return System(weights(1, 40, 40, 4), (normal(32, 40, 1), normal(32, 40, 1)), episode)


def per_example() -> System:
    """A loss of one example, mapped over 50, after one step on as many."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def loss(p: Any, x: Any, y: Any) -> Any:
            return L.np.mean(L.vmap(lambda a, b: L.np.sum((mlp(L, p, a) - b) ** 2))(x, y))

        g = L.grad(loss)(p, xs, ys)
        adapted = [{n: w[n] - 0.01 * d[n] for n in w} for w, d in zip(p, g, strict=True)]
        return loss(adapted, xq, yq)

    return System(weights(16, 64, 64, 4), (normal(32, 50, 16), normal(32, 50, 4), normal(32, 50, 16), normal(32, 50, 4)), episode)


def jacobian() -> System:
    """A network whose Jacobian is small: its 8 rows by reverse mode, mapped over unit vectors, at one point of each task."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        out, back = L.vjp(lambda x: mlp(L, p, x), x)
        rows = L.vmap(lambda c: back(c)[0])(np.eye(8, dtype=f32))
        return L.np.sum((out - y) ** 2) + 0.1 * L.np.sum(rows**2)

    return System(weights(32, 64, 64, 8), (normal(32, 32), normal(32, 8)), episode)


def kalman_filter() -> System:
    """Kalman filters of 100 observations each, whose noises and decay all tasks share: numbers that a scan carries."""

    def episode(L: Any, p: Any, y: Any) -> Any:
        def step(state: Any, now: Any) -> Any:
            mean, spread = state
            mean, spread = p[2] * mean, p[2] * p[2] * spread + L.np.exp(p[0])
            around = spread + L.np.exp(p[1])
            gain = spread / around
            return (mean + gain * (now - mean), (1.0 - gain) * spread), L.np.log(around) + (now - mean) ** 2 / around

        return L.np.mean(L.scan(step, (y[0], y[0] * 0.0 + 1.0), y[1:])[1])

    return System(np.array([-1.0, 0.5, 0.9], f32), (normal(256, 100),), episode)


def physics() -> System:
    """A pendulum's constants after one gradient step on 50 steps of Runge-Kutta, asked for 50 more: second order."""

    def episode(L: Any, p: Any, start: Any, seen: Any, asked: Any) -> Any:
        def slope(k: Any, s: Any) -> Any:
            return L.np.stack([s[1], -k[0] * L.np.sin(s[0]) - k[1] * s[1]])

        def run(k: Any, s: Any) -> Any:
            def step(s: Any, _: Any) -> Any:
                a = slope(k, s)
                b = slope(k, s + 0.025 * a)
                c = slope(k, s + 0.025 * b)
                d = slope(k, s + 0.05 * c)
                s = s + (a + 2.0 * b + 2.0 * c + d) * (0.05 / 6.0)
                return s, s[0]

            return L.scan(step, s, None, length=50)

        k = p - 0.1 * L.grad(lambda k: L.np.mean((run(k, start)[1] - seen) ** 2))(p)
        return L.np.mean((run(k, run(k, start)[0])[1] - asked) ** 2)

    return System(np.array([1.0, 0.1], f32), (normal(64, 2), normal(64, 50), normal(64, 50)), episode)


def soft_dtw() -> System:
    """Soft dynamic time warping (Cuturi & Blondel 2017) of two sequences of 20, a scan inside of a scan, by a shared smoothness."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        far = np.full(1, 1e4, f32)

        def row(before: Any, costs: Any) -> Any:
            def cell(left: Any, near: Any) -> Any:
                up, corner, cost = near
                least = L.np.minimum(L.np.minimum(left, up), corner)
                total = L.np.exp((least - left) * p) + L.np.exp((least - up) * p) + L.np.exp((least - corner) * p)
                left = cost + least - L.np.log(total) / p
                return left, left

            new = L.scan(cell, before[0] * 0.0 + 1e4, (before[1:], before[:-1], costs))[1]
            return L.concat([far, new], axis=0), new[-1]

        first = np.concatenate([np.zeros(1, f32), np.full(20, 1e4, f32)])
        return L.scan(row, first, (x[:, None] - y[None, :]) ** 2)[1][-1]

    return System(np.array(1.5, f32), (normal(64, 20), normal(64, 20)), episode)


def hidden_markov() -> System:
    """A hidden Markov model of 8 states and 6 symbols after one gradient step on 40 observations, asked for 40 more: second order."""

    def episode(L: Any, p: Any, seen: Any, asked: Any) -> Any:
        def surprise(p: Any, x: Any) -> Any:
            turn, emit = (L.np.exp(a) / L.np.sum(L.np.exp(a), axis=1, keepdims=True) for a in p)

            def step(state: Any, symbol: Any) -> Any:
                state = (state @ turn) * (emit @ symbol)
                total = L.np.sum(state)
                return state / total, L.np.log(total)

            return -L.np.mean(L.scan(step, emit[:, 0] * 0.0 + 1.0 / 8.0, x)[1])

        adapted = [a - 0.5 * g for a, g in zip(p, L.grad(surprise)(p, seen), strict=True)]
        return surprise(adapted, asked)

    symbols = np.eye(6, dtype=f32)[rng.integers(0, 6, (2, 64, 40))]
    return System([normal(8, 8), normal(8, 6)], (symbols[0], symbols[1]), episode)


def physics_informed() -> System:
    """Burgers' equation (Raissi et al. 2019) of a viscosity of the task's own, 64 collocation points one by one under a map; loss after one step."""

    def episode(L: Any, p: Any, nu: Any, points: Any, start: Any, value: Any) -> Any:
        def u(p: Any, z: Any) -> Any:
            for layer in p[:-1]:
                z = L.np.tanh(z @ layer["w"] + layer["b"])
            return (z @ p[-1]["w"] + p[-1]["b"])[0]

        def residual(p: Any, z: Any) -> Any:
            d, bend = L.grad(u, 1)(p, z), L.grad(lambda z: L.grad(u, 1)(p, z)[0])(z)
            return (d[1] + u(p, z) * d[0] - nu * bend[0]) ** 2

        def loss(p: Any) -> Any:
            return L.np.mean(L.vmap(lambda z: residual(p, z))(points)) + L.np.mean(L.vmap(lambda z, t: (u(p, z) - t) ** 2)(start, value))

        return loss(descended(L, p, L.grad(loss)(p), 0.01))

    return System(weights(2, 32, 32, 1), (np.abs(normal(16)), normal(16, 64, 2), normal(16, 16, 2), normal(16, 16)), episode)


def descended(L: Any, params: Any, gradient: Any, rate: float) -> Any:
    return L.tree_map(lambda p, g: p - rate * g, params, gradient)


def all_pairs() -> System:
    """A kernel of two embedded points, written for one pair and mapped twice: 40 points."""

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        def kernel(a: Any, b: Any) -> Any:
            return L.np.exp(-0.1 * L.np.sum(L.np.abs(L.np.tanh(mlp(L, p, a[None])) - L.np.tanh(mlp(L, p, b[None])))))

        return L.np.mean((L.vmap(lambda a: L.vmap(lambda b: kernel(a, b))(x))(x) @ y - y) ** 2)

    return System(weights(8, 32, 16), (normal(16, 40, 8), normal(16, 40, 1)), episode)


def private_gradients() -> System:
    """An inner step by clipped gradients of single examples, as differential privacy asks for (Abadi et al. 2016): second order."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def loss(p: Any, x: Any, y: Any) -> Any:
            return cross_entropy(L, mlp(L, p, x), y)

        def clipped(x: Any, y: Any) -> Any:
            g = L.grad(loss)(p, x[None], y[None])
            size = L.np.sqrt(sum(L.np.sum(layer[k] ** 2) for layer in g for k in ("w", "b")) + 1e-12)
            return L.tree_map(lambda a: a * L.np.minimum(1.0, 1.0 / size), g)

        mean = L.tree_map(lambda a: L.np.mean(a, axis=0), L.vmap(clipped)(xs, ys))
        return loss(descended(L, p, mean, 0.1), xq, yq)

    return System(weights(32, 64, 64, 5), (normal(16, 25, 32), labels(16, 25), normal(16, 25, 32), labels(16, 25)), episode)


def planning() -> System:
    """Costs of 32 action sequences through a model of the dynamics that takes one step on the task's transitions: a scan under a map."""

    def episode(L: Any, p: Any, s: Any, a: Any, after: Any, plans: Any, goal: Any) -> Any:
        def model(p: Any, s: Any, a: Any) -> Any:
            return s + mlp(L, p, L.concat([s, a], axis=-1))

        p = descended(L, p, L.grad(lambda p: L.np.mean((model(p, s, a) - after) ** 2))(p), 0.1)

        def step(z: Any, u: Any) -> Any:
            z = model(p, z[None], u[None])[0]
            return z, L.np.sum((z - goal) ** 2)

        return L.np.mean(L.vmap(lambda plan: L.np.sum(L.scan(step, s[0], plan)[1]))(plans))

    return System(weights(6, 64, 64, 4), (normal(8, 32, 4), normal(8, 32, 2), normal(8, 32, 4), normal(8, 32, 15, 2), normal(8, 4)), episode)


def sequences() -> System:
    """Ten sequences of a task, each alone through an LSTM of 32 units under a map; loss after one step."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def out(p: Any, x: Any) -> Any:
            def step(state: Any, now: Any) -> Any:
                return lstm_gates(L, now @ p["w"] + state[0] @ p["u"] + p["b"], state[1]), None

            none = L.np.zeros(32, dtype=f32) + x[0, 0] * 0
            return (L.scan(step, (none, none), x)[0][0] @ p["v"])[0]

        def loss(p: Any, x: Any, y: Any) -> Any:
            return L.np.mean(L.vmap(lambda a, b: (out(p, a) - b) ** 2)(x, y))

        return loss(descended(L, p, L.grad(loss)(p, xs, ys), 0.1), xq, yq)

    params = {"w": normal(4, 128, scale=0.3), "u": normal(32, 128, scale=0.15), "b": np.zeros(128, f32), "v": normal(32, 1, scale=0.2)}
    return System(params, (normal(8, 10, 20, 4), normal(8, 10), normal(8, 10, 20, 4), normal(8, 10)), episode)


def sliced_wasserstein() -> System:
    """Sliced Wasserstein distance (Bonneel et al. 2015) of 128 embedded points from a task's: 16 projections, each sorted."""
    along = normal(8, 16)

    def episode(L: Any, p: Any, x: Any, y: Any) -> Any:
        return L.np.mean((L.np.sort(mlp(L, p, x), axis=0) - L.np.sort(y @ along, axis=0)) ** 2)

    return System(weights(4, 64, 16), (normal(16, 128, 4), normal(16, 128, 8)), episode)


def nearest_descriptors() -> System:
    """DN4 (Li et al. 2019): cosines of the 25 local descriptors of a query with those of each class, the three nearest added up."""

    def episode(L: Any, p: Any, x: Any, xq: Any, yq: Any) -> Any:
        def unit(x: Any) -> Any:
            z = mlp(L, p, L.np.reshape(x, (-1, 32)))
            return z * L.rsqrt(L.np.sum(z * z, axis=1, keepdims=True) + 1e-6)

        near = L.top_k(L.np.reshape(unit(xq) @ unit(x).T, (15 * 25, 5, 25)), 3)[0]
        return cross_entropy(L, L.np.sum(L.np.reshape(near, (15, 25, 5, 3)), axis=(1, 3)), yq)

    return System(weights(32, 64, 64), (normal(8, 5, 25, 32), normal(8, 15, 25, 32), labels(8, 15)), episode)


def word_embeddings() -> System:
    """Prototypes of texts (20 words each, a table of 20,000): means of rows that support and queries take from the table."""

    def episode(L: Any, p: Any, xs: Any, xq: Any, yq: Any) -> Any:
        s, q = (L.np.mean(L.np.take(p, x, axis=0), axis=1) for x in (xs, xq))
        return cross_entropy(L, q @ L.np.mean(L.np.reshape(s, (5, 5, 64)), axis=0).T, yq)

    words = rng.integers(0, 20_000, (8, 50, 20)).astype(np.int32)
    return System(normal(20_000, 64, scale=0.3), (words[:, :25], words[:, 25:], labels(8, 25)), episode)


def wide_generator() -> System:
    """A hypernetwork of 1.1 million weights: what an encoder makes of 10 points is a 1-64-64-1 network."""

    def episode(L: Any, p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        task = L.np.mean(mlp(L, p["encoder"], L.concat([xs, ys], axis=-1)), axis=0)
        w = mlp(L, p["generator"], task[None])[0]
        h = L.relu(xq * w[:64] + w[64:128])
        h = L.relu(h @ L.np.reshape(w[128:4224], (64, 64)) + w[4224:4288])
        return L.np.mean((h @ L.np.reshape(w[4288:4352], (64, 1)) + w[4352] - yq) ** 2)

    return System({"encoder": weights(2, 256, 256), "generator": weights(256, 256, 4353)}, (normal(32, 10, 1), normal(32, 10, 1), normal(32, 20, 1), normal(32, 20, 1)), episode)


def wide_prototypes() -> System:
    """Products with prototypes, of features of 640 numbers by two layers of as many, 5-way 5-shot: 3.3 MB of weights."""

    def episode(L: Any, p: Any, xs: Any, xq: Any, yq: Any) -> Any:
        c = L.np.mean(L.np.reshape(mlp(L, p, xs), (5, 5, 640)), axis=1)
        return cross_entropy(L, 0.05 * (mlp(L, p, xq) @ c.T), yq)

    return System(weights(640, 640, 640), (normal(32, 25, 640), normal(32, 25, 640), labels(32, 25)), episode)


SYSTEMS: dict[str, Callable[[], System]] = {
    "conditional neural process, 32 tasks": neural_process,
    "ridge regression head, 32 tasks": ridge_head,
    "deep kernel, 32 tasks": deep_kernel,
    "weight generator, 32 tasks": weight_generator,
    "relation module, 16 tasks": relation_head,
    "transformer in context, 32 tasks": transformer,
    "causal convolutions and attention, 16 tasks": snail,
    "memory-augmented LSTM, 16 tasks": memory,
    "learned optimiser, 16 tasks": learned_optimiser,
    "marginal likelihood of a deep kernel, 32 tasks": marginal_likelihood,
    "loss of one example mapped over all, 32 tasks": per_example,
    "Jacobian penalty, 32 tasks": jacobian,
    "Kalman filter with shared noises, 256 tasks": kalman_filter,
    "pendulum's constants by Runge-Kutta, second order, 64 tasks": physics,
    "soft dynamic time warping, 64 tasks": soft_dtw,
    "hidden Markov model after one step, second order, 64 tasks": hidden_markov,
    "physics-informed network after one step, second order, 16 tasks": physics_informed,
    "kernel mapped over all pairs, 16 tasks": all_pairs,
    "clipped gradients of single examples, second order, 16 tasks": private_gradients,
    "plans through a model after one step, second order, 8 tasks": planning,
    "sequences each through an LSTM, second order, 8 tasks": sequences,
    "sliced Wasserstein distance, 16 tasks": sliced_wasserstein,
    "nearest local descriptors, 8 tasks": nearest_descriptors,
    "word embeddings, 8 tasks": word_embeddings,
    "wide weight generator, 32 tasks": wide_generator,
    "wide prototypes, 32 tasks": wide_prototypes,
}


# ---- the libraries


def fastmeta(system: System) -> Callable[[], Any]:
    import optree

    import fastmeta as fm

    names = ("relu", "sigmoid", "softmax", "log_softmax", "rsqrt", "one_hot", "concat", "scan", "grad", "stop_gradient", "vjp", "logdet", "tree_map", "top_k")
    L = SimpleNamespace(np=fm, solve=lambda a, b: fm.inverse(a) @ b, vmap=fm.map_tasks, **{n: getattr(fm, n) for n in names})
    step = fm.map_tasks(fm.value_and_grad(lambda p, *data: system.episode(L, p, *data)), in_axes=(None, *[0 for _ in system.data]), reduce="mean")
    return lambda: tuple(optree.tree_leaves(step(system.params, *system.data)))


def jax(system: System, mean_first: bool = False) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    L = SimpleNamespace(
        np=jnp, relu=jax.nn.relu, sigmoid=jax.nn.sigmoid, softmax=jax.nn.softmax, log_softmax=jax.nn.log_softmax, rsqrt=jax.lax.rsqrt,
        one_hot=jax.nn.one_hot, concat=jnp.concatenate, solve=jnp.linalg.solve, scan=jax.lax.scan, grad=jax.grad, stop_gradient=jax.lax.stop_gradient,
        vmap=jax.vmap, vjp=jax.vjp, tree_map=jax.tree.map, top_k=jax.lax.top_k, logdet=lambda k: jnp.linalg.slogdet(k)[1],
    )  # fmt: skip
    def mapped(f: Any) -> Any:
        return jax.vmap(f, (None, *[0 for _ in system.data]))

    def loss(p: Any, *data: Any) -> Any:
        return system.episode(L, p, *data)

    each = mapped(jax.value_and_grad(loss))
    step = jax.value_and_grad(lambda p, *data: mapped(loss)(p, *data).mean()) if mean_first else lambda p, *data: jax.tree.map(lambda v: v.mean(0), each(p, *data))
    params, data = jax.device_put((system.params, system.data))
    compiled = jax.jit(step).lower(params, *data).compile()
    return lambda: tuple(jax.tree.leaves(jax.block_until_ready(compiled(params, *data))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.systems", description=__doc__)
    parser.add_argument("names", nargs="*", help="systems whose title contains one of these (default all)")
    options, origin = begin(parser)
    from bench import measure

    reports: dict[str, Any] = {}
    for title, make in SYSTEMS.items():
        if options.names and not any(n in title for n in options.names):
            continue
        system = make()
        thunks = {"fastmeta": fastmeta(system), "jax": jax(system), "jax-mean": jax(system, mean_first=True)}
        reports[title] = {"rows": measure.contest(title, thunks, options.rounds, "us_per_task", 1e6 / len(system.data[0]))}
        show(title, reports[title]["rows"])
    if options.out:
        options.out.write_text(json.dumps({"provenance": origin, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
