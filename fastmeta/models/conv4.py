"""The four-layer convolutional network of few-shot learning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.errors import expected
from fastmeta.models.batch_norm import BatchNorm, affine, statistics
from fastmeta.trace import Array

__all__ = ["Conv4"]

BLOCKS = 4
HEADS = ("flatten", "mean")


class Conv4:
    """Four blocks of 3x3 convolution, batch norm (epsilon 1e-3, as in MAML's code), ReLU and 2x2 max-pooling, then a linear layer.

    With ``strided`` the convolutions have stride 2 and there is no pooling.  ``head`` says how the last map, [h, w,
    channels], meets the linear layer: flattened, or as its mean over h and w.  With ``classes`` None there is no linear layer:
    an embedding, whose result are the features.

    Parameters, float32: a list of four blocks {"w" [3, 3, in, channels], "scale" [channels], "shift" [channels]} (a bias
    in front of batch norm would have no effect) and the linear layer {"w" [features, classes], "b" [classes]}.
    Convolutions and the linear layer of a flattened map are Xavier-uniform (Glorot and Bengio 2010), that of a mean is
    normal with deviation 1; scales are 1, shifts and biases 0.

    Modes of batch norm: see `__call__`.
    Errors: TypeError or ValueError naming the argument; ValueError for images of another size or an unknown mode.
    Source: Vinyals et al. 2016 (pooled); Finn, Abbeel, Levine 2017 (strided, with the mean, for Omniglot).

    >>> model = Conv4(channels=8)
    >>> params = model.init(seed=0)
    >>> [layer["w"].shape for layer in params]
    [(3, 3, 1, 8), (3, 3, 8, 8), (3, 3, 8, 8), (3, 3, 8, 8), (8, 5)]
    >>> model(params, np.ones((10, 28, 28, 1), np.float32)).shape
    (10, 5)
    >>> Conv4(channels=8, classes=None).outputs
    8
    """

    def __init__(
        self, channels: int = 64, classes: int | None = 5, input: tuple[int, int, int] = (28, 28, 1), strided: bool = False, head: str = "flatten"
    ):  # fmt: skip
        sizes = tuple(input) if isinstance(input, list | tuple) else (input,)
        for name, n in (("channels", channels), ("classes", 1 if classes is None else classes), *(("input", n) for n in sizes)):
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
                raise expected("Conv4", f"{name} of whole numbers", f"{n!r} ({type(n).__name__})", TypeError)
            if n < 1:
                raise expected("Conv4", f"{name} of at least 1", n)
        if len(sizes) != 3:
            raise expected("Conv4", "input (height, width, channels)", repr(input))
        if not isinstance(strided, bool):
            raise expected("Conv4", "strided True or False", repr(strided), TypeError)
        if head not in HEADS:
            raise expected("Conv4", f"head one of {', '.join(HEADS)}", repr(head))
        if not strided and min(sizes[:2]) < 2**BLOCKS:
            raise expected("Conv4", f"images of at least {2**BLOCKS} x {2**BLOCKS}, to be halved {BLOCKS} times", sizes)
        self.channels, self.classes, self.input, self.strided, self.head = channels, classes, sizes, strided, head

    @property
    def outputs(self) -> int:
        """Features of the result: the classes, or without them those of the last map."""
        return self.features if self.classes is None else self.classes

    @property
    def features(self) -> int:
        """The inputs of the linear layer."""
        if self.head == "mean":
            return self.channels
        h, w = (-(-n // 2**BLOCKS) if self.strided else n // 2**BLOCKS for n in self.input[:2])
        return h * w * self.channels

    def init(self, seed: int = 0, steps: int | None = None) -> list[dict[str, Any]]:
        """Fresh parameters of ``seed``, NumPy float32; with ``steps``, scales and shifts [steps + 1, channels] for mode "per_step"."""
        rng = np.random.default_rng(seed)
        m = self.channels
        layers = []
        for n in (self.input[2], *[m] * (BLOCKS - 1)):
            layers.append({"w": xavier(rng, (3, 3, n, m))} | affine("Conv4", m, steps))
        if self.classes is None:
            return layers
        shape = (self.features, self.classes)
        w = xavier(rng, shape) if self.head == "flatten" else rng.standard_normal(shape).astype(np.float32)
        return [*layers, {"w": w, "b": np.zeros(self.classes, np.float32)}]

    def init_state(self, steps: int | None = None) -> list[dict[str, Any]]:
        """Statistics before any training: {"mean", "variance"} of each block, [channels], or with ``steps`` [steps + 1, channels]."""
        return statistics("Conv4", [self.channels] * BLOCKS, steps)

    def __call__(
        self, params: Any, x: Array, *, mode: str = "batch", step: Any = None, state: Any = None, return_statistics: bool = False
    ) -> Any:
        """x [n, height, width, in] through the blocks: [n, classes], or [n, features] without classes; with ``return_statistics``
        (that, x's own statistics).

        ``mode`` "batch" normalises by x's own statistics (transductive), "running" by ``state``, "per_step" by the set of
        ``state`` for ``step``; see `fastmeta.models.batch_norm.BatchNorm`.
        """
        norm = BatchNorm("Conv4", BLOCKS, mode, step, state, return_statistics)
        layers = BLOCKS + (self.classes is not None)
        if len(params) != layers:
            raise expected("Conv4", f"{layers} layers of parameters", len(params))
        if len(x.shape) != 4 or tuple(x.shape[1:]) != self.input:
            raise expected("Conv4", f"x [n, {', '.join(map(str, self.input))}]", f"shape {list(x.shape)}")
        for layer in params[:BLOCKS]:
            x = nn.conv2d(x, layer["w"], stride=2 if self.strided else 1)
            x = nn.relu(norm(x, layer["scale"], layer["shift"]))
            if not self.strided:
                x = nn.max_pool2d(x)
        x = nn.global_average_pool(x) if self.head == "mean" else fa.reshape(x, (x.shape[0], -1))
        y = x if self.classes is None else nn.linear(x, params[-1]["w"], params[-1]["b"])
        return (y, norm.statistics) if return_statistics else y

    def __repr__(self) -> str:
        return f"Conv4(channels={self.channels}, classes={self.classes}, input={self.input}, strided={self.strided}, head={self.head!r})"


def xavier(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform weights [..., in, out] with variance 2 / (fan in + fan out)."""
    bound = math.sqrt(6.0 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return rng.uniform(-bound, bound, shape).astype(np.float32)
