"""Conditional neural processes: a distribution over functions, conditioned on the support set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.learner import Loss, initial
from fastmeta.algorithms.sets import SetLearner, encoded
from fastmeta.errors import expected
from fastmeta.trace import Array

__all__ = ["NeuralProcess"]

LEAST = 0.1  # the least spread: none may vanish, or the likelihood grows without bound


class NeuralProcess(SetLearner):
    """Conditional neural process for regression: it tells a normal distribution for each target, from one pass over the support set.

    The representation of a task is the mean over its support examples of the encoder's outputs, whatever their order and number; the
    decoder makes of it and a query a mean and a spread, which is 0.1 + 0.9 softplus(its output).  The loss is the negative
    logarithm of the likelihood, in nats, mean over queries and targets: below 0 where a narrow distribution is right.
    Meta-parameters: {"encoder", "decoder"}.

    `predict` gives the means [n, targets], `distribution` means and spreads.  What `adapt` gives holds the representation [features]
    as its second part.

    Args:
        encoder: ``encoder(params, [n, inputs + targets]) -> [n, features]`` with ``encoder.init(seed)``, or any such function.
        decoder: ``decoder(params, [n, features + inputs]) -> [n, 2 targets]`` alike, first the means, then what spreads are made of.

    Targets are floats [n, targets].  Support examples are no targets of the loss, unless a sampler repeats them among the queries, as in the paper.
    Errors: TypeError or ValueError naming the argument; TypeError for class labels.
    Source: Garnelo et al. 2018, equations 1 to 4; the least spread is that of its released code.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = NeuralProcess(MLP((2, 16, 8)), MLP((9, 16, 2)))
    >>> x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    >>> adapted = learner.adapt(learner.init(seed=0), x, np.sin(x))
    >>> mean, spread = learner.distribution(adapted, x[:3])
    >>> mean.shape, bool((spread > 0.1).all())
    ((3, 1), True)
    """

    def __init__(self, encoder: Callable[..., Any], decoder: Callable[..., Any]):
        super().__init__(encoder=encoder, decoder=decoder)
        self.encoder: Any = encoder  # callables; ours have init, plain functions start elsewhere
        self.decoder: Any = decoder

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters of both nets."""
        return {"encoder": initial(self._name, self.encoder, seed), "decoder": initial(self._name, self.decoder, seed, 1)}

    def predict(self, adapted: Any, x: Array, state: Any = ()) -> Array:
        """The means [n, targets] for x [n, ...]."""
        return self.distribution(adapted, x)[0]

    def distribution(self, adapted: Any, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, both [n, targets], of the normal distribution of each target of x [n, ...]."""
        result: tuple[Array, Array] = self._predicting(adapted, self._examples(x))
        return result

    def __repr__(self) -> str:
        return f"NeuralProcess({self.encoder!r}, {self.decoder!r})"

    def _fit(self, params: Any, x: Array, y: Array) -> tuple[Any, Array]:
        return params["decoder"], encoded(self._name, self.encoder, params["encoder"], x, y)[0]

    def _outputs(self, task: tuple[Any, Array], x: Array) -> tuple[Array, Array]:
        weights, r = task
        n = x.shape[0]
        both = fa.concat([fa.broadcast_to(r, (n, *r.shape)), fa.reshape(x, (n, -1))], axis=1)
        outputs = self.decoder(weights, both)
        if len(outputs.shape) != 2 or outputs.shape[1] % 2:
            raise expected(self._name, "a decoder that gives [n, 2 targets]", f"shape {list(outputs.shape)}")
        k = outputs.shape[1] // 2
        return outputs[:, :k], fa.add(fa.multiply(nn.softplus(outputs[:, k:]), 1.0 - LEAST), LEAST)

    def _objective(self, outputs: tuple[Array, Array], y: Array) -> Loss:
        mean, spread = outputs
        if y.shape != mean.shape:
            raise expected(self._name, f"targets {list(mean.shape)}, as the decoder gives", f"shape {list(y.shape)}")
        off = fa.divide(fa.subtract(y, mean), spread)
        each = fa.add(fa.log(spread), fa.multiply(fa.square(off), 0.5))
        value = fa.add(fa.mean(each), 0.5 * math.log(2 * math.pi))
        return value, {"loss": value, "outputs": mean, "spread": spread}
