"""Comparison of episodes."""

from __future__ import annotations

import numpy as np

from fastmeta.data import Episode


def same(a: Episode, b: Episode) -> bool:
    return all(u.dtype == v.dtype and np.array_equal(u, v) for u, v in zip(a, b, strict=True))
