"""The containers that samplers make and learners take."""

from __future__ import annotations

from typing import Any, NamedTuple


class Episode(NamedTuple):
    """Support and query examples of one task, or of many with a leading task axis; a pytree of four arrays.

    Shapes with the task axis: `support_x` [tasks, ways * shots, ...], `support_y` [tasks, ways * shots],
    `query_x` [tasks, ways * queries, ...], `query_y` [tasks, ways * queries]; inside `map_tasks` without it.

    Source: Vinyals et al. 2016, section 2.2 (support and query sets of an episode).

    >>> import numpy as np
    >>> x, y = np.zeros((2, 5, 3), np.float32), np.zeros((2, 5), np.int32)
    >>> Episode(x, y, x, y).support_x.shape
    (2, 5, 3)
    """

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any


class DescribedEpisode(NamedTuple):
    """An episode that also tells of its task what no example shows; a pytree of five arrays.

    `metadata` are floats: [tasks, ways, m] where classes are described (a row for each class: attributes, or an embedding of its
    name), [tasks, m] where the task is; without the task axis inside `map_tasks`.  The rest is as in `Episode`.

    >>> import numpy as np
    >>> x, y = np.zeros((2, 5, 3), np.float32), np.zeros((2, 5), np.int32)
    >>> episode = DescribedEpisode(x, y, x, y, np.ones((2, 1, 300), np.float32))
    >>> Episode(*episode[:4]).query_x.shape, episode.metadata.shape
    ((2, 5, 3), (2, 1, 300))
    """

    support_x: Any
    support_y: Any
    query_x: Any
    query_y: Any
    metadata: Any
