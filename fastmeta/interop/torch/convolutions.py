"""Rows of the table: convolutions with strides, dilation and groups, and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.array.arguments import array_function
from fastmeta.interop.torch.table import Image, image, on_images, plain, refuse, row
from fastmeta.ops import convolution as primitive
from fastmeta.program import Var
from fastmeta.trace import Array

Pair = tuple[int, int]


def pair(x: Sequence[int] | int) -> Pair:
    """(rows, columns) of one number or two."""
    values = [x, x] if isinstance(x, int) else [*x, *x][:2] if len(x) == 1 else list(x)
    return int(values[0]), int(values[1])


def padded(x: Array, rows: Pair, columns: Pair, value: float = 0.0) -> Array:
    """Images, channels last, with more rows and columns (before, after)."""
    return fa.pad(x, widths=((0, 0), rows, columns, (0, 0)), value=value) if any((*rows, *columns)) else x


@on_images("conv2d.default", "conv2d.padding")
def conv2d(
    x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Image:  # fmt: skip
    x, n = image(x), w.shape[0]
    geometry: dict[str, Any] = {"stride": pair(stride), "padding": padding if isinstance(padding, str) else pair(padding), "dilation": pair(dilation)}
    if 1 < groups == x.shape[3]:  # each channel has n // groups kernels of its own
        kernels = fa.permute_dims(fa.reshape(w, (n, *w.shape[2:])), (1, 2, 0))
        y = nn.depthwise_conv2d(fa.repeat(x, n // groups, axis=3) if n > groups else x, kernels, **geometry)
    else:
        y = _by_groups(lambda x, w: nn.conv2d(x, fa.permute_dims(w, (2, 3, 1, 0)), **geometry), x, w, groups)
    return Image(y if bias is None else fa.add(y, bias))


def _by_groups(f: Callable[[Array, Array], Array], x: Array, w: Array, groups: int) -> Array:
    """Each group of channels under its share of the kernels."""
    if groups == 1:
        return f(x, w)
    m, n = x.shape[3] // groups, w.shape[0] // groups
    return fa.concat([f(x[..., k * m : (k + 1) * m], w[k * n : (k + 1) * n]) for k in range(groups)], axis=3)


@on_images("conv_transpose2d.input")
def conv_transpose2d(
    x: Any, w: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, more: Any = 0, groups: int = 1, dilation: Any = 1
) -> Image:  # fmt: skip
    """What the convolution with these kernels [in, out, kh, kw] does to the cotangent of its result."""
    if pair(dilation) != (1, 1):
        raise refuse(f"dilation {pair(dilation)}")
    x, steps, pads, more = image(x), pair(stride), pair(padding), pair(more)
    size = tuple((n - 1) * s - 2 * p + k + m for n, s, p, k, m in zip(x.shape[1:3], steps, pads, w.shape[2:], more, strict=True))
    around = tuple((p, p) for p in pads)
    y = _by_groups(lambda x, w: _transposed(x, fa.permute_dims(w, (2, 3, 1, 0)), stride=steps, padding=around, size=size), x, w, groups)
    return Image(y if bias is None else fa.add(y, bias))


@array_function
def _transposed(x: Any, w: Any, *, stride: Pair, padding: tuple[Pair, ...], size: Pair) -> Var:
    return primitive.convolve_input(x, w, stride, padding, size)


# -- of sequences [n, channels, steps], as images of one row


def _across(size: Any, rows: int) -> Any:
    return size if isinstance(size, str) else (rows, *([size] if isinstance(size, int) else size))


@row("conv1d.default", "conv1d.padding")
def conv1d(x: Array, w: Array, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Array:
    x, w = (fa.expand_dims(a, axis=2) for a in (x, w))
    y = conv2d(x, w, bias, _across(stride, 1), _across(padding, 0), _across(dilation, 1), groups)
    return fa.squeeze(plain(y), axis=2)


@row("conv_transpose1d.default")
def conv_transpose1d(
    x: Array, w: Array, bias: Any = None, stride: Any = 1, padding: Any = 0, more: Any = 0, groups: int = 1, dilation: Any = 1
) -> Array:  # fmt: skip
    x, w = (fa.expand_dims(a, axis=2) for a in (x, w))
    y = conv_transpose2d(x, w, bias, _across(stride, 1), _across(padding, 0), _across(more, 0), groups, _across(dilation, 1))
    return fa.squeeze(plain(y), axis=2)
