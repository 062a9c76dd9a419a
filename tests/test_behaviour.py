"""How the engine behaves as a guest in a process: interrupts, forks, threads, other libraries, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optree
import pytest

import fastmeta as fm

F32 = np.float32


def episode(params: Any, x: Any, y: Any) -> Any:
    """Two inner steps of a small network on half of a task's examples, the loss on the other half."""

    def loss(p: Any, x: Any, y: Any) -> Any:
        hidden = fm.tanh(fm.nn.linear(x, p["w1"], p["b1"]))
        return fm.nn.mse(fm.nn.linear(hidden, p["w2"], p["b2"]), y)

    for _ in range(2):
        grads = fm.grad(loss)(params, x[:5], y[:5])
        params = fm.tree_map(lambda p, g: p - 0.1 * g, params, grads)
    return loss(params, x[5:], y[5:])


def meta_step() -> Callable[..., Any]:
    return fm.map_tasks(fm.value_and_grad(lambda *args: episode(*args)), in_axes=(None, 0, 0), reduce=(None, "mean"))


def arguments(tasks: int = 37, seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (1, 20), "b1": (20,), "w2": (20, 1), "b2": (1,)}
    params = {name: rng.standard_normal(shape).astype(F32) for name, shape in shapes.items()}
    x = rng.standard_normal((tasks, 10, 1)).astype(F32)
    return params, x, np.sin(x)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in optree.tree_leaves(tree)]


def in_subprocess(script: str, timeout: float = 120, **environment: str) -> str:
    """What a script prints; it may import this file as ``behaviour``."""
    head = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # it may come ignored\nimport sys; sys.path[:0] = [{!r}]\nimport numpy as np, fastmeta as fm, test_behaviour as behaviour\n"
    source = head.format(str(Path(__file__).parent)) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# ---------------------------------------------------------------------------------------------- interrupts and forks


@pytest.mark.parametrize("tasks", [1, 1000])
def test_an_interrupt_ends_a_long_call_and_the_process_goes_on(tasks: int) -> None:
    """Minutes of work in one native call: the exception comes within seconds (0.2 s is meant), then all works as before."""
    output = in_subprocess(
        f"""
        import os, signal, threading, time

        def long(x):
            return fm.sum(fm.scan(lambda c, _: (fm.sin(c) + c @ c * 1e-3, None), x, length=20_000_000 // {tasks})[0])

        f = fm.map_tasks(long)
        short = behaviour.meta_step()
        want = behaviour.bits(short(*behaviour.arguments()))
        sent = []
        threading.Timer(1.0, lambda: (sent.append(time.perf_counter()), os.kill(os.getpid(), signal.SIGINT))).start()
        try:
            f(np.ones(({tasks}, 16, 16), np.float32))
            print("finished")
        except KeyboardInterrupt:
            print("interrupted", time.perf_counter() - sent[0])
        assert behaviour.bits(short(*behaviour.arguments())) == want
        assert fm.map_tasks(lambda x: fm.sum(x))(np.ones((5, 3), np.float32)).tolist() == [3.0] * 5
        print("usable")
        """
    )
    first, last = output.split("\n")[:2]
    assert first.startswith("interrupted") and float(first.split()[1]) < 5, output
    assert last == "usable"


def test_an_interrupt_leaves_other_threads_alone() -> None:
    output = in_subprocess(
        """
        import os, signal, threading

        f, args = behaviour.meta_step(), behaviour.arguments(300)
        want = behaviour.bits(f(*args))
        right, stop = [], threading.Event()

        def work():
            while not stop.is_set():
                right.append(behaviour.bits(f(*args)) == want)

        worker = threading.Thread(target=work)
        worker.start()
        long = fm.map_tasks(lambda x: fm.scan(lambda c, _: (fm.sin(c), None), x, length=50_000_000)[0])
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            long(np.ones((4, 16), np.float32))
        except KeyboardInterrupt:
            print("interrupted")
        n = len(right)
        while len(right) < n + 3:
            pass
        stop.set()
        worker.join()
        print(all(right))
        """
    )
    assert output.split() == ["interrupted", "True"]


