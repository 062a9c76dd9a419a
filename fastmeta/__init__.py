"""fastmeta: exact meta-gradients for hundreds of few-shot tasks in one native call."""

import typing as _typing
from importlib import import_module as _import_module

from fastmeta import backends, nn
from fastmeta.array import (
    abs,
    acos,
    add,
    all,
    any,
    arange,
    argmax,
    argmin,
    argsort,
    asin,
    astype,
    atan,
    atan2,
    broadcast_to,
    ceil,
    clip,
    concat,
    cos,
    cosh,
    cumulative_prod,
    cumulative_sum,
    diag,
    diagonal,
    divide,
    einsum,
    equal,
    erf,
    exp,
    expand_dims,
    expm1,
    eye,
    flip,
    floor,
    floor_divide,
    full,
    full_like,
    greater,
    greater_equal,
    inverse,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    linspace,
    log,
    log1p,
    log2,
    log10,
    log_softmax,
    logaddexp,
    logdet,
    logical_and,
    logical_not,
    logical_or,
    logsumexp,
    matmul,
    matrix_transpose,
    max,
    maximum,
    mean,
    median,
    meshgrid,
    min,
    minimum,
    moveaxis,
    multiply,
    negative,
    norm,
    not_equal,
    one_hot,
    ones,
    ones_like,
    outer,
    pad,
    permute_dims,
    power,
    prod,
    reciprocal,
    relu,
    remainder,
    repeat,
    reshape,
    roll,
    round,
    rsqrt,
    scatter_add,
    sigmoid,
    sign,
    sin,
    sinh,
    softmax,
    solve,
    sort,
    sqrt,
    square,
    squeeze,
    stack,
    std,
    stop_gradient,
    subtract,
    sum,
    take,
    take_along_axis,
    tan,
    tanh,
    tensordot,
    tile,
    top_k,
    trace,
    tril,
    triu,
    unstack,
    var,
    vecdot,
    where,
    zeros,
    zeros_like,
)  # fmt: skip
from fastmeta.backends import set_backend, set_num_threads
from fastmeta.compile import jit
from fastmeta.gradients import grad, hessian, hvp, jacfwd, jacrev, jvp, value_and_grad, vjp
from fastmeta.loops import map_tasks, scan
from fastmeta.memory import MemoryEstimate, memory_estimate
from fastmeta.tree import tree_map

if _typing.TYPE_CHECKING:  # what is in _LAZY
    from fastmeta import algorithms, data, kernels, models, optim, testing, train
    from fastmeta.algorithms import (
        ANIL,
        FOMAML,
        IMAML,
        MAML,
        MANN,
        SNAIL,
        CovarianceNet,
        FewShotClassifier,
        Frozen,
        MAMLPlusPlus,
        MatchingNet,
        MetaSGD,
        ProtoNet,
        RelationNet,
        Reptile,
        SemiSupervisedProtoNet,
        Siamese,
        TaskEmbedding,
    )

__all__ = [  # ruff holds it to the imports above
    "ANIL", "CovarianceNet", "FOMAML", "FewShotClassifier", "Frozen", "IMAML", "MAML", "MAMLPlusPlus", "MANN", "MatchingNet",
    "MemoryEstimate", "MetaSGD", "ProtoNet", "RelationNet", "Reptile", "SNAIL", "SemiSupervisedProtoNet", "Siamese", "TaskEmbedding", "abs",
    "acos", "add", "algorithms", "all", "any", "arange", "argmax", "argmin", "argsort", "asin", "astype", "atan", "atan2", "backends",
    "broadcast_to", "ceil", "clip", "concat", "cos", "cosh", "cumulative_prod", "cumulative_sum", "data", "diag", "diagonal", "divide",
    "einsum", "equal", "erf", "exp", "expand_dims", "expm1", "eye", "flip", "floor", "floor_divide", "full", "full_like", "grad", "greater",
    "greater_equal", "hessian", "hvp", "inverse", "isfinite", "isinf", "isnan", "jacfwd", "jacrev", "jit", "jvp", "kernels", "less",
    "less_equal", "linspace", "log", "log10", "log1p", "log2", "log_softmax", "logaddexp", "logdet", "logical_and", "logical_not",
    "logical_or", "logsumexp", "map_tasks", "matmul", "matrix_transpose", "max", "maximum", "mean", "median", "memory_estimate", "meshgrid",
    "min", "minimum", "models", "moveaxis", "multiply", "negative", "nn", "norm", "not_equal", "one_hot", "ones", "ones_like", "optim",
    "outer", "pad", "permute_dims", "power", "prod", "reciprocal", "relu", "remainder", "repeat", "reshape", "roll", "round", "rsqrt",
    "scan", "scatter_add", "set_backend", "set_num_threads", "sigmoid", "sign", "sin", "sinh", "softmax", "solve", "sort", "sqrt", "square",
    "squeeze", "stack", "std", "stop_gradient", "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tensordot", "testing", "tile",
    "top_k", "trace", "train", "tree_map", "tril", "triu", "unstack", "value_and_grad", "var", "vecdot", "vjp", "where", "zeros",
    "zeros_like",
]  # fmt: skip

__version__ = "0.1.0"

_LAZY = {  # loaded at first use, so that importing the engine stays fast
    "ANIL": "fastmeta.algorithms",
    "CovarianceNet": "fastmeta.algorithms",
    "FOMAML": "fastmeta.algorithms",
    "FewShotClassifier": "fastmeta.algorithms",
    "Frozen": "fastmeta.algorithms",
    "IMAML": "fastmeta.algorithms",
    "MAML": "fastmeta.algorithms",
    "MAMLPlusPlus": "fastmeta.algorithms",
    "MANN": "fastmeta.algorithms",
    "MatchingNet": "fastmeta.algorithms",
    "MetaSGD": "fastmeta.algorithms",
    "ProtoNet": "fastmeta.algorithms",
    "RelationNet": "fastmeta.algorithms",
    "Reptile": "fastmeta.algorithms",
    "SNAIL": "fastmeta.algorithms",
    "SemiSupervisedProtoNet": "fastmeta.algorithms",
    "Siamese": "fastmeta.algorithms",
    "TaskEmbedding": "fastmeta.algorithms",
    "algorithms": "fastmeta.algorithms",
    "data": "fastmeta.data",
    "kernels": "fastmeta.kernels",
    "models": "fastmeta.models",
    "optim": "fastmeta.optim",
    "testing": "fastmeta.testing",
    "train": "fastmeta.train",
}


def __getattr__(name: str) -> _typing.Any:
    source = _LAZY.get(name)
    if source is None:
        from fastmeta.names import MODULE, missing

        raise missing("module 'fastmeta'", name, MODULE)
    module = _import_module(source)
    value = module if source.endswith("." + name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
