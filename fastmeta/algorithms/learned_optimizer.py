"""The learned optimiser: a small recurrent network in place of gradient descent, for any weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.algorithms.coordinates import preprocessed
from fastmeta.algorithms.flat import ravel, unravel
from fastmeta.algorithms.inner import InnerLoop, parts
from fastmeta.algorithms.learner import Loss, initial
from fastmeta.errors import whole
from fastmeta.optim import Optimizer
from fastmeta.trace import Array

__all__ = ["LearnedOptimizer"]

SCALE = 0.1  # of the network's output, section 2.1


class LearnedOptimizer(InnerLoop):
    """Learned optimiser: learns the rule of the inner steps alone, and no weights to start from.

    For every single weight, by parameters that all weights share, two LSTMs one upon the other read the gradient (its
    logarithm and sign), and a linear layer's output times 0.1 is added to the weight.  Gradients are constants to the
    meta-gradient.  The loss is the mean of the query losses after every inner step.  (The paper has the losses of the problem
    that is optimised; here that is the support set, which a good optimiser would learn to overfit.)

    The meta-parameters are the rule's.  Meta-step k starts from ``model.init(k + 1)``, which `phase` gives: all its tasks
    from the same weights, and no meta-step from those of another.  `adapt`, `measure` and `evaluate`, and `loss` without a
    phase, start from ``model.init(0)``, which training has not seen.  There is no choice of ``batch_norm``: query sets are
    normalised by their own statistics, as averages would be over networks that have nothing in common.

    Args:
        model: ``model(weights, x) -> outputs`` with ``model.init(seed)``.
        loss: ``loss(outputs, targets) -> scalar``, of both the inner and the outer problem.
        inner_steps: inner steps in training, at least 1.
        hidden: units of each LSTM, for every weight.

    Errors: TypeError or ValueError naming the argument; the same for meta-parameters that do not fit, at first use.
    Source: Andrychowicz et al. 2016, equation 3, section 2.1 and appendix A.

    >>> from fastmeta.models import MLP
    >>> learner = LearnedOptimizer(MLP((1, 8, 1)), loss=nn.mse, inner_steps=3, hidden=4)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10, 1)
    >>> params, tasks = learner.init(seed=0), (x, np.sin(x), x, np.sin(x))
    >>> (loss, aux), gradient = learner.value_and_grad(params, tasks, *learner.phase(0))
    >>> sorted(gradient), gradient["w"].shape
    (['b', 'lstm', 'w'], (4, 1))
    """

    order = 1

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_steps: int = 20,
        hidden: int = 20,
    ):
        self.hidden = whole(self._name, "hidden", hidden, 1)
        super().__init__(model, loss, inner_steps)

    def init(self, seed: int = 0) -> dict[str, Any]:
        """A fresh rule: its linear layer is 0, so that it leaves weights where they are and training starts from there."""
        rng, n = np.random.default_rng(seed), self.hidden
        lstm = [nn.lstm_init(rng, inputs, n) for inputs in (2, n)]
        return {"lstm": lstm, "w": np.zeros((n, 1), np.float32), "b": np.zeros(1, np.float32)}

    def phase(self, step: int) -> tuple[Any, ...]:
        """The weights that the tasks of meta-step ``step`` start from, in a tuple."""
        return (initial(self._name, self.model, step + 1),)

    def loss(self, params: Any, episode: Any, start: Any = None) -> Loss:
        """The mean of the query losses after every inner step of one task from the weights ``start``, traced.

        ``aux`` as in `InnerLoop`; "loss" is the mean, "outputs" and "accuracy" are those after the last step.
        """
        params, support_x, support_y, query_x, query_y = self._task(params, episode)

        def watch(weights: Any, taken: Any) -> Array:
            return self._queried(weights, query_x, query_y, taken)[0]

        last, seen, losses = self._descend(params, support_x, support_y, self.inner_steps, watch, start=start)
        value = fa.mean(losses)
        return value, self._told(self._queried(last, query_x, query_y, self.inner_steps)[1], seen) | {"loss": value}

    def optimizer(self, params: Any) -> Optimizer:
        """The rule as an optimiser of `fastmeta.optim`, of weights of any number and shapes.

        >>> from fastmeta.models import MLP
        >>> learner = LearnedOptimizer(MLP((1, 8, 1)), loss=nn.mse, hidden=4)
        >>> rule, weights = learner.optimizer(learner.init(seed=0)), {"w": np.ones(3, np.float32)}
        >>> updates, state = rule.update({"w": np.ones(3, np.float32)}, rule.init(weights), weights)
        >>> updates["w"].shape
        (3,)
        """
        layers, w, b = parts(self._name, "meta-parameters", params, "lstm", "w", "b")

        def init(weights: Any) -> Any:
            flat = ravel(weights)
            rows = np.zeros((flat.shape[0], self.hidden), flat.dtype)
            return (rows, rows), (rows, rows)

        def update(grads: Any, state: Any, weights: Any = None) -> tuple[Any, Any]:
            x, states = preprocessed(ravel(grads)), []
            for layer, old in zip(layers, state, strict=True):
                states.append(nn.lstm_cell(layer, x, old))
                x = states[-1][0]
            moves = fa.multiply(nn.linear(x, w, b), SCALE)
            return unravel(moves[:, 0], grads), tuple(states)

        return Optimizer(init, update)

    def _weights(self, params: Any) -> Any:
        return initial(self._name, self.model, 0)

    def _rule(self, params: Any) -> Optimizer:
        return self.optimizer(params)
