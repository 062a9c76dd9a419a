"""Array functions by the names and semantics of the Python array API, on traced values and on plain arrays.

Inside a trace they record equations; on plain arrays outside a trace they compute their NumPy meaning at once.
Numbers take the dtype of the array they meet; float32 with float64 is an error; integers and bools with floats
become the float's dtype.

Errors of all functions: ValueError for shapes that do not fit together, an axis that is not there or one that occurs twice;
TypeError for float32 beside float64, and for what is no array, no number, or of a dtype that has no meaning there; OverflowError
for integers beyond 32 bits.  Docstrings tell of others.
"""

from fastmeta.array import operators  # noqa: F401  (gives tracers their operators)
from fastmeta.array.angles import acos, asin, atan, atan2, cosh, sinh
from fastmeta.array.composed import (
    all,
    any,
    ceil,
    isfinite,
    isinf,
    isnan,
    log2,
    log10,
    logaddexp,
    matrix_transpose,
    meshgrid,
    moveaxis,
    reciprocal,
    repeat,
    roll,
    round,
    std,
    tan,
    tile,
    tril,
    triu,
    unstack,
    vecdot,
)
from fastmeta.array.creation import arange, eye, full, linspace, ones, zeros
from fastmeta.array.division import floor_divide, remainder
from fastmeta.array.indexing import argsort, getitem, one_hot, scatter_add, sort, take, take_along_axis, top_k
from fastmeta.array.matrices import diag, diagonal, norm, outer, solve, trace
from fastmeta.array.numeric import (
    abs,
    add,
    astype,
    clip,
    cos,
    divide,
    equal,
    erf,
    exp,
    expm1,
    floor,
    full_like,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    ones_like,
    power,
    relu,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    stop_gradient,
    subtract,
    tanh,
    where,
    zeros_like,
)
from fastmeta.array.product import einsum, inverse, logdet, matmul, tensordot
from fastmeta.array.reduction import (
    argmax,
    argmin,
    cumulative_prod,
    cumulative_sum,
    log_softmax,
    logsumexp,
    max,
    mean,
    median,
    min,
    prod,
    softmax,
    sum,
    var,
)
from fastmeta.array.shaping import broadcast_to, concat, expand_dims, flip, pad, permute_dims, reshape, squeeze, stack
from fastmeta.ops.structure import CALL  # noqa: F401  (the registry is complete once this package is imported)
from fastmeta.transforms import pooling, rewrites  # noqa: F401  (attach the rules to the rows)
