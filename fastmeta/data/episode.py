"""The one container that samplers make and learners take."""

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
