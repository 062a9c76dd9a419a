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
    common = common_dtype(name, [x, y])
    dtype = common if common in FLOATS else "i32"
    x, y = broadcast_all(name, [sh.cast(converted(v, dtype, g), "f64") for v in (x, y)])
    return x, y, dtype


def _quotient(x: Var, y: Var, dtype: str) -> Var:
    """floor(x / y); compiled, a division may be a product with 1 / y and so end up on the wrong side of a whole number."""
    if dtype not in FLOATS:
        zero = ew.apply(ew.EQUAL, y, 0.0)
        y = ew.where(zero, 1.0, y)
        return ew.where(zero, 0.0, _settled(x, ew.apply(ew.FLOOR, ew.divide(x, y)), y))
    q = _settled(x, ew.apply(ew.FLOOR, ew.divide(x, y)), y)
    apart = ew.apply(ew.LESS, ew.multiply(x, ew.apply(ew.SIGN, y)), 0.0)
    q = ew.where(_infinite(y), ew.where(apart, -1.0, ew.multiply(x, 0.0)), q)
    return ew.where(_infinite(x), ew.where(ew.apply(ew.EQUAL, y, 0.0), q, float("nan")), q)


def _settled(x: Var, q: Var, y: Var) -> Var:
    """The largest whole number not above x / y, which q is within one of."""
    sign, more = ew.apply(ew.SIGN, y), ew.add(q, 1.0)
    above = ew.apply(ew.LESS, ew.multiply(_left(x, q, y), sign), 0.0)
    below = ew.apply(ew.GREATER_EQUAL, ew.multiply(_left(x, more, y), sign), 0.0)
    return ew.where(above, ew.subtract(q, 1.0), ew.where(below, more, q))


def _left(x: Var, q: Var, y: Var) -> Var:
    """x - q y by products of halves, which are exact, so that none is rounded whether or not it is fused with its sum (Dekker 1971)."""
    (q1, q2), (y1, y2) = _halves(q), _halves(y)
    for a, b in ((q1, y1), (q1, y2), (q2, y1), (q2, y2)):
        x = ew.subtract(x, ew.multiply(a, b))
    return x


def _halves(x: Var) -> tuple[Var, Var]:
    """x as a sum of two numbers of half its digits."""
    large = ew.multiply(x, 2.0**27 + 1)
    high = ew.subtract(large, ew.subtract(large, x))
    return high, ew.subtract(x, high)


def _infinite(y: Var) -> Var:
    return ew.apply(ew.EQUAL, ew.apply(ew.ABS, y), float("inf"))
