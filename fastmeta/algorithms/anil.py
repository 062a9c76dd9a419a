"""Almost no inner loop: only the head adapts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import nn
from fastmeta.algorithms.maml import MAML
from fastmeta.errors import expected
from fastmeta.trace import Array
from fastmeta.tree import flatten, prefix

__all__ = ["ANIL"]


class ANIL(MAML):
    """MAML whose inner loop moves the head only; the body is learned by the outer loop, through the exact gradient.

    Args:
        model, loss, inner_lr, inner_steps, batch_norm: as for `MAML`.
        head: True for what adapts and False for what does not, a prefix of the parameters' tree; None for the last
            layer of parameters that are a list of layers, as those of `fastmeta.models`.

    Errors: TypeError or ValueError naming the argument; for a head that does not fit the parameters, at first use.
    Source: Raghu, Raghu, Bengio, Vinyals 2020, section 4.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = ANIL(MLP((1, 8, 1)), loss=nn.mse, inner_lr=0.01, inner_steps=5)
    >>> params, x = learner.init(seed=0), np.linspace(-1, 1, 10, dtype=np.float32).reshape(10, 1)
    >>> adapted = learner.adapt(params, x, np.sin(x))
    >>> [bool((a["w"] == b["w"]).all()) for a, b in zip(params, adapted)]
    [True, False]
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: Callable[[Array, Array], Array] = nn.cross_entropy,
        inner_lr: Any = 0.01,
        inner_steps: int = 1,
        head: Any = None,
        batch_norm: str = "batch",
    ):
        super().__init__(model, loss, inner_lr, inner_steps, batch_norm=batch_norm)
        if head is not None:
            parts = flatten(head)[0]
            if not all(isinstance(part, bool) for part in parts):
                raise expected(self._name, "head a tree of True and False", repr(head), TypeError)
            if not any(parts):
                raise expected(self._name, "head with one part that adapts", repr(head))
        self.head = head

    def _rates(self, params: Any) -> list[float]:
        head = self.head
        if head is None:
            if not isinstance(params, list) or not params:
                hint = "Say by a tree of True and False which part is the head"
                raise expected(self._name, "parameters in a list of layers", type(params).__name__, TypeError, hint)
            head = [False] * (len(params) - 1) + [True]
        adapts = prefix(f"{self._name} head", head, params)
        rates = [rate if on else 0.0 for rate, on in zip(super()._rates(params), adapts, strict=True)]
        if not any(rates):
            raise expected(self._name, "inner_lr above 0 for the head", self.inner_lr)
        return rates
