"""Rows of the table: functions of single elements."""

from __future__ import annotations

from typing import Any

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch.aten import on_images, pointwise, refuse, row
from fastmeta.trace import Array

for _name, _f in {
    "relu": nn.relu, "leaky_relu": nn.leaky_relu, "silu": nn.silu, "tanh": fa.tanh, "sigmoid": fa.sigmoid, "exp": fa.exp, "log": fa.log, "sqrt": fa.sqrt, "rsqrt": fa.rsqrt,
    "abs": fa.abs, "square": fa.square, "neg": fa.negative, "sin": fa.sin, "cos": fa.cos, "erf": fa.erf, "clone": lambda x, **_: x,
    "contiguous": lambda x, **_: x, "detach": fa.stop_gradient, "alias": lambda x: x,
}.items():  # fmt: skip
    pointwise(f"{_name}.default")(_f)
for _name, _f in {
    "mul": fa.multiply, "div": fa.divide, "maximum": fa.maximum, "minimum": fa.minimum, "eq": fa.equal, "ne": fa.not_equal,
    "clamp_min": fa.maximum, "clamp_max": fa.minimum, "lt": fa.less, "le": fa.less_equal, "gt": fa.greater, "ge": fa.greater_equal,
}.items():  # fmt: skip
    pointwise(f"{_name}.Tensor", f"{_name}.Scalar", f"{_name}.default")(_f)


@pointwise("add.Tensor", "add.Scalar")
def add(x: Array, y: Array, alpha: float = 1) -> Array:
    return fa.add(x, y if alpha == 1 else fa.multiply(y, alpha))


@pointwise("sub.Tensor", "sub.Scalar")
def sub(x: Array, y: Array, alpha: float = 1) -> Array:
    return fa.subtract(x, y if alpha == 1 else fa.multiply(y, alpha))


@pointwise("rsub.Scalar")
def rsub(x: Array, y: float, alpha: float = 1) -> Array:
    return fa.subtract(y, fa.multiply(x, alpha))


@pointwise("pow.Tensor_Scalar", "pow.Tensor_Tensor")
def power(x: Array, y: Array) -> Array:
    return fa.square(x) if isinstance(y, int | float) and y == 2 else fa.power(x, y)


@pointwise("elu.default")
def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    negative = fa.multiply(fa.expm1(fa.multiply(fa.minimum(x, 0.0), input_scale)), alpha)
    return fa.multiply(fa.where(fa.greater(x, 0.0), x, negative), scale)


@pointwise("gelu.default")
def gelu(x: Array, approximate: str = "none") -> Array:
    return nn.gelu(x, approximate=approximate == "tanh")


@pointwise("clamp.default", "hardtanh.default")
def clamp(x: Array, low: float | None = None, high: float | None = None) -> Array:
    x = x if low is None else fa.maximum(x, low)
    return x if high is None else fa.minimum(x, high)


@pointwise("where.self", "where.ScalarOther", "where.ScalarSelf")
def where(condition: Array, x: Array, y: Array) -> Array:
    return fa.where(condition, x, y)


@pointwise("dropout.default")
def dropout(x: Array, rate: float, training: bool) -> Array:
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    return x


@on_images("native_dropout.default")
def native_dropout(x: Any, rate: float, training: bool) -> Any:
    return (dropout(x, rate, training),)


@pointwise("softplus.default")
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return fa.where(fa.greater(fa.multiply(x, beta), threshold), x, fa.multiply(nn.softplus(fa.multiply(x, beta)), 1 / beta))


@pointwise("log_sigmoid.default")
def log_sigmoid(x: Array) -> Array:
    return fa.negative(nn.softplus(fa.negative(x)))


@pointwise("mish.default")
def mish(x: Array) -> Array:
    return fa.multiply(x, fa.tanh(nn.softplus(x)))


@pointwise("hardsigmoid.default")
def hardsigmoid(x: Array) -> Array:
    return fa.multiply(fa.clip(fa.add(x, 3.0), 0.0, 6.0), 1 / 6)


@pointwise("hardswish.default")
def hardswish(x: Array) -> Array:
    return fa.multiply(x, hardsigmoid(x))


@row("prelu.default")
def prelu(x: Array, slope: Array) -> Array:
    slope = fa.reshape(slope, (-1, *[1 for _ in x.shape[2:]])) if len(x.shape) > 1 else slope
    return nn.leaky_relu(x, slope)
