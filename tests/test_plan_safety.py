"""Plans mutated at random, word by word: each is refused, or runs within its memory and in bounded time.

The mutants run in processes of their own, so that a crash fails the test and names the seed: run the printed command.
``python tests/test_plan_safety.py SEED COUNT`` runs COUNT mutants of every plan, and ``... SEED COUNT PLAN FIRST`` one plan
from one mutant on.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmeta as fm
from fastmeta import _core
from fastmeta.compile import Compiled
from fastmeta.plan import make_plan
from fastmeta.program import DTYPES, Program

SEEDS = (20261, 20262, 20263, 20264)
MUTANTS = 2600  # in each process: 10,400 in all
PAGE = mmap.PAGESIZE
TASKS = 3
WORK = 1 << 24  # mutants that declare more are not run: the time would be bounded, and too long
MEMORY = 1 << 29  # bytes a process may have beyond its start: mutants that declare more must fail as they should
SECONDS = 20  # for one mutant


def sinusoid(loop: bool) -> Any:
    def loss(p: Any, x: Any, y: Any) -> Any:
        return fm.nn.mse(fm.nn.linear(fm.relu(fm.nn.linear(x, p["w"], p["b"])), p["v"]), y)

    def step(p: Any, x: Any, y: Any) -> Any:
        return fm.tree_map(lambda p, g: p - 0.01 * g, p, fm.grad(loss)(p, x, y))

    def episode(p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        if loop:
            p, _ = fm.scan(lambda p, _: (step(p, xs, ys), None), p, length=40)
        else:
            for _ in range(5):
                p = step(p, xs, ys)
        return loss(p, xq, yq)

    params = {"w": np.ones((1, 40), np.float32), "b": np.zeros(40, np.float32), "v": np.ones((40, 1), np.float32)}
    data = [np.linspace(-1, 1, TASKS * 10, dtype=np.float32).reshape(TASKS, 10, 1)] * 4
    return fm.map_tasks(fm.value_and_grad(episode), in_axes=(None, 0, 0, 0, 0), reduce="mean"), (params, *data)


def classifier() -> Any:
    """Gather and scatter: an embedding, cross-entropy, take and scatter_add, in float64."""

    def loss(p: Any, words: Any, labels: Any) -> Any:
        x = fm.mean(fm.take(p["table"], words, axis=0), axis=1)
        counts = fm.scatter_add(fm.zeros_like(p["bias"]), labels, 1.0)
        return fm.nn.cross_entropy(x @ p["w"] + p["bias"] * counts, labels)

    def episode(p: Any, words: Any, labels: Any) -> Any:
        p = fm.tree_map(lambda p, g: p - 0.1 * g, p, fm.grad(loss)(p, words, labels))
        return loss(p, words, labels), fm.argmax(p["w"], axis=1)

    params = {"table": np.ones((11, 6)), "w": np.ones((6, 5)), "bias": np.zeros(5)}
    words = np.arange(TASKS * 8 * 4).reshape(TASKS, 8, 4) % 11
    labels = np.arange(TASKS * 8).reshape(TASKS, 8) % 5
    return fm.map_tasks(fm.value_and_grad(episode, has_aux=True), in_axes=(None, 0, 0), reduce=(("mean", None), "mean")), (params, words, labels)


def recurrent() -> Any:
    """Loops forwards, backwards and one in another, with stacked and summed results; sums and extremes."""

    def outer(c: Any, x: Any) -> Any:
        c, ys = fm.scan(lambda c, v: (fm.tanh(c * v), c + v), c, fm.cumulative_sum(x, axis=0))
        return c, fm.max(ys) + fm.sum(ys[::-1, None] * x[:, :1])

    def task(w: Any, x: Any) -> Any:
        c, ys = fm.scan(outer, w, x)
        return fm.sum(c) + fm.prod(fm.sigmoid(ys)) + fm.logsumexp(ys)

    x = np.linspace(0, 1, TASKS * 70 * 3 * 4, dtype=np.float32).reshape(TASKS, 70, 3, 4)
    return fm.map_tasks(fm.value_and_grad(task), in_axes=(None, 0), reduce=("sum", None)), (np.ones(4, np.float32), x)


def plain() -> Any:
    """No tasks: a Hessian-vector product, concatenation and padding."""

    def f(x: Any) -> Any:
        y = fm.concat([fm.sin(x), fm.pad(x[1:, ::2], widths=((1, 0), (0, 2)))], axis=1)
        return fm.sum(fm.softmax(y @ y.T) * fm.where(y @ y.T > 0, 1.0, 2.0))

    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    return fm.hvp(f), (x, x)


def ordered() -> Any:
    """Order and inverses: the nearest rows by a covariance of each task, and their distances' gradients."""

    def task(x: Any, y: Any, s: Any) -> Any:
        distances, indices = fm.kernels.nearest(x, y, 3, metric="mahalanobis", scale=s)
        return fm.sum(distances), indices

    x = np.linspace(-1, 1, TASKS * 7 * 3, dtype=np.float32).reshape(TASKS, 7, 3)
    s = np.stack([np.eye(3, dtype=np.float32) * (1 + t) for t in range(TASKS)])
    return fm.map_tasks(fm.value_and_grad(task, has_aux=True, argnums=(0, 2))), (x, np.ascontiguousarray(x[:, ::-1] * 2), s)


