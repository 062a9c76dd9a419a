"""Elementwise functions, and arrays made of one number."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import optree

from fastmeta.array.arguments import (
    array_function,
    array_operand,
    broadcast_all,
    common_dtype,
    converted,
    counted,
    dtype_name,
    graph_of,
)
from fastmeta.errors import expected
from fastmeta.ops import elementwise as ew
from fastmeta.ops import shape as sh
from fastmeta.program import DTYPES, FLOATS, Primitive, Var
from fastmeta.trace import Array
from fastmeta.tree import is_number


def _elementwise(op: Primitive, doc: str, call: str, result: str, *, floats: bool = False, logical: bool = False) -> Callable[..., Array]:
    def f(*xs: Any) -> Any:
        if op.micro is not None and len(xs) != op.micro.arity:
            raise expected(op.name, f"{op.micro.arity} operands", len(xs), TypeError)
        if builtins.all(map(is_number, xs)):
            return _of_numbers(op, xs, floats)
        g = graph_of(op.name, xs)
        dtype = "bool" if logical else common_dtype(op.name, xs)
        if floats and dtype not in FLOATS:
            dtype = "f32"
        if dtype == "bool" and not logical:
            dtype = "i32"
        return g.emit(op, tuple(broadcast_all(op.name, [converted(x, dtype, g) for x in xs])))

    f.__name__ = op.name
    f.__doc__ = f"{doc}\n\n>>> {call}\n{result}"
    return array_function(f, ("x", "y")[: op.micro.arity if op.micro else None])


def _of_numbers(op: Primitive, xs: tuple[Any, ...], floats: bool) -> Any:
    """A number of numbers: as they have no dtype in a traced function, it has none, and takes that of the arrays it meets."""
    with np.errstate(all="ignore"):
        return op.evaluate(*[np.asarray(x, np.float64 if floats else None) for x in xs]).item()


add = _elementwise(ew.ADD, "x + y, broadcast.", "add(np.array([[1.0], [2.0]]), np.array([10, 20]))", "array([[11., 21.],\n       [12., 22.]])")
subtract = _elementwise(ew.SUBTRACT, "x - y, broadcast.", "subtract(np.array([True, False]), True)", "array([ 0, -1], dtype=int32)")
multiply = _elementwise(ew.MULTIPLY, "x * y, broadcast.", "multiply(np.array([1, 2]), 0.5)", "array([0.5, 1. ], dtype=float32)")
divide = _elementwise(ew.DIVIDE, "x / y, broadcast; integers are divided as floats.", "divide(np.array([1, -1, 0]), 0)", "array([ inf, -inf,  nan], dtype=float32)", floats=True)
power = _elementwise(
    ew.POWER,
    "x ** y, broadcast; integers become float32; derivative 0 in y where x <= 0.\n\n"
    "Whole exponents from -4 to 4 are products, .5 and -.5 are sqrt and rsqrt.",
    "power(np.array([2, 3]), 2)", "array([4., 9.], dtype=float32)",
    floats=True,
)
maximum = _elementwise(ew.MAXIMUM, "The larger of x and y; a tie shares its derivative equally; NaN propagates.", "fm.grad(maximum, (0, 1))(1.0, 1.0)", "(array(0.5, dtype=float32), array(0.5, dtype=float32))")
minimum = _elementwise(ew.MINIMUM, "The smaller of x and y; a tie shares its derivative equally; NaN propagates.", "minimum(np.array([1.0, 3.0, np.nan]), 2.0)", "array([ 1.,  2., nan])")
negative = _elementwise(ew.NEGATIVE, "-x.", "negative(np.array([True, False]))", "array([-1,  0], dtype=int32)")
abs = _elementwise(ew.ABS, "|x|; derivative 0 at 0.", "fm.grad(abs)(0.0)", "array(0., dtype=float32)")
sign = _elementwise(ew.SIGN, "-1, 0 or 1; derivative 0.", "sign(np.array([-2.0, 0.0, 3.0]))", "array([-1.,  0.,  1.])")
floor = _elementwise(ew.FLOOR, "The largest integer not above x, as a float; derivative 0.", "floor(np.array([-1.5, 2.0]))", "array([-2.,  2.])", floats=True)
sqrt = _elementwise(ew.SQRT, "The square root.", "sqrt(np.array([4.0, -1.0]))", "array([ 2., nan])", floats=True)
rsqrt = _elementwise(ew.RSQRT, "1 / sqrt(x).", "rsqrt(np.array([4.0, 0.0]))", "array([0.5, inf])", floats=True)
exp = _elementwise(ew.EXP, "e ** x.", "exp(np.array([0, 1])).round(4)", "array([1.    , 2.7183], dtype=float32)", floats=True)
expm1 = _elementwise(ew.EXPM1, "e ** x - 1, exact for small x.", "expm1(np.array([0.0, 1e-10]))", "array([0.e+00, 1.e-10])", floats=True)
log = _elementwise(ew.LOG, "The natural logarithm.", "log(np.array([1.0, 0.0, -1.0]))", "array([  0., -inf,  nan])", floats=True)
log1p = _elementwise(ew.LOG1P, "log(1 + x), exact for small x.", "log1p(np.array([0.0, 1e-10]))", "array([0.e+00, 1.e-10])", floats=True)
sin = _elementwise(ew.SIN, "The sine of x in radians.", "sin(np.array([0.0, np.pi / 2]))", "array([0., 1.])", floats=True)
cos = _elementwise(ew.COS, "The cosine of x in radians.", "cos(np.array([0.0, np.pi]))", "array([ 1., -1.])", floats=True)
tanh = _elementwise(ew.TANH, "The hyperbolic tangent.", "tanh(np.array([0.0, 100.0]))", "array([0., 1.])", floats=True)
sigmoid = _elementwise(ew.SIGMOID, "1 / (1 + exp(-x)), safe for large |x|.", "sigmoid(np.array([0.0, -1000.0]))", "array([0.5, 0. ])", floats=True)
erf = _elementwise(ew.ERF, "The error function.", "erf(np.array([0.0, 1.0])).round(4)", "array([0.    , 0.8427])", floats=True)
relu = _elementwise(ew.RELU, "max(x, 0); derivative 0 at 0.", "fm.grad(relu)(0.0)", "array(0., dtype=float32)")
equal = _elementwise(ew.EQUAL, "x == y, as bool.", "equal(np.array([1.0, np.nan]), np.array([1.0, np.nan]))", "array([ True, False])")
not_equal = _elementwise(ew.NOT_EQUAL, "x != y, as bool.", "not_equal(np.array([1.0, np.nan]), np.array([1.0, np.nan]))", "array([False,  True])")
less = _elementwise(ew.LESS, "x < y, as bool.", "less(np.array([1, 2]), 1.5)", "array([ True, False])")
less_equal = _elementwise(ew.LESS_EQUAL, "x <= y, as bool.", "less_equal(np.array([1, 2]), 1)", "array([ True, False])")
greater = _elementwise(ew.GREATER, "x > y, as bool.", "greater(np.array([1, 2]), 1.5)", "array([False,  True])")
greater_equal = _elementwise(ew.GREATER_EQUAL, "x >= y, as bool.", "greater_equal(np.array([1, 2]), 2)", "array([False,  True])")
logical_and = _elementwise(ew.LOGICAL_AND, "Both are true.", "logical_and(np.array([0, 2]), True)", "array([False,  True])", logical=True)
logical_or = _elementwise(ew.LOGICAL_OR, "One is true.", "logical_or(np.array([0, 2]), False)", "array([False,  True])", logical=True)
logical_not = _elementwise(ew.LOGICAL_NOT, "x is not true.", "logical_not(np.array([0, 2]))", "array([ True, False])", logical=True)


@array_function
def where(condition: Any, x: Any, y: Any) -> Var:
    """x where the condition holds, else y; all three broadcast.  Both branches are computed.

    Errors: TypeError for a condition that is not of bools.

    >>> where(np.array([True, False]), np.float32(1), np.float32(2))
    array([1., 2.], dtype=float32)
    """
    g = graph_of("where", [condition, x, y])
    dtype = common_dtype("where", [x, y])
    c = condition if isinstance(condition, Var) else g.const(builtins.bool(condition), (), "bool")
    if c.dtype != "bool":
        raise expected("where", "a bool condition", c.dtype, TypeError)
    return g.emit(ew.WHERE, tuple(broadcast_all("where", [c, converted(x, dtype, g), converted(y, dtype, g)])))


@array_function
def square(x: Any) -> Var:
    """x * x; bools are counted.

    >>> square(np.array([-3.0, 2.0]))
    array([9., 4.])
    """
    x = counted(array_operand("square", x))
    return x.graph.emit(ew.MULTIPLY, (x, x))


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """x, raised to ``min`` and lowered to ``max``, where given; all broadcast.  At a limit the derivative is a half.

    >>> clip(np.array([-2.0, 0.5, 3.0]), 0.0, 1.0)
    array([0. , 0.5, 1. ])
    """
    y = x if min is None else maximum(x, min)
    return y if max is None else minimum(y, max)


@array_function
def astype(x: Any, *, dtype: Any) -> Var:
    """x converted to ``dtype``: float32, float64, int32 or bool; floats become integers by truncation.

    >>> astype(np.array([1.7, -1.7]), dtype="int32")
    array([ 1, -1], dtype=int32)
    """
    return sh.cast(array_operand("astype", x), dtype_name("astype", dtype))


def stop_gradient(x: Any) -> Any:
    """x, an array or a tree of arrays, as a constant to every derivative.

    >>> fm.grad(lambda x: x * stop_gradient(x))(3.0)
    array(3., dtype=float32)
    """
    return optree.tree_map(_stop_gradient, x)


@array_function
def _stop_gradient(x: Any) -> Var:
    return array_operand("stop_gradient", x).graph.emit(sh.STOP_GRADIENT, (x,))


def zeros_like(x: Array) -> Array:
    """Zeros of the shape and dtype of x.

    >>> zeros_like(np.array([1, 2]))
    array([0, 0], dtype=int32)
    """
    return full_like(x, 0)


def ones_like(x: Array) -> Array:
    """Ones of the shape and dtype of x.

    >>> ones_like(np.array([0.5, 2.0]))
    array([1., 1.])
    """
    return full_like(x, 1)


def full_like(x: Array, value: float) -> Array:
    """An array of the shape and dtype of x, every element the number ``value``.

    >>> full_like(np.array([1, 2]), 7)
    array([7, 7], dtype=int32)
    """
    return _filled(x, value=value)


@array_function
def _filled(x: Any, *, value: float) -> Var:
    return array_operand("full_like", x).graph.const(DTYPES[x.dtype].type(value).item(), x.shape, x.dtype)
