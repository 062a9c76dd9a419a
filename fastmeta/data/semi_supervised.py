"""Episodes whose support sets are labelled in part."""

from __future__ import annotations

import numpy as np

from fastmeta.data.episode import DescribedEpisode, Episode
from fastmeta.data.sampler import Sampler
from fastmeta.errors import expected, whole

__all__ = ["SemiSupervised"]


class SemiSupervised(Sampler):
    """The episodes of another sampler, of whose support examples only the first ``labelled`` of each class keep their label.

    The others have the label -1, as `fastmeta.algorithms.SemiSupervisedProtoNet` takes them: with ``shots = labelled + m``
    each class has m unlabelled examples.

    Errors: TypeError or ValueError naming the argument; ValueError for episodes whose support labels are not whole numbers.
    Source: Ren et al. 2018, section 3 (without distractor classes).

    >>> from fastmeta.data import EpisodeSampler
    >>> x, y = np.zeros((8, 1), np.float32), np.repeat([0, 1], 4)
    >>> sampler = EpisodeSampler.from_arrays(x, y, ways=2, shots=3, queries=1)
    >>> SemiSupervised(sampler, labelled=1).batch(0).support_y
    array([[ 0, -1, -1,  1, -1, -1]], dtype=int32)
    """

    def __init__(self, sampler: Sampler, labelled: int = 1):
        if not callable(getattr(sampler, "batch", None)):
            raise expected("SemiSupervised", "a sampler with batch(step)", type(sampler).__name__, TypeError)
        self.sampler, self.labelled = sampler, whole("SemiSupervised", "labelled", labelled)

    def batch(self, step: int) -> Episode | DescribedEpisode:
        """The episodes of one step, as the sampler's but for support labels of -1."""
        episode = self.sampler.batch(step)
        y = episode.support_y
        if y.dtype.kind not in "iu":
            raise expected("SemiSupervised", "support labels of whole numbers", y.dtype)
        seen = np.cumsum(y[..., None] == np.arange(y.max() + 1), axis=-2)  # how many of each class up to here
        rank = np.take_along_axis(seen, y[..., None], axis=-1)[..., 0]
        return episode._replace(support_y=np.where(rank <= self.labelled, y, -1).astype(y.dtype))
