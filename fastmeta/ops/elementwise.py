"""Elementwise primitives: all operands and the result have one shape.

A row's ``micro`` is the one expression that feeds every backend; its ``partials`` give partial_i * t, which serves
forward mode (t a tangent) and reverse mode (t a cotangent) alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta.errors import expected
from fastmeta.program import CONST, FLOATS, MicroOp, Primitive, Shape, Var

NUMBERS = ("f32", "f64", "i32")
REGISTRY: dict[str, Primitive] = {}


def apply(op: Primitive, *xs: Var | float) -> Var:
    """Emits ``op`` on operands of one shape; Python numbers become constants of that shape and dtype."""
    first = next(x for x in reversed(xs) if isinstance(x, Var))
    ins = tuple([x if isinstance(x, Var) else first.graph.const(x, first.shape, first.dtype) for x in xs])
    return first.graph.emit(op, ins)


def add(x: Var | float, y: Var | float) -> Var:
    return apply(ADD, x, y)


def subtract(x: Var | float, y: Var | float) -> Var:
    return apply(SUBTRACT, x, y)


def multiply(x: Var | float, y: Var | float) -> Var:
    return apply(MULTIPLY, x, y)


def divide(x: Var | float, y: Var | float) -> Var:
    return apply(DIVIDE, x, y)


def negative(x: Var) -> Var:
    return apply(NEGATIVE, x)


def where(m: Var, x: Var | float, y: Var | float) -> Var:
    like = x if isinstance(x, Var) else y
    assert isinstance(like, Var)
    lift = [v if isinstance(v, Var) else like.graph.const(v, like.shape, like.dtype) for v in (x, y)]
    return m.graph.emit(WHERE, (m, *lift))


# -- rules


def _same(name: str, types: tuple[str, ...], result: str | None = None) -> Callable[..., tuple[Shape, str]]:
    def infer(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
        first = ins[0]
        if first.dtype not in types:
            raise expected(name, " or ".join(types), first.dtype, TypeError)
        for x in ins[1:]:
            if x.dtype != first.dtype:
                raise expected(name, f"operands of one dtype, {first.dtype}", x.dtype, TypeError)
            if x.shape != first.shape:
                raise expected(name, f"operands of one shape, {first.shape}", x.shape)
        return first.shape, result or first.dtype

    return infer


def _where(ins: tuple[Var, ...], at: tuple[Any, ...]) -> tuple[Shape, str]:
    m, x, y = ins
    if m.dtype != "bool":
        raise expected("where", "a bool condition", m.dtype, TypeError)
    if not (m.shape == x.shape == y.shape and x.dtype == y.dtype):
        raise expected("where", f"{x.dtype}{list(x.shape)} for all operands", f"{y.dtype}{list(y.shape)}, condition {list(m.shape)}")
    return x.shape, x.dtype


def _row(
    name: str, arity: int, types: tuple[str, ...], micro: str, evaluate: Callable[..., Any], *partials: Any,
    samples: tuple[str, ...] = (), result: str | None = None, commutative: bool = False, kinks: Any = None,
) -> Primitive:  # fmt: skip
    base = "b(4,) f(4,) f(4,)" if name == "where" else " ".join(["f(2,3)"] * arity)
    if types == ("bool",):
        base = base.replace("f(", "b(")
    if "i32" in types and not partials:
        samples = (*samples, base.replace("f(", "i("))
    row = MicroOp(name, arity, NUMBERS if types == ("bool",) else types, micro)
    op = Primitive(
        name, _where if name == "where" else _same(name, types, result), evaluate, elementwise=True, partials=partials,
        commutative=commutative, kinks=kinks, micro=row, samples=tuple((s, ()) for s in (base, *samples)),
    )  # fmt: skip
    REGISTRY[name] = op
    return op


def _unary(derivative: Callable[[Var, Var], Var]) -> Callable[..., Var]:
    """partial * t from the derivative as a function of (input, output)."""
    return lambda t, ins, out: multiply(t, derivative(ins[0], out))


def _share(larger: int) -> Callable[..., Var]:
    """What maximum and minimum hand to one of their operands: all of t where ``larger`` of the two is, half of it at a tie."""
    return lambda t, ins, out: apply(SHARE, t, ins[larger], ins[1 - larger])


def _divide_y(t: Var, i: tuple[Var, ...], o: Var) -> Var:
    """-t x / y^2 with no division that x / y and its derivative in x do not make."""
    x, y = i
    part = multiply(t, o) if x.op is CONST and x.attrs[0] == 1.0 else divide(t, y)
    return negative(multiply(part, o))


def _power_x(t: Var, ins: tuple[Var, ...], out: Var) -> Var:
    x, y = ins
    # where y == 0 the power is the constant 1: the factor y must not meet an infinite x ** -1
    zero = apply(EQUAL, y, 0.0)
    return multiply(t, where(zero, 0.0, multiply(y, apply(POWER, x, subtract(where(zero, 1.0, y), 1.0)))))


def _power_y(t: Var, ins: tuple[Var, ...], out: Var) -> Var:
    x, _ = ins
    positive = apply(GREATER, x, 0.0)
    return multiply(t, where(positive, multiply(out, apply(LOG, where(positive, x, 1.0))), 0.0))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.result_type(x)])(x) if np.size(x) else np.asarray(x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


EQUAL = _row("equal", 2, NUMBERS, "eq(x, y)", np.equal, result="bool", commutative=True)
NOT_EQUAL = _row("not_equal", 2, NUMBERS, "ne(x, y)", np.not_equal, result="bool", commutative=True)
LESS = _row("less", 2, NUMBERS, "lt(x, y)", np.less, result="bool")
LESS_EQUAL = _row("less_equal", 2, NUMBERS, "le(x, y)", np.less_equal, result="bool")
GREATER = _row("greater", 2, NUMBERS, "gt(x, y)", np.greater, result="bool")
GREATER_EQUAL = _row("greater_equal", 2, NUMBERS, "ge(x, y)", np.greater_equal, result="bool")
LOGICAL_AND = _row("logical_and", 2, ("bool",), "x * y", np.logical_and, commutative=True)
LOGICAL_OR = _row("logical_or", 2, ("bool",), "max(x, y)", np.logical_or, commutative=True)
LOGICAL_NOT = _row("logical_not", 1, ("bool",), "eq(x, lit(0))", np.logical_not)

ADD = _row("add", 2, NUMBERS, "x + y", np.add, lambda t, i, o: t, lambda t, i, o: t, samples=("i(3,) i(3,)",), commutative=True)
SUBTRACT = _row("subtract", 2, NUMBERS, "x - y", np.subtract, lambda t, i, o: t, lambda t, i, o: negative(t), samples=("i(3,) i(3,)",))
MULTIPLY = _row(
    "multiply", 2, NUMBERS, "x * y", np.multiply, lambda t, i, o: multiply(t, i[1]), lambda t, i, o: multiply(t, i[0]),
    samples=("i(3,) i(3,)",), commutative=True,
)  # fmt: skip
DIVIDE = _row(
    "divide", 2, FLOATS, "x / y", np.divide,
    lambda t, i, o: divide(t, i[1]), _divide_y, samples=("f(3,) p(3,)",),
)  # fmt: skip
POWER = _row("power", 2, FLOATS, "pow(x, y)", np.power, _power_x, _power_y, samples=("p(3,) f(3,)",))
MAXIMUM = _row("maximum", 2, NUMBERS, "max(x, y)", np.maximum, _share(0), _share(1),
               samples=("i(3,) i(3,)",), commutative=True, kinks=lambda x, y: np.abs(x - y))  # fmt: skip
MINIMUM = _row("minimum", 2, NUMBERS, "min(x, y)", np.minimum, _share(1), _share(0),
               samples=("i(3,) i(3,)",), commutative=True, kinks=lambda x, y: np.abs(x - y))  # fmt: skip
NEGATIVE = _row("negative", 1, NUMBERS, "-x", np.negative, lambda t, i, o: negative(t), samples=("i(3,)",))
ABS: Primitive = _row("abs", 1, NUMBERS, "abs(x)", np.abs, _unary(lambda x, o: apply(SIGN, x)), samples=("i(3,)",), kinks=np.abs)
SIGN: Primitive = _row("sign", 1, NUMBERS, "sign(x)", np.sign, None, samples=("i(3,)",), kinks=np.abs)
FLOOR = _row("floor", 1, FLOATS, "floor(x)", np.floor, None, kinks=lambda x: np.abs(x - np.round(x)))
SQRT = _row("sqrt", 1, FLOATS, "sqrt(x)", np.sqrt, lambda t, i, o: divide(multiply(t, 0.5), o), samples=("p(3,)",))
RSQRT = _row(
    "rsqrt", 1, FLOATS, "lit(1) / sqrt(x)", lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    _unary(lambda x, o: multiply(multiply(o, -0.5), multiply(o, o))), samples=("p(3,)",),
)  # fmt: skip
EXP = _row("exp", 1, FLOATS, "exp(x)", np.exp, _unary(lambda x, o: o))
EXPM1 = _row("expm1", 1, FLOATS, "expm1(x)", np.expm1, _unary(lambda x, o: add(o, 1.0)))
LOG = _row("log", 1, FLOATS, "log(x)", np.log, lambda t, i, o: divide(t, i[0]), samples=("p(3,)",))
LOG1P = _row("log1p", 1, FLOATS, "log1p(x)", np.log1p, lambda t, i, o: divide(t, add(i[0], 1.0)), samples=("p(3,)",))
SIN = _row("sin", 1, FLOATS, "sin(x)", np.sin, _unary(lambda x, o: apply(COS, x)))
COS: Primitive = _row("cos", 1, FLOATS, "cos(x)", np.cos, _unary(lambda x, o: negative(apply(SIN, x))))
TANH = _row("tanh", 1, FLOATS, "tanh(x)", np.tanh, _unary(lambda x, o: subtract(1.0, multiply(o, o))))
SIGMOID = _row("sigmoid", 1, FLOATS, "sigmoid(x)", _sigmoid, _unary(lambda x, o: multiply(o, subtract(1.0, o))))
ERF = _row(
    "erf", 1, FLOATS, "erf(x)", _erf,
    _unary(lambda x, o: multiply(apply(EXP, negative(multiply(x, x))), 2 / math.sqrt(math.pi))),
)  # fmt: skip
# relu' is taken from the output: one value fewer to keep
RELU = _row(
    "relu", 1, NUMBERS, "max(x, lit(0))", lambda x: np.maximum(x, x.dtype.type(0)),
    lambda t, i, o: where(apply(GREATER, o, 0.0), t, 0.0), samples=("i(3,)",), kinks=np.abs,
)  # fmt: skip
SHARE: Primitive = _row(
    "share", 3, FLOATS, "select(gt(y, z), x, select(eq(y, z), x / lit(2), lit(0)))",
    lambda t, x, y: np.where(x > y, t, np.where(x == y, t / t.dtype.type(2), t.dtype.type(0))),
    lambda t, i, o: apply(SHARE, t, i[1], i[2]), None, None, kinks=lambda t, x, y: np.abs(x - y),
)  # fmt: skip
WHERE = _row(
    "where", 3, NUMBERS, "select(x, y, z)", np.where,
    None, lambda t, i, o: where(i[0], t, 0.0), lambda t, i, o: where(i[0], 0.0, t), samples=("b(3,) i(3,) i(3,)",),
)  # fmt: skip
