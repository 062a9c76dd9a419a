"""Rows of the table: functions of single elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch.table import numpy_dtype, on_images, pointwise, refuse, row
from fastmeta.trace import Array

ROWS: dict[str, Callable[..., Array]] = {
    "relu": nn.relu, "leaky_relu": nn.leaky_relu, "silu": nn.silu, "tanh": fa.tanh, "sigmoid": fa.sigmoid, "exp": fa.exp, "expm1": fa.expm1, "log": fa.log, "log1p": fa.log1p,
    "atan": fa.atan, "asin": fa.asin, "acos": fa.acos, "sinh": fa.sinh, "cosh": fa.cosh, "negative": fa.negative, "absolute": fa.abs, "special_expit": fa.sigmoid,
    "log2": fa.log2, "log10": fa.log10, "sqrt": fa.sqrt, "rsqrt": fa.rsqrt, "reciprocal": fa.reciprocal, "abs": fa.abs, "square": fa.square, "neg": fa.negative, "sign": fa.sign, "sgn": fa.sign,
    "floor": fa.floor, "ceil": fa.ceil, "round": fa.round, "sin": fa.sin, "cos": fa.cos, "tan": fa.tan, "erf": fa.erf, "isnan": fa.isnan, "isinf": fa.isinf, "isfinite": fa.isfinite, "clone": lambda x, **_: x,
    "contiguous": lambda x, **_: x, "detach": fa.stop_gradient, "alias": lambda x: x, "logical_not": fa.logical_not,
    "logical_and": fa.logical_and, "logical_or": fa.logical_or, "logical_xor": lambda x, y: fa.not_equal(fa.not_equal(x, 0), fa.not_equal(y, 0)),
}  # fmt: skip
for _name, _f in ROWS.items():
    pointwise(f"{_name}.default")(_f)
for _name, _f in {
    "div": fa.divide, "divide": fa.divide, "true_divide": fa.divide, "atan2": fa.atan2, "maximum": fa.maximum, "minimum": fa.minimum, "eq": fa.equal, "ne": fa.not_equal,
    "lt": fa.less, "le": fa.less_equal, "gt": fa.greater, "ge": fa.greater_equal,
}.items():  # fmt: skip
    pointwise(f"{_name}.Tensor", f"{_name}.Scalar", f"{_name}.default")(_f)
for _name, _f in {"remainder": fa.remainder, "floor_divide": fa.floor_divide}.items():
    pointwise(f"{_name}.default", f"{_name}.Tensor", f"{_name}.Scalar")(_f)
pointwise("max.other")(fa.maximum)
pointwise("min.other")(fa.minimum)


def bools(*args: Array) -> bool:
    return all(getattr(a, "dtype", np.dtype(type(a))) == np.bool_ for a in args)


def of_bools(f: Any) -> Any:
    """A function of bits, where the bits are bools."""

    def call(*args: Array) -> Array:
        if not bools(*args):
            raise refuse("bits of integers in place of bools")
        return f(*args)

    return call


for _name, _f in {"and": fa.logical_and, "or": fa.logical_or, "xor": fa.not_equal}.items():
    pointwise(f"__{_name}__.Tensor", f"__{_name}__.Scalar", f"bitwise_{_name}.Tensor", f"bitwise_{_name}.Scalar")(of_bools(_f))
pointwise("bitwise_not.default")(of_bools(fa.logical_not))


@pointwise("add.Tensor", "add.Scalar")
def add(x: Array, y: Array, alpha: float = 1) -> Array:
    """Of bools, whether one is true."""
    return fa.logical_or(x, y) if bools(x, y) else fa.add(x, y if alpha == 1 else fa.multiply(y, alpha))


@pointwise("sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar")
def sub(x: Array, y: Array, alpha: float = 1) -> Array:
    return fa.subtract(x, y if alpha == 1 else fa.multiply(y, alpha))


@pointwise("mul.Tensor", "mul.Scalar", "multiply.Tensor", "multiply.Scalar")
def mul(x: Array, y: Array) -> Array:
    """Of bools, whether both are true."""
    return fa.logical_and(x, y) if bools(x, y) else fa.multiply(x, y)


@pointwise("div.Tensor_mode", "div.Scalar_mode")
def div(x: Array, y: Array, *, rounding_mode: str | None = None) -> Array:
    if rounding_mode == "trunc":
        raise refuse("rounding_mode='trunc' in place of 'floor' or None")
    return fa.divide(x, y) if rounding_mode is None else fa.floor_divide(x, y)


@pointwise("rsub.Scalar")
def rsub(x: Array, y: float, alpha: float = 1) -> Array:
    return fa.subtract(y, fa.multiply(x, alpha))


@pointwise("pow.Tensor_Scalar", "pow.Tensor_Tensor")
def power(x: Array, y: Array) -> Array:
    return fa.square(x) if isinstance(y, int | float) and y == 2 else fa.power(x, y)


@pointwise("pow.Scalar")
def power_of(base: float, x: Array) -> Array:
    return fa.power(float(base), x)


@pointwise("exp2.default")
def exp2(x: Array) -> Array:
    return fa.power(2.0, x)


@pointwise("addcmul.default")
def addcmul(x: Array, y: Array, z: Array, *, value: float = 1) -> Array:
    return add(x, fa.multiply(y, z), value)


@pointwise("addcdiv.default")
def addcdiv(x: Array, y: Array, z: Array, *, value: float = 1) -> Array:
    return add(x, fa.divide(y, z), value)


@pointwise("lerp.Scalar", "lerp.Tensor")
def lerp(x: Array, y: Array, share: Array) -> Array:
    return fa.add(x, fa.multiply(fa.subtract(y, x), share))


# -- activations


@pointwise("elu.default")
def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    above = fa.greater(x, 0.0)
    negative = fa.multiply(fa.expm1(fa.multiply(fa.where(above, 0.0, x), input_scale)), alpha)
    return fa.multiply(fa.where(above, x, negative), scale)


@pointwise("celu.default")
def celu(x: Array, alpha: float = 1.0) -> Array:
    return elu(x, alpha, 1.0, 1 / alpha)


@pointwise("selu.default")
def selu(x: Array) -> Array:
    """Source: Klambauer et al. 2017, the two constants to float64's digits."""
    return elu(x, 1.6732632423543772, 1.0507009873554805)


