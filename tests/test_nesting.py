"""Different nestings of transforms that are the same function must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import fastmeta as fm

Function = Callable[..., Any]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


W, X, V = {"a": normal(3, 4), "b": normal(4)}, normal(5, 2, 3), {"a": normal(3, 4, seed=1), "b": normal(4, seed=1)}


def dot(a: Any, b: Any) -> Any:
    pairs = zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    return sum((fm.sum(x * y) for x, y in pairs), start=0.0)


def agree(got: Any, *others: Any, tolerance: float = 1e-11) -> None:
    for want in others:
        for g, w in zip(optree.tree_leaves(got), optree.tree_leaves(want), strict=True):
            np.testing.assert_allclose(g, w, tolerance, tolerance)


def loss(w: Any, x: Any) -> Any:
    """A scalar of parameters and one task's [2, 3] array."""
    h = fm.tanh(x @ w["a"] + w["b"])
    return fm.logsumexp(h * h) + fm.mean(fm.sin(h) * fm.max(h, axis=0))


def adapted(w: Any, x: Any) -> Any:
    """The loss after two gradient steps."""
    for _ in range(2):
        w = fm.tree_map(lambda p, g: p - 0.1 * g, w, fm.grad(loss)(w, x))
    return loss(w, x)


def looped(w: Any, x: Any) -> Any:
    """The same, as a scan."""
    w, _ = fm.scan(lambda w, _: (fm.tree_map(lambda p, g: p - 0.1 * g, w, fm.grad(loss)(w, x)), None), w, length=2)
    return loss(w, x)


FUNCTIONS = pytest.mark.parametrize("f", [loss, adapted, looped], ids=lambda f: f.__name__)


def fresh(f: Function) -> Function:
    """f as another function, so that nothing compiled for f before serves."""
    return lambda *args: f(*args)


@FUNCTIONS
def test_the_gradient_of_a_mean_is_the_mean_of_gradients(f: Function, loops: str, backend: str) -> None:
    mean = fm.map_tasks(fresh(f), in_axes=(None, 0), reduce="mean")
    each = [fm.grad(fresh(f))(W, x) for x in X]
    agree(
        fm.grad(lambda w, x: mean(w, x))(W, X),
        fm.map_tasks(fm.grad(fresh(f)), in_axes=(None, 0), reduce="mean")(W, X),
        optree.tree_map(lambda *g: np.mean(g, 0), *each),
        optree.tree_map(lambda g: np.mean(g, 0), fm.map_tasks(fm.grad(fresh(f)), in_axes=(None, 0))(W, X)),
        fm.grad(lambda w, x: fm.mean(fm.map_tasks(f, in_axes=(None, 0))(w, x)))(W, X),
        fm.grad(lambda w, x: fm.mean(fm.stack([f(w, x[k]) for k in range(5)])))(W, X),
        fm.grad(lambda w, x: fm.scan(lambda c, u: (c + f(w, u), None), fm.sum(w["b"]) * 0.0, x)[0] / 5.0)(W, X),
        fm.jit(lambda w, x: fm.vjp(mean, w, x)[1](np.asarray(1.0))[0])(W, X),
    )


@FUNCTIONS
def test_hessian_products(f: Function, loops: str, backend: str) -> None:
    x = X[0]
    agree(
        fm.hvp(fresh(f))(W, x, V),
        fm.jvp(lambda w: fm.grad(f)(w, x), (W,), (V,))[1],
        fm.grad(lambda w: dot(fm.grad(f)(w, x), V))(W),
        fm.vjp(lambda w: fm.grad(f)(w, x), W)[1](V)[0],
        fm.grad(lambda w: fm.jvp(lambda u: f(u, x), (w,), (V,))[1])(W),
        fm.jit(lambda w, v: fm.jit(fm.hvp(fm.jit(fresh(f))))(w, x, v))(W, V),
        optree.tree_map(lambda h: h[0], fm.map_tasks(fm.hvp(fresh(f)), in_axes=(None, 0, None))(W, X, V)),
    )


