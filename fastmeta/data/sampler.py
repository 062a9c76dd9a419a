"""Seeded sampling of N-way K-shot episodes.

Every batch is a function of (seed, step) alone: a Philox stream keyed by the two. Only the raw words of the stream
are used, because NumPy promises that these never change, while the methods of its `Generator` may.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta.data.episode import DescribedEpisode, Episode
from fastmeta.errors import expected, whole

__all__ = ["EpisodeSampler", "Sampler"]

Words = NDArray[np.uint64]


class Sampler(ABC):
    """An endless, seeded source of episodes: `batch(step)` can be made again alone, `iter` starts at step 0.

    >>> class Zeros(Sampler):
    ...     def batch(self, step):
    ...         return Episode(*[np.zeros((1, 1), np.float32)] * 4)
    >>> next(iter(Zeros())).support_x.shape
    (1, 1)
    """

    @abstractmethod
    def batch(self, step: int) -> Episode | DescribedEpisode:
        """Return the episodes of one step (a whole number from 0), with a leading task axis."""

    def __iter__(self) -> Iterator[Episode | DescribedEpisode]:
        step = 0
        while True:
            yield self.batch(step)
            step += 1


def seed_word(where: str, value: Any, name: str = "seed") -> int:
    """Return a seed or a step, a whole number in [0, 2**64)."""
    return whole(where, name, value, least=0, below=2**64)


def stream(seed: int, step: int) -> np.random.Philox:
    """The bit stream of (seed, step); both in [0, 2**64), distinct pairs give independent streams."""
    return np.random.Philox(key=np.array([seed, step], dtype=np.uint64))


def shuffled(bits: np.random.Philox, n: int) -> NDArray[np.intp]:
    """A uniform random permutation of range(n)."""
    return np.argsort(bits.random_raw(n), kind="stable")


def distinct(bits: np.random.Philox, sizes: NDArray[np.uint64], k: int) -> NDArray[np.int64]:
    """Draw [rows, k]: in each row k distinct numbers below sizes[row] (>= k), in uniform random order.

    Floyd's algorithm on all rows at once, so the cost does not depend on the sizes, then a random order.
    """
    rows = len(sizes)
    words: Words = bits.random_raw(2 * k * rows)
    last = sizes - np.uint64(k) + np.arange(k, dtype=np.uint64)[:, None]  # [k, rows], largest candidate in draw i
    # A word's upper half times the range, upper half again: uniform to within 2**-32.
    drawn = ((words[: k * rows].reshape(k, rows) >> np.uint64(32)) * (last + np.uint64(1))) >> np.uint64(32)
    for i in range(1, k):
        np.copyto(drawn[i], last[i], where=(drawn[:i] == drawn[i]).any(axis=0))
    order = np.argsort(words[k * rows :].reshape(rows, k), axis=1)  # Floyd's set is uniform, its order is not
    return drawn[order, np.arange(rows)[:, None]].astype(np.int64)


class ClassDraw:
    """Which classes and which of their examples make up a batch: the part that all class samplers share.

    `counts` [classes] is the number of examples of each class, `names` name them in errors, `pool` names the whole.
    """

    def __init__(
        self,
        where: str,
        counts: NDArray[np.integer[Any]],
        names: Sequence[object],
        pool: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        tasks: int,
        seed: int,
    ):
        self.where = where
        self.ways = whole(where, "ways", ways)
        self.shots = whole(where, "shots", shots)
        self.queries = whole(where, "queries", queries)
        self.tasks = whole(where, "tasks", tasks)
        self.seed = seed_word(where, seed)
        if self.ways > len(counts):
            raise expected(where, f"ways at most {len(counts)}, the number of classes in {pool}", self.ways)
        each = self.shots + self.queries
        short = np.flatnonzero(counts < each)
        if len(short):
            first = short[0]
            others = f" (and {len(short) - 1} more classes with too few)" if len(short) > 1 else ""
            raise expected(
                where,
                f"at least shots + queries = {self.shots} + {self.queries} = {each} examples in every class",
                f"{counts[first]} in class {names[first]!r}{others}",
            )
        self._classes = np.full(self.tasks, len(counts), np.uint64)
        self._counts = counts.astype(np.uint64)
        label = np.arange(self.ways, dtype=np.int32)
        self._support_y = np.tile(np.repeat(label, self.shots), (self.tasks, 1))
        self._query_y = np.tile(np.repeat(label, self.queries), (self.tasks, 1))

    def draw(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64], np.random.Philox]:
        """Return classes [tasks, ways], examples [tasks, ways, shots + queries] and the stream for further draws."""
        bits = stream(self.seed, seed_word(self.where, step, "step"))
        classes = distinct(bits, self._classes, self.ways)
        each = self.shots + self.queries
        examples = distinct(bits, self._counts[classes].ravel(), each).reshape(self.tasks, self.ways, each)
        return classes, examples, bits

    def split(self, index: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Part [tasks, ways, shots + queries] into support and query [tasks, ways * n], class by class."""
        return (
            index[:, :, : self.shots].reshape(self.tasks, self.ways * self.shots),
            index[:, :, self.shots :].reshape(self.tasks, self.ways * self.queries),
        )

    def labels(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Fresh labels 0..ways-1 [tasks, ways * n] of support and query, class by class."""
        return self._support_y.copy(), self._query_y.copy()


class EpisodeSampler(Sampler):
    """N-way K-shot episodes from arrays; see `from_arrays`.

    >>> sampler = EpisodeSampler.from_arrays(np.ones((6, 2)), [7, 7, 7, 9, 9, 9], ways=2, shots=1, queries=2)
    >>> sampler.batch(0).query_y, sampler.class_names
    (array([[0, 0, 1, 1]], dtype=int32), [7, 9])
    """

    def __init__(
        self,
        draw: ClassDraw,
        x: NDArray[Any],
        rows: NDArray[np.intp],
        starts: NDArray[np.intp],
        dtype: np.dtype[Any],
        targets: NDArray[Any] | None,
        metadata: NDArray[Any] | None,
        class_names: list[Any],
    ):
        self._draw, self._x, self._rows, self._starts = draw, x, rows, starts
        self._dtype, self._targets, self._metadata, self.class_names = dtype, targets, metadata, class_names

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        ways: int,
        shots: int,
        queries: int,
        tasks: int = 1,
        seed: int = 0,
        classes: Sequence[Any] | None = None,
        targets: Any = None,
        metadata: Any = None,
        dtype: str = "float32",
    ) -> EpisodeSampler:
        """Make a sampler of episodes over any data: images, series, tabular rows, features of text.

        `x` [examples, ...] is kept by reference, never copied; `y` [examples] holds class labels (whole numbers or
        strings, also as objects, the form of a pandas column). An episode has `ways` classes, drawn without replacement and relabelled 0..ways-1, with `shots`
        support and `queries` query examples each, no example twice: x [tasks, ways * n, ...] of `dtype` (float32,
        float64, or int32 for token ids), labels [tasks, ways * n] int32, class by class.
        `classes` limits the draw to these labels (a split). With `targets` [examples, ...], episodes carry these
        as float y instead of labels: regression, where y only says which task an example belongs to and ways is 1.
        With `metadata` [classes, m], a row for each class of y in the order of `numpy.unique(y)`, also of those that
        `classes` leaves out, episodes are `DescribedEpisode`s with the rows of their classes [tasks, ways, m] as floats.

        Errors: ValueError for ways > classes, a class with too few examples (named with its count), sizes that do
        not agree, metadata that is not finite; TypeError for labels or data of a wrong kind.
        Source: Vinyals et al. 2016, section 2.2.

        >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
        >>> y = np.array(["cat", "dog", "owl"] * 2)
        >>> sampler = EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1, tasks=4, seed=0)
        >>> episode = sampler.batch(0)
        >>> episode.support_x.shape, episode.support_y[0]
        ((4, 2, 2), array([0, 1], dtype=int32))
        >>> EpisodeSampler.from_arrays(x, y, ways=2, shots=1, queries=1, metadata=np.eye(3)).batch(0).metadata.shape
        (1, 2, 3)
        """
        where = "EpisodeSampler.from_arrays"
        data, labels = np.asarray(x), _labels(where, y)
        if data.dtype.kind not in "fiub":
            raise expected(where, "x an array of numbers", data.dtype, TypeError)
        if labels.ndim != 1:
            raise expected(where, "y of shape [examples]", list(labels.shape))
        if data.ndim < 1 or len(data) != len(labels):
            raise expected(where, f"x of shape [{len(labels)}, ...], as many examples as y has", list(data.shape))
        if len(data) == 0:
            raise expected(where, "at least one example", 0)
        values = None if targets is None else np.asarray(targets)
        if values is not None and values.dtype.kind not in "fiub":
            raise expected(where, "targets an array of numbers", values.dtype, TypeError)
        if values is not None and (values.ndim < 1 or len(values) != len(labels)):
            raise expected(where, f"targets of shape [{len(labels)}, ...]", list(values.shape))
        if dtype not in ("float32", "float64", "int32"):
            raise expected(where, "dtype 'float32', 'float64' or 'int32'", repr(dtype))
        if dtype == "int32":
            if data.dtype.kind == "f":
                raise expected(where, "whole numbers in x for dtype 'int32'", data.dtype, TypeError)
            if data.size and (int(data.min()) < -(2**31) or int(data.max()) >= 2**31):
                raise expected(where, "x within int32", f"values from {data.min()} to {data.max()}")

        names, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
        rows = np.argsort(group, kind="stable")  # examples class by class, in their given order
        starts = np.cumsum(counts) - counts
        told = None if metadata is None else _told(where, metadata, names, _floats(dtype))
        if classes is not None:
            chosen = _chosen(where, classes, names.tolist())
            names, counts, starts = names[chosen], counts[chosen], starts[chosen]
            told = None if told is None else told[chosen]
        draw = ClassDraw(
            where,
            counts,
            names.tolist(),
            "y" if classes is None else "classes",
            ways=ways,
            shots=shots,
            queries=queries,
            tasks=tasks,
            seed=seed,
        )
        return cls(draw, data, rows, starts, np.dtype(dtype), values, told, names.tolist())

    def batch(self, step: int) -> Episode | DescribedEpisode:
        """Return the episodes of one step: x [tasks, ways * n, ...], labels [tasks, ways * n] (or targets), and metadata if there is."""
        classes, examples, _ = self._draw.draw(step)
        support, query = self._draw.split(self._rows[self._starts[classes][:, :, None] + examples])
        support_x = self._x[support].astype(self._dtype, copy=False)
        query_x = self._x[query].astype(self._dtype, copy=False)
        if self._targets is None:
            support_y, query_y = self._draw.labels()
        else:
            support_y, query_y = (self._targets[part].astype(_floats(self._dtype), copy=False) for part in (support, query))
        if self._metadata is None:
            return Episode(support_x, support_y, query_x, query_y)
        return DescribedEpisode(support_x, support_y, query_x, query_y, self._metadata[classes])


def _floats(dtype: Any) -> np.dtype[Any]:
    """The dtype of what is a number beside x of ``dtype``: the same, float32 beside token ids."""
    return np.dtype(dtype if np.dtype(dtype).kind == "f" else np.float32)


def _labels(where: str, y: Any) -> NDArray[Any]:
    """Whole numbers or strings, in an array of their own dtype."""
    labels = np.asarray(y)
    if labels.dtype.kind != "O":
        if labels.dtype.kind not in "iubUS":
            raise expected(where, "y of whole numbers or strings", labels.dtype, TypeError)
        return labels
    kinds = {_kind(label) for label in labels.flat}
    if kinds not in ({"str"}, {"int"}):
        raise expected(where, "y of whole numbers or strings", f"objects of {', '.join(sorted(kinds))}", TypeError)
    return _labels(where, labels.astype(kinds.pop()))


def _kind(label: Any) -> str:
    """The name of the label's type, one for all texts and one for all whole numbers."""
    if isinstance(label, str):
        return "str"
    return "int" if isinstance(label, int | np.integer) and not isinstance(label, bool) else type(label).__name__


