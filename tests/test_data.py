"""Samplers: shapes, seeds, protocols, bad input."""

from __future__ import annotations

import doctest
import hashlib
import itertools
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import optree
import pytest
from episodes import same

import fastmeta.atomic
import fastmeta.data.episode
import fastmeta.data.prefetch
import fastmeta.data.sampler
import fastmeta.data.sinusoid
import fastmeta.errors
from fastmeta.data import Episode, EpisodeSampler, Omniglot, Prefetch, Sampler, Sinusoid
from fastmeta.data.sampler import distinct, stream
from fastmeta.errors import DivergedError, expected


def numbered(classes=7, each=9, features=3):
    """x whose first feature is the example's number and second its class; y the class."""
    y = np.arange(classes * each) % classes
    x = np.zeros((len(y), features), np.float32)
    x[:, 0], x[:, 1] = np.arange(len(y)), y
    return x, y


def sampler_of_each_kind(root):
    x, y = numbered()
    return {
        "sinusoid": Sinusoid(tasks=3, shots=2, queries=4, seed=5),
        "omniglot": Omniglot(root, split="all", ways=3, queries=2, tasks=3, seed=5),
        "arrays": EpisodeSampler.from_arrays(x, y, ways=3, shots=2, queries=1, tasks=4, seed=5),
    }


# ---------------------------------------------------------------------------------------------------- every sampler


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_a_step_is_the_same_whichever_way_it_is_reached(root, kind):
    first, again = sampler_of_each_kind(root)[kind], sampler_of_each_kind(root)[kind]
    in_order = list(itertools.islice(first, 200))
    for step in (199, 0, 64, 63, 130, 1):
        assert same(again.batch(step), in_order[step])
    assert not same(in_order[0], in_order[1])


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_writing_into_a_batch_changes_no_later_batch(root, kind):
    sampler = sampler_of_each_kind(root)[kind]
    kept = [array.copy() for array in sampler.batch(3)]
    for array in sampler.batch(3):
        array[...] = 9
    assert same(sampler.batch(3), Episode(*kept))


@pytest.mark.parametrize("kind", ["sinusoid", "omniglot", "arrays"])
def test_batches_are_contiguous_pytrees_of_four_arrays(root, kind):
    episode = sampler_of_each_kind(root)[kind].batch(0)
    leaves = optree.tree_leaves(episode)
    assert [leaf is part for leaf, part in zip(leaves, episode, strict=True)] == [True] * 4
    assert all(leaf.flags.c_contiguous and leaf.flags.writeable for leaf in leaves)
    assert type(optree.tree_map(lambda a: a[0], episode)) is Episode


def test_seeds_differ(root):
    x, y = numbered()
    assert not same(Sinusoid(seed=0).batch(0), Sinusoid(seed=1).batch(0))
    pair = [EpisodeSampler.from_arrays(x, y, ways=3, shots=1, queries=1, tasks=9, seed=s).batch(0) for s in (0, 1)]
    assert not same(*pair)
    pair = [Omniglot(root, split="all", seed=s).batch(0) for s in (0, 2**64 - 1)]
    assert not same(*pair)


def test_streams_are_pinned():
    """A published run can be drawn again by every later version: these digests never change."""
    x, y = numbered()
    episode = EpisodeSampler.from_arrays(x, y, ways=3, shots=2, queries=2, tasks=4, seed=7).batch(11)
    assert episode.support_x[0, :, 0].tolist() == [40, 5, 21, 7, 57, 1]
    digest = hashlib.sha256(Sinusoid(seed=7).batch(100).support_x.tobytes()).hexdigest()
    assert digest[:16] == "8c5d49e7ec7a5e47"
    assert np.argsort(stream(0, 0).random_raw(1623), kind="stable")[:5].tolist() == [1051, 998, 162, 670, 664]


@pytest.mark.parametrize(
    "module",
    [
        fastmeta.atomic,
        fastmeta.errors,
        fastmeta.data.episode,
        fastmeta.data.prefetch,
        fastmeta.data.sampler,
        fastmeta.data.sinusoid,
    ],
    ids=lambda module: module.__name__,
)
def test_examples_run(module):
    failed, run = doctest.testmod(module)
    assert (failed, run > 0) == (0, True)


# ---------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(("size", "k"), [(1, 1), (2, 2), (5, 1), (5, 3), (5, 5), (20, 6)])
def test_distinct_draws_are_distinct_and_uniform(size, k):
    seed = 20240
    print(f"seed={seed}")
    rows = 20000
    drawn = distinct(stream(seed, 0), np.full(rows, size, np.uint64), k)
    assert drawn.shape == (rows, k)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < size
    for position in range(k):  # every number in every position equally often: the order is uniform too
        share = np.bincount(drawn[:, position], minlength=size) / rows
        assert np.abs(share - 1 / size).max() < 5 * np.sqrt(1 / size / rows)