@FUNCTIONS
def test_hessian_products_of_a_mean_over_tasks(f: Function, loops: str, backend: str) -> None:
    mean = fm.map_tasks(fresh(f), in_axes=(None, 0), reduce="mean")
    agree(
        fm.hvp(mean)(W, X, V),
        fm.map_tasks(fm.hvp(fresh(f)), in_axes=(None, 0, None), reduce="mean")(W, X, V),
        fm.grad(lambda w: dot(fm.grad(mean)(w, X), V))(W),
        fm.grad(lambda w: dot(fm.map_tasks(fm.grad(f), in_axes=(None, 0), reduce="mean")(w, X), V))(W),
        fm.jvp(lambda w: fm.map_tasks(fm.grad(f), in_axes=(None, 0), reduce="mean")(w, X), (W,), (V,))[1],
    )


@FUNCTIONS
def test_forward_and_reverse(f: Function, backend: str) -> None:
    """J v by forward mode is the transpose of the transpose: vjp of the vjp."""
    g = lambda w: {"g": fm.grad(f)(w, X[0]), "x": fm.sin(w["a"]) @ w["b"]}
    value, pushed = fm.jvp(g, (W,), (V,))
    ct = optree.tree_map(lambda y: normal(*y.shape, seed=9), value)
    again, back = fm.vjp(g, W)
    agree(again, value)
    (pulled,) = back(ct)
    assert float(dot(pulled, V)) == pytest.approx(float(dot(ct, pushed)), rel=1e-11)
    twice = fm.vjp(lambda c: fm.vjp(g, W)[1](c)[0], ct)[1](V)[0]
    agree(twice, pushed)
    agree(fm.vjp(lambda w: fm.jvp(g, (w,), (V,))[1], W)[1](ct)[0], fm.grad(lambda w: dot(fm.jvp(g, (w,), (V,))[1], ct))(W),
          fm.jvp(lambda w: fm.vjp(g, w)[1](ct)[0], (W,), (V,))[1])  # fmt: skip


@FUNCTIONS
def test_jit_anywhere_changes_nothing(f: Function, backend: str) -> None:
    def chain(wrap: Callable[[Function], Function]) -> Any:
        inner = wrap(fm.grad(wrap(fresh(f))))
        task = wrap(lambda w, x: dot(wrap(inner)(w, x), V) + wrap(f)(w, x))
        return wrap(fm.value_and_grad(wrap(fm.map_tasks(task, in_axes=(None, 0), reduce="sum"))))(W, X)

    agree(chain(fm.jit), chain(lambda g: g), chain(lambda g: lambda *a: g(*a)))


@FUNCTIONS
def test_closures_are_arguments(f: Function, backend: str) -> None:
    """Values captured by inner functions, from one and two traces outside, have derivatives like arguments."""

    def by_argument(w: Any, x: Any) -> Any:
        inner = lambda u, w, x: dot(fm.grad(lambda u, w, x: f(w, x) * fm.sum(u * u) + fm.sum(u * w["b"]))(u, w, x), w["b"])
        return fm.grad(inner)(w["b"] * 2.0, w, x)

    def by_capture(w: Any, x: Any) -> Any:
        inner = lambda u: dot(fm.grad(lambda u: f(w, x) * fm.sum(u * u) + fm.sum(u * w["b"]))(u), w["b"])
        return fm.grad(inner)(w["b"] * 2.0)

    total = lambda g: lambda w, x: fm.sum(fm.sin(g(w, x)))
    agree(fm.jit(by_argument)(W, X[0]), fm.jit(by_capture)(W, X[0]))
    agree(fm.grad(total(by_argument), (0, 1))(W, X[0]), fm.grad(total(by_capture), (0, 1))(W, X[0]))
    agree(fm.hvp(total(by_argument))(W, X[0], V), fm.hvp(total(by_capture))(W, X[0], V))


