"""Judging a learner on many episodes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fastmeta.algorithms.learner import Learner, summary
from fastmeta.errors import expected, whole

__all__ = ["evaluate"]


class Batches(Protocol):
    """Anything that makes the batch of a step: a sampler, or Prefetch around one."""

    def batch(self, step: int) -> Any: ...


def evaluate(
    learner: Learner, params: Any, sampler: Batches, *, episodes: int = 600, steps: int | None = None, start: int = 0,
    state: Any = (),
) -> dict[str, Any]:  # fmt: skip
    """Means with 95 % intervals over exactly ``episodes`` tasks, batch after batch of the sampler from step ``start``.

    ``steps`` is the number of inner steps, the learner's own if None; ``state`` what its training kept beside the
    parameters (`Trained.state`), if anything; the result is that of
    `fastmeta.algorithms.summary`: loss and accuracy after 0..steps steps.

    Errors: TypeError or ValueError naming the argument.

    >>> import fastmeta as fm
    >>> from fastmeta.algorithms import MAML
    >>> from fastmeta.data import Sinusoid
    >>> from fastmeta.models import MLP
    >>> learner = MAML(MLP((1, 8, 1)), loss=fm.nn.mse)
    >>> result = evaluate(learner, learner.init(0), Sinusoid(tasks=8), episodes=20, steps=3)
    >>> result["tasks"], len(result["losses"])
    (20, 4)
    """
    if not callable(getattr(sampler, "batch", None)):
        raise expected("evaluate", "a sampler with batch(step)", type(sampler).__name__, TypeError, "learner.evaluate(params, episodes) is for one batch")
    wanted = whole("evaluate", "episodes", episodes)
    parts: list[dict[str, Any]] = []
    have, step = 0, start
    while have < wanted:
        measured = learner.measure(params, sampler.batch(step), steps, state)
        if "losses" not in measured:
            raise expected(type(learner).__name__, "a measure of 'losses' [tasks, steps + 1] (docs/writing-a-learner.md)", sorted(measured), TypeError)
        parts.append(measured)
        have += len(measured["losses"])
        step += 1
    return summary({name: np.concatenate([part[name] for part in parts])[:wanted] for name in parts[0]})
