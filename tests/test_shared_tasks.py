"""Fewer large tasks than threads: threads without a task take parts of the others' instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_behaviour import bits, in_subprocess

import fastmeta as fm

pytestmark = pytest.mark.native


def few(tasks: int) -> tuple[fm.MAML, Any, tuple[np.ndarray, ...]]:
    """A learner, its parameters and episodes, each of some hundred million operations."""
    learner = fm.MAML(fm.models.Conv4(48, 5, (28, 28, 1)), inner_lr=0.1, inner_steps=1)
    rng = np.random.default_rng(tasks)
    labels = np.tile(np.arange(5, dtype=np.int32), (tasks, 1))
    support, query = (rng.normal(size=(tasks, n, 28, 28, 1)).astype(np.float32) for n in (5, 15))
    return learner, learner.init(seed=0), (support, labels, query, np.tile(labels, 3))


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_same_bits_at_any_number_of_threads(tasks: int, threads: None) -> None:
    learner, theta, data = few(tasks)
    fm.set_num_threads(1)
    want = bits(learner.value_and_grad(theta, data))
    for count in (2, 3, 7):
        fm.set_num_threads(count)
        for _ in range(3):
            assert bits(learner.value_and_grad(theta, data)) == want


def test_tasks_of_wide_products(threads: None) -> None:
    """No convolutions: products and passes."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 300, 500)).astype(np.float32), rng.normal(size=(500, 500)).astype(np.float32)
    f = fm.map_tasks(fm.value_and_grad(lambda w, x: fm.mean(fm.softmax(fm.tanh(x @ w) @ w.T) ** 2)), in_axes=(None, 0))
    fm.set_num_threads(1)
    want = bits(f(w, x))
    for count in (2, 5):
        fm.set_num_threads(count)
        for _ in range(5):
            assert bits(f(w, x)) == want


def test_a_bad_label_is_told_and_the_next_call_is_right(threads: None) -> None:
    learner, theta, data = few(3)
    fm.set_num_threads(4)
    want = bits(learner.value_and_grad(theta, data))
    wrong = (*data[:3], np.where(np.arange(3)[:, None] == 1, 7, data[3]).astype(np.int32))
    with pytest.raises(IndexError, match="task 1"):
        learner.value_and_grad(theta, wrong)
    assert bits(learner.value_and_grad(theta, data)) == want


def test_an_interrupt_ends_the_call() -> None:
    output = in_subprocess(
        """
import os, signal, threading, time
from test_shared_tasks import few

fm.set_num_threads(4)
learner, theta, data = few(3)
want = learner.value_and_grad(theta, data)[0][0]
threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
begin = time.perf_counter()
try:
    while time.perf_counter() < begin + 20:
        learner.value_and_grad(theta, data)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", learner.value_and_grad(theta, data)[0][0] == want)
"""
    )
    assert output.split() == ["interrupted", "True"]