def test_loops_in_loops(loops: str, backend: str) -> None:
    """scan of scan, map_tasks of scan and scan of map_tasks against sums written out, with second derivatives."""
    w, x = normal(3), normal(2, 4, 3)

    def written(w: Any, x: Any) -> Any:
        h, total = w, fm.sum(w) * 0.0
        for i in range(2):
            for j in range(4):
                h = fm.tanh(h * w + x[i, j])
                total = total + fm.sum(h * x[i, 0])
        return total + fm.sum(h)

    def scanned(w: Any, x: Any) -> Any:
        def outer(carry: Any, row: Any) -> Any:
            def inner(h: Any, u: Any) -> Any:
                h = fm.tanh(h * w + u)
                return h, fm.sum(h * row[0])

            h, sums = fm.scan(inner, carry[0], row)
            return (h, carry[1] + fm.sum(sums)), None

        (h, total), _ = fm.scan(outer, (w, fm.sum(w) * 0.0), x)
        return total + fm.sum(h)

    v = normal(3, seed=2)
    for g in (lambda f: f, fm.grad, lambda f: fm.grad(f, (0, 1)), lambda f: lambda w, x: fm.hvp(f)(w, x, v), lambda f: fm.grad(lambda w, x: fm.sum(fm.hvp(f)(w, x, v) * v), 1)):
        agree(fm.jit(g(fresh(scanned)))(w, x), fm.jit(g(fresh(written)))(w, x))
    tasks = normal(3, 2, 4, 3)
    mean = lambda f: lambda w, t: fm.map_tasks(f, in_axes=(None, 0), reduce="mean")(w, t)
    for g in (fm.grad, lambda f: lambda w, x: fm.hvp(f)(w, x, v)):
        agree(g(mean(scanned))(w, tasks), g(mean(written))(w, tasks))

    def descent(f: Function, steps: int) -> Function:
        def run(w: Any, t: Any) -> Any:
            w, losses = fm.scan(lambda w, _: (w - 0.05 * fm.grad(mean(f))(w, t), mean(f)(w, t)), w, length=steps)
            return fm.sum(losses) + fm.sum(w)

        return run

    agree(fm.value_and_grad(descent(scanned, 2))(w, tasks), fm.value_and_grad(descent(written, 2))(w, tasks))


def test_vjp_functions_live_on(backend: str) -> None:
    """The pull-back is called later, more than once, inside another trace."""
    value, back = fm.vjp(lambda x: fm.sin(x) * x, normal(3))
    want = [back(c)[0] for c in (np.ones(3), normal(3, seed=4))]
    agree(fm.jit(lambda c: back(c)[0])(np.ones(3)), want[0])
    agree(fm.jit(lambda c: back(c)[0] + back(2.0 * c)[0])(normal(3, seed=4)), 3 * want[1])
    agree(fm.map_tasks(lambda c: back(c)[0])(np.stack([np.ones(3), normal(3, seed=4)])), np.stack(want))


def test_tracers_that_leak_are_refused() -> None:
    kept: list[Any] = []
    fm.jit(lambda x: (kept.append(x), x)[1])(np.ones(2))
    with pytest.raises(RuntimeError, match="already returned"):
        fm.jit(lambda y: y + kept[0])(np.ones(2))
    with pytest.raises(RuntimeError, match="already returned"):
        fm.exp(kept[0])


def test_an_error_while_tracing_leaves_no_trace() -> None:
    def bad(x: Any) -> Any:
        return fm.grad(lambda v: fm.sum(v) / [].pop())(x)  # type: ignore[func-returns-value]

    for f in (fm.jit(bad), fm.grad(bad), fm.map_tasks(bad), lambda x: fm.scan(lambda c, u: (bad(u), None), x[0], x)):
        with pytest.raises(IndexError, match="pop from empty list"):
            f(np.ones((2, 2)))
        assert isinstance(fm.exp(np.zeros(1)), np.ndarray)


def test_loops_over_rows_without_elements():
    """Results of no elements are written nowhere."""
    rows = np.ones((4, 0), np.float32)
    step = lambda total, x: (total + fm.sum(x), x * 2)
    total, doubled = fm.jit(lambda rows: fm.scan(step, np.float32(1), rows))(rows)
    assert total == 1 and doubled.shape == (4, 0)
    assert fm.jit(lambda rows: fm.scan(step, np.float32(0), rows)[1])(rows).shape == (4, 0)
    apart = fm.map_tasks(lambda x, m: fm.sum((x - m) @ fm.ones((3, 3)), axis=1), in_axes=(None, 0))
    assert fm.jit(lambda x, m: apart(x, m))(np.ones((0, 3), np.float32), np.ones((4, 3), np.float32)).shape == (4, 0)
