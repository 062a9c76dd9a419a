"""Hypernetworks: a network that makes the weights of another from the support set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.flat import along, no_directions
from fastmeta.algorithms.learner import Loss, accuracy, features, initial
from fastmeta.algorithms.sets import SetLearner, encoded
from fastmeta.trace import Array

__all__ = ["HyperNetwork"]


class HyperNetwork(SetLearner):
    """Hypernetwork: all weights of the model are made from the support set, by one pass through an encoder and a generator.

    The encoder's outputs are averaged over the support examples, whatever their order and number, and the generator makes features h of
    the mean.  A task's weights are ``weights + h @ directions``, of all arrays in one row; both are learned.  Directions start as
    zeros, so that at first every task has the model's own initial weights.  Meta-parameters: {"weights", a tree as the model's,
    "directions" [features, weights], "encoder", "generator"}.

    `adapt` gives the model's weights for a task, as that of `MAML` does.

    Args:
        model: ``model(params, x) -> outputs`` with ``model.init(seed)``, or any such function.
        encoder: ``encoder(params, [n, inputs + targets]) -> [n, ...]`` alike; a class label is a target of ``model.outputs`` ones and zeros.
        generator: ``generator(params, [1, ...]) -> [1, features]`` alike, which says ``generator.outputs``, its features.
        loss: ``loss(outputs, targets) -> scalar``, the mean over examples.

    Errors: TypeError or ValueError naming the argument; IndexError for a label that the model has no output for.
    Source: Ha, Dai, Le 2017 (hypernetworks); Zhmoginov, Sandler, Vladymyrov 2022, for few-shot tasks.

    >>> from fastmeta.models import MLP
    >>> learner = HyperNetwork(MLP((1, 8, 1)), MLP((2, 16, 16)), MLP((16, 16, 4)), loss=nn.mse)
    >>> x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    >>> weights = learner.adapt(learner.init(seed=0), x, np.sin(x))
    >>> weights[0]["w"].shape, learner.predict(weights, x).shape
    ((1, 8), (5, 1))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Any],
        generator: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
    ):
        super().__init__(model=model, encoder=encoder, generator=generator, loss=loss)
        self.model: Any = model  # callables; ours have init, plain functions start elsewhere
        self.encoder: Any = encoder
        self.generator: Any = generator
        self.loss_function = loss

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters: those of the three nets, and directions of zeros."""
        weights = initial(self._name, self.model, seed)
        n = features(self._name, "generator", self.generator)
        return {
            "weights": weights,
            "directions": no_directions(n, weights),
            "encoder": initial(self._name, self.encoder, seed, 1),
            "generator": initial(self._name, self.generator, seed, 2),
        }

    def __repr__(self) -> str:
        return f"HyperNetwork({self.model!r}, {self.encoder!r}, {self.generator!r})"

    def _fit(self, params: Any, x: Array, y: Array) -> Any:
        if np.dtype(y.dtype).kind in "iu":
            # Looked up, so that a label out of range is an error: it has no row.
            y = fa.take(np.eye(features(self._name, "model", self.model), dtype=x.dtype), y, axis=0)
        mean = encoded(self._name, self.encoder, params["encoder"], x, y)
        return along(params["weights"], self.generator(params["generator"], mean), params["directions"])

    def _outputs(self, task: Any, x: Array) -> Array:
        return self.model(task, x)

    def _objective(self, outputs: Array, y: Array) -> Loss:
        value, share = self.loss_function(outputs, y), accuracy(outputs, y)
        aux = {"loss": value, "outputs": outputs}
        return value, aux if share is None else aux | {"accuracy": share}