def test_distinct_respects_each_rows_size():
    sizes = np.array([2, 3, 50, 2**31], np.uint64)
    seen = np.stack([distinct(stream(1, step), sizes, 2) for step in range(500)])
    assert (seen < sizes.astype(np.int64)[:, None]).all()
    assert seen[:, 3].max() > 2**30


# ---------------------------------------------------------------------------------------------------- sinusoid


def test_sinusoid_episodes_are_sinusoids_in_the_papers_ranges():
    seed = 31
    print(f"seed={seed}")
    amplitudes, phases, xs = [], [], []
    for episode in itertools.islice(Sinusoid(shots=5, queries=15, seed=seed), 40):
        assert [a.shape for a in episode] == [(25, 5, 1), (25, 5, 1), (25, 15, 1), (25, 15, 1)]
        assert {a.dtype for a in episode} == {np.dtype(np.float32)}
        x = np.concatenate([episode.support_x, episode.query_x], axis=1)[..., 0].astype(np.float64)
        y = np.concatenate([episode.support_y, episode.query_y], axis=1)[..., 0]
        for xt, yt in zip(x, y, strict=True):  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x), support and query
            basis = np.stack([np.sin(xt), np.cos(xt)], axis=1)
            (u, v), *_ = np.linalg.lstsq(basis, yt)
            assert np.abs(basis @ [u, v] - yt).max() < 1e-5
            amplitudes.append(np.hypot(u, v))
            phases.append(np.arctan2(-v, u))
        xs.append(x)
    for values, low, high in ((amplitudes, 0.1, 5), (phases, 0, np.pi), (np.concatenate(xs), -5, 5)):
        assert low - 1e-4 <= np.min(values) <= low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) <= np.max(values) <= high + 1e-4
        assert abs(np.mean(values) - (low + high) / 2) < 0.05 * (high - low)


def test_sinusoid_ranges_can_be_chosen():
    episode = Sinusoid(amplitude=(2, 2), phase=(0, 0), x_range=(1, 2), seed=3).batch(0)
    np.testing.assert_allclose(episode.support_y, 2 * np.sin(episode.support_x), rtol=1e-6)
    assert episode.query_x.min() >= 1
    assert episode.query_x.max() <= 2


@pytest.mark.parametrize("tasks", [1, 3000])
def test_sinusoid_of_few_and_of_many_tasks(tasks):
    sampler = Sinusoid(tasks=tasks, shots=1, queries=1)
    assert sampler.batch(0).support_x.shape == (tasks, 1, 1)
    assert not same(sampler.batch(0), sampler.batch(1))


# ---------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("labels", [np.array(["owl", "dog", "cat"] * 4), np.arange(12) % 3])
def test_labels_may_be_objects_as_in_a_column_of_pandas(labels):
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    options = {"ways": 2, "shots": 1, "queries": 2, "tasks": 5, "classes": labels[:2].tolist()}
    plain, objects = (EpisodeSampler.from_arrays(x, y, **options) for y in (labels, labels.astype(object)))
    assert plain.class_names == objects.class_names
    assert same(plain.batch(3), objects.batch(3))


def test_episodes_from_arrays_follow_the_protocol():
    x, y = numbered(classes=7, each=9)
    sampler = EpisodeSampler.from_arrays(x, y, ways=4, shots=2, queries=3, tasks=6, seed=1)
    classes_seen, examples_seen = set(), set()
    for episode in itertools.islice(sampler, 50):
        assert episode.support_x.shape == (6, 8, 3)
        assert episode.query_x.shape == (6, 12, 3)
        assert episode.support_y.dtype == episode.query_y.dtype == np.int32
        assert (episode.support_y == np.repeat(np.arange(4), 2)).all()
        assert (episode.query_y == np.repeat(np.arange(4), 3)).all()
        for task in range(6):
            support, query = episode.support_x[task], episode.query_x[task]
            of_label = support[::2, 1]
            assert len(set(of_label)) == 4  # distinct classes, and the same class under each label
            assert (support[:, 1] == np.repeat(of_label, 2)).all()
            assert (query[:, 1] == np.repeat(of_label, 3)).all()
            examples = [*support[:, 0], *query[:, 0]]
            assert len(set(examples)) == 20  # no example twice
            classes_seen.update(of_label)
            examples_seen.update(examples)
    assert len(classes_seen) == 7
    assert len(examples_seen) == 63


def test_classes_limit_the_draw_whatever_their_order():
    x, y = numbered()
    names = np.array(list("abcdefg"))[y]
    make = [
        EpisodeSampler.from_arrays(x, names, ways=2, shots=1, queries=1, tasks=50, classes=c) for c in ("bdf", "fdb")
    ]
    assert make[0].class_names == ["b", "d", "f"]
    assert set(make[0].batch(0).support_x[..., 1].ravel()) == {1, 3, 5}
    assert same(make[0].batch(4), make[1].batch(4))