@row("glu.default")
def glu(x: Array, axis: int = -1) -> Array:
    half = x.shape[axis] // 2
    before = (slice(None),) * (axis % len(x.shape))
    return fa.multiply(x[(*before, slice(half))], fa.sigmoid(x[(*before, slice(half, None))]))


@pointwise("gelu.default")
def gelu(x: Array, approximate: str = "none") -> Array:
    return nn.gelu(x, approximate=approximate == "tanh")


@pointwise("clamp.default", "clamp.Tensor", "clip.default", "clip.Tensor")
def clamp(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """At a limit the whole derivative is x's."""
    x = x if low is None else fa.where(fa.less(x, low), low, x)
    return x if high is None else fa.where(fa.greater(x, high), high, x)


@pointwise("clamp_min.default", "clamp_min.Tensor")
def clamp_min(x: Array, low: Array) -> Array:
    return clamp(x, low)


@pointwise("clamp_max.default", "clamp_max.Tensor")
def clamp_max(x: Array, high: Array) -> Array:
    return clamp(x, None, high)


@pointwise("hardtanh.default")
def hardtanh(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """At a limit the derivative is 0."""
    return fa.where(fa.less_equal(x, low), low, fa.where(fa.greater_equal(x, high), high, x))


@pointwise("relu6.default")
def relu6(x: Array) -> Array:
    return hardtanh(x, 0.0, 6.0)


@pointwise("threshold.default")
def threshold(x: Array, limit: float, value: float) -> Array:
    return fa.where(fa.less_equal(x, limit), value, x)


@pointwise("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return fa.where(mask, value, x)


@pointwise("where.self", "where.ScalarOther", "where.ScalarSelf")
def where(condition: Array, x: Array, y: Array) -> Array:
    return fa.where(condition, x, y)


@pointwise("where.Scalar")
def where_numbers(condition: Array, x: float, y: float) -> Array:
    dtype = numpy_dtype(torch.result_type(x, y))
    return fa.where(condition, np.asarray(x, dtype), np.asarray(y, dtype))


@pointwise("dropout.default")
def dropout(x: Array, rate: float, training: bool) -> Array:
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    return x


@on_images("bernoulli.p", "bernoulli.default", "rand.default", "randn.default", "rand_like.default", "randn_like.default")
def random(*_: Any, **__: Any) -> Any:
    raise refuse("random numbers (module.eval() turns dropout off)")


@on_images("native_dropout.default")
def native_dropout(x: Any, rate: float, training: bool) -> Any:
    return (dropout(x, rate, training),)


@pointwise("softplus.default")
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return fa.where(fa.greater(fa.multiply(x, beta), threshold), x, fa.multiply(nn.softplus(fa.multiply(x, beta)), 1 / beta))


@pointwise("log_sigmoid.default")
def log_sigmoid(x: Array) -> Array:
    return fa.negative(nn.softplus(fa.negative(x)))


@pointwise("logaddexp.default")
def logaddexp(x: Array, y: Array) -> Array:
    return fa.logaddexp(x, y)


@pointwise("mish.default")
def mish(x: Array) -> Array:
    return fa.multiply(x, fa.tanh(nn.softplus(x)))


@pointwise("hardsigmoid.default")
def hardsigmoid(x: Array) -> Array:
    return fa.multiply(hardtanh(fa.add(x, 3.0), 0.0, 6.0), 1 / 6)


@pointwise("hardswish.default")
def hardswish(x: Array) -> Array:
    """At -3 and 3 the derivative is that of the constant and of the line."""
    inner = fa.multiply(x, fa.multiply(fa.add(x, 3.0), 1 / 6))
    return fa.where(fa.less_equal(x, -3.0), 0.0, fa.where(fa.greater_equal(x, 3.0), x, inner))


@row("prelu.default")
def prelu(x: Array, slope: Array) -> Array:
    slope = fa.reshape(slope, (-1, *[1 for _ in x.shape[2:]])) if len(x.shape) > 1 else slope
    return nn.leaky_relu(x, slope)