def _told(where: str, metadata: Any, names: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Metadata [classes, m] as finite numbers of ``dtype``."""
    told = np.asarray(metadata)
    if told.dtype.kind not in "fiub":
        raise expected(where, "metadata an array of numbers", told.dtype, TypeError)
    if told.ndim != 2 or len(told) != len(names) or not told.size:
        raise expected(where, f"metadata of shape [{len(names)}, m], a row for each class of y", list(told.shape))
    with np.errstate(over="ignore"):
        told = told.astype(dtype)
    bad = ~np.isfinite(told).all(axis=1)
    if bad.any():
        raise expected(where, f"metadata finite in {dtype}", f"other numbers for class {names[bad].tolist()[0]!r}")
    return told


def _chosen(where: str, classes: Any, names: list[Any]) -> NDArray[np.intp]:
    """The positions of ``classes`` among the sorted names."""
    if not isinstance(classes, Iterable):
        raise expected(where, "classes, several labels", repr(classes), TypeError)
    wanted, known = list(classes), {name: i for i, name in enumerate(names)}
    for name in wanted:
        if not isinstance(name, Hashable) or name not in known:
            raise expected(where, "classes that occur in y", repr(name))
    if len(set(wanted)) != len(wanted):
        raise expected(where, "each of classes once", f"{len(wanted) - len(set(wanted))} repeated")
    return np.array(sorted(known[name] for name in wanted), dtype=np.intp)
