"""The table of translations, from an ATen operation's name to fastmeta's functions, and what its rows are made with.

An operation's arguments are those of PyTorch, images [n, channels, height, width] among them.  Between layers that work on
images values stay [n, height, width, channels], as `Image`, so that nothing is turned around between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastmeta import array as fa
from fastmeta.trace import Array

TABLE: dict[str, Callable[..., Any]] = {}
NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.int32: np.int32, torch.int64: np.int32, torch.bool: np.bool_}
CHANNELS_LAST = (0, 3, 1, 2)  # where the axes of PyTorch's images are within an `Image`


@dataclass(frozen=True)
class Image:
    """A tensor [n, channels, height, width], held as [n, height, width, channels]."""

    value: Array


def plain(x: Any) -> Any:
    """Any value by PyTorch's order of axes."""
    return fa.permute_dims(x.value, CHANNELS_LAST) if isinstance(x, Image) else x


def image(x: Any) -> Array:
    """A tensor of images, channels last."""
    if isinstance(x, Image):
        return x.value
    if len(x.shape) != 4:
        raise refuse(f"a tensor of {len(x.shape)} axes in place of images [n, channels, height, width]")
    return fa.permute_dims(x, (0, 2, 3, 1))


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
                return Image(f(*promoted([a.value if isinstance(a, Image) else a for a in args]), **options))
            return f(*promoted([plain(a) for a in args]), **options)

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
    """The error by which a row refuses options that it cannot compute, rather than compute something else; `from_torch` adds the
    operation and the submodule."""
    return NotImplementedError(what)


def promoted(args: Sequence[Any]) -> list[Any]:
    """Arrays of float32 beside float64 as PyTorch joins them: all become float64, but one without axes follows the others."""
    floats = [a for a in args if getattr(a, "dtype", None) in (np.float32, np.float64)]
    leading = [a for a in floats if np.ndim(a)] or floats
    if len({np.dtype(a.dtype) for a in floats}) < 2:
        return list(args)
    dtype = max((np.dtype(a.dtype) for a in leading), key=lambda d: d.itemsize)
    return [fa.astype(a, dtype=dtype) if any(a is f for f in floats) else a for a in args]


def numpy_dtype(dtype: Any) -> Any:
    """NumPy's dtype for one of PyTorch's; integers are int32."""
    if dtype not in NUMPY:
        raise refuse(f"{dtype} in place of float32, float64, integers or bool")
    return NUMPY[dtype]


def converted(x: Array, dtype: Any) -> Array:
    """x in a dtype of PyTorch's, unless that is None."""
    return x if dtype is None else fa.astype(x, dtype=numpy_dtype(dtype))


def axes_of(x: Array, axes: Any) -> tuple[int, ...]:
    """Axes from 0 on, of one, several, or none for all."""
    axes = [axes] if isinstance(axes, int) else axes
    return tuple(range(len(x.shape))) if not axes else tuple(a % len(x.shape) for a in axes)
