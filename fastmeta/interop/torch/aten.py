"""The ATen operations that have a translation: one row each, from the operation's name to fastmeta's functions.

An operation's arguments are those of PyTorch, images [n, channels, height, width] among them.  Between layers that work on
images values stay [n, height, width, channels], as `Image`, so that nothing is turned around between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch import recurrent
from fastmeta.trace import Array

TABLE: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Image:
    """A tensor [n, channels, height, width], held as [n, height, width, channels]."""

    value: Array


def plain(x: Any) -> Any:
    """Any value by PyTorch's order of axes."""
    return fa.permute_dims(x.value, (0, 3, 1, 2)) if isinstance(x, Image) else x


def image(x: Any) -> Array:
    """A tensor of images, channels last."""
    return x.value if isinstance(x, Image) else fa.permute_dims(x, (0, 2, 3, 1))


def row(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a function into the table; its array arguments come by PyTorch's order of axes."""

    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            args = tuple([plain(v) for v in a] if isinstance(a, list | tuple) else plain(a) for a in args)
            return f(*args, **options)

        TABLE.update({f"aten.{name}": call for name in names})
        return f

    return enter


def pointwise(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a function of single elements into the table: images stay as they are if nothing else of several axes comes in."""

    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            images = [a for a in args if isinstance(a, Image)]
            if images and all(isinstance(a, Image) or np.ndim(a) == 0 for a in args):
                return Image(f(*[a.value if isinstance(a, Image) else a for a in args], **options))
            return f(*[plain(a) for a in args], **options)

        TABLE.update({f"aten.{name}": call for name in names})
        return f

    return enter


def on_images(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a function of `Image`s into the table: it takes care of the order of axes itself."""

    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        TABLE.update({f"aten.{name}": f for name in names})
        return f

    return enter


def refuse(what: str) -> NotImplementedError:
    """The error of a row for options it has no translation of; `from_torch` adds the operation and the submodule."""
    return NotImplementedError(what)


def axes_of(x: Array, axes: Any) -> tuple[int, ...]:
    """Axes from 0 on, of one, several, or none for all."""
    axes = [axes] if isinstance(axes, int) else axes
    return tuple(range(len(x.shape))) if not axes else tuple(a % len(x.shape) for a in axes)


# -- images


def _symmetric(pads: Sequence[int]) -> int | None:
    return int(pads[0]) if len(set(pads)) == 1 else None


def _pair(x: Sequence[int] | int) -> tuple[int, int]:
    values = [x, x] if isinstance(x, int) else [*x, *x][:2] if len(x) == 1 else list(x)
    return int(values[0]), int(values[1])


def _padded(x: Array, pads: tuple[int, int], value: float = 0.0) -> Array:
    (h, w) = pads
    return fa.pad(x, widths=((0, 0), (h, h), (w, w), (0, 0)), value=value) if h or w else x


@on_images("conv2d.default", "conv2d.padding")
def conv2d(
    x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Image:  # fmt: skip
    if _pair(dilation) != (1, 1):
        raise refuse(f"dilation {tuple(dilation)}")
    x = image(x)
    if isinstance(padding, str):
        if padding == "same" and any(k % 2 == 0 for k in w.shape[2:]):
            raise refuse("padding 'same' of an even kernel")
        pads = (0, 0) if padding == "valid" else (w.shape[2] // 2, w.shape[3] // 2)
    else:
        pads = _pair(padding)
    inside = _symmetric(pads)
    x, inside = (_padded(x, pads), 0) if inside is None else (x, inside)
    if groups == 1:
        y = nn.conv2d(x, fa.permute_dims(w, (2, 3, 1, 0)), stride=_pair(stride), padding=inside)
    elif groups == x.shape[3] == w.shape[0]:
        kernels = fa.permute_dims(fa.reshape(w, (w.shape[0], *w.shape[2:])), (1, 2, 0))
        y = nn.depthwise_conv2d(x, kernels, stride=_pair(stride), padding=inside)
    else:
        raise refuse(f"{groups} groups of {x.shape[3]} channels")
    return Image(y if bias is None else fa.add(y, bias))


@row("conv1d.default", "conv1d.padding")
def conv1d(x: Array, w: Array, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Array:
    """As images of one row."""

    def across(size: Any, rows: int) -> Any:
        return size if isinstance(size, str) else (rows, *([size] if isinstance(size, int) else size))

    y = conv2d(fa.expand_dims(x, axis=2), fa.expand_dims(w, axis=2), bias, across(stride, 1), across(padding, 0), across(dilation, 1), groups)
    return fa.squeeze(plain(y), axis=2)


@on_images("max_pool2d.default")
def max_pool2d(x: Any, window: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Image:
    if _pair(dilation) != (1, 1) or ceil:
        raise refuse("dilation or ceil_mode")
    padded = _padded(image(x), _pair(padding), float("-inf"))
    return Image(nn.max_pool2d(padded, window=_pair(window), stride=_pair(stride or window)))


@on_images("avg_pool2d.default")
def avg_pool2d(
    x: Any, window: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, count_padding: bool = True, divisor: Any = None
) -> Image:  # fmt: skip
    pads = _pair(padding)
    if ceil or divisor is not None or (max(pads) and not count_padding):
        raise refuse("ceil_mode, count_include_pad=False or a divisor")
    return Image(nn.avg_pool2d(_padded(image(x), pads), window=_pair(window), stride=_pair(stride or window)))


@on_images("adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(x: Any, size: Any) -> Image:
    y = image(x)
    out = _pair(size)
    if any(n % m for n, m in zip(y.shape[1:3], out, strict=True)):
        raise refuse(f"windows of several sizes, from {tuple(y.shape[1:3])} to {out}")
    if out == (1, 1):
        return Image(fa.mean(y, axis=(1, 2), keepdims=True))
    return Image(nn.avg_pool2d(y, window=(y.shape[1] // out[0], y.shape[2] // out[1])))


def _normalised(x: Any, scale: Any, shift: Any, eps: float, statistics: Any) -> Any:
    if isinstance(x, Image):
        return Image(nn.batch_norm(x.value, scale, shift, eps=eps, statistics=statistics))
    axes = (0, *range(2, len(x.shape)), 1)
    y = nn.batch_norm(fa.permute_dims(x, axes), scale, shift, eps=eps, statistics=statistics)
    return fa.permute_dims(y, tuple(int(a) for a in np.argsort(axes)))


@on_images("_native_batch_norm_legit_functional.default", "batch_norm.default")
def batch_norm(
    x: Any, scale: Any, shift: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Any:  # fmt: skip
    """The functional form gives a tuple, of which the updated statistics are never asked for."""
    return (_normalised(x, scale, shift, eps, None if training else (mean, variance)),)


@on_images("_native_batch_norm_legit_no_training.default")
def batch_norm_no_training(x: Any, scale: Any, shift: Any, mean: Any, variance: Any, momentum: float, eps: float) -> Any:
    return (_normalised(x, scale, shift, eps, (mean, variance)),)


@on_images("_native_batch_norm_legit.no_stats")
def batch_norm_no_stats(x: Any, scale: Any, shift: Any, training: bool, momentum: float, eps: float) -> Any:
    return (_normalised(x, scale, shift, eps, None),)


# -- products


@row("linear.default")
def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    return nn.linear(x, fa.permute_dims(w, (1, 0)), b)


@row("addmm.default")
def addmm(b: Array, x: Array, y: Array, beta: float = 1, alpha: float = 1) -> Array:
    return fa.add(fa.multiply(fa.matmul(x, y), alpha), fa.multiply(b, beta))


for _name in ("matmul", "mm", "bmm"):
    row(f"{_name}.default")(fa.matmul)


@row("scaled_dot_product_attention.default")
def attention(
    query: Array, keys: Array, values: Array, mask: Any = None, rate: float = 0.0, causal: bool = False, *, scale: Any = None,
    **options: Any,
) -> Array:  # fmt: skip
    if mask is not None or rate or causal or any(options.values()):
        raise refuse("masks, dropout or grouped heads")
    if scale is not None:  # in place of the 1 / sqrt(d) that it will meet
        query = fa.multiply(query, scale * math.sqrt(query.shape[-1]))
    return nn.attention(query, keys, values)


@row("embedding.default")
def embedding(w: Array, indices: Array, *_: Any) -> Array:
    return fa.take(w, indices, axis=0)


@row("lstm.input")
def lstm(
    x: Array, state: Any, weights: Any, biases: bool, layers: int, rate: float, training: bool, both: bool, batch_first: bool
) -> Any:  # fmt: skip
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    if state[0].shape != state[1].shape:
        raise refuse("projections (proj_size)")
    return recurrent.lstm(x, state, weights, biases, layers, both, batch_first)


@row("gru.input")
def gru(
    x: Array, state: Array, weights: Any, biases: bool, layers: int, rate: float, training: bool, both: bool, batch_first: bool
) -> Any:  # fmt: skip
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    return recurrent.gru(x, state, weights, biases, layers, both, batch_first)


# -- shapes


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


@row("squeeze.dim", "squeeze.dims")
def squeeze(x: Array, axes: Any) -> Array:
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


@on_images("cat.default")
def cat(xs: Sequence[Any], axis: int = 0) -> Any:
    if all(isinstance(x, Image) for x in xs):
        return Image(fa.concat([x.value for x in xs], axis=(0, 3, 1, 2)[axis % 4]))
    return fa.concat([plain(x) for x in xs], axis=axis)


@row("stack.default")
def stack(xs: Sequence[Array], axis: int = 0) -> Array:
    return fa.stack(list(xs), axis=axis)


@row("constant_pad_nd.default")
def pad(x: Array, pads: Sequence[int], value: float = 0.0) -> Array:
    if min(pads) < 0:
        raise refuse("negative padding")
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    return fa.pad(x, widths=((0, 0),) * (len(x.shape) - len(pairs)) + tuple(reversed(pairs)), value=float(value))


@on_images("sym_size.int")
def sym_size(x: Any, axis: int) -> int:
    return int(x.shape[axis]) if not isinstance(x, Image) else int(x.value.shape[(0, 3, 1, 2)[axis]])


@row("repeat.default")
def repeat(x: Array, times: Sequence[int]) -> Array:
    return fa.tile(x, tuple(times))


@row("split.Tensor")
def split(x: Array, size: int, axis: int = 0) -> list[Array]:
    n = x.shape[axis]
    return split_with_sizes(x, [min(size, n - at) for at in range(0, n, size)], axis)


@row("split_with_sizes.default")
def split_with_sizes(x: Array, sizes: Sequence[int], axis: int = 0) -> list[Array]:
    before = (slice(None),) * (axis % len(x.shape))
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [x[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True)]


# -- new arrays


@on_images("zeros.default")
def zeros(shape: Sequence[int], dtype: Any = None, **_: Any) -> Array:
    return full(shape, 0, dtype)


@on_images("full.default")
def full(shape: Sequence[int], value: float, dtype: Any = None, **_: Any) -> Array:
    return np.full(tuple(shape), value, NUMPY[dtype or torch.get_default_dtype()])


@pointwise("zeros_like.default")
def zeros_like(x: Array, **_: Any) -> Array:
    return fa.zeros_like(x)


@pointwise("ones_like.default")
def ones_like(x: Array, **_: Any) -> Array:
    return fa.ones_like(x)


@pointwise("_to_copy.default", "to.dtype")
def to(x: Array, dtype: Any = None, *_: Any, **__: Any) -> Array:
    return x if dtype is None else fa.astype(x, dtype=NUMPY[dtype])


NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int32: np.int32, torch.int64: np.int32, torch.bool: np.bool_}