def test_classes_of_uneven_size():
    y = np.repeat([10, 20, 30], [2, 5, 1000])
    x = y.astype(np.float32)[:, None]
    sampler = EpisodeSampler.from_arrays(x, y, ways=3, shots=1, queries=1, tasks=8)
    assert set(sampler.batch(0).support_x.ravel()) == {10, 20, 30}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("given", ["uint8", "int64", "bool"])
def test_x_has_the_dtype_asked_for(given, dtype):
    x, y = np.ones((6, 4, 2), given), [0, 1] * 3
    episode = EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1, dtype=dtype).batch(0)
    assert episode.support_x.dtype == episode.query_x.dtype == dtype
    assert episode.support_x.shape == (1, 2, 4, 2)


def test_targets_replace_labels_for_regression():
    x, group = numbered(classes=5, each=10)
    sampler = EpisodeSampler.from_arrays(x, group, ways=1, shots=3, queries=4, tasks=2, targets=x[:, :1] * 2.0)
    episode = sampler.batch(0)
    np.testing.assert_array_equal(episode.support_y, episode.support_x[..., :1] * 2)
    np.testing.assert_array_equal(episode.query_y, episode.query_x[..., :1] * 2)
    assert episode.support_y.dtype == np.float32


def test_arrays_are_kept_by_reference():
    x, y = numbered()
    sampler = EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1)
    x[:, 2] = 5
    assert (sampler.batch(0).support_x[..., 2] == 5).all()


# ---------------------------------------------------------------------------------------------------- prefetch


class Recording(Sampler):
    """Episodes that hold their step; notes who built what."""

    def __init__(self, fail_at=None, delay=0.0):
        self.built, self.threads, self.fail_at, self.delay = [], set(), fail_at, delay

    def batch(self, step):
        time.sleep(self.delay)
        self.built.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self.fail_at:
            raise KeyError(f"step {step}")
        return Episode(*[np.full((1, 1), step)] * 4)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_prefetch_gives_the_same_batches(depth):
    plain = Sinusoid(seed=3)
    with Prefetch(Sinusoid(seed=3), depth) as ahead:
        for step, episode in enumerate(itertools.islice(ahead, 70)):
            assert same(episode, plain.batch(step))
        for step in (500, 501, 3, 69, 70):
            assert same(ahead.batch(step), plain.batch(step))


def test_prefetch_builds_ahead_in_its_own_thread_and_resumes_anywhere():
    sampler = Recording()
    with Prefetch(sampler, depth=3, start=40) as ahead:
        assert int(next(iter(ahead)).support_x[0, 0]) == 40
        deadline = time.monotonic() + 10
        while len(sampler.built) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sampler.built == [40, 41, 42, 43]
    assert len(sampler.threads) == 1
    assert threading.current_thread().name not in sampler.threads


def test_prefetch_raises_an_exception_at_its_own_step():
    with Prefetch(Recording(fail_at=2)) as ahead:
        assert int(ahead.batch(0).query_y[0, 0]) == 0
        assert int(ahead.batch(1).query_y[0, 0]) == 1
        with pytest.raises(KeyError, match="step 2"):
            ahead.batch(2)
        assert int(ahead.batch(3).query_y[0, 0]) == 3


def test_prefetch_ends_its_thread():
    before = threading.active_count()
    ahead = Prefetch(Recording(delay=0.01), depth=8)
    ahead.batch(0)
    assert threading.active_count() == before + 1
    ahead.close()
    ahead.close()
    assert threading.active_count() == before
    assert len(ahead.sampler.built) <= 3  # what was queued is dropped, not built
    with pytest.raises(ValueError, match=r"\[Prefetch\] expected an open Prefetch"):
        ahead.batch(1)


# ---------------------------------------------------------------------------------------------------- bad input

