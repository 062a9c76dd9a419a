"""Linear algebra: the inverse and the log-determinant of symmetric positive definite matrices."""

from __future__ import annotations

import contextlib
from math import prod
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops.product import matmul
from fastmeta.ops.reduce import total
from fastmeta.ops.shape import permute
from fastmeta.program import FLOATS, Primitive, Shape, Var


def square(name: str, x: Var) -> None:
    if x.dtype not in FLOATS:
        raise expected(name, "a float array", x.dtype, TypeError)
    if len(x.shape) < 2 or x.shape[-1] != x.shape[-2]:
        raise expected(name, "square matrices [.., n, n]", x.shape)


def _inverse(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    square("inverse", ins[0])
    return ins[0].shape, ins[0].dtype


def _logdet(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    square("logdet", ins[0])
    return ins[0].shape[:-2], ins[0].dtype


def smallest_pivot(x: np.ndarray) -> np.ndarray:
    """Below which a pivot of elimination is rounding only: [.., n] for matrices [.., n, n]."""
    return x.shape[-1] * np.finfo(x.dtype).eps * np.abs(np.diagonal(x, axis1=-2, axis2=-1))


def positive_definite(x: np.ndarray) -> np.ndarray:
    """For symmetric matrices [.., n, n] whether every pivot is above rounding: [..]."""
    flat = x.reshape(prod(x.shape[:-2]), *x.shape[-2:])
    found = np.zeros(len(flat), bool)
    for k, (a, least) in enumerate(zip(flat, smallest_pivot(flat), strict=True)):
        with contextlib.suppress(np.linalg.LinAlgError):
            found[k] = (np.diagonal(np.linalg.cholesky(a)) ** 2 > least).all()
    return found.reshape(x.shape[:-2])


def _np_inverse(x: np.ndarray) -> np.ndarray:
    good = positive_definite(x)[..., None, None]
    safe = np.where(good, x, np.eye(x.shape[-1], dtype=x.dtype))
    return np.where(good, np.linalg.inv(safe), np.asarray(np.nan, x.dtype))


def _inverse_tangent(i: int, t: Var, ins: tuple[Var, ...], attrs: tuple[Any, ...], out: Var) -> Var:
    return ew.negative(matmul(matmul(out, t), out))


def _np_logdet(x: np.ndarray) -> np.ndarray:
    good = positive_definite(x)
    safe = np.where(good[..., None, None], x, np.eye(x.shape[-1], dtype=x.dtype))
    return np.where(good, np.linalg.slogdet(safe)[1], np.asarray(np.nan, x.dtype)).astype(x.dtype)


def _logdet_tangent(i: int, t: Var, ins: tuple[Var, ...], attrs: tuple[Any, ...], out: Var) -> Var:
    (x,) = ins
    axes = tuple(range(len(x.shape)))
    inverse = permute(x.graph.emit(INVERSE, (x,)), (*axes[:-2], axes[-1], axes[-2]))
    return total(ew.multiply(inverse, t), axes[-2:])


# Only symmetric positive definite matrices: what needs no exchange of rows.  Others give NaN throughout.
INVERSE = Primitive("inverse", _inverse, _np_inverse, tangent=_inverse_tangent, samples=(("s(3,3)", ()), ("s(2,4,4)", ()), ("s(1,1)", ())))
LOGDET = Primitive("logdet", _logdet, _np_logdet, tangent=_logdet_tangent, samples=(("s(3,3)", ()), ("s(2,4,4)", ()), ("s(1,1)", ())))
