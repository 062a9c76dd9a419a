"""fastmeta: exact meta-gradients for hundreds of few-shot tasks in one native call."""

from importlib import import_module as _import_module
from typing import Any as _Any

from fastmeta import backends, nn
from fastmeta.array import (
    abs,
    add,
    all,
    any,
    argmax,
    argmin,
    argsort,
    astype,
    broadcast_to,
    ceil,
    clip,
    concat,
    cos,
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
    flip,
    floor,
    floor_divide,
    full_like,
    greater,
    greater_equal,
    inverse,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
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
    min,
    minimum,
    moveaxis,
    multiply,
    negative,
    norm,
    not_equal,
    one_hot,
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
    rsqrt,
    scatter_add,
    sigmoid,
    sign,
    sin,
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
    tile,
    top_k,
    trace,
    tril,
    triu,
    unstack,
    var,
    vecdot,
    where,
    zeros_like,
)  # fmt: skip
from fastmeta.backends import set_backend, set_num_threads
from fastmeta.compile import jit
from fastmeta.gradients import grad, hvp, jvp, value_and_grad, vjp
from fastmeta.loops import map_tasks, scan
from fastmeta.memory import MemoryEstimate, memory_estimate
from fastmeta.tree import tree_map

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
    "MatchingNet": "fastmeta.algorithms",
    "MetaSGD": "fastmeta.algorithms",
    "ProtoNet": "fastmeta.algorithms",
    "RelationNet": "fastmeta.algorithms",
    "Reptile": "fastmeta.algorithms",
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


def __getattr__(name: str) -> _Any:
    source = _LAZY.get(name)
    if source is None:
        raise AttributeError(f"module 'fastmeta' has no attribute {name!r}")
    module = _import_module(source)
    value = module if source.endswith("." + name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
