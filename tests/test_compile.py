"""Compiled functions: what is traced when, what they capture and keep, the dtypes and arrays that come out."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optree
import pytest
from test_transforms import close, normal

import fastmeta as fm
from fastmeta.trace import running


def counting(f: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    def counted(*args: Any) -> Any:
        calls.append(1)
        return f(*args)

    return counted, calls


def test_tracing_happens_once_per_shape() -> None:
    f, calls = counting(lambda x, s: x * s + 1.0)
    j = fm.jit(f)
    for _ in range(3):
        close(j(np.ones(3), 2.0), np.full(3, 3.0))
        close(fm.jit(f)(np.ones(3), 5.0), np.full(3, 6.0))  # numbers are inputs, and jit(f) is one object
    assert len(calls) == 1
    j(np.ones(4), 2.0)
    j(np.ones(3, np.float32), 2.0)
    j(np.ones(3), np.ones(3))
    assert len(calls) == 4
    j(np.ones(3), 2.0)
    j(np.ones(4), 2.0)
    assert len(calls) == 4 and len(j.cache) == 4


def test_the_number_of_tasks_is_no_key() -> None:
    f, calls = counting(lambda p, x: fm.sum(p * fm.sin(x)))
    step = fm.map_tasks(fm.value_and_grad(f), in_axes=(None, 0), reduce="mean")
    p = normal(3)
    for n in (4, 1, 33, 4, 100):
        x = normal(n, 3)
        close(step(p, x), (np.mean(np.sin(x) @ p), np.mean(np.sin(x), 0)))
    assert len(calls) == 1 and len(step.cache) == 1


def test_static_leaves_are_keys() -> None:
    f, calls = counting(lambda mode, x, opt: x * 2.0 if mode == "double" else x + (1.0 if opt is None else 3.0))
    j, x = fm.jit(f), np.ones(2)
    for mode, opt, want in (("double", None, 2.0), ("plain", None, 2.0), ("plain", "o", 4.0), ("double", None, 2.0), ("plain", None, 2.0)):
        close(j(mode, x, opt), np.full(2, want))
    assert len(calls) == 3


def test_a_call_inside_a_trace_joins_it() -> None:
    inner = fm.jit(lambda x: fm.sin(x) * 2.0)
    x = normal(3)
    close(fm.jit(lambda x: inner(x) + inner(x))(x), 4 * np.sin(x))
    assert not inner.cache
    close(fm.grad(lambda x: fm.sum(inner(x)))(x), 2 * np.cos(x))


@pytest.mark.parametrize("size", [2, 5000])
def test_captured_arrays(size: int, backend: str) -> None:
    w, count = normal(size), np.arange(size)
    f = lambda x: fm.sum(x * w * fm.grad(lambda v: fm.sum(v * v * w * count))(x))
    x = normal(size, seed=1)
    close(fm.jit(f)(x), np.asarray(np.sum(2 * x * x * w * w * count)), 1e-10)
    close(fm.grad(f)(x), 4 * x * w * w * count, 1e-10)
    close(fm.map_tasks(f)(np.stack([x, 2 * x])), np.sum(2 * x * x * w * w * count) * np.array([1.0, 4.0]), 1e-10)
    close(fm.scan(lambda c, u: (c + fm.sum(u * w), w[0] * c), np.asarray(0.0), np.stack([x, x])), (2 * x @ w, np.array([0, w[0] * (x @ w)])), 1e-9)


def test_large_captured_arrays_are_references() -> None:
    w = np.ones(5000)
    j = fm.jit(lambda x: fm.sum(x * w))
    assert j(np.asarray(2.0)) == 10000.0
    w *= 3.0
    assert j(np.asarray(2.0)) == 30000.0
    assert str(j.program(np.asarray(1.0))).count("f64[5000]") >= 1


def test_numbers_do_not_depend_on_the_call_before(backend: str) -> None:
    """What a number is beside the other arguments it is at every call, whatever the last one gave in its place."""
    numbers = (2, 2.0, True, 1 / 3, np.float32(0.1), np.float64(0.1), np.int32(3), np.array(0.1), np.array(0.1, np.float32), np.bool_(True), 2**31 - 1)
    arrays = (np.ones(3, np.float32), np.ones(3), 1 / 7, np.array(0.3))

    def outcome(g: Callable[..., Any], x: Any, a: Any) -> list[tuple[str, bytes]] | None:
        try:
            return [(out.dtype.name, out.tobytes()) for out in g(x, a)]
        except TypeError:  # two float dtypes
            return None

    def f(x: Any, a: Any) -> Any:
        return x * a + a, a

    again = fm.jit(f)
    for x in arrays:
        want = [outcome(fm.jit(lambda x, a: f(x, a)), x, a) for a in numbers]
        assert any(want)
        for before in numbers:
            for a, result in zip(numbers, want, strict=True):
                outcome(again, x, before)
                assert outcome(again, x, a) == result, (x, before, a)
    for a in (2**31, -(2**31) - 1):
        again(1.0, 5)
        with pytest.raises(OverflowError):
            again(1.0, a)


def test_numbers_take_the_dtype_they_meet(backend: str) -> None:
    for dtype in (np.float32, np.float64):
        x = np.ones(2, dtype)
        for f in (lambda x: x * 2, lambda x: 2.5 * x, lambda x: x + True, lambda x: 1 - x, lambda x: x**2, lambda x: fm.where(x > 0, x, 0), lambda x: fm.maximum(x, 0)):
            assert fm.jit(f)(x).dtype == dtype and fm.grad(lambda v, f=f: fm.sum(f(v)))(x).dtype == dtype
        assert fm.jit(lambda x, s: x * s)(x, 0.1).dtype == dtype
        assert fm.jit(lambda x: x * np.arange(2))(x).dtype == dtype
        assert fm.jit(lambda x: x * np.array([True, False]))(x).dtype == dtype
    scale = fm.jit(lambda x, s: x * s)
    for s in (1 / 3, 1 / 7, 2, 1 / 9):  # a number beside float64 keeps its 53 bits
        assert scale(np.ones(1), s)[0] == s
    assert fm.jit(lambda x: x * 2)(np.arange(3)).dtype == np.int32
    assert fm.jit(lambda x: x + 0.5)(np.arange(3)).dtype == np.float32
    assert fm.jit(lambda x: x * 2)(np.float64(3)).dtype == np.float64
    assert fm.jit(lambda x: x * np.float64(1 / 3))(np.ones(1))[0] == 1 / 3
    run = lambda x: fm.scan(lambda c, u: (c + fm.sum(u), c), 0.25, x)
    for f in (run, fm.jit(run)):
        assert f(np.ones((3, 2)))[0] == 6.25 and f(np.ones((3, 2)))[1].dtype == np.float64
    with pytest.raises(TypeError, match="float"):
        fm.jit(lambda x, y: x * y)(np.ones(2), np.ones(2, np.float32))


class Model:
    def __init__(self) -> None:
        self.w = np.ones(1000)


def test_compiled_functions_die_with_their_function() -> None:
    def use() -> weakref.ref[Model]:
        m = Model()
        close(fm.grad(lambda x: fm.sum(m.w * x))(np.asarray(2.0)), np.asarray(1000.0))
        return weakref.ref(m)

    gone = use()
    gc.collect()
    assert gone() is None


def test_pytrees() -> None:
    class Pair(NamedTuple):
        a: Any
        b: Any

    tree = {"list": [normal(2), normal(3)], "pair": Pair(normal(1), (normal(2, 2), None)), "empty": ()}
    out = fm.jit(lambda t: fm.tree_map(lambda x: x * 2.0, t))(tree)
    close(out, fm.tree_map(lambda x: x * 2, tree))
    assert type(out["pair"]) is Pair and out["empty"] == () and out["pair"].b[1] is None
    square = lambda t: sum((fm.sum(x * x) for x in optree.tree_leaves(t)), start=0.0)
    g = fm.grad(square)({k: tree[k] for k in ("list", "empty")})
    close(g, {"list": [2 * x for x in tree["list"]], "empty": ()})


def test_results_are_fresh_arrays() -> None:
    x = normal(3)
    f = fm.jit(lambda x: (x, x, x * 1.0, x[::-1], np.float64(1.0)))
    a, b, c, d, one = f(x)
    for out in (a, b, c, d):
        assert not np.shares_memory(out, x) and out.flags.writeable and out.flags.c_contiguous
    assert not np.shares_memory(a, b) and one == 1.0
    a[:] = 7
    close(f(x)[0], x)
    strided = normal(6, 4)[::2, ::-1]
    close(fm.jit(lambda x: x + 0.0)(strided), strided)


def test_the_programs_of_many_shapes_are_not_all_kept() -> None:
    f, calls = counting(lambda x: fm.sum(x * x))
    j = fm.jit(f)
    for n in range(1, 200):
        close(j(np.ones(n)), n)
    assert len(calls) == 199 and len(j.cache) <= 64
    j(np.ones(150))
    assert len(calls) == 199
    j(np.ones(1))
    assert len(calls) == 200


def square_sum(x: Any) -> Any:
    return fm.sum(x * x)


SENT = """
import joblib, numpy as np, pickle, fastmeta as fm
step = fm.map_tasks(fm.grad(lambda p, x: fm.sum(p * x)), in_axes=(None, 0), reduce="mean")
def call(x):
    return step(np.float32(1), x)
assert float(pickle.loads(pickle.dumps(joblib.wrap_non_picklable_objects(call)))(np.full(3, 2, np.float32))) == 2
"""


def test_a_function_of_a_script_is_sent_with_the_compiled_functions_it_calls() -> None:
    """By value, as joblib does: what runs in a thread stays behind."""
    assert pickle.loads(pickle.dumps(running)) is running
    done = subprocess.run([sys.executable, "-c", SENT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_copies_make_their_own_programs() -> None:
    """As tools do that send functions to other processes."""
    j, gradient = fm.jit(square_sum), fm.grad(square_sum)
    close(j(np.ones(3)), 3.0)
    close(gradient(np.ones(3)), np.full(3, 2.0))
    other = pickle.loads(pickle.dumps(j))
    assert other is not j and not other.cache and other.last is None
    close(other(np.full(2, 3.0)), 18.0)
    close(copy.deepcopy(gradient)(np.full(2, 3.0)), np.full(2, 6.0))
    assert not pickle.loads(pickle.dumps(square_sum.__dict__))["__fastmeta__"].transforms
