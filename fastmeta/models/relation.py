"""The two nets of relation networks for images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.errors import expected, whole
from fastmeta.models.batch_norm import EPS, affine
from fastmeta.models.conv4 import xavier
from fastmeta.trace import Array

__all__ = ["RelationEncoder", "RelationModule"]

MODES = ("batch",)


class RelationEncoder:
    """Four blocks of 3x3 convolution, batch norm and ReLU whose result are maps; the first two unpadded and followed by 2x2 max-pooling.

    Parameters, float32: a list of four blocks as those of `Conv4`.  The only mode is "batch" (transductive).
    Errors: TypeError or ValueError naming the argument; ValueError for images of another size or an unknown mode.
    Source: Sung et al. 2018, section 3.3.

    >>> model = RelationEncoder(channels=8)
    >>> model(model.init(seed=0), np.ones((2, 28, 28, 1), np.float32)).shape
    (2, 5, 5, 8)
    """

    def __init__(self, channels: int = 64, input: tuple[int, int, int] = (28, 28, 1)):
        self.channels, self.input = whole("RelationEncoder", "channels", channels), _size("RelationEncoder", input, 10)

    @property
    def outputs(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        h, w = (((n - 2) // 2 - 2) // 2 for n in self.input[:2])
        return h, w, self.channels

    def init(self, seed: int = 0) -> list[dict[str, Any]]:
        """Fresh parameters of ``seed``, NumPy float32."""
        rng = np.random.default_rng(seed)
        return [_block_init(rng, n, self.channels) for n in (self.input[2], *[self.channels] * 3)]

    def __call__(self, params: Any, x: Array, *, mode: str = "batch", step: Any = None) -> Array:
        """x [n, height, width, in] as maps [n, h, w, channels], (h, w) as in ``outputs``."""
        _check("RelationEncoder", params, 4, x, self.input, mode)
        for layer in params[:2]:
            x = nn.max_pool2d(_block(layer, x, "valid"))
        for layer in params[2:]:
            x = _block(layer, x, "same")
        return x

    def __repr__(self) -> str:
        return f"RelationEncoder(channels={self.channels}, input={self.input})"


class RelationModule:
    """Two blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, and two linear layers: a score for each pair of maps.

    Parameters, float32: two blocks as those of `Conv4` and two linear layers {"w", "b"}.  The only mode is "batch" (transductive).
    Errors: TypeError or ValueError naming the argument; ValueError for maps of another size or an unknown mode.
    Source: Sung et al. 2018, section 3.3; its sigmoid belongs to the learner here.

    >>> model = RelationModule(channels=8, hidden=4)
    >>> model(model.init(seed=0), np.ones((3, 5, 5, 16), np.float32)).shape
    (3, 1)
    """

    def __init__(self, channels: int = 64, input: tuple[int, int, int] | None = None, hidden: int = 8):
        self.channels = whole("RelationModule", "channels", channels)
        self.input = _size("RelationModule", (5, 5, 2 * self.channels) if input is None else input, 4)
        self.hidden = whole("RelationModule", "hidden", hidden)

    @property
    def outputs(self) -> int:
        """Features of the result."""
        return 1

    def init(self, seed: int = 0) -> list[dict[str, Any]]:
        """Fresh parameters of ``seed``, NumPy float32."""
        rng = np.random.default_rng(seed)
        blocks = [_block_init(rng, n, self.channels) for n in (self.input[2], self.channels)]
        features = math.prod(n // 4 for n in self.input[:2]) * self.channels
        linear = [{"w": xavier(rng, (n, m)), "b": np.zeros(m, np.float32)} for n, m in ((features, self.hidden), (self.hidden, 1))]
        return blocks + linear

    def __call__(self, params: Any, x: Array, *, mode: str = "batch", step: Any = None) -> Array:
        """x [n, height, width, in], two maps side by side: scores [n, 1]."""
        _check("RelationModule", params, 4, x, self.input, mode)
        for layer in params[:2]:
            x = nn.max_pool2d(_block(layer, x, "same"))
        x = fa.reshape(x, (x.shape[0], -1))
        x = nn.relu(nn.linear(x, params[2]["w"], params[2]["b"]))
        return nn.linear(x, params[3]["w"], params[3]["b"])

    def __repr__(self) -> str:
        return f"RelationModule(channels={self.channels}, input={self.input}, hidden={self.hidden})"


def _block(layer: Any, x: Array, padding: str) -> Array:
    return nn.relu(nn.batch_norm(nn.conv2d(x, layer["w"], padding=padding), layer["scale"], layer["shift"], eps=EPS))


def _block_init(rng: np.random.Generator, n: int, m: int) -> dict[str, Any]:
    return {"w": xavier(rng, (3, 3, n, m))} | affine("RelationEncoder", m, None)


def _size(where: str, input: Any, least: int) -> tuple[int, int, int]:
    """(height, width, channels), height and width at least ``least``."""
    if not isinstance(input, list | tuple) or len(input) != 3:
        raise expected(where, "input (height, width, channels)", repr(input))
    h, w, c = (whole(where, "input", n, low) for n, low in zip(input, (least, least, 1), strict=True))
    return h, w, c


def _check(where: str, params: Any, layers: int, x: Array, input: tuple[int, int, int], mode: str) -> None:
    if mode not in MODES:
        raise expected(where, f"mode {' or '.join(map(repr, MODES))}", repr(mode))
    if len(params) != layers:
        raise expected(where, f"{layers} layers of parameters", len(params))
    if len(x.shape) != 4 or tuple(x.shape[1:]) != input:
        raise expected(where, f"x [n, {', '.join(map(str, input))}]", f"shape {list(x.shape)}")
