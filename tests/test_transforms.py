"""The public transforms against torch.func: derivatives, loops, tasks and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
import torch

import fastmeta as fm
from fastmeta.plan import make_plan
from fastmeta.transforms import unroll
from fastmeta.transforms.unroll import EQUATIONS

F64 = np.float64
Arrays = dict[str, np.ndarray]
torch.set_num_threads(1)


def normal(*shape: int, dtype: Any = F64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


def close(got: Any, want: Any, tolerance: float = 1e-11) -> None:
    got, want = optree.tree_leaves(got), optree.tree_leaves(want)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        w = w.detach().numpy() if isinstance(w, torch.Tensor) else np.asarray(w)
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, tolerance, tolerance * max(1.0, float(np.max(np.abs(w), initial=0))))


def tensors(tree: Any) -> Any:
    return optree.tree_map(lambda x: torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x.copy()), tree)


def same_bits(a: Any, b: Any) -> None:
    for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.fixture
def real_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loop is unrolled."""
    monkeypatch.setattr(unroll, "EQUATIONS", 0)


# -- networks, losses and inner rules, written once for both libraries


class Library(NamedTuple):
    name: str
    grad: Callable[..., Any]
    value_and_grad: Callable[..., Any]
    sum: Callable[..., Any]
    mean: Callable[..., Any]
    act: dict[str, Callable[..., Any]]
    cross_entropy: Callable[..., Any]
    sqrt: Callable[..., Any]
    stop: Callable[..., Any]


