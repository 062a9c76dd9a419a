"""The sinusoid regression tasks of MAML."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmeta.data.episode import Episode
from fastmeta.data.sampler import Sampler, seed_word, stream
from fastmeta.errors import expected, whole

__all__ = ["Sinusoid"]


class Sinusoid(Sampler):
    """Regression tasks y = A sin(x - phase), with A, phase and x uniform in the given ranges.

    Episodes: x and y [tasks, shots, 1] (support) and [tasks, queries, 1] (query), float32; phase and x in radians.

    Errors: TypeError or ValueError naming the argument, at construction.
    Source: Finn, Abbeel, Levine 2017 (MAML), section 5.1 and its released code.

    >>> episode = Sinusoid(shots=5, tasks=25, seed=1).batch(0)
    >>> episode.support_x.shape, episode.query_y.shape
    ((25, 5, 1), (25, 10, 1))
    """

    def __init__(
        self,
        *,
        shots: int = 10,
        queries: int = 10,
        tasks: int = 25,
        seed: int = 0,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        x_range: tuple[float, float] = (-5.0, 5.0),
    ):
        self.shots = whole("Sinusoid", "shots", shots)
        self.queries = whole("Sinusoid", "queries", queries)
        self.tasks = whole("Sinusoid", "tasks", tasks)
        self.seed = seed_word("Sinusoid", seed)
        self.amplitude = _range("amplitude", amplitude)
        self.phase = _range("phase", phase)
        self.x_range = _range("x_range", x_range)
        # One draw serves a block of steps, which shares NumPy's cost per call. The block's length depends on the
        # sizes only, so a step's numbers do not depend on how it is reached.
        self._numbers = self.tasks * (self.shots + self.queries + 2)
        self._steps = max(1, min(64, 32768 // self._numbers))
        self._block: tuple[int, NDArray[np.float32], NDArray[np.float32]] | None = None

    def batch(self, step: int) -> Episode:
        """Return the episodes of one step: x, y [tasks, shots, 1] and [tasks, queries, 1], float32."""
        number, within = divmod(seed_word("Sinusoid", step, "step"), self._steps)
        block = self._block
        if block is None or block[0] != number:
            block = self._block = (number, *self._draw(number))
        x, y = block[1][within], block[2][within]
        # Copies, so that a caller who writes into an episode does not change the step for the next caller.
        k = self.shots
        return Episode(x[:, :k].copy(), y[:, :k].copy(), x[:, k:].copy(), y[:, k:].copy())

    def _draw(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """x and y [steps, tasks, shots + queries, 1] of one block."""
        count = self._steps * self._numbers
        words = stream(self.seed, number).random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
        unit = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)  # in [0, 1)
        unit = unit.reshape(self._steps, self.tasks, -1, 1)
        amplitude = _scaled(unit[:, :, :1], self.amplitude)
        phase = _scaled(unit[:, :, 1:2], self.phase)
        x = _scaled(unit[:, :, 2:], self.x_range)
        return x, amplitude * np.sin(x - phase)


def _scaled(unit: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float32]:
    return unit * np.float32(limits[1] - limits[0]) + np.float32(limits[0])


def _range(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        raise expected("Sinusoid", f"{name} a pair of numbers (low, high)", repr(value), TypeError) from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise expected("Sinusoid", f"{name} finite with low <= high", repr(value))
    return low, high
