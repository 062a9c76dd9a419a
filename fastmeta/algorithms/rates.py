"""Learners whose inner rates are meta-parameters beside the weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from fastmeta.algorithms.inner import InnerLoop, parts, positive
from fastmeta.errors import expected
from fastmeta.trace import Array
from fastmeta.tree import shown, tree_map

__all__ = ["LearnedRates"]

Shape = tuple[int, ...]


class LearnedRates(InnerLoop):
    """Meta-parameters {"weights", "rates"}: the model's, and a tree like it of inner rates.

    A subclass says what shape the rates of one array of weights have, and writes `_rule` with `_rates`.

    >>> from fastmeta import array as fa
    >>> from fastmeta import nn
    >>> from fastmeta.models import MLP
    >>> from fastmeta.optim import Optimizer
    >>> class PerArray(LearnedRates):
    ...     '''One learned rate for each array.'''
    ...     def _rates_shape(self, shape):
    ...         return ()
    ...     def _rule(self, params):
    ...         rates = self._rates(params)
    ...         return Optimizer(lambda w: (), lambda g, s, w: (tree_map(lambda g, r: fa.multiply(g, -r), g, rates), s))
    >>> learner = PerArray(MLP((1, 8, 1)), nn.mse, inner_lr=0.01, inner_steps=2)
    >>> learner.init(seed=0)["rates"][1]["w"]
    array(0.01, dtype=float32)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array],
        inner_lr: float,
        inner_steps: int,
        batch_norm: str = "batch",
    ):
        self.inner_lr = positive(self._name, "inner_lr", inner_lr)
        super().__init__(model, loss, inner_steps, batch_norm)

    def init(self, seed: int = 0) -> dict[str, Any]:
        """Fresh weights of the model, and every rate at ``inner_lr``."""
        weights = self._start(seed)

        def full(w: Any) -> Any:
            return np.full(self._rates_shape(w.shape), self.inner_lr, w.dtype)

        return {"weights": weights, "rates": tree_map(full, weights)}

    def _start(self, seed: int) -> Any:
        """The weights of the model at the start."""
        return super().init(seed)

    @abstractmethod
    def _rates_shape(self, shape: Shape) -> Shape:
        """The shape of the rates of an array of weights."""

    def _weights(self, params: Any) -> Any:
        return parts(self._name, "meta-parameters", params, "weights", "rates")[0]

    def _rates(self, params: Any) -> Any:
        """The rates, refused unless they fit the weights."""
        weights, rates = self._weights(params), params["rates"]
        want, got = optree.tree_structure(weights), optree.tree_structure(rates)
        if want != got:
            raise expected(self._name, f"rates of structure {shown(want)}", shown(got))
        for w, r in zip(optree.tree_leaves(weights), optree.tree_leaves(rates), strict=True):
            shape = self._rates_shape(np.shape(w))
            if np.shape(r) != shape:
                raise expected(self._name, f"rates of shape {list(shape)}", list(np.shape(r)))
        return rates