def torch_grad_and_value(f: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        g, v = torch.func.grad_and_value(f)(*args)
        return v, g

    return call


OURS = Library(
    "fastmeta", fm.grad, fm.value_and_grad, fm.sum, fm.mean,
    {
        "tanh": fm.tanh, "relu": fm.relu, "sigmoid": fm.sigmoid, "sin": fm.sin, "erf": fm.erf,
        "softplus": fm.nn.softplus, "gelu": fm.nn.gelu, "near gelu": lambda x: fm.nn.gelu(x, approximate=True), "silu": fm.nn.silu,
        "elu": lambda x: fm.where(x > 0, x, fm.expm1(fm.minimum(x, 0.0))), "leaky": fm.nn.leaky_relu, "abs": fm.abs, "softmax": lambda x: fm.softmax(x, axis=-1),
    },
    fm.nn.cross_entropy, fm.sqrt, fm.stop_gradient,
)  # fmt: skip
TORCH = Library(
    "torch", torch.func.grad, torch_grad_and_value, torch.sum, torch.mean,
    {
        "tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "sin": torch.sin, "erf": torch.erf,
        "softplus": torch.nn.functional.softplus, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu,
        "near gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "elu": torch.nn.functional.elu, "leaky": torch.nn.functional.leaky_relu, "abs": torch.abs, "softmax": lambda x: torch.softmax(x, -1),
    },
    torch.nn.functional.cross_entropy, torch.sqrt, torch.Tensor.detach,
)  # fmt: skip


def init(sizes: tuple[int, ...], dtype: Any = F64, seed: int = 0) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    pairs = zip(sizes, sizes[1:], strict=False)
    return [{"w": (rng.standard_normal((m, n)) / m**0.5).astype(dtype), "b": (rng.standard_normal(n) * 0.1).astype(dtype)} for m, n in pairs]


def loss_of(lib: Library, activation: str, kind: str) -> Callable[..., Any]:
    act = lib.act[activation]

    def loss(params: Any, x: Any, y: Any) -> Any:
        for layer in params[:-1]:
            x = act(x @ layer["w"] + layer["b"])
        out = x @ params[-1]["w"] + params[-1]["b"]
        return lib.cross_entropy(out, y) if kind == "cross_entropy" else lib.mean((out - y) ** 2)

    return loss


def zip_map(f: Callable[..., Any], *trees: Any) -> Any:
    return optree.tree_map(f, *trees)


def episode_of(lib: Library, activation: str, kind: str, rule: str, steps: int, order: int = 2) -> Callable[..., Any]:
    loss = loss_of(lib, activation, kind)

    def episode(params: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        first = zip_map(lambda p: 0.0 * p, params)
        second = first
        for _ in range(steps):
            g = lib.grad(loss)(params, xs, ys)
            if order == 1:
                g = zip_map(lib.stop, g)
            if rule == "momentum":
                first = g = zip_map(lambda m, u: 0.9 * m + u, first, g)
            elif rule == "adam":
                first = zip_map(lambda m, u: 0.9 * m + 0.1 * u, first, g)
                second = zip_map(lambda v, u: 0.99 * v + 0.01 * u * u, second, g)
                g = zip_map(lambda m, v: m / lib.sqrt(v + 1e-3), first, second)
            params = zip_map(lambda p, u: p - 0.1 * u, params, g)
        return loss(params, xq, yq)

    return episode


def data(kind: str, features: int, classes: int, tasks: int | None = None, dtype: Any = F64) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    lead = () if tasks is None else (tasks,)

    def half(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((*lead, n, features)).astype(dtype)
        y = rng.integers(0, classes, (*lead, n), dtype=np.int32) if kind == "cross_entropy" else rng.standard_normal((*lead, n, classes)).astype(dtype)
        return x, y

    return (*half(5), *half(7))


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", OURS.act)
def test_second_order_episode(activation: str, kind: str) -> None:
    params, batch = init((3, 6, 5, 4)), data(kind, 3, 4)
    ours = fm.value_and_grad(episode_of(OURS, activation, kind, "sgd", 2))(params, *batch)
    theirs = torch_grad_and_value(episode_of(TORCH, activation, kind, "sgd", 2))(tensors(params), *tensors(batch))
    close(ours, theirs, 1e-10)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_inner_rules(kind: str, rule: str, steps: int, order: int) -> None:
    params, batch = init((2, 8, 3)), data(kind, 2, 3, tasks=3)
    step = fm.map_tasks(fm.value_and_grad(episode_of(OURS, "tanh", kind, rule, steps, order)), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    episode = torch_grad_and_value(episode_of(TORCH, "tanh", kind, rule, steps, order))
    each = [episode(tensors(params), *tensors([b[k] for b in batch])) for k in range(3)]
    want = zip_map(lambda *v: torch.stack(v).mean(0), *each)
    close(step(params, *batch), want, 1e-9)


def scanned_episode(kind: str, rule: str, steps: int) -> Callable[..., Any]:
    loss = loss_of(OURS, "tanh", kind)

    def episode(params: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, m = carry
            value, g = fm.value_and_grad(loss)(params, xs, ys)
            m = zip_map(lambda m, u: 0.9 * m + u, m, g) if rule == "momentum" else g
            return (zip_map(lambda p, u: p - 0.1 * u, params, m), m), value

        (params, _), losses = fm.scan(step, (params, zip_map(lambda p: 0.0 * p, params)), length=steps)
        return loss(params, xq, yq) + 0.01 * fm.sum(losses)

    return episode


def unrolled_episode(kind: str, rule: str, steps: int) -> Callable[..., Any]:
    loss = loss_of(OURS, "tanh", kind)

    def episode(params: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        m = zip_map(lambda p: 0.0 * p, params)
        total = 0.0
        for _ in range(steps):
            value, g = fm.value_and_grad(loss)(params, xs, ys)
            total = value + total
            m = zip_map(lambda m, u: 0.9 * m + u, m, g) if rule == "momentum" else g
            params = zip_map(lambda p, u: p - 0.1 * u, params, m)
        return loss(params, xq, yq) + 0.01 * total

    return episode


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("rule", ["sgd", "momentum"])
@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_scan_is_a_python_loop(kind: str, rule: str, steps: int, loops: str, backend: str) -> None:
    params, batch = init((2, 8, 3)), data(kind, 2, 3, tasks=3)
    steps_ = [
        fm.map_tasks(fm.value_and_grad(make(kind, rule, steps)), in_axes=(None, 0, 0, 0, 0), reduce="mean")
        for make in (scanned_episode, unrolled_episode)
    ]
    close(steps_[0](params, *batch), steps_[1](params, *batch), 1e-11)


# -- derivatives


def test_grad_argnums_and_aux(backend: str) -> None:
    def f(a: Any, b: Any, n: Any, scale: Any) -> Any:
        return fm.sum(a["x"] * b * b) * scale, {"n": n, "ab": a["x"] * b, "name": "aux", "none": None, "two": 2}

    a, b, n = {"x": normal(3)}, normal(3, seed=1), np.arange(3, dtype=np.int32)
    scalar = lambda *args: f(*args)[0]
    close(fm.grad(scalar)(a, b, n, 2.0), {"x": 2 * b * b})
    close(fm.grad(scalar, 1)(a, b, n, 2.0), 4 * a["x"] * b)
    close(fm.grad(scalar, (1, 0))(a, b, n, 2.0), (4 * a["x"] * b, {"x": 2 * b * b}))
    close(fm.grad(scalar, (-3,))(a, b, n, 2.0), (4 * a["x"] * b,))
    close(fm.grad(scalar, 3)(a, b, n, 2.0), np.asarray(np.sum(a["x"] * b * b)))
    g, aux = fm.grad(f, has_aux=True)(a, b, n, 2.0)
    close(g, {"x": 2 * b * b})
    assert aux["name"] == "aux" and aux["none"] is None and aux["two"] == 2 and aux["n"].dtype == np.int32
    close(aux["ab"], a["x"] * b)
    (value, aux), g = fm.value_and_grad(f, argnums=(0, 1), has_aux=True)(a, b, n, 2.0)
    close((value, g), (2 * np.sum(a["x"] * b * b), ({"x": 2 * b * b}, 4 * a["x"] * b)))
    close(aux["ab"], a["x"] * b)


def test_derivative_through_aux(backend: str) -> None:
    """An outer derivative sees the aux of an inner gradient."""
    x = normal(4)

    def outer(lib_grad: Any, x: Any) -> Any:
        g, aux = lib_grad(lambda v: ((v**3).sum(), v**2), has_aux=True)(x)
        return (g * aux).sum()

    close(fm.grad(lambda v: outer(fm.grad, v))(x), 12 * x**3, 1e-12)
    close(fm.grad(lambda v: outer(fm.grad, v))(x), torch.func.grad(lambda v: outer(torch.func.grad, v))(torch.tensor(x)))


def test_jvp_vjp_hvp(backend: str) -> None:
    def f(lib: Any, p: Any, x: Any) -> Any:
        h = lib.tanh(x @ p["w"])
        return {"h": h, "s": lib.sum(h * p["s"])}

    p, x = {"s": normal(2), "w": normal(3, 2)}, normal(4, 3)
    tp, tx = zip_map(lambda v: normal(*v.shape, seed=5), p), normal(4, 3, seed=6)
    ct = {"h": normal(4, 2, seed=7), "s": np.asarray(0.7)}
    close(fm.jvp(lambda p, x: f(fm, p, x), (p, x), (tp, tx)), torch.func.jvp(lambda p, x: f(torch, p, x), tensors((p, x)), tensors((tp, tx))))
    value, back = fm.vjp(lambda p, x: f(fm, p, x), p, x)
    want, their_back = torch.func.vjp(lambda p, x: f(torch, p, x), *tensors((p, x)))
    close((value, back(ct)), (want, their_back(tensors(ct))))
    for k, (at, v) in enumerate(((0, tp), (1, tx))):
        their = torch.func.jvp(lambda u, k=k: torch.func.grad(lambda *a: f(torch, *a)["s"], k)(*[u if j == k else tensors(a) for j, a in enumerate((p, x))]),
                               (tensors((p, x)[k]),), (tensors(v),))[1]  # fmt: skip
        close(fm.hvp(lambda *a: f(fm, *a)["s"], argnums=at)(p, x, v), their)
        close(fm.hvp(lambda *a: f(fm, *a)["s"], argnums=at - 2)(p, x, v), their)


def test_aux_of_products(backend: str) -> None:
    """What f returns beside its result comes back as it is, of vjp also where it is no array."""
    x, t = normal(3), normal(3, seed=1)
    f = lambda x: ({"y": fm.sin(x)}, (x * 2.0, fm.argmax(x)))
    value, slope, aux = fm.jvp(f, (x,), (t,), has_aux=True)
    close((value, slope, aux), ({"y": np.sin(x)}, {"y": np.cos(x) * t}, (2 * x, np.argmax(x))))
    value, back, aux = fm.vjp(lambda x: (fm.sin(x), {"twice": x * 2.0, "name": "aux"}), x, has_aux=True)
    assert aux.pop("name") == "aux"
    close((value, back(t), aux), (np.sin(x), (np.cos(x) * t,), {"twice": 2 * x}))
    inside = fm.jit(lambda x, t: fm.vjp(lambda x: (x**3, x), x, has_aux=True)[1](t)[0])
    close(inside(x, t), 3 * x**2 * t)


def test_jacobians(backend: str) -> None:
    def f(lib: Any, p: Any, x: Any) -> Any:
        h = lib.tanh(x @ p["w"])
        return {"h": h, "s": lib.sum(h * p["s"])}

    p, x = {"s": normal(2), "w": normal(3, 2)}, normal(4, 3)
    for ours, theirs in ((fm.jacfwd, torch.func.jacfwd), (fm.jacrev, torch.func.jacrev)):
        for k in (0, 1):
            close(ours(lambda p, x: f(fm, p, x), argnums=k)(p, x), theirs(lambda p, x: f(torch, p, x), argnums=k)(*tensors((p, x))))
        close(ours(lambda x: x * x, -1)(np.float64(3)), np.float64(6))
        close(ours(lambda x, n: fm.take(x, n))(normal(3), np.array([2, 0])), np.eye(3)[[2, 0]])
        tasks = fm.map_tasks(ours(lambda x: x**3))(x)
        close(tasks, np.stack([np.diag(3 * v**2) for v in x]))
        assert ours(lambda x: x * 2.0)(np.ones(2, np.float32)).dtype == np.float32
        close(ours(lambda x, k: x * k)(x=normal(2), k=2.0), 2 * np.eye(2))
    scalar = lambda lib, p, x: lib.sum(f(lib, p, x)["h"] ** 3) * f(lib, p, x)["s"]
    for k in (0, 1):
        close(fm.hessian(lambda p, x: scalar(fm, p, x), argnums=k)(p, x), torch.func.hessian(lambda p, x: scalar(torch, p, x), argnums=k)(*tensors((p, x))))
    close(fm.grad(lambda v: fm.sum(fm.jacrev(fm.sin)(v) * fm.jacfwd(fm.sin)(v)))(x[0]), -np.sin(2 * x[0]))


def test_scan_backwards(loops: str, backend: str) -> None:
    x, w = normal(5, 3), normal(3)

    def scanned(w: Any, x: Any, reverse: bool) -> Any:
        return fm.scan(lambda c, v: ({"h": fm.tanh(c["h"] * w + v), "none": None}, c["h"] * v), {"h": w, "none": None}, x, reverse=reverse)

    def unrolled(w: Any, x: Any) -> Any:
        h, ys = w, []
        for v in x[::-1]:
            h, y = fm.tanh(h * w + v), h * v
            ys.append(y)
        return {"h": h, "none": None}, fm.stack(ys[::-1])

    close(scanned(w, x, True), fm.jit(unrolled)(w, x))
    last, ys = scanned(w, x[::-1].copy(), False)
    close(scanned(w, x, True), (last, np.flip(ys, 0)))
    loss = lambda f: lambda w, x: sum(fm.sum(fm.sin(v)) for v in (f(w, x)[0]["h"], f(w, x)[1]))
    curve = lambda f: lambda w, x: fm.sum(fm.grad(loss(f))(w, x) ** 2)
    for make in (loss, curve):
        ours, want = (fm.grad(make(f), argnums=(0, 1)) for f in (lambda w, x: scanned(w, x, True), unrolled))
        close(ours(w, x), want(w, x))
        tasks = normal(4, 5, 3, seed=2)
        close(fm.map_tasks(ours, in_axes=(None, 0))(w, tasks), fm.map_tasks(want, in_axes=(None, 0))(w, tasks))


@pytest.mark.parametrize("activation", ["tanh", "sin", "sigmoid", "erf", "softmax"])
def test_third_order(activation: str, backend: str) -> None:
    params, (x, y, *_) = init((2, 3, 2)), data("mse", 2, 2)

    def third(lib: Library, params: Any, x: Any, y: Any) -> Any:
        loss = loss_of(lib, activation, "mse")

        def dot_gradient(g: Any) -> Any:
            return sum((lib.sum(u**2) for u in optree.tree_leaves(g)), start=0.0 * y[0, 0])

        first = lambda p: dot_gradient(lib.grad(loss)(p, x, y))
        second = lambda p: dot_gradient(lib.grad(first)(p))
        return lib.value_and_grad(second)(params)

    close(fm.jit(lambda *a: third(OURS, *a))(params, x, y), third(TORCH, tensors(params), *tensors((x, y))), 1e-10)


def test_derivatives_to_order_six(backend: str) -> None:
    f: Any = lambda x: fm.sin(2.0 * x)
    x = np.asarray(0.3)
    for k, value in enumerate((np.cos, lambda v: -np.sin(v), lambda v: -np.cos(v), np.sin, np.cos, lambda v: -np.sin(v)), 1):
        f = fm.grad(f)
        close(f(x), np.asarray(2.0**k * value(0.6)), 1e-12)


def test_stop_gradient(backend: str) -> None:
    x = normal(3)
    close(fm.grad(lambda v: fm.sum(v * fm.stop_gradient(v)))(x), x)
    close(fm.jvp(lambda v: v * fm.stop_gradient(v * v), (x,), (x,))[1], x**3)
    close(fm.grad(lambda v: fm.sum(fm.stop_gradient(v)))(x), np.zeros(3))
    close(fm.hvp(lambda v: fm.sum(v * v * fm.stop_gradient(v)))(x, x), 2 * x * x)
    assert np.array_equal(fm.stop_gradient(x), x)


def test_stop_gradient_takes_trees(backend: str) -> None:
    p, x = {"w": normal(3), "b": [normal(2)]}, normal(3)

    def f(p: Any, x: Any) -> Any:
        kept = fm.stop_gradient(p)
        return fm.sum(p["w"] * kept["w"] * x) + fm.sum(p["b"][0] ** 2 * kept["b"][0])

    close(fm.grad(f)(p, x), {"w": p["w"] * x, "b": [2 * p["b"][0] ** 2]})
    close(fm.hvp(f)(p, x, p), {"w": 0 * x, "b": [2 * p["b"][0] ** 2]})
    close(fm.stop_gradient((p, None))[0], p)


def test_independent_and_integer_results(backend: str) -> None:
    x, n = normal(3), np.arange(3, dtype=np.int32)
    close(fm.grad(lambda v: fm.sum(np.ones(2)) * 1.0)(x), np.zeros(3))
    value, t = fm.jvp(lambda v, n: (fm.argmax(v), n + 1, v > 0, v * 2.0), (x, n), (x, n))
    close(value, (np.argmax(x), n + 1, x > 0, 2 * x))
    close(t[3], 2 * x)
    _, back = fm.vjp(lambda v, n: (v * 2.0, n * 2), x, n)
    close(back((x, n))[0], 2 * x)


def test_derivatives_of_slices(backend: str) -> None:
    """Slices that leave gaps, touch, overlap, repeat and go along several axes: their derivatives join where they can."""
    x, w, v = normal(6, 8), normal(6, 8, seed=1), normal(6, 8, seed=2)
    cases: list[tuple[Any, ...]] = [
        (np.s_[:, :3], np.s_[:, 5:]), (np.s_[:, 5:], np.s_[:, :3], np.s_[:, 3:5]), (np.s_[:4], np.s_[2:]), (np.s_[1:2], np.s_[1:2], np.s_[4]),
        (np.s_[:, ::2], np.s_[:, 1::2]), (np.s_[:2, :3], np.s_[2:, 3:], np.s_[:, 1:2]), (np.s_[0], np.s_[2], np.s_[5], np.s_[1], np.s_[3], np.s_[4]),
        (np.s_[3:3], np.s_[2:3], np.s_[:0]), (np.s_[:, 0], np.s_[1:3], np.s_[:, 7]), (np.s_[:3], np.s_[3:, ::-1]), (np.s_[3:], np.s_[:3]),
    ]  # fmt: skip
    for keys in cases:

        def loss(x: Any, keys: tuple[Any, ...] = keys) -> Any:
            return sum((fm.tanh(x[k] * (n + 1)) * w[k]).sum() for n, k in enumerate(keys))

        slope, curve = np.zeros_like(x), np.zeros_like(x)
        for n, k in enumerate(keys):
            t = np.tanh(x[k] * (n + 1))
            slope[k] += (n + 1) * (1 - t * t) * w[k]
            curve[k] += (n + 1) ** 2 * -2 * t * (1 - t * t) * w[k]
        close(fm.jit(fm.grad(loss))(x), slope)
        close(fm.jit(fm.hvp(loss))(x, v), curve * v)
    x = normal(500, 64)
    close(fm.jit(fm.grad(lambda x: (2 * x[::2, ::3]).sum()))(x), 2.0 * (np.arange(500)[:, None] % 2 == 0) * (np.arange(64) % 3 == 0))


def test_extreme_constants_do_not_merge_into_infinity(backend):
    f = fm.jit(lambda x: (x * 1e30) * 1e30)
    np.testing.assert_array_equal(f(np.array([0.0, 1e-30], np.float32)), np.array([0.0, np.float32(1e-30) * np.float32(1e30) * np.float32(1e30)], np.float32))
    g = fm.jit(lambda x: (x * 1e-30) * 1e-30)
    np.testing.assert_allclose(g(np.array([1e30], np.float32)), np.array([1e-30], np.float32), rtol=1e-6)


# -- scan


def loops_of(f: Callable[..., Any], *args: Any) -> int:
    return str(fm.jit(f).program(*args)).count(" loop(")


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_scan_values(length: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = {"u": normal(length, 3), "n": np.arange(length, dtype=np.int32)}

    def step(c: Any, x: Any) -> Any:
        total, count, flag = c
        new = (total + x["u"] * fm.astype(x["n"], dtype=F64), count + 1, ~flag)
        return new, {"seen": total, "pair": (x["n"] + count, x["u"] > 0.0), "const": 1.0, "none": None}

    start = (normal(3, seed=2), 0, np.asarray(True))
    want, rows = start[0], []
    for k in range(length):
        rows.append(want)
        want = want + xs["u"][k] * k
    for equations in (0, EQUATIONS):
        monkeypatch.setattr(unroll, "EQUATIONS", equations)
        (total, count, flag), ys = fm.jit(lambda s, x: fm.scan(step, s, x))(start, xs)
        close(total, want)
        assert count == length and flag == (length % 2 == 0) and flag.dtype == bool and ys["none"] is None
        close(ys["seen"], np.reshape(rows, (length, 3)))
        close(ys["pair"], (2 * np.arange(length), xs["u"] > 0))
        close(ys["const"], np.ones(length))
    (total, *_), ys = fm.scan(step, start, xs)
    close(total, want)


def test_scan_with_none_in_the_carry(backend: str) -> None:
    xs = np.arange(3, dtype=np.float32)
    none, ys = fm.scan(lambda c, x: (c, 2 * x), None, xs)
    assert none is None
    np.testing.assert_array_equal(ys, 2 * xs)
    last, sums = fm.scan(lambda c, x: ({"a": None, "b": c["b"] + x}, c["b"]), {"a": None, "b": np.float32(1)}, xs)
    assert last["a"] is None and last["b"] == 4
    np.testing.assert_array_equal(sums, [1, 1, 2])

    def polynomial(w: Any) -> Any:  # w^3 + w + 2
        return fm.scan(lambda c, x: ((None, c[1] * w + x), None), (None, np.float32(1)), xs)[0][1]

    assert fm.grad(polynomial)(np.float32(2)) == 3 * 2**2 + 1


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9])
def test_scan_derivatives(length: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second order through carry, slices, captured values and stacked results, against torch."""

    def run(lib: Any, c: Any, xs: Any, w: Any, loop: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, s = carry
            h = lib.tanh(h @ w + x)
            return (h, s + lib.sum(h * h)), (h, s * lib.sin(x))

        (h, s), (hs, sx) = loop(step, (c, lib.sum(c)), xs)
        return lib.sum(h) * s + lib.sum(lib.sin(hs)) + lib.sum(sx**2)

    def torch_scan(step: Any, init: Any, xs: Any) -> Any:
        rows = []
        for x in xs:
            init, y = step(init, x)
            rows.append(y)
        return init, tuple(torch.stack(r) for r in zip(*rows, strict=True))

    args = normal(3), normal(length, 3, seed=1), normal(3, 3, seed=2) * 0.5
    vs = normal(3, seed=3), normal(length, 3, seed=4), normal(3, 3, seed=5)
    ours = lambda *a: run(fm, *a, fm.scan)
    theirs = lambda *a: run(torch, *a, torch_scan)
    for equations in (0, EQUATIONS):
        monkeypatch.setattr(unroll, "EQUATIONS", equations)
        f = lambda *a: ours(*a)
        close(fm.grad(f, (0, 1, 2))(*args), torch.func.grad(theirs, (0, 1, 2))(*tensors(args)), 1e-10)
        g = lambda *a: fm.grad(ours, (0, 1, 2))(*a)
        their_g = torch.func.grad(theirs, (0, 1, 2))
        close(fm.jvp(g, args, vs)[1], torch.func.jvp(their_g, tensors(args), tensors(vs))[1], 1e-9)
        close(fm.vjp(g, *args)[1](vs), torch.func.vjp(their_g, *tensors(args))[1](tensors(vs)), 1e-9)


def test_a_big_loop_stays_a_loop(real_loops: None) -> None:
    f = lambda c: fm.sum(fm.scan(lambda c, _: (fm.sin(c), None), c, length=1000)[0])
    x = normal(3)
    plan = make_plan(fm.jit(fm.grad(f)).program(x))
    assert loops_of(fm.grad(f), x) and plan.instructions < 40
    want, slope = x, np.ones(3)
    for _ in range(1000):
        want, slope = np.sin(want), slope * np.cos(want)
    close(fm.grad(f)(x), slope, 1e-9)


def test_scan_in_grad_in_scan_in_map_tasks(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def inner(p: Any, x: Any) -> Any:
        h, ys = fm.scan(lambda h, u: (fm.tanh(h * p + u), h * h), 0.0 * p, x)
        return fm.sum(h) + 0.1 * fm.sum(ys)

    def episode(p: Any, x: Any) -> Any:
        p, losses = fm.scan(lambda p, _: (lambda v, g: (p - 0.1 * g, v))(*fm.value_and_grad(inner)(p, x)), p, length=3)
        return inner(p, x) + fm.sum(losses)

    def plain(p: Any, x: Any) -> Any:
        def cost(p: Any) -> Any:
            h, total = 0.0 * p, 0.0
            for u in x:
                total, h = total + torch.sum(h * h), torch.tanh(h * p + u)
            return torch.sum(h) + 0.1 * total

        losses = 0.0
        for _ in range(3):
            g, v = torch.func.grad_and_value(cost)(p)
            p, losses = p - 0.1 * g, losses + v
        return cost(p) + losses

    p, x = normal(2), normal(4, 5, 2)
    want = [torch_grad_and_value(plain)(torch.tensor(p), torch.tensor(x[k])) for k in range(4)]
    value, g = sum(v for v, _ in want) / 4, sum(u for _, u in want) / 4
    for equations in (0, 60, 1500):
        monkeypatch.setattr(unroll, "EQUATIONS", equations)
        step = lambda p, x: fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0), reduce="mean")(p, x)
        close(fm.jit(step)(p, x), (value, g), 1e-10)
        close(fm.value_and_grad(lambda p, x: fm.map_tasks(episode, in_axes=(None, 0), reduce="mean")(p, x))(p, x), (value, g), 1e-10)


# -- map_tasks


def test_map_tasks_axes_and_reductions(backend: str) -> None:
    p, x, y = {"a": normal(2), "b": normal(3, 2)}, normal(3, 4, 2), np.arange(3, dtype=np.int32)

    def f(p: Any, batch: Any, scale: Any) -> Any:
        u, n = batch
        return {"u": u * p["a"], "n": n}, (fm.sum(p["b"] * u[0]) * scale, n * 2)

    got = fm.map_tasks(f, in_axes=({"a": None, "b": 0}, 0, None), reduce=({"u": "mean", "n": None}, ("sum", None)))(p, (x, y), 3.0)
    close(got, ({"u": np.mean(x * p["a"], 0), "n": y}, (3 * np.sum(p["b"] * x[:, 0]), 2 * y)))
    close(fm.map_tasks(lambda u: u * 2.0)(x), 2 * x)
    close(fm.map_tasks(lambda u, v: (u, v), in_axes=(0, None))(x, p["a"]), (x, np.broadcast_to(p["a"], (3, 2))))
    close(fm.map_tasks(lambda u: (fm.sum(u), u), reduce=("mean", None))(x), (np.mean(np.sum(x, (1, 2))), x))
    close(fm.map_tasks(lambda u: u[0, 0] * 0.0 + 3.0, reduce="sum")(x), np.asarray(9.0))
    assert fm.map_tasks(lambda u: 1)(x).tolist() == [1, 1, 1]


def test_means_of_integers_and_bools_over_tasks_are_float32(backend: str) -> None:
    for x in (normal(5, 4), normal(5, 4).astype(np.float32)):
        got = fm.map_tasks(lambda v: (fm.argmax(v), v > 0, 1, True, v), reduce="mean")(x)
        want = [np.mean(np.argmax(x, 1)), np.mean(x > 0, 0), 1, 1, np.mean(x, 0)]
        assert [y.dtype for y in got] == [np.float32] * 4 + [x.dtype]
        for y, w in zip(got, want, strict=True):
            np.testing.assert_allclose(y, w, rtol=1e-6)
        inner = lambda u: fm.astype(fm.map_tasks(lambda v: v > 0, reduce="mean")(u), u.dtype) * fm.sum(u)
        np.testing.assert_allclose(fm.map_tasks(inner)(x[:4, :, None] * x[:4, None]), np.mean(x[:4, :, None] * x[:4, None] > 0, 1) * np.sum(x[:4], 1)[:, None] ** 2, rtol=1e-4)


def test_one_value_as_several_results(backend: str, real_loops: None) -> None:
    """Each of equal results has memory of its own, or is added up on its own, also behind a loop."""
    x = normal(3, 4, 5)

    def looped(x: Any) -> Any:
        z, _ = fm.scan(lambda c, s: (fm.tanh(c + 0.5 * s), c), x, fm.stack([x * 0.5, x * 0.6]), 2)
        return z + 1.0

    each = np.stack([np.tanh(np.tanh(x[k] * 1.25) + 0.3 * x[k]) + 1 for k in range(3)])
    want = {None: each, "sum": each.sum(0), "mean": each.mean(0)}
    for rules in (("sum", "sum", None), ("sum", "sum", "sum"), (None, None, "mean", "mean", "sum"), ("sum", "sum")):
        got = fm.map_tasks(lambda x, rules=rules: [looped(x) for _ in rules], reduce=list(rules))(x)
        turned = fm.map_tasks(lambda x, rules=rules: [fm.permute_dims(looped(x), (1, 0)) for _ in rules], reduce=list(rules))(x)
        for g, t, rule in zip(got, turned, rules, strict=True):
            close(g, want[rule])
            close(t, np.swapaxes(want[rule], -1, -2))
    carries, _ = fm.scan(lambda c, _: ((c[1], c[1], c[0] * 2), None), (x, x + 1, x), length=3)
    close(carries, (x + 1, x + 1, 2 * (x + 1)))


def test_map_tasks_nested(backend: str, real_loops: None) -> None:
    x, w = normal(3, 4, 5), normal(5)
    inner = fm.map_tasks(lambda u, w: fm.tanh(fm.sum(u * w)), in_axes=(0, None), reduce="mean")
    want = np.mean(np.tanh(x @ w), 1)
    close(fm.map_tasks(inner, in_axes=(0, None))(x, w), want)
    close(fm.map_tasks(inner, in_axes=(0, None), reduce="mean")(x, w), np.mean(want))
    rows = fm.map_tasks(lambda u, w: fm.map_tasks(lambda r: r * w)(u), in_axes=(0, None))
    close(rows(x, w), x * w)
    g = fm.map_tasks(fm.grad(lambda w, u: inner(u, w)), in_axes=(None, 0))(w, x)
    t = torch.tensor(x)
    close(g, torch.func.vmap(lambda u: torch.func.grad(lambda v: torch.tanh(u @ v).mean())(torch.tensor(w)))(t))


def test_map_tasks_under_grad_and_beside_work(backend: str) -> None:
    """What stands before and after a loop over tasks, and derivatives through it."""

    def f(lib: Any, w: Any, x: Any, mapped: Any) -> Any:
        v = lib.sin(w) * 2.0
        y, s = mapped(v, x)
        return lib.sum(lib.tanh(y) * lib.cos(w)) + s**2

    task = lambda lib, v, u: (lib.exp(-(u * u)) * v, lib.sum(u * v))
    ours = lambda w, x: f(fm, w, x, fm.map_tasks(lambda v, u: task(fm, v, u), in_axes=(None, 0), reduce=(None, "mean")))

    def theirs(w: Any, x: Any) -> Any:
        return f(torch, w, x, lambda v, x: (lambda y, s: (y, s.mean()))(*torch.func.vmap(lambda u: task(torch, v, u))(x)))

    w, x = normal(3), normal(5, 3)
    close(fm.value_and_grad(ours, (0, 1))(w, x), (lambda g, v: (v, g))(*torch.func.grad_and_value(theirs, (0, 1))(*tensors((w, x)))))
    close(fm.hvp(ours)(w, x, w), torch.func.jvp(torch.func.grad(lambda w: theirs(w, torch.tensor(x))), (torch.tensor(w),), (torch.tensor(w),))[1])


def test_same_bits_on_any_number_of_threads(loops: str, threads: None) -> None:
    params, batch = init((3, 40, 40, 4), np.float32), data("cross_entropy", 3, 4, tasks=37, dtype=np.float32)
    step = fm.map_tasks(fm.value_and_grad(scanned_episode("cross_entropy", "momentum", 3)), in_axes=(None, 0, 0, 0, 0), reduce="mean")
    first = None
    for n in (1, 2, 3, 8, 1):
        fm.set_num_threads(n)
        for _ in range(2):
            out = step(params, *batch)
            first = out if first is None else first
            same_bits(out, first)


def test_none_among_parameters_stays_none() -> None:
    """An optional bias, say: nothing to differentiate, and part of the structure."""

    def loss(p: Any, x: Any) -> Any:
        y = x @ p["w"]
        return fm.sum(y * y if p["b"] is None else fm.sin(y + p["b"]))

    p, x = {"w": np.ones((3, 2)), "b": None}, np.arange(6.0).reshape(2, 3)
    value, g = fm.value_and_grad(loss)(p, x)
    assert g["b"] is None and value == np.sum((x @ p["w"]) ** 2)
    np.testing.assert_allclose(g["w"], 2 * x.T @ (x @ p["w"]))
    step = fm.jit(lambda p, x: fm.tree_map(lambda v, d: v - 0.1 * d, p, fm.grad(loss)(p, x)))
    assert step(p, x)["b"] is None
    np.testing.assert_allclose(step({**p, "b": np.zeros(2)}, x)["b"], -0.1 * np.cos(x @ p["w"]).sum(0))
    with pytest.raises(TypeError, match="argument 0 of arrays and numbers, got 'relu'"):
        fm.grad(loss)({**p, "act": "relu"}, x)
