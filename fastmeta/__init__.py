"""fastmeta: exact meta-gradients for hundreds of few-shot tasks in one native call."""

from fastmeta import backends, nn
from fastmeta.array import (
    abs, add, argmax, argmin, astype, broadcast_to, concat, cos, cumulative_sum, divide, einsum, equal, erf, exp,
    expand_dims, expm1, flip, floor, greater, greater_equal, less, less_equal, log, log1p, log_softmax, logical_and,
    logical_not, logical_or, logsumexp, matmul, max, maximum, mean, min, minimum, multiply, negative, not_equal, one_hot,
    ones_like, pad, permute_dims, power, prod, relu, reshape, rsqrt, scatter_add, sigmoid, sign, sin, softmax, sqrt,
    square, squeeze, stack, stop_gradient, subtract, sum, take, take_along_axis, tanh, var, where, zeros_like,
)  # fmt: skip
from fastmeta.backends import set_backend, set_num_threads
from fastmeta.compile import grad, hvp, jit, jvp, map_tasks, scan, value_and_grad, vjp
from fastmeta.tree import tree_map

__version__ = "0.1.0"
