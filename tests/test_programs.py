"""Random programs through every transform: engines against the oracle, and each form of a program against the others.

A failing case prints its seed; ``random_function(seed)`` makes the same program again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import fastmeta as fm
from fastmeta import backends, oracle
from fastmeta.ops.structure import Loop
from fastmeta.plan import prepare
from fastmeta.plan.layout import lay_out
from fastmeta.program import Program, check
from fastmeta.trace import close, trace
from fastmeta.transforms import differentiate, groups, lanes, rows, unroll
from fastmeta.transforms.groups import Form
from fastmeta.transforms.simplify import simplify
from fastmeta.transforms.together import equations
from fastmeta.transforms.unroll import EQUATIONS

SIZES = (1, 2, 3, 4, 5)
LIMIT = 400  # elements of a value
BATCH = 20  # programs per test: one seed each
SEEDS = pytest.mark.parametrize("first", range(0, 120, BATCH))
Rng = np.random.Generator
Pool = list[Any]


# -- making programs


def random_shape(rng: Rng) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.choice(SIZES, rng.choice(4, p=(0.1, 0.25, 0.45, 0.2))))


def random_inputs(rng: Rng, dtype: Any = np.float64) -> list[np.ndarray]:
    """Two or three float arrays and one of integers 0..2."""
    floats = [rng.standard_normal(random_shape(rng)).astype(dtype) for _ in range(rng.integers(2, 4))]
    return [*floats, rng.integers(0, 3, int(rng.choice(SIZES)), dtype=np.int32)]


def random_function(seed: int, steps: int = 12, loops: bool = True) -> Callable[..., list[Any]]:
    """A function of float arrays and, last, an array of integers 0..2: its equations depend on seed and shapes only."""

    def f(*xs: Any) -> list[Any]:
        rng = np.random.default_rng((seed, 7))
        pool, labels = list(xs[:-1]), xs[-1]
        for _ in range(steps):
            x = pool[-1] if rng.random() < 0.4 else pool[rng.integers(len(pool))]
            kinds = MAKERS if loops else MAKERS[1:]
            y = kinds[rng.integers(len(kinds))](rng, x, pool, labels)
            pool.append(bounded(y) if rng.random() < 0.5 else y)
        few = [pool[-1], *(pool[k] for k in rng.integers(0, len(pool), 2))]
        return [*few, fm.sum(pool[-2]) * 0.1]

    return f


def bounded(y: Any) -> Any:
    return y if y.size > LIMIT // 2 else fm.tanh(y)


def partner(rng: Rng, x: Any, pool: Pool) -> Any:
    """Another value that broadcasts with x."""
    fits = [y for y in pool if broadcasts(x.shape, y.shape)] or [x]
    return fits[rng.integers(len(fits))]


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    same = all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))
    return same and int(np.prod(np.broadcast_shapes(a, b))) <= LIMIT if same else False


def axis_of(rng: Rng, x: Any) -> int:
    return int(rng.integers(-x.ndim, x.ndim))


def some_axes(rng: Rng, x: Any) -> tuple[int, ...]:
    return tuple(int(a) for a in np.flatnonzero(rng.random(x.ndim) < 0.6))


def unary(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    fs = [
        fm.tanh, fm.sin, fm.cos, fm.sigmoid, fm.erf, fm.relu, fm.abs, fm.negative, fm.square, fm.stop_gradient,
        lambda v: fm.exp(fm.sin(v)), lambda v: fm.log(1.5 + fm.sin(v)), lambda v: fm.sqrt(1.0 + v * v), lambda v: fm.rsqrt(1.0 + v * v),
        lambda v: fm.log1p(v * v), lambda v: fm.expm1(fm.cos(v)), lambda v: (1.0 + v * v) ** 0.75, lambda v: v**3, lambda v: v * 0.5,
        lambda v: -2.0 * v, lambda v: v / 3.0, lambda v: 2.0 - v, lambda v: 1.0 / (2.0 + fm.sin(v)), lambda v: fm.sign(v) * v,
        lambda v: fm.floor(v * 0.37 + 0.11) + v, lambda v: fm.astype(v > 0.1, dtype=v.dtype) * v, fm.zeros_like, fm.ones_like,
    ]  # fmt: skip
    return fs[rng.integers(len(fs))](x)


def binary(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    fs = [
        fm.add, fm.subtract, fm.multiply, fm.maximum, fm.minimum, lambda a, b: a / (1.0 + b * b), lambda a, b: fm.where(a > b, a, b * 0.5),
        lambda a, b: (1.0 + a * a) ** fm.sin(b), lambda a, b: 0.3 * a + 0.7 * b, lambda a, b: a - 0.01 * b,
        lambda a, b: fm.where((a > 0.0) & (b < 0.5), a, 0.0), lambda a, b: fm.where(a != b + 0.01, a * b, 1.0),
    ]  # fmt: skip
    return fs[rng.integers(len(fs))](x, partner(rng, x, pool))


def reduction(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    fs = [fm.sum, fm.mean, fm.max, fm.min, fm.var, fm.logsumexp, lambda v, **k: fm.prod(fm.sin(v) + 0.5, **k)]
    return fs[rng.integers(len(fs))](x, axis=some_axes(rng, x), keepdims=bool(rng.random() < 0.5))


def along(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    if not x.ndim:
        return unary(rng, x, pool, labels)
    a = axis_of(rng, x)
    fs = [
        lambda v: fm.softmax(v, axis=a), lambda v: fm.log_softmax(v, axis=a), lambda v: fm.cumulative_sum(v, axis=a), lambda v: fm.flip(v, axis=a),
        lambda v: fm.take_along_axis(v, fm.expand_dims(fm.argmax(v, axis=a), axis=a), axis=a),
        lambda v: v * fm.astype(fm.expand_dims(fm.argmin(v, axis=a), axis=a), dtype=v.dtype),
        lambda v: v - fm.mean(v, axis=a, keepdims=True), lambda v: v / fm.sqrt(1.0 + fm.sum(v * v, axis=a, keepdims=True)),
    ]  # fmt: skip
    return fs[rng.integers(len(fs))](x)


def moved(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    kind = rng.integers(6)
    if kind == 0:
        return fm.permute_dims(x, [int(a) for a in rng.permutation(x.ndim)])
    if kind == 1:
        shapes = [(-1,), (x.size, 1), (1, *x.shape), x.shape[::-1], *([(2, x.size // 2)] if x.size % 2 == 0 else [])]
        return fm.reshape(x, shapes[rng.integers(len(shapes))])
    if kind == 2:
        grown = (int(rng.choice(SIZES)), *(int(rng.choice(SIZES)) if n == 1 else n for n in x.shape))
        return fm.broadcast_to(x, grown) if x.ndim < 4 and np.prod(grown) <= LIMIT else x
    if kind == 3:
        keys = []
        for n in x.shape:
            lo, hi = sorted(int(k) for k in rng.integers(0, n + 1, 2))
            hi = max(hi, lo + 1)
            keys.append([slice(lo, hi), slice(None, None, -1), slice(None, None, 2), int(rng.integers(-n, n)), slice(None)][rng.integers(5)] if lo < n else -1)
        return x[tuple(keys)]
    if kind == 4 and x.size <= LIMIT // 4:
        return fm.pad(x, widths=[(int(a), int(b)) for a, b in rng.integers(0, 3, (x.ndim, 2))], value=float(rng.integers(2)))
    return fm.expand_dims(x, axis=int(rng.integers(-x.ndim - 1, x.ndim + 1))) if x.ndim < 4 else fm.flip(x)


def joined(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    same = [y for y in pool if y.shape == x.shape]
    y = same[rng.integers(len(same))]
    if x.size > LIMIT // 3:
        return x + y
    if x.ndim and rng.random() < 0.6:
        return fm.concat([x, y, x * 0.5] if rng.random() < 0.3 else [y, x], axis=axis_of(rng, x))
    return fm.stack([x, y], axis=int(rng.integers(-x.ndim - 1, x.ndim + 1))) if x.ndim < 4 else x - y


def product(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    fits = [y for y in pool if x.ndim >= 2 and y.ndim == 2 and y.shape[0] == x.shape[-1]]
    if x.ndim < 2:
        return fm.einsum("i,j->ji", x, x) if x.ndim else x * 2.0
    kind = rng.integers(6)
    if kind == 0 and x.ndim == 2:
        return fm.einsum("ij,kj->ik", x, x)
    if kind == 1:
        return fm.matmul(x, fm.permute_dims(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])) * 0.2
    if kind == 2:
        return fm.matmul(x, fm.reshape(fm.sum(x, axis=tuple(range(x.ndim - 1))), (x.shape[-1],)))
    if kind == 3 and fits:
        y = fits[rng.integers(len(fits))]
        return fm.matmul(x, y) + 0.5 * fm.matmul(fm.sin(x), y)
    if fits:
        return fm.matmul(x, fits[rng.integers(len(fits))])
    return fm.matmul(fm.permute_dims(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]), x) * 0.2


def indexed(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    wide = [a for a, n in enumerate(x.shape) if n >= 3]
    if not wide:
        hot = fm.one_hot(labels, 3, dtype=x.dtype)
        return hot * fm.sum(x) if rng.random() < 0.5 else x * fm.sum(hot[..., 1])
    a = int(rng.choice(wide))
    if rng.random() < 0.5 and x.size <= LIMIT // 3:
        return fm.take(x, labels, axis=a)
    rows = fm.take(x, labels, axis=a) if x.size <= LIMIT // 3 else fm.sum(x)
    return fm.scatter_add(x, labels, rows * 0.5, axis=a)


def looped(rng: Rng, x: Any, pool: Pool, labels: Any) -> Any:
    """A scan whose body is a random program over carry, slice and captured values."""
    other = partner(rng, x, pool)
    body_seed, length = int(rng.integers(1 << 30)), int(rng.integers(1, 4))
    xs = fm.stack([x * (0.5 + 0.1 * k) for k in range(length)]) if rng.random() < 0.5 else None

    def step(c: Any, slice_: Any) -> Any:
        u, n = c
        values = [u, other, *([slice_] if slice_ is not None else [])]
        outs = random_function(body_seed, 3, loops=False)(*values, labels)
        fits = [v for v in outs if broadcasts(v.shape, u.shape) and np.broadcast_shapes(v.shape, u.shape) == u.shape] or [u]
        return (fm.tanh(u + 0.5 * fits[0]), n + 1), (fm.sum(outs[0]), fits[0])

    (u, n), (sums, _) = fm.scan(step, (x, 0), xs, length)
    return u * fm.sum(sums) if rng.random() < 0.5 else u + fm.astype(n, dtype=x.dtype)


MAKERS = (looped, unary, unary, binary, binary, reduction, along, moved, moved, joined, product, indexed)


# -- comparing


def equal(got: Any, want: Any, note: str, tolerance: float = 1e-9) -> None:
    got, want = optree.tree_leaves(got), optree.tree_leaves(want)
    assert len(got) == len(want), note
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.shape == w.shape and g.dtype == w.dtype, f"{note}, result {k}: {g.dtype}{g.shape}, not {w.dtype}{w.shape}"
        if g.size and np.isfinite(w).all():
            scale = 1 + np.max(np.abs(w))
            gap = np.max(np.abs(g.astype(float) - w)) / scale
            assert gap <= tolerance, f"{note}, result {k} {g.shape}: off by {gap}"


def traced(f: Callable[..., Any], xs: list[np.ndarray]) -> Program:
    args, out, t = trace(f, [(x.shape, {"f": "f64", "i": "i32"}[x.dtype.kind]) for x in xs])
    assert not t.inputs
    return close(t, args, out)


def reference(f: Callable[..., Any], *args: Any) -> Any:
    with fm.set_backend("numpy"):
        return fm.jit(f)(*args)


def tangents(rng: Rng, xs: list[np.ndarray]) -> list[np.ndarray]:
    return [rng.standard_normal(x.shape).astype(x.dtype) for x in xs]


def gradient_of(f: Callable[..., Any], labels: np.ndarray) -> Callable[..., Any]:
    """The gradient of a scalar of all results of f."""

    def scalar(floats: Any) -> Any:
        return fm.sum(fm.stack([fm.mean(fm.sin(y)) for y in f(*floats, labels)]))

    return fm.grad(scalar)


@SEEDS
def test_engines_are_the_oracle(first: int, engine: str) -> None:
    for seed in range(first, first + BATCH):
        for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 2e-3)):
            xs = random_inputs(np.random.default_rng(seed), dtype)
            f = random_function(seed)
            equal(fm.jit(f)(*xs), reference(f, *xs), f"seed {seed} {dtype.__name__}", tolerance)


@SEEDS
def test_every_form_computes_the_same(first: int) -> None:
    """Traced, simplified, unrolled, laid out and prepared programs, and derivatives: checked and run by the oracle."""
    for seed in range(first, first + BATCH):
        rng = np.random.default_rng(seed)
        xs = random_inputs(rng)
        p = check(traced(random_function(seed), xs))
        active = tuple(x.dtype.kind == "f" for x in xs)
        forward = differentiate.jvp(p, active)
        reverse = differentiate.vjp(p, active, (True,) * len(p.outputs))
        for name, q, args in (
            ("value", p, xs),
            ("forward", forward, [*xs, *tangents(rng, xs[:-1])]),
            ("reverse", reverse, [*xs, *[rng.standard_normal(v.shape) for v in p.outputs]]),
        ):
            want = oracle.evaluate(check(q), args)
            simple = check(simplify(q))
            for form in (simple, unroll.unroll(simple), lay_out(simple), prepare(q)):
                equal(oracle.evaluate(check(form), args), want, f"seed {seed}, {name}")


@SEEDS
def test_forward_and_reverse_mode_are_transposes(first: int, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """<ct, J t> = <J' ct, t>, on each engine, in straight code and in loops; both agree with the oracle."""
    for seed in range(first, first + BATCH):
        monkeypatch.setattr(unroll, "EQUATIONS", EQUATIONS if seed % 2 else 0)
        rng = np.random.default_rng(seed)
        *xs, labels = random_inputs(rng)
        f = random_function(seed)

        def of(*floats: Any, f: Any = f, labels: Any = labels) -> Any:
            return f(*floats, labels)

        ts = tangents(rng, xs)
        value, pushed = fm.jvp(of, xs, ts)
        cts = tangents(rng, value)
        again, back = fm.vjp(of, *xs)
        pulled = back(cts)
        left, right = (sum(float(np.sum(a * b)) for a, b in zip(u, v, strict=True)) for u, v in ((cts, pushed), (pulled, ts)))
        assert left == pytest.approx(right, rel=1e-8, abs=1e-8), f"seed {seed}"
        equal(again, value, f"seed {seed}")
        with fm.set_backend("numpy"):
            equal(pushed, fm.jvp(of, xs, ts)[1], f"seed {seed}")
            equal(pulled, fm.vjp(of, *xs)[1](cts), f"seed {seed}")


