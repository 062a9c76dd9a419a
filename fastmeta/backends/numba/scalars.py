"""The functions of one number that the expressions of the micro-operations name, as compiled code.

Arguments and results have one type; comparisons give 0 or 1 in it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from fastmeta.backends.numba.kernels import OPTIONS

function = njit(**OPTIONS)


@function
def lit(value: Any, like: Any) -> Any:
    return type(like)(value)


@function
def eq(x: Any, y: Any) -> Any:
    return type(x)(x == y)


@function
def ne(x: Any, y: Any) -> Any:
    return type(x)(x != y)


@function
def lt(x: Any, y: Any) -> Any:
    return type(x)(x < y)


@function
def le(x: Any, y: Any) -> Any:
    return type(x)(x <= y)


@function
def gt(x: Any, y: Any) -> Any:
    return type(x)(x > y)


@function
def ge(x: Any, y: Any) -> Any:
    return type(x)(x >= y)


@function
def select(m: Any, x: Any, y: Any) -> Any:
    return x if m != 0 else y


@function
def larger(x: Any, y: Any) -> Any:
    return x if x > y or x != x else y


@function
def smaller(x: Any, y: Any) -> Any:
    return x if x < y or x != x else y


@function
def sign(x: Any) -> Any:
    return x if x != x else type(x)((x > 0) - (x < 0))


@function
def sqrt(x: Any) -> Any:
    return math.sqrt(x)


@function
def floor(x: Any) -> Any:
    return np.floor(x)


@function
def exp(x: Any) -> Any:
    return math.exp(x)


@function
def expm1(x: Any) -> Any:
    return math.expm1(x)


@function
def log(x: Any) -> Any:
    return math.log(x)


@function
def log1p(x: Any) -> Any:
    return math.log1p(x)


@function
def sin(x: Any) -> Any:
    return math.sin(x)


@function
def cos(x: Any) -> Any:
    return math.cos(x)


@function
def tanh(x: Any) -> Any:
    return math.tanh(x)


@function
def erf(x: Any) -> Any:
    return math.erf(x)


@function
def sigmoid(x: Any) -> Any:
    e = math.exp(-abs(x))
    one = type(x)(1)
    return (one if x >= 0 else e) / (one + e)
