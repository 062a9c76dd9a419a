"""The LSTM meta-learner: the inner step is the update of an LSTM whose cell is the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.coordinates import preprocessed
from fastmeta.algorithms.flat import ravel, unravel
from fastmeta.algorithms.inner import InnerLoop, parts
from fastmeta.errors import whole
from fastmeta.optim import Optimizer
from fastmeta.trace import Array

__all__ = ["LSTMMetaLearner"]


class LSTMMetaLearner(InnerLoop):
    """LSTM meta-learner: learns where every task starts and a small network that makes the inner steps.

    A step is ``weights = f * weights - i * gradient``, with a forget gate f and an input gate i of its own for every single
    weight, by parameters that all weights share.  An LSTM reads the gradient and the support loss (their logarithms and
    signs); with h its output, f = sigmoid([h, weight, last f] w + b), and i alike of the last i; both are 0 before the first
    step.  Gradients and losses of the support set are constants to the meta-gradient: no second derivative is computed.

    The meta-parameters are {"weights", "rule"}.  The rule starts as gradient descent: its biases are drawn so that f is 0.98
    to 0.99 and i, the inner rate, 0.007 to 0.018.

    Args:
        model: ``model(weights, x) -> outputs`` with ``model.init(seed)``, or any such function.
        loss: ``loss(outputs, targets) -> scalar``, of both the inner and the outer problem.
        inner_steps: inner steps in training, at least 1.
        hidden: units of the LSTM, for every weight.
        batch_norm: whose statistics normalise query sets in tests, "batch", "running" or "per_step"; see `InnerLoop`.

    Errors: TypeError or ValueError naming the argument; the same for meta-parameters that do not fit, at first use.
    Source: Ravi and Larochelle 2017, equations 2 to 5 and section 3.

    >>> from fastmeta.models import MLP
    >>> learner = LSTMMetaLearner(MLP((1, 8, 1)), loss=nn.mse, inner_steps=3, hidden=4)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> (loss, aux), gradient = learner.value_and_grad(learner.init(seed=0), (x, np.sin(x), x, np.sin(x)))
    >>> gradient["rule"]["forget"]["w"].shape, gradient["weights"][0]["w"].shape
    ((6, 1), (1, 8))
    """

    order = 1

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_steps: int = 5,
        hidden: int = 20,
        batch_norm: str = "batch",
    ):
        self.hidden = whole(self._name, "hidden", hidden, 1)
        super().__init__(model, loss, inner_steps, batch_norm)

    def init(self, seed: int = 0) -> dict[str, Any]:
        """Fresh weights of the model, and a rule that is nearly gradient descent, from a seed of its own."""
        rng = np.random.default_rng([seed, 1])
        lstm = nn.lstm_init(rng, inputs=4, hidden=self.hidden)

        def gate(low: float, high: float) -> dict[str, Any]:
            w = rng.uniform(-0.01, 0.01, (self.hidden + 2, 1))
            return {"w": w.astype(np.float32), "b": rng.uniform(low, high, 1).astype(np.float32)}

        return {"weights": super().init(seed), "rule": {"lstm": lstm, "forget": gate(4.0, 5.0), "input": gate(-5.0, -4.0)}}

    def _weights(self, params: Any) -> Any:
        return parts(self._name, "meta-parameters", params, "weights", "rule")[0]

    def _rule(self, params: Any) -> Optimizer:
        _, rule = parts(self._name, "meta-parameters", params, "weights", "rule")
        lstm, *gates = parts(self._name, "a rule", rule, "lstm", "forget", "input")

        def init(weights: Any) -> Any:
            flat = ravel(weights)
            rows = np.zeros((flat.shape[0], self.hidden), flat.dtype)
            return (rows, rows), rows[:, :1], rows[:, :1]

        def update(grads: Any, state: Any, weights: Any, loss: Array) -> tuple[Any, Any]:
            (h, c), f, i = state
            gradient, flat = ravel(grads), fa.expand_dims(ravel(weights), axis=1)
            size = preprocessed(gradient)
            h, c = nn.lstm_cell(lstm, fa.concat([size, fa.broadcast_to(preprocessed(loss), size.shape)], axis=1), (h, c))
            f, i = (
                fa.sigmoid(nn.linear(fa.concat([h, flat, last], axis=1), gate["w"], gate["b"]))
                for gate, last in zip(gates, (f, i), strict=True)
            )
            kept, moved = fa.multiply(fa.subtract(f, 1.0), flat), fa.multiply(i, fa.expand_dims(gradient, axis=1))
            return unravel(fa.subtract(kept, moved)[:, 0], weights), ((h, c), f, i)

        return Optimizer(init, update)

    def _update(self, rule: Optimizer, grads: Any, loss: Array, state: Any, weights: Any) -> tuple[Any, Any]:
        return rule.update(grads, state, weights, loss)
