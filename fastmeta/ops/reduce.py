"""Reductions and cumulative sums.  A reduction drops the axes it reduces."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops.shape import broadcast, cast
from fastmeta.program import Primitive, Shape, Var


def total(x: Var, axes: tuple[int, ...]) -> Var:
    """The sum over ``axes``."""
    return x.graph.emit(SUM, (x,), (axes,)) if axes else x


def spread(x: Var, shape: Shape, axes: tuple[int, ...]) -> Var:
    """Undoes a reduction's loss of ``axes`` by repeating: the transpose of ``total``."""
    return broadcast(x, shape, tuple(a for a in range(len(shape)) if a not in axes))


def _reduce(name: str, result: str | None = None) -> Callable[..., tuple[Shape, str]]:
    def infer(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
        (x,), (axes,) = ins, at
        if any(not 0 <= a < len(x.shape) for a in axes) or len(set(axes)) != len(axes):
            raise expected(name, f"different axes of {x.shape}", axes)
        if name != "sum" and not prod(x.shape[a] for a in axes):
            raise expected(name, "at least one element to reduce", x.shape)
        return tuple(n for a, n in enumerate(x.shape) if a not in axes), result or x.dtype

    return infer


def _arg(name: str) -> Callable[..., tuple[Shape, str]]:
    reduce = _reduce(name, "i32")
    return lambda ins, at: reduce(ins, ((at[0],),))


def _extreme_tangent(i: int, t: Var, ins: tuple[Var, ...], attrs: tuple[Any, ...], out: Var) -> Var:
    """Ties share equally: the tangent is the mean of t over the places that hold the extreme value."""
    (x,), (axes,) = ins, attrs
    hit = cast(ew.apply(ew.EQUAL, x, spread(out, x.shape, axes)), x.dtype)
    weight = ew.divide(hit, spread(total(hit, axes), x.shape, axes))
    return total(ew.multiply(weight, t), axes)


def _gap(which: Callable[..., Any]) -> Callable[..., Any]:
    """Distance of the extreme value to the runner-up, over everything: close enough for tests."""
    return lambda x: np.min(np.diff(np.sort(np.ravel(x)))) if np.size(x) > 1 else 1.0


def _cumsum(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    (x,), (axis, _) = ins, at
    if not 0 <= axis < len(x.shape):
        raise expected("cumulative_sum", f"an axis of {x.shape}", axis)
    return x.shape, x.dtype


def _np_cumsum(x: np.ndarray, axis: int, reverse: bool) -> np.ndarray:
    y = np.flip(x, axis) if reverse else x
    y = np.cumsum(y, axis, dtype=x.dtype)
    return np.flip(y, axis) if reverse else y


SUM = Primitive(
    "sum", _reduce("sum"), lambda x, axes: np.sum(x, axes, dtype=x.dtype), linear=(0,),
    transpose=lambda i, ct, v: spread(ct, v.ins[0].shape, v.attrs[0]),
    samples=(("f(3,4)", ((0,),)), ("f(3,4)", ((1,),)), ("f(2,3,4)", ((0, 2),)), ("f(2,3)", ((0, 1),)), ("i(3,4)", ((1,),))),
)  # fmt: skip
MAX = Primitive(
    "max", _reduce("max"), lambda x, axes: np.max(x, axes), tangent=_extreme_tangent, kinks=_gap(np.max),
    samples=(("f(3,4)", ((0,),)), ("f(3,4)", ((1,),)), ("f(2,3)", ((0, 1),)), ("i(3,4)", ((1,),))),
)  # fmt: skip
MIN = Primitive(
    "min", _reduce("min"), lambda x, axes: np.min(x, axes), tangent=_extreme_tangent, kinks=_gap(np.min),
    samples=(("f(3,4)", ((0,),)), ("f(2,3,4)", ((0, 2),)), ("i(3,4)", ((1,),))),
)  # fmt: skip
ARGMAX = Primitive(
    "argmax", _arg("argmax"), lambda x, axis: np.argmax(x, axis).astype(np.int32),
    samples=(("f(3,4)", (1,)), ("f(3,4,2)", (1,)), ("i(5,)", (0,))),
)  # fmt: skip
ARGMIN = Primitive(
    "argmin", _arg("argmin"), lambda x, axis: np.argmin(x, axis).astype(np.int32), samples=(("f(3,4)", (0,)), ("i(3,4)", (1,)))
)  # fmt: skip
CUMSUM: Primitive = Primitive(
    "cumulative_sum", _cumsum, _np_cumsum, linear=(0,),
    transpose=lambda i, ct, v: ct.graph.emit(CUMSUM, (ct,), (v.attrs[0], not v.attrs[1])),
    samples=(("f(5,)", (0, False)), ("f(3,4)", (0, True)), ("f(2,3,4)", (1, False)), ("i(4,)", (0, False))),
)  # fmt: skip
