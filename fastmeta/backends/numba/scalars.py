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
inlined = njit(forceinline=True, **OPTIONS)  # for loops of `each`: a call that is left would be of one number at a time


@inlined
def lit(value: Any, like: Any) -> Any:
    return type(like)(value)


@inlined
def eq(x: Any, y: Any) -> Any:
    return type(x)(x == y)


@inlined
def ne(x: Any, y: Any) -> Any:
    return type(x)(x != y)


@inlined
def lt(x: Any, y: Any) -> Any:
    return type(x)(x < y)


@inlined
def le(x: Any, y: Any) -> Any:
    return type(x)(x <= y)


@inlined
def gt(x: Any, y: Any) -> Any:
    return type(x)(x > y)


@inlined
def ge(x: Any, y: Any) -> Any:
    return type(x)(x >= y)


@inlined
def select(m: Any, x: Any, y: Any) -> Any:
    return x if m != 0 else y


@inlined
def larger(x: Any, y: Any) -> Any:
    return x if x > y or x != x else y


@inlined
def smaller(x: Any, y: Any) -> Any:
    return x if x < y or x != x else y


@inlined
def sign(x: Any) -> Any:
    return x if x != x else type(x)((x > 0) - (x < 0))


@inlined
def sqrt(x: Any) -> Any:
    return math.sqrt(x)


@inlined
def floor(x: Any) -> Any:
    return np.floor(x)