def distances() -> Any:
    """Distances by their kernels, and their derivatives to both sides and to one."""

    def task(x: Any, y: Any) -> Any:
        near = [fm.kernels.pairwise_distance(x, y, metric=metric) for metric in ("sqeuclidean", "l1", "cosine")]
        return fm.sum(fm.sin(near[0])) + fm.sum(near[1] * near[2])

    x = np.linspace(-1, 1, TASKS * 9 * 21, dtype=np.float32).reshape(TASKS, 9, 21)
    return fm.map_tasks(fm.value_and_grad(task, argnums=(0, 1))), (x, np.ascontiguousarray(x[:, 3:7, ::-1] * 2))


PLANS = {"for": lambda: sinusoid(False), "scan": lambda: sinusoid(True), "classifier": classifier, "recurrent": recurrent, "plain": plain, "ordered": ordered, "distances": distances}


class Subject:
    """A real plan, its inputs, and a buffer that ends before a page that may not be touched for each of them."""

    def __init__(self, name: str) -> None:
        function, args = PLANS[name]()
        assert isinstance(function, Compiled)
        p: Program = function.program(*args)
        plan = make_plan(p)
        self.name, self.words, self.consts = name, plan.words, plan.consts
        seen: list[Any] = []
        entry = function.last
        assert entry is not None
        run, entry.executable = entry.executable, lambda arrays: seen.append(list(arrays)) or run(arrays)
        function(*args)
        self.inputs = [guarded(np.asarray(x)) for x in seen[-1]]  # the last: the first may be refused as it came
        self.copies = [x.tobytes() for x in self.inputs]
        assert [x.dtype for x in self.inputs] == [DTYPES[v.dtype] for v in p.inputs]

    def run(self, words: np.ndarray, consts: bytes) -> str:
        """Runs a mutant; says how it ended."""
        try:
            plan = _core.Plan(words, consts)
        except ValueError as error:
            assert str(error).startswith("[plan]"), error
            return "refused"
        if plan.work > WORK:
            return "too much work"
        try:
            out = plan.run(self.inputs, 1 + int(words.sum()) % 2)
        except _core.BadIndex:
            out = ()
        except MemoryError:
            return "too much memory"
        if out is None:
            return "other inputs"
        sum(int(np.asarray(x).view(np.uint8).sum()) if x.size else 0 for x in map(np.ravel, out))  # every byte is there
        assert [x.tobytes() for x in self.inputs] == self.copies, "an input was written to"
        return "ran"


