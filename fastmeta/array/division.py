"""Whole quotients, and what they leave."""

from __future__ import annotations

from typing import Any

from fastmeta.array.arguments import array_function, broadcast_all, common_dtype, converted, graph_of
from fastmeta.ops import elementwise as ew
from fastmeta.ops import shape as sh
from fastmeta.program import FLOATS, Var


@array_function
def floor_divide(x: Any, y: Any) -> Var:
    """The largest integer not above x / y, broadcast; integers of integers, 0 where these are divided by 0; derivative 0.

    >>> floor_divide(np.array([7, -7, 7]), np.array([2, 2, 0]))
    array([ 3, -4,  0], dtype=int32)
    """
    x, y, dtype = _operands("floor_divide", x, y)
    return sh.cast(_quotient(x, y, dtype), dtype)


@array_function
def remainder(x: Any, y: Any) -> Var:
    """What x / y leaves, broadcast, of the sign of y: x - floor(x / y) y; of integers x where y is 0.

    >>> remainder(np.array([7, -7]), 3)
    array([1, 2], dtype=int32)
    """
    x, y, dtype = _operands("remainder", x, y)
    q = _quotient(x, y, dtype)
    left = _left(x, q, y)
    if dtype in FLOATS:
        left = ew.where(_infinite(y), ew.where(ew.apply(ew.EQUAL, q, -1.0), y, ew.add(x, q)), left)
    return sh.cast(left, dtype)


def _operands(name: str, x: Any, y: Any) -> tuple[Var, Var, str]:
    """Both in float64, where quotients are right to the last whole one, and the dtype of the result."""
    g = graph_of(name, [x, y])
    dtype = common_dtype(name, [x, y])
    x, y = broadcast_all(name, [converted(v, "f64", g) for v in (x, y)])
    return x, y, dtype if dtype in FLOATS else "i32"


def _quotient(x: Var, y: Var, dtype: str) -> Var:
    if dtype not in FLOATS:
        zero = ew.apply(ew.EQUAL, y, 0.0)
        return ew.where(zero, 0.0, ew.apply(ew.FLOOR, ew.divide(x, ew.where(zero, 1.0, y))))
    q = ew.apply(ew.FLOOR, ew.divide(x, y))
    sign = ew.apply(ew.SIGN, y)
    beyond = ew.apply(ew.LESS, ew.multiply(_left(x, q, y), sign), 0.0)  # x / y was rounded up to the next whole number
    q = ew.where(beyond, ew.subtract(q, 1.0), q)
    apart = ew.apply(ew.LESS, ew.multiply(x, sign), 0.0)
    q = ew.where(_infinite(y), ew.where(apart, -1.0, ew.multiply(x, 0.0)), q)
    return ew.where(_infinite(x), ew.where(ew.apply(ew.EQUAL, y, 0.0), q, float("nan")), q)


def _left(x: Var, q: Var, y: Var) -> Var:
    """x - q y, rounded once (Dekker 1971): a rounded product would hide which side of it x is on."""
    product = ew.multiply(q, y)
    (q1, q2), (y1, y2) = _halves(q), _halves(y)
    rest = ew.subtract(ew.multiply(q1, y1), product)
    for a, b in ((q1, y2), (q2, y1), (q2, y2)):
        rest = ew.add(rest, ew.multiply(a, b))
    return ew.subtract(ew.subtract(x, product), rest)


def _halves(x: Var) -> tuple[Var, Var]:
    """x as a sum of two numbers of half its digits."""
    large = ew.multiply(x, 2.0**27 + 1)
    high = ew.subtract(large, ew.subtract(large, x))
    return high, ew.subtract(x, high)


def _infinite(y: Var) -> Var:
    return ew.apply(ew.EQUAL, ew.apply(ew.ABS, y), float("inf"))