def test_a_forked_child_computes_the_same_bits(threads: None) -> None:
    fm.set_num_threads(3)
    f, args = meta_step(), arguments()
    want = bits(f(*args))  # the pool's threads exist now, in the parent only
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        ok = b"n"
        try:
            g = fm.map_tasks(lambda x: x * 2.0)  # also what was not compiled before
            ok = b"y" if bits(f(*args)) == want and g(args[1]).tobytes() == (args[1] * 2).tobytes() else b"n"
        finally:
            os.write(write, ok)
            os._exit(0)
    try:
        os.close(write)
        timer = threading.Timer(60, lambda: os.kill(child, signal.SIGKILL))
        timer.start()
        answer = os.read(read, 1)
        timer.cancel()
    finally:
        os.close(read)
        _, status = os.waitpid(child, 0)
    assert answer == b"y" and status == 0
    assert bits(f(*args)) == want


def test_multiprocessing_by_fork() -> None:
    output = in_subprocess(
        """
        import multiprocessing, warnings

        warnings.simplefilter("ignore")  # Python's own, about threads and fork
        f, args = behaviour.meta_step(), behaviour.arguments()
        want = behaviour.bits(f(*args))

        def same(_):
            return behaviour.bits(f(*args)) == want

        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(all(pool.map(same, range(12))))
        """
    )
    assert output.strip() == "True"


# ------------------------------------------------------------------------------------------------- threads and others


def test_several_python_threads_at_once() -> None:
    """One function for all, and functions that are compiled in the threads."""
    shared, inputs = meta_step(), [arguments(20 + k, seed=k) for k in range(6)]
    want = [bits(shared(*args)) for args in inputs]
    wrong: list[Any] = []
    start = threading.Barrier(6)

    def work(k: int) -> None:
        try:
            start.wait()
            for turn in range(15):
                f = meta_step() if turn % 5 == 0 else shared
                if bits(f(*inputs[k])) != want[k]:
                    wrong.append((k, turn))
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def test_the_number_of_threads_may_change_while_others_run(threads: None) -> None:
    f, args = meta_step(), arguments(64)
    want, wrong, done = bits(f(*args)), [], threading.Event()

    def work() -> None:
        for _ in range(60):
            if bits(f(*args)) != want:
                wrong.append(1)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    n = 0
    while not done.is_set() and n < 100_000:
        n += 1
        fm.set_num_threads(1 + n % 4)
    worker.join(120)
    assert not wrong and done.is_set()


def test_same_bits_at_any_number_of_threads_and_run_to_run(threads: None) -> None:
    for tasks in (1, 2, 7, 64, 65, 500):
        f, args = meta_step(), arguments(tasks)
        seen = set()
        for count in (1, 2, 3, 8, 2, 1):
            fm.set_num_threads(count)
            seen |= {tuple(bits(f(*args))) for _ in range(3)}
        assert len(seen) == 1, tasks


