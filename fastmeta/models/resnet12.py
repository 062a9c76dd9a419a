"""The residual network of twelve layers of few-shot learning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.errors import expected, whole
from fastmeta.models.batch_norm import BatchNorm, affine, statistics
from fastmeta.trace import Array

__all__ = ["ResNet12"]

BLOCKS, DEPTH = 4, 3  # convolutions on the path of a block
NORMS = DEPTH + 1  # and that of the shortcut
EPS = 1e-5  # of batch norm, as in the released code of MetaOptNet


class ResNet12:
    """Four residual blocks, each halving the map, then its mean over height and width, and a linear layer.

    A block is three 3x3 convolutions with batch norm, a leaky ReLU after the first two, plus a 1x1 convolution with batch
    norm of the block's input; a leaky ReLU of the sum; 2x2 max-pooling.  ``slope`` is that of the leaky ReLU for negative
    values, 0 for a plain one.

    Parameters, float32: a list of four blocks {"path": three layers, "shortcut": a layer}, a layer being {"w" [k, k, in,
    channels], "scale" [channels], "shift" [channels]}, and the linear layer {"w" [channels, classes], "b" [classes]}.
    Convolutions are normal with variance 2 / (k k channels) (He et al. 2015, fan out), the linear layer with 1 / channels;
    scales are 1, shifts and biases 0.

    State of modes "running" and "per_step": a list with {"mean", "variance"} for each batch norm, by block that of the
    shortcut and those of the path.
    Errors: TypeError or ValueError naming the argument; ValueError for images of another size or an unknown mode.
    Source: Oreshkin, Rodriguez, Lacoste 2018 (the block); Lee, Maji, Ravichandran, Soatto 2019 (these widths and slope).

    >>> model = ResNet12(channels=(2, 3, 4, 5), input=(16, 16, 3))
    >>> params = model.init(seed=0)
    >>> [layer["w"].shape for layer in params[1]["path"]], params[1]["shortcut"]["w"].shape
    ([(3, 3, 2, 3), (3, 3, 3, 3), (3, 3, 3, 3)], (1, 1, 2, 3))
    >>> model(params, np.ones((10, 16, 16, 3), np.float32)).shape
    (10, 5)
    """

    def __init__(
        self,
        channels: Sequence[int] = (64, 160, 320, 640),
        classes: int = 5,
        input: tuple[int, int, int] = (32, 32, 3),
        slope: float = 0.1,
    ):
        for name, values, n, what in (
            ("channels", channels, BLOCKS, "of four blocks"),
            ("input", input, 3, "(height, width, channels)"),
        ):
            if not isinstance(values, list | tuple) or len(values) != n:
                raise expected("ResNet12", f"{name} {what}", repr(values))
        self.channels = tuple(whole("ResNet12", "channels", n) for n in channels)
        self.classes = whole("ResNet12", "classes", classes)
        self.input = tuple(whole("ResNet12", "input", n) for n in input)
        if min(self.input[:2]) < 2**BLOCKS:
            raise expected("ResNet12", f"images of at least {2**BLOCKS} x {2**BLOCKS}, to be halved {BLOCKS} times", self.input)
        if isinstance(slope, bool) or not isinstance(slope, int | float | np.floating):
            raise expected("ResNet12", "slope a number", repr(slope), TypeError)
        if not 0 <= slope < 1:
            raise expected("ResNet12", "slope of at least 0 and below 1", slope)
        self.slope = float(slope)

    def init(self, seed: int = 0, steps: int | None = None) -> list[dict[str, Any]]:
        """Fresh parameters of ``seed``, NumPy float32; with ``steps``, scales and shifts are [steps + 1, channels]."""
        rng = np.random.default_rng(seed)

        def layer(k: int, n: int, m: int) -> dict[str, np.ndarray]:
            w = rng.standard_normal((k, k, n, m), dtype=np.float32) * np.float32(math.sqrt(2 / (k * k * m)))
            return {"w": w} | affine("ResNet12", m, steps)

        blocks: list[dict[str, Any]] = []
        n = self.input[2]
        for m in self.channels:
            blocks.append({"path": [layer(3, i, m) for i in (n, *[m] * (DEPTH - 1))], "shortcut": layer(1, n, m)})
            n = m
        w = rng.standard_normal((n, self.classes), dtype=np.float32) * np.float32(1 / math.sqrt(n))
        return [*blocks, {"w": w, "b": np.zeros(self.classes, np.float32)}]

    def init_state(self, steps: int | None = None) -> list[dict[str, Any]]:
        """Statistics before any training, [channels], or with ``steps`` [steps + 1, channels]."""
        return statistics("ResNet12", [m for m in self.channels for _ in range(NORMS)], steps)

    def __call__(
        self, params: Any, x: Array, *, mode: str = "batch", step: Any = None, state: Any = None, return_statistics: bool = False
    ) -> Any:
        """x [n, height, width, in] through the blocks: [n, classes], or with ``return_statistics`` (that, x's own statistics).

        ``mode`` "batch" normalises by x's own statistics (transductive), "running" by ``state``, "per_step" by the set of
        ``state`` for ``step``; see `fastmeta.models.batch_norm.BatchNorm`.
        """
        norm = BatchNorm("ResNet12", BLOCKS * NORMS, mode, step, state, return_statistics, EPS)
        if len(params) != BLOCKS + 1:
            raise expected("ResNet12", f"{BLOCKS + 1} layers of parameters", len(params))
        if len(x.shape) != 4 or tuple(x.shape[1:]) != self.input:
            raise expected("ResNet12", f"x [n, {', '.join(map(str, self.input))}]", f"shape {list(x.shape)}")

        def convolution(x: Array, layer: Any) -> Array:
            return norm(nn.conv2d(x, layer["w"]), layer["scale"], layer["shift"])

        for block in params[:-1]:
            shortcut = convolution(x, block["shortcut"])
            for layer in block["path"][:-1]:
                x = self._activation(convolution(x, layer))
            x = fa.add(convolution(x, block["path"][-1]), shortcut)
            x = nn.max_pool2d(self._activation(x))
        y = nn.linear(nn.global_average_pool(x), params[-1]["w"], params[-1]["b"])
        return (y, norm.statistics) if return_statistics else y

    def _activation(self, x: Array) -> Array:
        if not self.slope:
            return nn.relu(x)
        return fa.add(fa.multiply(x, self.slope), fa.multiply(nn.relu(x), 1.0 - self.slope))  # at 0 it has the slope of x < 0

    def __repr__(self) -> str:
        return f"ResNet12(channels={self.channels}, classes={self.classes}, input={self.input}, slope={self.slope:g})"
