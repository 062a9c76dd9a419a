"""Conditional MAML: where the inner loop starts depends on what is told of the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms import learner
from fastmeta.algorithms.flat import along, no_directions
from fastmeta.algorithms.learner import functions
from fastmeta.algorithms.maml import MAML
from fastmeta.trace import Array

__all__ = ["ConditionalMAML"]


class ConditionalMAML(MAML):
    """Conditional meta-learning: MAML whose initial weights are a function of the task's metadata.

    A task starts from ``weights + features(metadata) @ directions``, of all arrays in one row; all three are learned, by the exact
    gradient through the inner steps.  Directions start as zeros, so that at first every task has the model's own initial weights.
    Episodes are `fastmeta.data.DescribedEpisode`; metadata may have any shape beside the task axis and is taken flat, so that rows
    of classes [ways, m] stand side by side.  `adapt` takes (x, y, metadata), and gives the model's weights; without inner steps
    (``steps=0``) those that metadata alone makes.  Meta-parameters: {"weights", a tree as the model's, "directions" [features,
    weights], "features"}.

    Args:
        features: ``features(params, [1, m]) -> [1, features]`` with ``features.init(seed)``, which says ``features.outputs``, their number.
        model, loss, inner_lr, inner_steps, order, inner_clip, batch_norm: as for `MAML`.

    Errors: as for `MAML`; TypeError for episodes without metadata.
    Source: Denevi, Pontil, Ciliberto 2020: the bias of the inner algorithm is linear in fixed features of the side information, and
    trained by a convex surrogate of the meta-loss.  Learned features and the exact meta-gradient are ours.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = ConditionalMAML(MLP((1, 8, 1)), MLP((2, 8, 4)), loss=nn.mse)
    >>> x, metadata = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1), np.ones((2, 2), np.float32)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x), metadata))
    >>> aux["inner_losses"].shape, gradient["directions"].shape
    ((2, 1), (4, 25))
    """

    described = True

    def __init__(
        self,
        model: Callable[..., Any],
        features: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: Any = 0.01,
        inner_steps: int = 1,
        order: int = 2,
        inner_clip: float | None = None,
        batch_norm: str = "batch",
    ):
        super().__init__(model, loss, inner_lr, inner_steps, order, inner_clip, batch_norm)
        functions(self._name, features=features)
        self.features: Any = features  # a callable; ours have init and outputs

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of both nets, and directions of zeros."""
        weights = super().init(seed)
        return {
            "weights": weights,
            "directions": no_directions(learner.features(self._name, "features", self.features), weights),
            "features": learner.initial(self._name, self.features, seed, 1),
        }

    def _conditioned(self, params: Any, metadata: Array) -> Any:
        h = self.features(params["features"], fa.reshape(metadata, (1, -1)))
        return along(params["weights"], h, params["directions"])
