"""Products that wait until after their loop: the same results, and only where they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastmeta as fm
from fastmeta.ops.structure import LOOP
from fastmeta.plan import prepare
from fastmeta.program import Program

RNG = np.random.default_rng(3)
LENGTH = 400  # a loop that is not unrolled


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape) / shape[-1]


def loops(p: Program) -> list[Any]:
    """The loops of a program, outer ones first."""
    out: list[Any] = []
    for v in p.live():
        if v.op is LOOP:
            out += [v.attrs[0], *loops(v.attrs[0].body)]
    return out


def added(p: Program) -> list[Any]:
    """Products that loops add to a sum at every step."""
    return [v for s in loops(prepare(p)) for v in s.body.outputs[s.carry + s.stacked :] if v.op.name == "matmul"]


def recurrent(rows: int) -> Any:
    """Weights from inputs and from the carry, both gradients of one factor."""

    def f(w: Any, u: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = fm.tanh(x @ w + h @ u)
            return h, fm.sum(fm.square(h))

        return fm.mean(fm.scan(step, np.zeros((rows, 24)), xs)[1])

    return f, (random(24, 24), random(24, 24), random(LENGTH, rows, 24))


def vectors() -> Any:
    """Outer products of vectors, the right factor of which another product shares."""

    def f(w: Any, v: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = fm.sin(x @ w) + fm.sin(h @ v)
            return h, fm.sum(h * x)

        return fm.mean(fm.scan(step, np.zeros(20), xs)[1])

    return f, (random(20, 20), random(20, 20), random(LENGTH, 20))


def nested() -> Any:
    """A loop in a loop, both of which sum."""

    def f(w: Any, xs: Any) -> Any:
        def inner(h: Any, x: Any) -> Any:
            return fm.tanh(h @ w + x), None

        def outer(h: Any, x: Any) -> Any:
            h, _ = fm.scan(inner, h, fm.broadcast_to(x, (LENGTH, 16)))
            return h, fm.sum(fm.cos(h @ w))

        return fm.mean(fm.scan(outer, np.zeros(16), xs)[1])

    return f, (random(16, 16), random(30, 16))


CASES = {"one row": recurrent(1), "three rows": recurrent(3), "vectors": vectors(), "nested": nested()}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_same_derivatives(name: str, order: int, engine: str) -> None:
    f, args = CASES[name]
    if order == 2 and name == "nested":
        args = (args[0], args[1][:3])
    g = fm.grad(f if order == 1 else lambda w, *rest: fm.sum(fm.sin(fm.grad(f)(w, *rest))))
    got = g(*args)
    with fm.set_backend("numpy"):
        want = g(*args)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_added_step_by_step(name: str) -> None:
    f, args = CASES[name]
    p = fm.jit(fm.grad(f, argnums=(0, 1))).program(*args) if name != "nested" else fm.jit(fm.grad(f)).program(*args)
    assert not added(p)


def test_many_rows_and_long_loops_are_added_step_by_step() -> None:
    """Products of many rows gain nothing, and what is kept has a bound."""
    for rows, length in ((9, LENGTH), (4, 3000)):
        f, (w, u, _) = recurrent(rows)
        p = fm.jit(fm.grad(f, argnums=(0, 1))).program(w, u, random(length, rows, 24))
        assert added(p)


def test_a_product_without_elements() -> None:
    def f(w: Any, xs: Any) -> Any:
        return fm.scan(lambda h, x: (h + fm.sum(fm.sin(x @ w)), None), np.float64(0), xs)[0]

    for rows, m, n in ((1, 0, 0), (3, 0, 5), (0, 4, 5)):
        np.testing.assert_array_equal(fm.grad(f)(np.ones((m, n)), np.ones((LENGTH, rows, m))), np.zeros((m, n)))


@pytest.mark.parametrize("computed", [False, True])
def test_a_factor_that_never_changes_is_not_kept(computed: bool) -> None:
    fixed = np.ones((1, 24))

    def f(w: Any, fixed: Any, xs: Any) -> Any:
        return fm.mean(fm.scan(lambda h, x: (fm.sin(h * x + (fm.exp(fixed) if computed else fixed) @ w), None), np.zeros((1, 24)), xs)[0])

    args = random(24, 24), fixed, random(LENGTH, 1, 24)
    assert added(fm.jit(fm.grad(f)).program(*args))
    with fm.set_backend("numpy"):
        want = fm.grad(f)(*args)
    np.testing.assert_allclose(fm.grad(f)(*args), want, rtol=1e-9)
