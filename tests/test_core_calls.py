"""Calls of a plan: arguments, memory, threads, fork, signals, profile."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from core_plans import gather_loop, task_loop
from plan_tools import STORE, SUM, Builder, f32, sample, view

from fastmeta import _core


def test_mismatch_gives_none():
    plan = task_loop().plan()
    x, w = sample((4, 6, 5)), sample((5, 4))
    assert plan.run((x, w), 1) is not None
    for arrays in (
        (x,), (x, w, w), (x[0], w), (x[:, :5], w), (x.astype(np.float64), w), (x, w.T), (x[::2], w), (x[:0], w), (list(x), w),
        (x.astype(">f4"), w), (np.ma.masked_array(x), w), (x, sample((4, 5)).T), (x.view(np.int32), w),
    ):  # fmt: skip
        assert plan.run(arrays, 1) is None
    unaligned = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(f32).reshape(x.shape)
    assert plan.run((unaligned, w), 1) is None
    with pytest.raises(TypeError):
        plan.run(3, 1)


@pytest.mark.native
def test_no_threads():
    with pytest.raises(ValueError, match="threads"):
        task_loop().plan().run((sample((4, 6, 5)), sample((5, 4))), 0)


def test_tasks_must_agree():
    plan = gather_loop()
    assert plan.run([sample((4, 4)), np.zeros((5, 3), np.int32)], 1) is None


@pytest.mark.native
def test_large_outputs_come_from_a_pool():
    n = 1 << 19
    b = Builder([(f32, (n,))], [(f32, (n,))])
    b.elementwise((n,), [view(b.input(0), (n,))], [("add", f32, -1, 0, 0)], [(1, STORE, view(b.output(0), (n,)))])
    plan, x = b.plan(), sample((n,))
    (first,) = plan.run([x], 1)
    assert first.flags.writeable and first.flags.c_contiguous
    kept = first[5:]  # a view keeps the memory
    address = first.__array_interface__["data"][0]
    del first
    (second,) = plan.run([x], 1)
    assert second.__array_interface__["data"][0] != address
    del kept, second
    seen = {plan.run([x], 1)[0].__array_interface__["data"][0] for _ in range(8)}
    assert len(seen) <= 2
    np.testing.assert_array_equal(plan.run([x], 2)[0], 2 * x)


@pytest.mark.native
def test_team_on_a_single_task_gives_the_same_bits():
    n = 600
    b = Builder([(f32, (-1, n, n))], [(f32, (-1, n, n)), (f32, (-1, n))], arena=4 * n * n)
    x, out, rows, arena, inner = b.input(0), b.output(0), b.output(1), b.arena(), b.block()
    x_t, out_t, rows_t = b.slice(x, 0, 4 * n * n), b.slice(out, 0, 4 * n * n), b.slice(rows, 0, 4 * n)
    h = view(arena, (n, n))
    b.gemm(f32, (), n, n, [(n, view(x_t, (n, n)), view(x_t, (n, n), make=np.transpose))], h, block=inner)
    b.elementwise((n, n), [h, view(x_t, (n, n), make=np.transpose)], [("add", f32, 0, 0, 1), ("tanh", f32, -1, 2)], [(3, STORE, view(out_t, (n, n)))], block=inner)
    b.elementwise((n, n), [view(out_t, (n, n))], [], [(0, SUM, view(rows_t, (n, 1)).to((n, n)))], block=inner)
    b.loop(inner, -1, parallel=1, slices=[x_t, out_t, rows_t])
    plan, x = b.plan(), sample((1, n, n)) * f32(0.03)
    first = plan.run([x], 1)
    np.testing.assert_allclose(first[0][0], np.tanh(x[0] @ x[0].T + x[0].T), rtol=1e-4, atol=1e-5)
    for threads in (2, 3, 8):
        for one, many in zip(first, plan.run([x], threads), strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.native
def test_threads_at_once():
    plan = task_loop().plan()
    x, w = sample((64, 6, 5)), sample((5, 4), seed=1)
    want = plan.run([x, w], 1)
    failures = []

    def work():
        for _ in range(200):
            for one, many in zip(want, plan.run([x, w], 3), strict=True):
                if not np.array_equal(one, many):
                    failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.native
def test_fork():
    plan = task_loop().plan()
    x, w = sample((64, 6, 5)), sample((5, 4), seed=1)
    want = plan.run([x, w], 4)
    child = os.fork()
    if child == 0:  # no pytest in the child: only the status comes back
        try:
            got = plan.run([x, w], 4)
            os._exit(0 if all(np.array_equal(a, b) for a, b in zip(want, got, strict=True)) else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    for one, many in zip(want, plan.run([x, w], 4), strict=True):  # and the parent's pool still works
        np.testing.assert_array_equal(one, many)


def long_plans():
    """Each takes many seconds on its own."""
    scan = Builder([(f32, (-1, 64))], [(f32, (-1, 64))], arena=256)
    x, out, arena, task, inner = scan.input(0), scan.output(0), scan.arena(), scan.block(), scan.block()
    x_t, out_t = scan.slice(x, 0, 256), scan.slice(out, 0, 256)
    scan.loop(task, -1, parallel=1, slices=[x_t, out_t])
    scan.elementwise((64,), [view(x_t, (64,))], [], [(0, STORE, view(arena, (64,)))], block=task)
    scan.loop(inner, 1 << 32, block=task)
    scan.elementwise((64,), [view(arena, (64,))], [("sin", f32, -1, 0)], [(1, STORE, view(arena, (64,)))], block=inner)
    scan.elementwise((64,), [view(arena, (64,))], [], [(0, STORE, view(out_t, (64,)))], block=task)
    scan.work = 1 << 44
    yield "loop", scan, [sample((3, 64))]

    n = 4096
    gemm = Builder([(f32, (n, n))], [(f32, (n, n))])
    x = view(gemm.input(0), (n, n))
    gemm.gemm(f32, (), n, n, [(n, x, x)] * 4, view(gemm.output(0), (n, n)))
    gemm.work = 1 << 44
    yield "gemm", gemm, [np.zeros((n, n), f32)]

    wide = Builder([(f32, (1,))], [(f32, (1,))])
    load = view(wide.input(0), (1,)).to((1 << 36,))
    ops = [("sin", f32, 0, 0)] + [("sin", f32, 0, k) for k in range(1, 9)]
    wide.elementwise((1 << 36,), [load], ops, [(9, SUM, view(wide.output(0), (1,)).to((1 << 36,)))])
    wide.work = 1 << 43
    yield "pass", wide, [np.ones(1, f32)]


LONG = {name: (builder, arrays) for name, builder, arrays in long_plans()}


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_interrupt(name, threads):
    builder, arrays = LONG[name]
    plan = builder.plan()
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        fired = []
        timer = threading.Timer(0.15, lambda: (fired.append(time.monotonic()), os.kill(os.getpid(), signal.SIGALRM)))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            plan.run(arrays, threads)
        latency = time.monotonic() - fired[0]
    finally:
        timer.join()  # the signal has come before its handler goes
        signal.signal(signal.SIGALRM, previous)
    assert latency < 2.0, f"{latency:.3f} s"  # the core looks every 50 ms; the rest is for a busy machine


@pytest.mark.native
def test_a_signal_handler_may_run_a_plan():
    builder, arrays = LONG["loop"]
    plan, small = builder.plan(), task_loop().plan()
    x, w = sample((9, 6, 5)), sample((5, 4), seed=1)
    want, got = small.run([x, w], 1), []

    def handler(number, frame):
        got.extend(small.run([x, w], 2))
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            plan.run(arrays, 2)
    finally:
        signal.signal(signal.SIGALRM, previous)
    for one, many in zip(want, got, strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.mark.native
def test_profile():
    rows = task_loop().plan().profile([sample((4, 6, 5)), sample((5, 4))], 3)
    assert [(block, index, opcode) for block, index, opcode, _, _ in rows] == [(0, 0, 1), (0, 1, 7), (0, 2, 1), (1, 0, 2), (1, 1, 1), (1, 2, 1)]
    assert all(0 < nanoseconds < 1e9 for *_, nanoseconds in rows)


@pytest.mark.native
def test_isa():
    before = _core.isa()
    assert before in ("baseline", "avx2", "avx512", "avx512-halves") and _core.default_threads() >= 1
    with pytest.raises(ValueError, match="set_isa"):
        _core.set_isa("neon")
    assert _core.isa() == before
