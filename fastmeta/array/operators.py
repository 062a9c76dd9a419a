"""Python's operators and the methods of arrays, for tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta.array.arguments import static_integers
from fastmeta.array.composed import all, any, matrix_transpose, repeat, round, std
from fastmeta.array.division import floor_divide, remainder
from fastmeta.array.indexing import argsort, getitem, sort, take
from fastmeta.array.matrices import diagonal
from fastmeta.array.numeric import (
    abs,
    add,
    astype,
    clip,
    divide,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    multiply,
    negative,
    not_equal,
    power,
    subtract,
)
from fastmeta.array.product import matmul
from fastmeta.array.reduction import argmax, argmin, cumulative_prod, cumulative_sum, max, mean, min, prod, sum, var
from fastmeta.array.shaping import permute_dims, reshape, squeeze
from fastmeta.errors import expected
from fastmeta.trace import Array, Tracer, located


def _method(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **static: f(self, *args, **static)


def _of_bools(symbol: str, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of bools only: of integers NumPy's works on their bits, which these programs have no functions for."""

    def operator(*xs: Any) -> Any:
        for x in xs:
            dtype = getattr(x, "dtype", type(x).__name__)
            if str(dtype) != "bool":
                raise located(expected(symbol, "bools", dtype, TypeError, f"Use fm.{name} of conditions such as x != 0, or arithmetic such as i % 2"))
        return f(*xs)

    return operator


# -- methods whose parameters are NumPy's


def _flat(self: Array) -> Array:
    return reshape(self, (-1,))


def _along(f: Callable[..., Array]) -> Callable[..., Array]:
    """``self.f(axis=None)`` of an array as one axis, where ``axis`` is None."""
    return lambda self, axis=None: f(_flat(self), axis=0) if axis is None else f(self, axis=axis)


def _repeat(self: Array, repeats: int, axis: int | None = None) -> Array:
    return _along(lambda x, axis: repeat(x, repeats, axis=axis))(self, axis)


def _transpose(self: Array, *axes: Any) -> Array:
    """Axes in another order, given as one sequence or each by itself; none for the reverse."""
    order = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], list | tuple)) else axes
    return permute_dims(self, order or tuple(range(self.ndim))[::-1])


def _squeeze(self: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    return squeeze(self, axis=tuple(a for a, n in enumerate(self.shape) if n == 1) if axis is None else axis)


def _diagonal(self: Array, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    (a, b), n = static_integers("diagonal", (axis1, axis2), "axes"), self.ndim
    if n < 2 or not (-n <= a < n and -n <= b < n) or a % n == b % n:
        raise located(expected("diagonal", f"two axes of {self.shape}", (a, b)))
    rest = [k for k in range(n) if k not in (a % n, b % n)]
    return diagonal(permute_dims(self, (*rest, a, b)), offset=offset)


def _dot(self: Array, other: Array) -> Array:
    """NumPy's product of vectors, matrices and numbers; of more axes it is neither `matmul` nor often meant."""
    shape = getattr(other, "shape", ())
    if not self.shape or not shape:
        return multiply(self, other)
    if len(shape) > 2:
        raise located(expected("dot", "a vector or a matrix to multiply with", f"shape {shape}", hint="Use fm.matmul or fm.einsum"))
    return matmul(self, other)


def _operators() -> None:
    """Gives tracers Python's operators and the methods that arrays have."""
    both: dict[str, Callable[..., Any]] = {
        "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
        "floordiv": floor_divide, "mod": remainder,
        "and": _of_bools("&", "logical_and", logical_and), "or": _of_bools("|", "logical_or", logical_or),
        "xor": _of_bools("^", "not_equal", not_equal),
    }  # fmt: skip
    for name, f in both.items():
        setattr(Tracer, f"__{name}__", _method(f))
        setattr(Tracer, f"__r{name}__", lambda self, other, f=f: f(other, self))
    compare = {"eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater, "ge": greater_equal}
    unary: dict[str, Callable[..., Any]] = {"neg": negative, "pos": lambda x: x, "abs": abs, "invert": _of_bools("~", "logical_not", logical_not)}
    for name, f in {**compare, **unary}.items():
        setattr(Tracer, f"__{name}__", _method(f))
    for f in (sum, mean, var, std, max, min, argmax, argmin, prod, any, all, clip, round, sort, argsort):
        setattr(Tracer, f.__name__, _method(f))
    others = {
        "__getitem__": getitem,
        "reshape": lambda self, *shape: reshape(self, shape[0] if len(shape) == 1 else shape),
        "__iter__": lambda self: (getitem(self, i) for i in range(len(self))),
        "T": property(_transpose),
        "mT": property(matrix_transpose),
        "astype": lambda self, dtype: astype(self, dtype=dtype),
        "ravel": _flat,
        "flatten": _flat,
        "transpose": _transpose,
        "squeeze": _squeeze,
        "cumsum": _along(cumulative_sum),
        "cumprod": _along(cumulative_prod),
        "repeat": _repeat,
        "take": lambda self, indices, axis=None: _along(lambda x, axis: take(x, indices, axis=axis))(self, axis),
        "diagonal": _diagonal,
        "trace": lambda self, *args, **static: sum(_diagonal(self, *args, **static), axis=-1),
        "dot": _dot,
    }
    for name, value in others.items():
        setattr(Tracer, name, value)


_operators()
