"""Angles of given tangents, sines and cosines, and the hyperbolic functions."""

from __future__ import annotations

import math

from fastmeta.array.composed import isinf
from fastmeta.array.numeric import (
    abs,
    add,
    divide,
    equal,
    expm1,
    full_like,
    greater,
    less,
    logical_and,
    logical_or,
    multiply,
    negative,
    sign,
    sqrt,
    square,
    subtract,
    where,
)
from fastmeta.trace import Array

TERMS = 12  # of the series of an angle below pi / 16: the next is less than 2e-18 of it


def atan(x: Array) -> Array:
    """The angle in radians, -pi/2 to pi/2, whose tangent is x.

    >>> 4 * atan(np.array([1.0, -1.0]))
    array([ 3.14159265, -3.14159265])
    """
    steep = logical_or(greater(x, 1.0), less(x, -1.0))
    a = _below_one(where(steep, divide(1.0, where(steep, x, 1.0)), x))
    return where(steep, subtract(multiply(sign(x), math.pi / 2), a), a)


def _below_one(t: Array) -> Array:
    """atan(t) for abs(t) <= 1: the angle is halved twice, then a series."""
    for _ in range(2):
        t = divide(t, add(sqrt(add(square(t), 1.0)), 1.0))
    z, total = square(t), 1 / (2 * TERMS + 1)
    for k in reversed(range(TERMS)):
        total = subtract(1 / (2 * k + 1), multiply(z, total))
    return multiply(multiply(t, total), 4.0)


def asin(x: Array) -> Array:
    """The angle in radians, -pi/2 to pi/2, whose sine is x; NaN for abs(x) > 1; the derivative is infinite at 1 and -1.

    >>> asin(np.array([1.0, 0.0, 2.0]))
    array([1.57079633, 0.        ,        nan])
    """
    cosine = multiply(sqrt(subtract(1.0, x)), sqrt(add(x, 1.0)))
    return multiply(_below_one(divide(x, add(cosine, 1.0))), 2.0)


def acos(x: Array) -> Array:
    """The angle in radians, 0 to pi, whose cosine is x; NaN for abs(x) > 1; the derivative is infinite at 1 and -1.

    >>> acos(np.array([1.0, -1.0, 2.0]))
    array([0.        , 3.14159265,        nan])
    """
    return multiply(atan2(sqrt(subtract(1.0, x)), sqrt(add(x, 1.0))), 2.0)


def atan2(y: Array, x: Array) -> Array:
    """The angle in radians, -pi to pi, from the first axis to the point (x, y), broadcast.

    >>> atan2(np.array([1.0, -1.0, 0.0]), np.array([0.0, -1.0, -2.0]))
    array([ 1.57079633, -2.35619449,  3.14159265])
    """
    far = logical_and(isinf(x), isinf(y))
    u, v = where(far, sign(x), x), where(far, sign(y), y)
    steep = greater(abs(v), abs(u))
    above, below = where(steep, u, v), where(steep, v, u)
    zero = equal(below, 0.0)
    a = _below_one(where(zero, above, divide(above, where(zero, 1.0, below))))
    half = full_like(a, math.pi)
    half = where(_negative(y), negative(half), half)
    return where(steep, subtract(multiply(half, 0.5), a), where(_negative(x), add(a, half), a))


def _negative(x: Array) -> Array:
    """x is below 0, or the zero that is reached from there."""
    return logical_or(less(x, 0.0), less(divide(1.0, x), 0.0))


def sinh(x: Array) -> Array:
    """The hyperbolic sine, (e ** x - e ** -x) / 2, exact for small x.

    >>> sinh(np.array([0.0, 1e-10]))
    array([0.e+00, 1.e-10])
    """
    up, down = _of_half(x)
    return multiply(subtract(up, down), add(multiply(add(up, down), 0.5), 1.0))  # 2 sinh(x / 2) cosh(x / 2)


def cosh(x: Array) -> Array:
    """The hyperbolic cosine, (e ** x + e ** -x) / 2.

    >>> cosh(np.array([0.0, 1.0])).round(4)
    array([1.    , 1.5431])
    """
    both = add(*_of_half(x))
    return subtract(multiply(add(both, 2.0), add(multiply(both, 0.5), 1.0)), 1.0)  # 2 cosh(x / 2) ** 2 - 1


def _of_half(x: Array) -> tuple[Array, Array]:
    """e ** (x / 2) - 1 and e ** (-x / 2) - 1: finite where sinh and cosh of x are."""
    half = multiply(x, 0.5)
    return expm1(half), expm1(negative(half))
