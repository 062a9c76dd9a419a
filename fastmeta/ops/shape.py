"""Shape primitives: they move values and never change them.  All but concat, pad and cast are views."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import DTYPES, Primitive, Shape, Var


def broadcast(x: Var, shape: Shape, dims: tuple[int, ...]) -> Var:
    """Axis i of x becomes axis dims[i] of the result; all other axes repeat it."""
    return x if x.shape == shape else x.graph.emit(BROADCAST, (x,), (shape, dims))


def broadcast_to(x: Var, shape: Shape, where: str = "broadcast_to") -> Var:
    """NumPy's broadcasting: axes are aligned at the right, axes of length 1 repeat."""
    if x.shape == shape:
        return x
    lead = len(shape) - len(x.shape)
    keep = [i for i, n in enumerate(x.shape) if n == shape[i + lead]]
    if lead < 0 or any(x.shape[i] != 1 for i in range(len(x.shape)) if i not in keep):
        raise expected(where, f"a shape that broadcasts to {shape}", x.shape)
    return broadcast(reshape(x, tuple(x.shape[i] for i in keep)), shape, tuple(i + lead for i in keep))


def reshape(x: Var, shape: Shape) -> Var:
    return x if x.shape == shape else x.graph.emit(RESHAPE, (x,), (shape,))


def permute(x: Var, perm: tuple[int, ...]) -> Var:
    return x.graph.emit(PERMUTE, (x,), (perm,))


def swap_last(x: Var) -> Var:
    """The transpose of a matrix, or of a stack of matrices."""
    n = len(x.shape)
    return permute(x, (*range(n - 2), n - 1, n - 2))


def cut(x: Var, start: Shape, stop: Shape, step: Shape) -> Var:
    return x.graph.emit(SLICE, (x,), (start, stop, step))


def rows(x: Var, start: int, stop: int) -> Var:
    """Those of the leading axis."""
    rest = x.shape[1:]
    return cut(x, (start, *(0 for _ in rest)), (stop, *rest), (1,) * len(x.shape))


def pad(x: Var, low: Shape, high: Shape, interior: Shape) -> Var:
    return x.graph.emit(PAD, (x,), (low, high, interior))


def concat(xs: tuple[Var, ...], axis: int) -> Var:
    return xs[0] if len(xs) == 1 else xs[0].graph.emit(CONCAT, xs, (axis,))


def cast(x: Var, dtype: str) -> Var:
    return x if x.dtype == dtype else x.graph.emit(CAST, (x,), (dtype,))


# -- rules


