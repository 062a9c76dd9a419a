"""Rows of the table: what moves values and never changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fastmeta import array as fa
from fastmeta.interop.torch.table import CHANNELS_LAST, Image, axes_of, on_images, plain, promoted, refuse, row
from fastmeta.trace import Array

MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # PyTorch's and NumPy's names


@row("view.default", "reshape.default", "_unsafe_view.default")
def reshape(x: Array, shape: Sequence[int]) -> Array:
    return fa.reshape(x, tuple(shape))


@row("flatten.using_ints")
def flatten(x: Array, first: int = 0, last: int = -1) -> Array:
    shape = tuple(x.shape)
    last %= len(shape)
    return fa.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


@row("permute.default")
def permute(x: Array, axes: Sequence[int]) -> Array:
    return fa.permute_dims(x, tuple(a % len(x.shape) for a in axes))


@row("transpose.int")
def transpose(x: Array, a: int, b: int) -> Array:
    axes = list(range(len(x.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return fa.permute_dims(x, axes)


@row("t.default")
def t(x: Array) -> Array:
    return x if len(x.shape) < 2 else fa.permute_dims(x, (1, 0))


@row("unsqueeze.default")
def unsqueeze(x: Array, axis: int) -> Array:
    return fa.expand_dims(x, axis=axis)


@row("squeeze.default", "squeeze.dim", "squeeze.dims")
def squeeze(x: Array, axes: Any = None) -> Array:
    ones = tuple(a for a in axes_of(x, axes) if x.shape[a] == 1)
    return fa.squeeze(x, axis=ones) if ones else x


@row("expand.default")
def expand(x: Array, shape: Sequence[int], **_: Any) -> Array:
    lead = len(shape) - len(x.shape)
    return fa.broadcast_to(x, tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)))


@row("slice.Tensor")
def cut(x: Array, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Array:
    stop = None if stop is None or stop >= x.shape[axis] else stop
    return x[(slice(None),) * (axis % len(x.shape)) + (slice(start, stop, step),)]


@row("select.int")
def select(x: Array, axis: int, index: int) -> Array:
    return x[(slice(None),) * (axis % len(x.shape)) + (index,)]


@row("unbind.int")
def unbind(x: Array, axis: int = 0) -> list[Array]:
    return [select(x, axis, k) for k in range(x.shape[axis])]


@row("diagonal.default")
def diagonal(x: Array, offset: int = 0, a: int = 0, b: int = 1) -> Array:
    a, b = a % len(x.shape), b % len(x.shape)
    return fa.diagonal(fa.moveaxis(x, (a, b), (-2, -1)), offset=offset)


@row("trace.default")
def trace(x: Array) -> Array:
    return fa.trace(x)


@row("diag_embed.default")
def diag_embed(x: Array, offset: int = 0, a: int = -2, b: int = -1) -> Array:
    if (offset, a, b) != (0, -2, -1):
        raise refuse("another place than the main diagonal of the last two axes")
    return fa.where(np.eye(x.shape[-1], dtype=np.bool_), fa.expand_dims(x, axis=-1), 0.0)


@row("diag.default")
def diag(x: Array, offset: int = 0) -> Array:
    return fa.diag(x, offset)


@row("tril.default")
def tril(x: Array, k: int = 0) -> Array:
    return fa.tril(x, k)


@row("triu.default")
def triu(x: Array, k: int = 0) -> Array:
    return fa.triu(x, k)


@row("flip.default")
def flip(x: Array, axes: Sequence[int]) -> Array:
    return fa.flip(x, axis=tuple(axes)) if axes else x


@row("roll.default")
def roll(x: Array, shifts: Sequence[int], axes: Sequence[int] = ()) -> Array:
    return fa.roll(x, tuple(shifts), tuple(axes)) if axes else fa.roll(x, shifts[0])


# -- joining and repeating


@on_images("cat.default", "concat.default", "concatenate.default")
def cat(xs: Sequence[Any], axis: int = 0) -> Any:
    if all(isinstance(x, Image) for x in xs):
        return Image(fa.concat(promoted([x.value for x in xs]), axis=CHANNELS_LAST[axis]))
    return fa.concat(promoted([plain(x) for x in xs]), axis=axis)


@row("stack.default")
def stack(xs: Sequence[Array], axis: int = 0) -> Array:
    return fa.stack(promoted(xs), axis=axis)


@row("hstack.default")
def hstack(xs: Sequence[Array]) -> Array:
    return cat(xs, 0 if len(xs[0].shape) == 1 else 1)


@row("vstack.default")
def vstack(xs: Sequence[Array]) -> Array:
    return cat([fa.expand_dims(x, axis=0) if len(x.shape) == 1 else x for x in xs], 0)


@row("dstack.default")
def dstack(xs: Sequence[Array]) -> Array:
    return cat([fa.reshape(x, (*[1] * (2 - len(x.shape)), *x.shape, *[1] * (len(x.shape) < 3))) for x in xs], 2)


@row("column_stack.default")
def column_stack(xs: Sequence[Array]) -> Array:
    return cat([fa.expand_dims(x, axis=1) if len(x.shape) == 1 else x for x in xs], 1)


@row("broadcast_tensors.default")
def broadcast_tensors(xs: Sequence[Array]) -> list[Array]:
    shape = np.broadcast_shapes(*(tuple(x.shape) for x in xs))
    return [fa.broadcast_to(x, shape) for x in xs]


@row("repeat.default", "tile.default")
def repeat(x: Array, times: Sequence[int]) -> Array:
    return fa.tile(x, tuple(times))


@row("repeat_interleave.self_int")
def repeat_interleave(x: Array, times: int, axis: int | None = None, **_: Any) -> Array:
    return fa.repeat(fa.reshape(x, (-1,)), times, axis=0) if axis is None else fa.repeat(x, times, axis=axis)


# -- padding


@on_images("pad.default")
def pad(x: Any, pads: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """More elements around the last axes, ``pads`` (before, after) from the last axis on."""
    if isinstance(x, Image):  # columns, rows, channels
        return Image(_padded(x.value, dict(zip((2, 1, 3, 0), zip(pads[::2], pads[1::2], strict=True), strict=False)), mode, value))
    return _padded(x, {len(x.shape) - 1 - k: (pads[2 * k], pads[2 * k + 1]) for k in range(len(pads) // 2)}, mode, value)


@on_images("constant_pad_nd.default")
def constant_pad(x: Any, pads: Sequence[int], value: float = 0.0) -> Any:
    return pad(x, pads, "constant", value)


def _padded(x: Array, pads: dict[int, tuple[int, int]], mode: str, value: float | None) -> Array:
    if mode != "constant":  # of known places
        for axis, widths in pads.items():
            if any(widths):
                x = fa.take(x, np.pad(np.arange(x.shape[axis], dtype=np.int32), widths, MODES[mode]), axis=axis)
        return x
    if any(before < 0 or after < 0 for before, after in pads.values()):  # negative: fewer elements
        kept = {a: slice(max(-before, 0), x.shape[a] - max(-after, 0)) for a, (before, after) in pads.items()}
        x = x[tuple(kept.get(a, slice(None)) for a in range(len(x.shape)))]
    pairs = [pads.get(a, (0, 0)) for a in range(len(x.shape))]
    return fa.pad(x, widths=[(max(before, 0), max(after, 0)) for before, after in pairs], value=float(value or 0.0))


# -- sizes and parts


@on_images("sym_size.int")
def sym_size(x: Any, axis: int) -> int:
    return int(x.shape[axis]) if not isinstance(x, Image) else int(x.value.shape[CHANNELS_LAST[axis]])


@row("split.Tensor")
def split(x: Array, size: int, axis: int = 0) -> list[Array]:
    n = x.shape[axis]
    return split_with_sizes(x, [min(size, n - at) for at in range(0, n, size)], axis)


@row("split_with_sizes.default")
def split_with_sizes(x: Array, sizes: Sequence[int], axis: int = 0) -> list[Array]:
    before = (slice(None),) * (axis % len(x.shape))
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [x[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True)]