def guarded(x: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last of its pages, with a page after it that traps."""
    import ctypes

    pages = -(-max(x.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    raw = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(raw.ctypes.data + pages * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    end = pages * PAGE
    copy = raw[end - x.nbytes : end].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def mutants(subject: Subject, seed: int, count: int) -> Iterator[tuple[list[tuple[int, int]], np.ndarray, bytes]]:
    """The words changed with their new values, and the mutant."""
    rng = np.random.default_rng([seed, *subject.name.encode()])
    words = subject.words
    for _ in range(count):
        changed = words.copy()
        changes = []
        for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 5))):
            at = int(rng.integers(len(words)))
            old = int(changed[at])
            kind = rng.integers(8)
            value = (
                old + int(rng.choice([-1, 1])),
                old + int(rng.integers(-70, 70)),
                int(rng.integers(0, 16)),
                int(rng.choice(words)),
                old * int(rng.choice([-1, 2, 3, 64])),
                old ^ (1 << int(rng.integers(63))),
                int(rng.choice([0, -1, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1])),
                old + int(rng.choice([-64, -8, -4, 4, 8, 64])),
            )[kind]
            changed[at] = (value + 2**63) % 2**64 - 2**63
            changes.append((at, int(changed[at])))
        if rng.random() < 0.03:  # a plan that ends too early, or has more after its end
            changed = changed[: int(rng.integers(len(words)))] if rng.random() < 0.5 else np.append(changed, changed[:3])
            changes.append((len(changed), 0))
        consts = subject.consts
        if rng.random() < 0.05:
            consts = consts[: int(rng.integers(len(consts) + 1))]
        yield changes, np.ascontiguousarray(changed), consts


def work(seed: int, count: int, only: str | None = None, first: int = 0) -> None:
    """Runs mutants; what is under way is in standard error's last line."""
    faulthandler.enable()
    with open("/proc/self/statm") as file:
        room = int(file.read().split()[0]) * PAGE + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for name in [only] if only else PLANS:
        subject = Subject(name)
        assert subject.run(subject.words, subject.consts) == "ran"
        ends: dict[str, int] = {}
        slowest = 0.0
        for k, (changes, words, consts) in enumerate(mutants(subject, seed, count)):
            if k < first:
                continue
            os.write(2, f"seed {seed} plan {name} mutant {k} words {changes} consts {len(consts)}\n".encode())
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            began = time.perf_counter()
            end = subject.run(words, consts)
            slowest = max(slowest, time.perf_counter() - began)
            faulthandler.cancel_dump_traceback_later()
            ends[end] = ends.get(end, 0) + 1
        assert subject.run(subject.words, subject.consts) == "ran"
        print(f"seed {seed} plan {name} of {len(subject.words)} words: {ends}, the slowest {slowest:.2f} s", flush=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_plans_are_refused_or_run_within_bounds(seed: int, tmp_path: Path) -> None:
    count = -(-MUTANTS // len(PLANS))
    command = [sys.executable, str(Path(__file__).resolve()), str(seed), str(count)]
    with open(tmp_path / "log", "w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, timeout=600, env={**os.environ, "MALLOC_PERTURB_": "165"})
        log.seek(0)
        last = log.read()[-3000:]
    print(done.stdout)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stdout}\n{last}"
    assert done.stdout.count("'ran'") == len(PLANS) and done.stdout.count("'refused'") == len(PLANS)


def test_every_prefix_of_a_plan_is_refused() -> None:
    subject = Subject("plain")
    for n in range(len(subject.words)):
        with pytest.raises(ValueError, match=r"^\[plan\]"):
            _core.Plan(subject.words[:n].copy(), subject.consts)


@pytest.mark.parametrize("words", [np.zeros(0, np.int64), np.zeros(11, np.int64), np.full(64, -1), np.arange(100), np.zeros((2, 8), np.int64), np.zeros(20, np.int32)], ids=["empty", "zeros", "minus-one", "counting", "two-axes", "int32"])
def test_other_words_are_refused(words: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^\[plan\]"):
        _core.Plan(words, b"")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    work(int(arguments[0]), int(arguments[1]), arguments[2] if len(arguments) > 2 else None, int(arguments[3]) if len(arguments) > 3 else 0)
