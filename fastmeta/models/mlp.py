"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.errors import expected
from fastmeta.models.batch_norm import BatchNorm, affine, statistics
from fastmeta.trace import Array

__all__ = ["MLP"]

RELUS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "leaky_relu": nn.leaky_relu, "gelu": nn.gelu, "silu": nn.silu}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {**RELUS, "tanh": nn.tanh, "sigmoid": nn.sigmoid, "sin": fa.sin}


class MLP:
    """Linear layers of ``sizes`` features with an activation between them, and batch norm before it if asked for.

    The activation is "relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid" or "sin".
    Parameters, float32: a list of layers {"w" [in, out], "b" [out]}; a hidden layer with batch norm has {"w", "scale"
    [out], "shift" [out]} instead (a bias in front of it would have no effect).  Weights are normal with variance
    2 / in before relu and what is like it, the first four (He et al. 2015), and 1 / in elsewhere, the last layer included;
    biases and shifts 0, scales 1.

    Modes of batch norm: see `__call__`; without batch norm they are one.
    Errors: TypeError or ValueError naming the argument; ValueError for inputs of another size or an unknown mode.
    Source: regression net (1, 40, 40, 1) and Omniglot net (784, 256, 128, 64, 64, 5) of Finn, Abbeel, Levine 2017.

    >>> model = MLP((784, 32, 5), batch_norm=True)
    >>> params = model.init(seed=0)
    >>> params[0]["w"].shape, sorted(params[0]), sorted(params[1])
    ((784, 32), ['scale', 'shift', 'w'], ['b', 'w'])
    >>> model(params, np.ones((10, 28, 28, 1), np.float32)).shape
    (10, 5)
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", batch_norm: bool = False):
        try:
            self.sizes = tuple(sizes)
        except TypeError:
            raise expected("MLP", "sizes a sequence of whole numbers", repr(sizes), TypeError) from None
        for n in self.sizes:
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
                raise expected("MLP", "sizes of whole numbers", f"{n!r} ({type(n).__name__})", TypeError)
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise expected("MLP", "two sizes or more, each at least 1", self.sizes)
        if activation not in ACTIVATIONS:
            raise expected("MLP", f"activation one of {', '.join(ACTIVATIONS)}", repr(activation))
        if not isinstance(batch_norm, bool):
            raise expected("MLP", "batch_norm True or False", repr(batch_norm), TypeError)
        self.activation = activation
        self.batch_norm = batch_norm

    @property
    def outputs(self) -> int:
        """Features of the result."""
        return int(self.sizes[-1])

    def init(self, seed: int = 0, steps: int | None = None) -> list[dict[str, Any]]:
        """Fresh parameters of ``seed``, NumPy float32; with ``steps``, scales and shifts [steps + 1, out] for mode "per_step"."""
        rng = np.random.default_rng(seed)
        last = len(self.sizes) - 2
        layers = []
        for k, (n, m) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            gain = 2.0 if self.activation in RELUS and k < last else 1.0
            layer = {"w": (rng.standard_normal((n, m)) * math.sqrt(gain / n)).astype(np.float32)}
            if self.batch_norm and k < last:
                layer |= affine("MLP", m, steps)
            else:
                layer["b"] = np.zeros(m, np.float32)
            layers.append(layer)
        return layers

    @property
    def _normalized(self) -> tuple[int, ...]:
        """The sizes of the layers with batch norm."""
        return self.sizes[1:-1] if self.batch_norm else ()

    def init_state(self, steps: int | None = None) -> list[dict[str, Any]]:
        """Statistics before any training: {"mean", "variance"} of each batch norm, [out], or with ``steps`` [steps + 1, out]."""
        return statistics("MLP", self._normalized, steps)

    def __call__(
        self,
        params: Any,
        x: Array,
        *,
        mode: str = "batch",
        step: Any = None,
        state: Any = None,
        return_statistics: bool = False,
    ) -> Any:
        """x [n, ...], flattened to [n, in], through the layers: [n, out], or with ``return_statistics`` (that, x's own statistics).

        ``mode`` "batch" normalises by x's own statistics (transductive), "running" by ``state``, "per_step" by the set of
        ``state`` for ``step``; see `fastmeta.models.batch_norm.BatchNorm`.
        """
        norm = BatchNorm("MLP", len(self._normalized), mode, step, state, return_statistics)
        if len(params) != len(self.sizes) - 1:
            raise expected("MLP", f"{len(self.sizes) - 1} layers of parameters", len(params))
        features = math.prod(x.shape[1:])
        if len(x.shape) < 2 or features != self.sizes[0]:
            raise expected("MLP", f"x [n, ...] with {self.sizes[0]} features", f"shape {list(x.shape)}")
        if len(x.shape) > 2:
            x = fa.reshape(x, (x.shape[0], features))
        activation = ACTIVATIONS[self.activation]
        for layer in params[:-1]:
            if self.batch_norm:
                x = norm(nn.linear(x, layer["w"]), layer["scale"], layer["shift"])
            else:
                x = nn.linear(x, layer["w"], layer["b"])
            x = activation(x)
        y = nn.linear(x, params[-1]["w"], params[-1]["b"])
        return (y, norm.statistics) if return_statistics else y

    def __repr__(self) -> str:
        return f"MLP({self.sizes}, activation={self.activation!r}, batch_norm={self.batch_norm})"
