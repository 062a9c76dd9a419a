"""Maximum pooling in three parts: where the maximum of each window is, taking the values there, putting values back.

Images are [N, H, W, C].  A position is the number of a tap within its window, row-major, 0..kh*kw-1.  Windows that do
not fit as a whole are dropped.  Taking and putting are linear, and each is the other's transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops.convolution import Pair, positions, windows
from fastmeta.ops.shape import cut
from fastmeta.program import Primitive, Shape, Var


def pool_index(x: Var, window: Pair, stride: Pair) -> Var:
    """The position of the first maximum of each window, NaN being larger than all: int32 [N, OH, OW, C]."""
    return x.graph.emit(POOL_INDEX, (x,), (window, stride))


def pool_take(x: Var, index: Var, window: Pair, stride: Pair) -> Var:
    """The value at the position ``index`` [N, OH, OW, C] of each window."""
    return x.graph.emit(POOL_TAKE, (x, index), (window, stride))


def pool_put(g: Var, index: Var, window: Pair, stride: Pair, size: Pair) -> Var:
    """g [N, OH, OW, C] added at the positions ``index`` into zeros of ``size`` (H, W)."""
    return g.graph.emit(POOL_PUT, (g, index), (window, stride, size))


def pooled(where: str, x: Shape, window: Pair, stride: Pair) -> Shape:
    """The shape of images of shape x after pooling."""
    if len(x) != 4:
        raise expected(where, "images [n, h, w, channels]", x)
    if min(*window, *stride) < 1:
        raise expected(where, "a window and a stride of at least 1", f"{window} and {stride}")
    out = positions(x[1:3], window, stride)
    if min(out) < 1:
        raise expected(where, f"images of at least {window}", x)
    return (x[0], *out, x[3])


def slices(out: Shape, window: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Iterator[Callable[[Var], Var]]:
    """For each tap of the window, in order, the view of maps [N, H, W, C] that it sees: ``out`` [N, OH, OW, C]."""
    (n, oh, ow, c), (sh, sw), (dh, dw) = out, stride, dilation

    def seen_by(i: int, j: int) -> Callable[[Var], Var]:
        return lambda x: cut(x, (0, i, j, 0), (n, i + (oh - 1) * sh + 1, j + (ow - 1) * sw + 1, c), (1, sh, sw, 1))

    return (seen_by(i * dh, j * dw) for i in range(window[0]) for j in range(window[1]))


# -- rules


def _index(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    return pooled("max_pool2d", ins[0].shape, *at), "i32"


def _check(whole: Shape, parts: Shape, index: Var, window: Pair, stride: Pair) -> None:
    if index.dtype != "i32":
        raise expected("max_pool2d", "int32 positions", index.dtype, TypeError)
    want = pooled("max_pool2d", whole, window, stride)
    if parts != want or index.shape != want:
        raise expected("max_pool2d", f"values and positions {want}", f"{parts} and {index.shape}")


def _take(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    x, index = ins
    _check(x.shape, index.shape, index, *at)
    return index.shape, x.dtype


def _put(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (g, index), (window, stride, size) = ins, at
    shape = (g.shape[0], *size, g.shape[-1])
    _check(shape, g.shape, index, window, stride)
    return shape, g.dtype


def _np_index(x: np.ndarray, window: Pair, stride: Pair) -> np.ndarray:
    out = positions(x.shape[1:3], window, stride)
    return np.argmax(np.stack([x[at] for _, _, at in windows(window, stride, out)]), 0).astype(np.int32)


def _np_take(x: np.ndarray, index: np.ndarray, window: Pair, stride: Pair) -> np.ndarray:
    parts = np.stack([x[at] for _, _, at in windows(window, stride, index.shape[1:3])])
    return np.take_along_axis(parts, index[None], 0)[0]


def _np_put(g: np.ndarray, index: np.ndarray, window: Pair, stride: Pair, size: Pair) -> np.ndarray:
    x = np.zeros((len(g), *size, g.shape[3]), g.dtype)
    for i, j, at in windows(window, stride, g.shape[1:3]):
        x[at] += np.where(index == i * window[1] + j, g, 0)
    return x


POOL_INDEX = Primitive(
    "pool_index", _index, _np_index,
    samples=(("f(2,4,6,3)", ((2, 2), (2, 2))), ("f(1,5,7,2)", ((2, 3), (2, 2))), ("i(2,4,4,3)", ((2, 2), (2, 2))), ("f(2,3,3,1)", ((3, 3), (1, 1)))),
)  # fmt: skip
POOL_TAKE = Primitive(
    "pool_take", _take, _np_take, linear=(0,),
    transpose=lambda i, ct, v: pool_put(ct, v.ins[1], v.attrs[0], v.attrs[1], v.ins[0].shape[1:3]),
    samples=(
        ("f(2,4,6,3) i4(2,2,3,3)", ((2, 2), (2, 2))), ("f(1,5,7,2) i6(1,2,3,2)", ((2, 3), (2, 2))),
        ("f(2,5,5,3) i4(2,2,2,3)", ((2, 2), (3, 3))), ("f(2,3,3,1) i9(2,1,1,1)", ((3, 3), (3, 3))),
    ),
)  # fmt: skip
POOL_PUT = Primitive(
    "pool_put", _put, _np_put, linear=(0,),
    transpose=lambda i, ct, v: pool_take(ct, v.ins[1], *v.attrs[:2]),
    samples=(
        ("f(2,2,3,3) i4(2,2,3,3)", ((2, 2), (2, 2), (4, 6))), ("f(1,2,3,2) i6(1,2,3,2)", ((2, 3), (2, 2), (5, 7))),
        ("f(2,2,2,1) i4(2,2,2,1)", ((2, 2), (2, 2), (5, 4))), ("f(2,2,2,3) i4(2,2,2,3)", ((2, 2), (3, 3), (6, 5))),
    ),
)  # fmt: skip
