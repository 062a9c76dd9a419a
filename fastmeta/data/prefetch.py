"""Building the next batches while the current one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastmeta.data.episode import DescribedEpisode, Episode
from fastmeta.data.sampler import Sampler, seed_word
from fastmeta.errors import expected, whole

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Prefetch"]


class Prefetch(Sampler):
    """Build the next `depth` batches of a sampler in one background thread; the same batches, only earlier.

    `iter` starts at step `start` (a resumed run), `batch(step)` may jump anywhere, which empties what was built
    ahead. An exception of the sampler is raised by the batch it belongs to. Close it, or use it as a context; one
    consumer at a time.

    Errors: TypeError for something without `batch(step)`, ValueError for a depth below 1 or use after `close`.

    >>> from fastmeta.data import Sinusoid
    >>> with Prefetch(Sinusoid(tasks=4), start=100) as batches:
    ...     next(iter(batches)).support_x.shape
    (4, 10, 1)
    """

    def __init__(self, sampler: Sampler, depth: int = 2, *, start: int = 0):
        from concurrent.futures import ThreadPoolExecutor  # here, because it imports logging

        if not callable(getattr(sampler, "batch", None)):
            raise expected("Prefetch", "a sampler with batch(step)", type(sampler).__name__, TypeError)
        self.sampler = sampler
        self.depth = whole("Prefetch", "depth", depth)
        self.start = seed_word("Prefetch", start, "start")
        self._ahead: deque[tuple[int, Future[Episode | DescribedEpisode]]] = deque()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="fastmeta-prefetch")

    def batch(self, step: int) -> Episode | DescribedEpisode:
        """Return the sampler's `batch(step)` and start on the `depth` steps after it."""
        step = seed_word("Prefetch", step, "step")
        if self._thread is None:
            raise expected("Prefetch", "an open Prefetch", "one that was closed")
        if not self._ahead or self._ahead[0][0] != step:
            self._drop()
            self._ahead.append((step, self._thread.submit(self.sampler.batch, step)))
        wanted = self._ahead.popleft()[1]
        for later in range(step + 1 + len(self._ahead), step + 1 + self.depth):
            self._ahead.append((later, self._thread.submit(self.sampler.batch, later)))
        return wanted.result()

    def __iter__(self) -> Iterator[Episode | DescribedEpisode]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def close(self) -> None:
        """Drop what was built ahead and end the thread; closing twice is harmless."""
        thread, self._thread = self._thread, None
        self._drop()
        if thread is not None:
            thread.shutdown(wait=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _drop(self) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()