@pytest.mark.parametrize("rows", [4_000, 120_000])  # for a few threads, for any number
@pytest.mark.parametrize("tasks", [3, 20])
def test_same_bits_where_sums_are_too_large_for_each_group_to_have_its_own(tasks: int, rows: int, threads: None) -> None:
    x = np.random.default_rng(tasks).standard_normal((tasks, 50)).astype(F32)
    w = np.linspace(-2, 2, rows * 50, dtype=F32).reshape(-1, 50)
    f = fm.map_tasks(fm.value_and_grad(lambda w, x: fm.mean(fm.tanh(w * x))), in_axes=(None, 0), reduce="mean")
    seen = set()
    for count in (1, 2, 3, 8, 2, 1):
        fm.set_num_threads(count)
        value, gradient = f(w, x)
        seen.add((value.tobytes(), gradient.tobytes()))
    assert len(seen) == 1
    some = w[:: w.shape[0] // 7].astype(np.float64)
    want = np.mean([(1 - np.tanh(some * row) ** 2) * row for row in x.astype(np.float64)], 0) / w.size
    np.testing.assert_allclose(gradient[:: w.shape[0] // 7], want, rtol=1e-4, atol=1e-12)


def test_same_bits_of_large_sums_of_much_work(threads: None) -> None:
    """More groups than four, each adding its sums in turn."""
    x = np.random.default_rng(0).standard_normal((20, 100, 50)).astype(F32)
    w = np.linspace(-0.1, 0.1, 200_000, dtype=F32).reshape(50, -1)
    f = fm.map_tasks(fm.value_and_grad(lambda w, x: fm.mean(fm.square(x @ w))), in_axes=(None, 0), reduce="mean")
    seen = set()
    for count in (1, 2, 3, 8, 2):
        fm.set_num_threads(count)
        value, gradient = f(w, x)
        seen.add((value.tobytes(), gradient.tobytes()))
    assert len(seen) == 1
    exact = x.astype(np.float64)
    np.testing.assert_allclose(gradient[:, ::99], np.mean([2 * a.T @ (a @ w[:, ::99]) for a in exact], 0) / (100 * 4000), rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("tasks", [1, 7, 40])
@pytest.mark.parametrize("entries", [90, 9_000])
def test_gradients_of_a_table_that_tasks_take_few_rows_of(tasks: int, entries: int, threads: None) -> None:
    """Of both sets' rows: in sums that are near, and in sums that are more than the tasks' work."""
    of_seed = np.random.default_rng(tasks)
    table, support, query = of_seed.normal(size=(entries, 16)), of_seed.integers(0, entries, (tasks, 5)), of_seed.integers(0, entries, (tasks, 3, 2))

    def loss(table, support, query):
        return fm.sum(fm.tanh(fm.take(table, query, axis=0) @ fm.mean(fm.take(table, support, axis=0), axis=0)))

    f = fm.map_tasks(fm.value_and_grad(loss), in_axes=(None, 0, 0), reduce=("sum", "mean"))
    want = np.zeros_like(table)
    for s, q in zip(support, query, strict=True):
        mean = table[s].mean(0)
        slope = 1 - np.tanh(table[q] @ mean) ** 2
        np.add.at(want, q, slope[..., None] * mean)
        np.add.at(want, s, (slope[..., None] * table[q]).sum((0, 1)) / 5)
    seen = set()
    for count in (1, 2, 8):
        fm.set_num_threads(count)
        _, gradient = f(table, support, query)
        seen.add(gradient.tobytes())
    assert len(seen) == 1
    np.testing.assert_allclose(gradient, want / tasks, rtol=1e-10, atol=1e-14)


def test_more_threads_than_the_machine_has(threads: None) -> None:
    f, args = meta_step(), arguments(200)
    want = bits(f(*args))
    fm.set_num_threads(100_000)
    assert bits(f(*args)) == want


@pytest.mark.native
def test_threads_that_are_no_longer_wanted_end(threads: None) -> None:
    f, args = meta_step(), arguments(200)
    alive = []
    for count in (2, 50, 2):
        fm.set_num_threads(count)
        f(*args)
        alive.append(len(os.listdir("/proc/self/task")))
    assert alive[1] == alive[0] + 48 and alive[2] < alive[0] + 24  # one that has ended may stay listed for a moment


def test_same_bits_in_another_process() -> None:
    script = "import hashlib; print(hashlib.sha256(b''.join(behaviour.bits(behaviour.meta_step()(*behaviour.arguments())))).hexdigest())"
    assert len({in_subprocess(script, FASTMETA_NUM_THREADS=n, PYTHONHASHSEED=n) for n in ("1", "2", "5")}) == 1


@pytest.mark.parametrize("first", ["torch", "fastmeta"])
def test_beside_torch_in_one_process(first: str) -> None:
    output = in_subprocess(
        f"""
        f, args = behaviour.meta_step(), behaviour.arguments()
        before = behaviour.bits(f(*args)) if {first == "fastmeta"} else None
        import torch

        for turn in range(10):
            a = torch.ones(300, 300) @ torch.ones(300, 300)
            now = behaviour.bits(f(*args))
            before = before or now
            assert now == before and a[0, 0] == 300
        got = f({{k: torch.tensor(v) for k, v in args[0].items()}}, torch.tensor(args[1]), torch.tensor(args[2]))
        assert behaviour.bits(got) == before and isinstance(got[0], np.ndarray)
        print("ok")
        """
    )
    assert output.strip() == "ok"


# ------------------------------------------------------------------------------------------------------- divergence


def test_a_task_that_diverges_does_not_harm_the_others(backend: str, threads: None) -> None:
    params, x, y = arguments(9)
    each = fm.map_tasks(fm.value_and_grad(lambda *args: episode(*args)), in_axes=(None, 0, 0))
    good = each(params, x, y)
    for value in (np.inf, -np.inf, np.nan, F32(3e38)):
        bad = y.copy()
        bad[4] = value
        bad[7, 0] = value
        for count in (1, 3):
            fm.set_num_threads(count)
            got = each(params, x, bad)
            for g, w in zip(optree.tree_leaves(got), optree.tree_leaves(good), strict=True):
                others = [k for k in range(9) if k not in (4, 7)]
                assert g[others].tobytes() == w[others].tobytes()
            assert not np.isfinite(got[0][[4, 7]]).any()
    assert bits(each(params, x, y)) == bits(good)


def test_nan_and_infinity_keep_their_meaning(backend: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0], F32)
    f = fm.jit(lambda x: [fm.exp(x), 1.0 / x, fm.maximum(x, 0.0), x - x, x == x, fm.where(x > 0, x, 0.0), fm.max(x), fm.argmax(x), fm.relu(x)])
    with np.errstate(all="ignore"):
        want = [np.exp(x), F32(1) / x, np.maximum(x, 0), x - x, x == x, np.where(x > 0, x, 0), np.max(x), np.argmax(x), np.maximum(x, 0)]
    for g, w in zip(f(x), want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6)


def test_the_backend_may_change_between_calls() -> None:
    f, args = meta_step(), arguments(5)
    native = f(*args)
    with fm.set_backend("numpy"):
        oracle = f(*args)
    assert bits(f(*args)) == bits(native)
    for a, b in zip(optree.tree_leaves(native), optree.tree_leaves(oracle), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_an_error_inside_a_trace_ends_the_trace() -> None:
    def fails(x: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fm.map_tasks(fm.grad(fails))(np.ones((3, 2), F32))
    assert fm.exp(np.zeros(1, F32)).tolist() == [1.0]  # at once: no trace is running
    assert fm.jit(lambda x: x + 1.0)(F32(1)) == 2


@pytest.mark.native
def test_subnormal_numbers_are_zero(threads: None) -> None:
    """On every thread that runs tasks, as operands and as results; the caller's own arithmetic keeps them."""
    products = fm.map_tasks(lambda x: (x * F32(1e-10), x * F32(1e-7) * F32(1e20)))
    for count in (1, 2):
        fm.set_num_threads(count)
        small, large = products(np.full((64, 3), 1e-30, F32))
        _, operand = products(np.full((64, 3), 1e-39, F32))
        assert not small.any() and not operand.any()
        np.testing.assert_allclose(large, 1e-17, rtol=1e-6)
        assert F32(1e-30) * F32(1e-10) > 0


def test_threads_beyond_what_a_pool_has() -> None:
    before = fm.backends.num_threads()
    try:
        for n in (np.int64(2), 10**12):
            fm.set_num_threads(n)
            assert fm.backends.num_threads() == min(n, fm.backends.MOST_THREADS)
        assert float(fm.jit(fm.sum)(np.ones(3))) == 3
    finally:
        fm.set_num_threads(before)


def test_learners_stay_what_they_are_once_they_are_compiled() -> None:
    learner = fm.MAML(fm.models.MLP([1, 4, 1]), loss=fm.nn.mse, inner_lr=0.1)
    learner.inner_lr = 0.2
    x = np.ones((2, 3, 1), np.float32)
    learner.value_and_grad(learner.init(0), (x, x, x, x))
    with pytest.raises(AttributeError, match=r"\[MAML\] expected a learner to stay what it is, got inner_lr=0.3. What it was made of is compiled"):
        learner.inner_lr = 0.3


def test_its_types_are_for_users_too() -> None:
    """In every build: the marker lies beside the modules."""
    assert Path(fm.__file__).with_name("py.typed").is_file()
