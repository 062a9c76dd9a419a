"""Batch norm of a model: whose statistics normalise it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.errors import expected, whole
from fastmeta.trace import Array, Tracer
from fastmeta.tree import tree_map

__all__ = ["MODES", "BatchNorm", "affine", "averaged", "one_mode", "statistics"]

MODES = ("batch", "running", "per_step")
EPS = 1e-3  # as in the released code of MAML; a model may have another
KEPT = 0.9  # of the averaged statistics, at every meta-step


class BatchNorm:
    """The batch norm layers of one pass through a model, in order.

    ``mode`` "batch" normalises by the batch at hand; "running" by ``state``, one set of statistics; "per_step" by the set
    of ``state`` for ``step``, the inner steps that the weights have taken, and then scale and shift may have a row for each
    step too.  With ``measure`` the batch at hand normalises in every mode; its statistics are in `statistics`.

    State is a list with {"mean", "variance"} for each layer, [channels] or, "per_step", [steps + 1, channels].
    Errors: TypeError, ValueError or, for a step out of range that is not a number yet, IndexError when it runs.
    Source: Ioffe and Szegedy 2015; per step: Antoniou, Edwards, Storkey 2019, section 4.

    >>> norm = BatchNorm("net", 1, "batch")
    >>> norm(np.array([[1.0], [3.0]]), np.ones(1), np.zeros(1)).round(2).tolist(), norm.statistics
    ([[-1.0], [1.0]], [{'mean': array([2.]), 'variance': array([1.])}])
    """

    def __init__(
        self, where: str, layers: int, mode: str, step: Any = None, state: Any = None, measure: bool = False, eps: float = EPS
    ):  # fmt: skip
        if mode not in list(MODES):
            raise expected(where, f"mode {' or '.join(map(repr, MODES))}", repr(mode))
        if mode == "batch" and state is not None:
            raise expected(where, "no state in mode 'batch'", type(state).__name__)
        if mode != "batch" and (state is None) != measure:
            raise expected(
                where, f"either state or return_statistics=True in mode {mode!r}", "both" if measure else "neither"
            )
        if mode == "per_step":
            if step is None:
                raise expected(where, "step, the inner steps taken, in mode 'per_step'", None)
            step = step if isinstance(step, Tracer) else whole(where, "step", step, 0)
        if state is not None and (not isinstance(state, list) or len(state) != layers):
            got = len(state) if isinstance(state, list) else type(state).__name__
            raise expected(where, f"state, a list of {layers} layers", got)
        self.where, self.step, self.state, self.eps = where, step if mode == "per_step" else None, state, eps
        self.statistics: list[dict[str, Array]] = []

    def __call__(self, x: Array, scale: Array, shift: Array) -> Array:
        """The next layer: x [..., channels] normalised, times scale, plus shift."""
        given = None
        if self.state is not None:
            layer = self.state[len(self.statistics)]
            given = (self._at("mean", layer["mean"]), self._at("variance", layer["variance"]))
        if self.step is not None and len(np.shape(scale)) == 2:
            scale, shift = self._at("scale", scale), self._at("shift", shift)
        y, (mean, variance) = nn.batch_norm(x, scale, shift, eps=self.eps, statistics=given, return_statistics=True)
        self.statistics.append({"mean": mean, "variance": variance})
        return y

    def _at(self, name: str, rows: Array) -> Array:
        """The row of this step."""
        if self.step is None:
            return rows
        shape = np.shape(rows)
        if len(shape) != 2:
            raise expected(self.where, f"{name} [steps + 1, channels] in mode 'per_step'", f"shape {list(shape)}")
        if isinstance(self.step, int) and self.step >= shape[0]:
            raise expected(self.where, f"step in 0..{shape[0] - 1}", self.step)
        return fa.take(rows, self.step, axis=0)


def one_mode(where: str, mode: str, modes: Sequence[str], model: Any) -> str:
    """``mode`` of a learner, once it is one of ``modes`` and ``model`` can make the statistics that it needs."""
    if mode not in list(modes):
        raise expected(where, f"batch_norm {' or '.join(map(repr, modes))}", repr(mode))
    if mode != "batch" and not callable(getattr(model, "init_state", None)):
        raise expected(where, f"a model with init_state for batch_norm {mode!r}", type(model).__name__, TypeError)
    return mode


def affine(where: str, channels: int, steps: int | None) -> dict[str, Any]:
    """Fresh scale and shift, [channels], or [steps + 1, channels] with ``steps``."""
    shape = _shape(where, channels, steps)
    return {"scale": np.ones(shape, np.float32), "shift": np.zeros(shape, np.float32)}


def statistics(where: str, channels: Sequence[int], steps: int | None) -> list[dict[str, Any]]:
    """Fresh state for layers of so many channels: mean 0 and variance 1."""
    shapes = [_shape(where, n, steps) for n in channels]
    return [{"mean": np.zeros(shape, np.float32), "variance": np.ones(shape, np.float32)} for shape in shapes]


def averaged(state: Any, new: Any) -> Any:
    """Exponential averages: 0.9 of the old statistics and 0.1 of the tasks' mean; ``new`` has a leading task axis."""
    return tree_map(lambda a, b: fa.add(fa.multiply(a, KEPT), fa.multiply(fa.mean(b, axis=0), 1.0 - KEPT)), state, new)


def _shape(where: str, channels: int, steps: int | None) -> tuple[int, ...]:
    return (channels,) if steps is None else (whole(where, "steps", steps, 0) + 1, channels)
