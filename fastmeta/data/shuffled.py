"""Episodes whose support examples come in random order."""

from __future__ import annotations

import numpy as np

from fastmeta.data.episode import DescribedEpisode, Episode
from fastmeta.data.sampler import Sampler, seed_word, stream
from fastmeta.errors import expected

__all__ = ["Shuffled"]


class Shuffled(Sampler):
    """The episodes of another sampler, with the support examples of each task in an order of their own, drawn for each step.

    For learners that read the support set in its order, as `fastmeta.algorithms.MANN` and `SNAIL`: samplers give examples class
    by class, and a class that always comes first is told by its place.

    Errors: TypeError naming the argument.

    >>> from fastmeta.data import EpisodeSampler
    >>> x, y = np.arange(6, dtype=np.float32)[:, None], np.arange(6) // 2
    >>> sampler = EpisodeSampler.from_arrays(x, y, ways=3, shots=1, queries=1, tasks=2)
    >>> Shuffled(sampler).batch(0).support_y
    array([[1, 2, 0],
           [0, 2, 1]], dtype=int32)
    """

    def __init__(self, sampler: Sampler):
        if not callable(getattr(sampler, "batch", None)):
            raise expected("Shuffled", "a sampler with batch(step)", type(sampler).__name__, TypeError)
        self.sampler = sampler

    def batch(self, step: int) -> Episode | DescribedEpisode:
        """The episodes of one step, as the sampler's but for the order of support examples."""
        bits = stream(0, seed_word("Shuffled", step, "step")).jumped()  # a part that no sampler has drawn from
        episode = self.sampler.batch(step)
        x, y = episode[:2]
        order = np.argsort(bits.random_raw(y.shape[0] * y.shape[1]).reshape(y.shape[:2]), axis=1)
        tasks = np.arange(len(y))[:, None]
        return episode._replace(support_x=x[tasks, order], support_y=y[tasks, order])
