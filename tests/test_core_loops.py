"""The native core against NumPy: loops over tasks and loops with a carry, and bad indices in and outside of them."""

from __future__ import annotations

import numpy as np
import pytest
from core_plans import gather_loop, scan, task_loop
from plan_tools import ACCUMULATE, GATHER, SCATTER, STORE, SUM, Builder, close, f32, sample, tested, view


@pytest.mark.parametrize("tasks", [1, 2, 7, 33, 200])
@pytest.mark.parametrize("reverse", [0, 1])
def test_parallel_loop(tasks, reverse):
    x, w = sample((tasks, 6, 5)), sample((5, 4), seed=1)
    plan = task_loop(reverse).plan()
    h = x @ (2 * w)
    first = plan.run([x, w], 1)
    close(first[0], np.tanh(h))
    np.testing.assert_allclose(first[1], -h.sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first[2], x.reshape(tasks, -1)[:, :3].sum(0, dtype=np.float64), rtol=1e-10, atol=1e-10)
    for threads in (2, 3, 8):
        for one, many in zip(first, plan.run((x, w), threads), strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("in_task", [False, True])
def test_sequential_loop(length, reverse, in_task):
    x = sample((4, length, 7) if in_task else (length, 7))
    plan = scan(length, reverse, in_task).plan()
    stacked, last = plan.run([x], 2)
    rows = x if in_task else x[None]
    for t, row in enumerate(rows):
        carry = np.zeros(7, f32)
        for k in reversed(range(length)) if reverse else range(length):
            carry = np.tanh(carry + row[k])
            close((stacked[t] if in_task else stacked)[k], carry)
        close(last[t] if in_task else last, carry)


def test_static_parallel_loop_over_shared_memory():
    b = Builder([(f32, (6, 8))], [(f32, (8,))], shared=6 * 32)
    x, out, shared = b.input(0), b.output(0), b.shared()
    inner = b.block()
    x_t, squares = b.slice(x, 0, 32), b.slice(shared, 0, 32)
    b.elementwise((8,), [view(x_t, (8,))], [("multiply", f32, -1, 0, 0)], [(1, STORE, view(squares, (8,)))], block=inner)
    b.loop(inner, 6, parallel=1, slices=[x_t, squares])
    b.elementwise((6, 8), [view(shared, (6, 8))], [], [(0, SUM, view(out, (8,)).to((6, 8)))])
    x = sample((6, 8))
    close(b.run(x, threads=2)[0], (x * x).sum(0))


def test_sums_of_no_tasks_are_zero():
    b = Builder([(f32, (4,))], [(f32, (4,))])
    inner, acc = b.block(), b.sum(0, 16)
    b.elementwise((4,), [view(b.input(0), (4,))], [], [(0, ACCUMULATE, view(acc, (4,)))], block=inner)
    b.loop(inner, 0, parallel=1, sums=[(acc, f32, 4, b.output(0), 0)])
    np.testing.assert_array_equal(b.run(sample((4,)))[0], np.zeros(4, f32))


@pytest.mark.parametrize("bytes", [12, 32])
def test_sums_are_as_long_as_their_results(bytes):
    """The first group adds to the result itself."""
    b = Builder([(f32, (4,))], [(f32, (4,))])
    inner, acc = b.block(), b.sum(0, bytes)
    b.elementwise((3,), [view(b.input(0), (3,))], [], [(0, ACCUMULATE, view(acc, (3,)))], block=inner)
    b.loop(inner, 5, parallel=1, sums=[(acc, f32, 4, b.output(0), 0)])
    with pytest.raises(ValueError, match=f"a sum of {bytes} bytes, got 4 elements"):
        b.run(sample((4,)))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_bad_index(threads):
    plan = gather_loop()
    x, index = sample((40, 4)), np.zeros((40, 3), np.int32)
    index[31, 0], index[17, 2], index[17, 1] = -1, 9, 4
    for _ in range(5):
        with pytest.raises(tested.bad_index) as caught:
            plan.run([x, index], threads)
        assert caught.value.args == (77, 17, 4, 4) and isinstance(caught.value, IndexError)
    index[:] = 1
    np.testing.assert_array_equal(plan.run([x, index], threads)[0], x[:, [1, 1, 1]])


def test_bad_index_outside_tasks():
    for opcode in (GATHER, SCATTER):
        b = Builder([(f32, (1, 3, 1)), (np.int32, (1, 3, 1))], [(f32, (1, 3, 1))])
        words = [0, 1, 3, 3, 1, *view(b.input(0), (1, 3, 1)).words, *view(b.input(1), (1, 3, 1), np.int32).words, *view(b.output(0), (1, 3, 1)).words]
        b.emit(opcode, words + [0] * (opcode == SCATTER), tag=5)
        with pytest.raises(tested.bad_index) as caught:
            b.run(sample((1, 3, 1)), np.array([[[0], [3], [-7]]], np.int32))
        assert caught.value.args == (5, -1, 3, 3)