@SEEDS
def test_second_order(first: int, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hessian products: forward over reverse, reverse over reverse, engines and oracle."""
    for seed in range(first, first + BATCH, 2):
        monkeypatch.setattr(unroll, "EQUATIONS", EQUATIONS if seed % 4 else 0)
        rng = np.random.default_rng(seed)
        *xs, labels = random_inputs(rng)
        g = gradient_of(random_function(seed, 8), labels)
        ts = tangents(rng, xs)

        def product(floats: Any, ts: Any, g: Any = g) -> Any:
            return fm.sum(fm.stack([fm.sum(a * b) for a, b in zip(g(floats), ts, strict=True)]))

        def both(floats: Any, ts: Any, g: Any = g, product: Any = product) -> Any:
            return fm.jvp(g, (floats,), (ts,))[1], fm.grad(product)(floats, ts)

        forward, reverse = fm.jit(both)(xs, ts)
        want = reference(both, xs, ts)
        equal(forward, want[0], f"seed {seed}, forward over reverse", 1e-8)
        equal(reverse, want[1], f"seed {seed}, reverse over reverse", 1e-8)
        equal(forward, reverse, f"seed {seed}, symmetry", 1e-8)


def forced(kind: Any) -> Callable[..., Form | None]:
    """Up to three tasks together wherever that can be, however little it pays."""

    def of(s: Loop, tasks: int) -> Form | None:
        computed = [e.v.op for e in equations(s) if not e.given]
        can = not s.carry and tasks > 1 and computed and all(map(kind.knows, computed))
        return (kind, 3) if can else None

    return of


FORMS = [groups.form, groups.form, forced(lanes.Lanes), forced(rows.Rows)]


@SEEDS
def test_tasks(first: int, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """map_tasks with random in_axes and reductions against a loop over tasks, and the gradient of its mean; by turns as lanes and as rows."""
    for seed in range(first, first + BATCH):
        monkeypatch.setattr(unroll, "EQUATIONS", EQUATIONS if seed % 2 else 0)
        for module in (groups, backends.groups):
            monkeypatch.setattr(module, "form", FORMS[seed % 4])
        fm.set_num_threads(1 + seed % 3)
        rng = np.random.default_rng(seed)
        xs, n = random_inputs(rng), int(rng.integers(1, 6))
        cut = [bool(rng.random() < 0.6) for _ in xs]
        cut[rng.integers(len(cut))] = True
        axes = tuple(0 if c else None for c in cut)
        args = [np.stack([rng.permutation(x.ravel()).reshape(x.shape) for _ in range(n)]) if c else x for x, c in zip(xs, cut, strict=True)]
        f = random_function(seed, 8)
        each = [reference(f, *[a[k] if c else a for a, c in zip(args, cut, strict=True)]) for k in range(n)]
        rules = [(None, "mean", "sum")[k] for k in rng.integers(0, 3, len(each[0]))]
        join = {None: np.stack, "mean": lambda v: np.asarray(np.mean(v, 0)), "sum": lambda v: np.asarray(np.sum(v, 0))}
        want = [join[r]([e[k] for e in each]) for k, r in enumerate(rules)]
        mapped = fm.map_tasks(f, in_axes=axes, reduce=rules)
        equal(mapped(*args), want, f"seed {seed}, in_axes {axes}, reduce {rules}")

        *floats, labels = args
        def scalar(floats: Any, f: Any = f, axes: Any = axes, labels: Any = labels) -> Any:
            return fm.map_tasks(lambda *v: fm.mean(fm.tanh(f(*v)[0])), in_axes=axes, reduce="mean")(*floats, labels)

        equal(fm.grad(scalar)(floats), reference(fm.grad(scalar), floats), f"seed {seed}, gradient of a mean over tasks")


def many_results(x: Any) -> list[Any]:
    return [fm.sin(x) * float(k) + x * x for k in range(1, 90)]


def many_values(x: Any) -> list[Any]:
    values = [x * float(k) + fm.tanh(x * (0.1 * k)) for k in range(1, 60)]
    y = x
    for a, b in zip(values, values[::-1], strict=True):
        y = y * 0.5 + a * b
    return [y]


def many_conditions(x: Any) -> list[Any]:
    masks = [x > 0.1 * k for k in range(-20, 20)]
    y = x
    for k, mask in enumerate((*masks, *masks[::-1])):
        y = fm.where(mask, y + x * float(k), y * 0.5)
    return [y]


def many_numbers(x: Any) -> list[Any]:
    """Numbers that are stored, and behind them numbers that are all needed once more in the reverse order."""
    stored, again = [fm.sum(x) * 0.1], []
    for k in range(24):
        stored.append(fm.tanh(stored[-1] * (1.0 + 0.1 * k)))
    for k in range(14):
        again.append(fm.sin((again or stored)[-1] + float(k)))
    total = again[-1]
    for a in again[::-1]:
        total = fm.sin(total * 0.5 + a * a)
    y = x * total
    for a in stored:
        y = y + fm.sin(x * a)
    return [y]


def many_columns(x: Any) -> list[Any]:
    return [fm.stack([fm.tanh(x * float(k)) * x for k in range(45)], axis=-1)]


@pytest.mark.parametrize("f", [many_results, many_values, many_conditions, many_numbers, many_columns])
def test_more_than_one_pass_can_hold(f: Any) -> None:
    """Results, values and conditions of one space are spread over passes that the core takes."""
    x = np.random.default_rng(0).normal(size=(11, 7))

    def scalar(x: Any) -> Any:
        return fm.sum(fm.stack([fm.sum(fm.square(y)) for y in f(x)]))

    equal(fm.jit(f)(x), reference(f, x), "values")
    equal(fm.jit(fm.grad(scalar))(x), reference(fm.grad(scalar), x), "gradient")


def test_a_comparison_that_one_equation_reads_in_two_ways() -> None:
    """As it is, where it could be computed again, and repeated, from memory."""

    def f(x: Any) -> list[Any]:
        mask = x > 0.0
        return [mask & mask[0], mask ^ fm.flip(mask, axis=1), fm.where(mask, x, 0.0)]

    for n in (1, 4):
        x = np.random.default_rng(0).normal(size=(n, 17))
        equal(fm.jit(f)(x), reference(f, x), f"{n} rows")
