"""Python's operators and the methods of arrays, for tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta.array.division import floor_divide, remainder
from fastmeta.array.indexing import getitem
from fastmeta.array.numeric import (
    abs,
    add,
    astype,
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
from fastmeta.array.reduction import argmax, argmin, max, mean, min, prod, sum
from fastmeta.array.shaping import permute_dims, reshape
from fastmeta.trace import Tracer


def _method(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **static: f(self, *args, **static)


def _operators() -> None:
    """Gives tracers Python's operators and the methods that arrays have."""
    binary: dict[str, Callable[..., Any]] = {
        "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
        "floordiv": floor_divide, "mod": remainder,
    }  # fmt: skip
    for name, f in binary.items():
        setattr(Tracer, f"__{name}__", _method(f))
        setattr(Tracer, f"__r{name}__", lambda self, other, f=f: f(other, self))
    compare = {"eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater, "ge": greater_equal}
    unary = {"neg": negative, "abs": abs, "invert": logical_not}
    for name, f in {**compare, **unary, "and": logical_and, "or": logical_or}.items():
        setattr(Tracer, f"__{name}__", _method(f))
    for f in (sum, mean, max, min, argmax, argmin, prod):
        setattr(Tracer, f.__name__, _method(f))
    others = {
        "__getitem__": getitem,
        "reshape": lambda self, *shape: reshape(self, shape[0] if len(shape) == 1 else shape),
        "__iter__": lambda self: (getitem(self, i) for i in range(len(self))),
        "T": property(lambda self: permute_dims(self, tuple(range(self.ndim))[::-1])),
        "astype": lambda self, dtype: astype(self, dtype=dtype),
    }
    for name, value in others.items():
        setattr(Tracer, name, value)


_operators()