def _broadcast(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (x,), (shape, dims) = ins, at
    if tuple(shape[d] for d in dims) != x.shape or list(dims) != sorted(set(dims)):
        raise expected("broadcast", f"axes {dims} of {shape} to be {x.shape}", tuple(shape[d] for d in dims))
    return shape, x.dtype


def _broadcast_transpose(i: int, ct: Var, v: Var) -> Var:
    from fastmeta.ops.reduce import total

    shape, dims = v.attrs
    return total(ct, tuple(a for a in range(len(shape)) if a not in dims))


def _np_broadcast(x: np.ndarray, shape: Shape, dims: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(x.reshape([shape[a] if a in dims else 1 for a in range(len(shape))]), shape)


def _reshape(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (x,), (shape,) = ins, at
    if prod(shape) != prod(x.shape) or any(n < 0 for n in shape):
        raise expected("reshape", f"a shape of {prod(x.shape)} elements for {x.shape}", shape)
    return shape, x.dtype


def _permute(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (x,), (perm,) = ins, at
    if sorted(perm) != list(range(len(x.shape))):
        raise expected("permute_dims", f"a permutation of the {len(x.shape)} axes of {x.shape}", perm)
    return tuple(x.shape[p] for p in perm), x.dtype


def _inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def _slice(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (x,), (start, stop, step) = ins, at
    for n, a, b, s in zip(x.shape, start, stop, step, strict=True):
        if not (0 <= a <= b <= n and s >= 1):
            raise expected("slice", f"0 <= start <= stop <= {n} and step >= 1", (a, b, s))
    return tuple(-(-(b - a) // s) for a, b, s in zip(start, stop, step, strict=True)), x.dtype


def _slice_transpose(i: int, ct: Var, v: Var) -> Var:
    start, _, step = v.attrs
    high = tuple(
        n - a - ((m - 1) * s + 1 if m else 0)
        for n, a, m, s in zip(v.ins[0].shape, start, v.shape, step, strict=True)
    )
    return pad(ct, start, high, tuple(s - 1 for s in step))


def _np_slice(x: np.ndarray, start: Shape, stop: Shape, step: Shape) -> np.ndarray:
    return x[tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))]


def _pad(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (x,), (low, high, interior) = ins, at
    if any(n < 0 for n in (*low, *high, *interior)):
        raise expected("pad", "widths of at least 0", at)
    return tuple(
        a + n + max(n - 1, 0) * k + b for n, a, b, k in zip(x.shape, low, high, interior, strict=True)
    ), x.dtype


def _pad_transpose(i: int, ct: Var, v: Var) -> Var:
    low, _, interior = v.attrs
    stop = tuple(a + (n - 1) * (k + 1) + 1 if n else a for n, a, k in zip(v.ins[0].shape, low, interior, strict=True))
    return cut(ct, low, stop, tuple(k + 1 for k in interior))


def _np_pad(x: np.ndarray, low: Shape, high: Shape, interior: Shape) -> np.ndarray:
    shape = [a + n + max(n - 1, 0) * k + b for n, a, b, k in zip(x.shape, low, high, interior, strict=True)]
    out = np.zeros(shape, x.dtype)
    out[tuple(slice(a, a + n + max(n - 1, 0) * k, k + 1) for n, a, k in zip(x.shape, low, interior, strict=True))] = x
    return out


def _concat(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    (axis,) = at
    first = ins[0]
    for x in ins:
        if len(x.shape) != len(first.shape) or x.dtype != first.dtype or any(
            a != b for i, (a, b) in enumerate(zip(x.shape, first.shape, strict=True)) if i != axis
        ):  # fmt: skip
            raise expected("concat", f"{first.dtype}{list(first.shape)} but for axis {axis}", f"{x.dtype}{list(x.shape)}")
    return (*first.shape[:axis], sum(x.shape[axis] for x in ins), *first.shape[axis + 1 :]), first.dtype


def _concat_transpose(i: int, ct: Var, v: Var) -> Var:
    (axis,) = v.attrs
    begin = sum(x.shape[axis] for x in v.ins[:i])
    start = tuple(begin if a == axis else 0 for a in range(len(v.shape)))
    stop = tuple(begin + v.ins[i].shape[axis] if a == axis else n for a, n in enumerate(v.shape))
    return cut(ct, start, stop, (1,) * len(v.shape))


def _flip(ins: tuple[Var, ...], at: tuple) -> tuple[Shape, str]:
    return ins[0].shape, ins[0].dtype


def _cast_transpose(i: int, ct: Var, v: Var) -> Var:
    return cast(ct, v.ins[0].dtype)


def _np_concat(*args: Any) -> np.ndarray:
    return np.concatenate(args[:-1], args[-1])


BROADCAST = Primitive(
    "broadcast", _broadcast, _np_broadcast, linear=(0,), transpose=_broadcast_transpose, view=True,
    samples=(("f(3,)", ((2, 3), (1,))), ("f(3,)", ((3, 2), (0,))), ("f()", ((2, 2), ())), ("f(2,4)", ((2, 3, 4), (0, 2)))),
)  # fmt: skip
RESHAPE = Primitive(
    "reshape", _reshape, lambda x, shape: np.reshape(x, shape), linear=(0,),
    transpose=lambda i, ct, v: reshape(ct, v.ins[0].shape), view=True,
    samples=(("f(2,6)", ((3, 4),)), ("f(4,)", ((4, 1),))),
)  # fmt: skip
PERMUTE = Primitive(
    "permute", _permute, lambda x, perm: np.transpose(x, perm), linear=(0,),
    transpose=lambda i, ct, v: permute(ct, _inverse(v.attrs[0])), view=True,
    samples=(("f(2,3)", ((1, 0),)), ("f(2,3,4)", ((2, 0, 1),))),
)  # fmt: skip
SLICE = Primitive(
    "slice", _slice, _np_slice, linear=(0,), transpose=_slice_transpose, view=True,
    samples=(("f(6,5)", ((1, 0), (6, 4), (2, 3))), ("f(5,)", ((2,), (2,), (1,)))),
)  # fmt: skip
FLIP: Primitive = Primitive(
    "flip", _flip, lambda x, axes: np.flip(x, axes), linear=(0,),
    transpose=lambda i, ct, v: ct.graph.emit(FLIP, (ct,), v.attrs), view=True,
    samples=(("f(3,4)", ((1,),)), ("f(3,4)", ((0, 1),))),
)  # fmt: skip
PAD = Primitive(
    "pad", _pad, _np_pad, linear=(0,), transpose=_pad_transpose,
    samples=(("f(2,3)", ((1, 0), (2, 1), (0, 2))), ("f(3,)", ((0,), (0,), (1,)))),
)  # fmt: skip
CONCAT = Primitive(
    "concat", _concat, _np_concat, linear=range(1 << 16), transpose=_concat_transpose,
    samples=(("f(2,3) f(2,1) f(2,3)", (1,)), ("f(2,) f(3,)", (0,))),
)  # fmt: skip
CAST = Primitive(
    "cast", lambda ins, at: (ins[0].shape, at[0]), lambda x, dtype: x.astype(DTYPES[dtype]),
    elementwise=True, linear=(0,), transpose=_cast_transpose, samples=(("f(5,)", ("i32",)), ("i(5,)", ("f32",)), ("b(5,)", ("f64",)), ("f(5,)", ("bool",)), ("f(5,)", ("f64",))),
)  # fmt: skip
STOP_GRADIENT = Primitive(
    "stop_gradient", _flip, lambda x: x, view=True, samples=(("f(3,)", ()),)
)  # fmt: skip
# made by the planner, where a kernel needs another layout
COPY = Primitive(
    "copy", _flip, lambda x: x, elementwise=True, linear=(0,), transpose=lambda i, ct, v: ct, samples=(("f(3,)", ()),)
)

# the same as an instruction of its own, from or to (far) outside of a team's own memory: fastmeta.plan.park
MOVE = Primitive(
    "move", lambda ins, at: (ins[0].shape, ins[0].dtype), lambda x, far: x, linear=(0,), transpose=lambda i, ct, v: ct,
    samples=(("f(3,)", (True,)), ("f(2,3)", (False,))),
)  # fmt: skip