X, Y = np.zeros((6, 2), np.float32), np.array([0, 0, 0, 1, 1, 2])
ARRAYS = {"x": X, "y": Y, "ways": 2, "shots": 1, "queries": 1, "classes": [0, 1]}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ways": 3}, ValueError, r"ways at most 2, the number of classes in classes, got 3"),
        ({"ways": 4, "classes": None}, ValueError, r"ways at most 3, the number of classes in y, got 4"),
        ({"shots": 2}, ValueError, r"shots \+ queries = 2 \+ 1 = 3 examples in every class, got 2 in class 1"),
        (
            {"shots": 3, "queries": 4, "classes": None},
            ValueError,
            r"= 7 examples .* got 3 in class 0 \(and 2 more classes with too few\)",
        ),
        ({"shots": 0}, ValueError, r"shots at least 1, got 0"),
        ({"queries": 0}, ValueError, r"queries at least 1, got 0"),
        ({"ways": -1}, ValueError, r"ways at least 1, got -1"),
        ({"ways": 2.0}, TypeError, r"ways a whole number, got 2.0 \(float\)"),
        ({"ways": True}, TypeError, r"ways a whole number, got True \(bool\)"),
        ({"tasks": 0}, ValueError, r"tasks at least 1, got 0"),
        ({"seed": -1}, ValueError, r"seed at least 0, got -1"),
        ({"seed": 2**64}, ValueError, r"seed below 18446744073709551616"),
        ({"seed": "a"}, TypeError, r"seed a whole number, got 'a'"),
        ({"classes": [0, 7]}, ValueError, r"classes that occur in y, got 7"),
        ({"classes": [0, 0, 1]}, ValueError, r"each of classes once, got 1 repeated"),
        ({"y": Y[:5]}, ValueError, r"x of shape \[5, \.\.\.\], as many examples as y has, got \[6, 2\]"),
        ({"y": Y[:, None]}, ValueError, r"y of shape \[examples\], got \[6, 1\]"),
        ({"y": Y + 0.5}, TypeError, r"y of whole numbers or strings, got float64"),
        ({"x": np.array(["a"] * 6)}, TypeError, r"x an array of numbers, got <U1"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"at least one example, got 0"),
        ({"dtype": "float16"}, ValueError, r"dtype 'float32', 'float64' or 'int32', got 'float16'"),
        ({"dtype": "int32"}, TypeError, r"whole numbers in x for dtype 'int32', got float32"),
        ({"dtype": "int32", "x": np.full((6, 1), 2**31)}, ValueError, r"x within int32, got values from 2147483648"),
        ({"targets": np.zeros(5)}, ValueError, r"targets of shape \[6, \.\.\.\], got \[5\]"),
        ({"targets": ["a"] * 6}, TypeError, r"targets an array of numbers, got <U1"),
    ],
)
def test_bad_arrays_are_refused_at_construction(changed, error, message):
    EpisodeSampler.from_arrays(**ARRAYS)
    with pytest.raises(error, match=r"^\[EpisodeSampler.from_arrays\] expected .*" + message):
        EpisodeSampler.from_arrays(**(ARRAYS | changed))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shots": 0}, ValueError, r"shots at least 1, got 0"),
        ({"queries": -2}, ValueError, r"queries at least 1, got -2"),
        ({"tasks": 1.5}, TypeError, r"tasks a whole number, got 1.5"),
        ({"seed": None}, TypeError, r"seed a whole number, got None"),
        ({"amplitude": 5}, TypeError, r"amplitude a pair of numbers \(low, high\), got 5"),
        ({"phase": (1, 0)}, ValueError, r"phase finite with low <= high, got \(1, 0\)"),
        ({"x_range": (0, float("inf"))}, ValueError, r"x_range finite with low <= high"),
    ],
)
def test_bad_sinusoids_are_refused_at_construction(options, error, message):
    with pytest.raises(error, match=r"^\[Sinusoid\] expected " + message):
        Sinusoid(**options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Prefetch([1, 2]), TypeError, r"\[Prefetch\] expected a sampler with batch\(step\), got list"),
        (lambda: Prefetch(Sinusoid(), 0), ValueError, r"\[Prefetch\] expected depth at least 1, got 0"),
        (lambda: Prefetch(Sinusoid(), start=-1), ValueError, r"\[Prefetch\] expected start at least 0, got -1"),
        (lambda: Sinusoid().batch(-1), ValueError, r"\[Sinusoid\] expected step at least 0, got -1"),
        (lambda: Sinusoid().batch(0.0), TypeError, r"\[Sinusoid\] expected step a whole number, got 0.0"),
        (
            lambda: EpisodeSampler.from_arrays(**ARRAYS).batch("1"),
            TypeError,
            r"\[EpisodeSampler.from_arrays\] expected step a whole number, got '1'",
        ),
    ],
)
def test_bad_prefetch_and_steps(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_importing_data_pulls_in_no_decoder_or_network():
    names = "('PIL', 'safetensors', 'urllib.request', 'torch', 'jax')"
    code = f"import sys, fastmeta.data, fastmeta.train.checkpoint; print([m for m in {names} if m in sys.modules])"
    folder = Path(fastmeta.errors.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_errors_say_where_what_and_got():
    error = expected("here", "a", "b", TypeError, "Try c")
    assert type(error) is TypeError
    assert str(error) == "[here] expected a, got b. Try c"
    diverged = pickle.loads(pickle.dumps(DivergedError("MAML", 3, 2, float("nan"))))
    assert (diverged.task, diverged.inner_step, diverged.step) == (3, 2, None)
    assert str(diverged) == "[MAML] expected finite losses, got nan in task 3 at inner step 2"
    assert isinstance(diverged, RuntimeError)
