"""Rows of the table: products, distances, attention, recurrent layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import nn
from fastmeta.interop.torch import recurrent
from fastmeta.interop.torch.reductions import vector_norm
from fastmeta.interop.torch.table import refuse, row
from fastmeta.kernels import pairwise_distance as distances
from fastmeta.trace import Array


@row("linear.default")
def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    return nn.linear(x, fa.permute_dims(w, (1, 0)), b)


for _name in ("matmul", "mm", "bmm", "mv"):
    row(f"{_name}.default")(fa.matmul)


@row("addmm.default", "baddbmm.default", "addmv.default")
def addmm(b: Array, x: Array, y: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    product = fa.matmul(x, y)
    product = product if alpha == 1 else fa.multiply(product, alpha)
    return product if beta == 0 else fa.add(product, b if beta == 1 else fa.multiply(b, beta))


@row("outer.default", "ger.default")
def outer(x: Array, y: Array) -> Array:
    return fa.multiply(fa.expand_dims(x, axis=1), y)


@row("inner.default")
def inner(x: Array, y: Array) -> Array:
    return fa.tensordot(x, y, ((len(x.shape) - 1,), (len(y.shape) - 1,))) if len(x.shape) and len(y.shape) else fa.multiply(x, y)


@row("dot.default", "vdot.default")
def dot(x: Array, y: Array) -> Array:
    return fa.vecdot(x, y)


@row("einsum.default")
def einsum(equation: str, factors: Sequence[Array], **_: Any) -> Array:
    return fa.einsum(equation.replace(" ", ""), *factors)


@row("bilinear.default")
def bilinear(x: Array, y: Array, w: Array, b: Array | None = None) -> Array:
    """x w[k] y for every k."""
    left = fa.einsum("ni,kij->nkj", fa.reshape(x, (-1, x.shape[-1])), w)
    out = fa.sum(fa.multiply(left, fa.reshape(y, (-1, 1, y.shape[-1]))), axis=2)
    out = fa.reshape(out, (*x.shape[:-1], w.shape[0]))
    return out if b is None else fa.add(out, b)


@row("tensordot.default")
def tensordot(x: Array, y: Array, of_x: Sequence[int], of_y: Sequence[int]) -> Array:
    return fa.tensordot(x, y, (of_x, of_y))


# -- distances


@row("cdist.default", "_cdist_forward.default")
def cdist(x: Array, y: Array, order: float = 2.0, *_: Any) -> Array:
    metric = {1.0: "l1", 2.0: "euclidean"}.get(order)
    if metric is None or len(x.shape) > 3:
        raise refuse(f"distances of order {order} between tensors of {len(x.shape)} axes in place of order 1 or 2 and 2 or 3 axes")
    return distances(x, y, metric=metric)


@row("pairwise_distance.default")
def pairwise_distance(x: Array, y: Array, order: float = 2, eps: float = 1e-6, keepdims: bool = False) -> Array:
    return vector_norm(fa.add(fa.subtract(x, y), eps), order, -1, keepdims)


# -- attention


@row("scaled_dot_product_attention.default")
def attention(
    query: Array, keys: Array, values: Array, mask: Any = None, rate: float = 0.0, causal: bool = False, *, scale: Any = None,
    **options: Any,
) -> Array:  # fmt: skip
    if rate or any(options.values()):
        raise refuse("dropout or grouped heads")
    if scale is not None:  # in place of the 1 / sqrt(d) that it will meet
        query = fa.multiply(query, scale * math.sqrt(query.shape[-1]))
    if causal:
        mask = np.tri(query.shape[-2], keys.shape[-2], dtype=np.bool_)
    return nn.attention(query, keys, values) if mask is None else _masked(query, keys, values, mask)


def _masked(query: Array, keys: Array, values: Array, mask: Array) -> Array:
    """Attention with a mask of bools, or of what is added to the scores; a query that sees no key has 0, as in PyTorch."""
    axes = tuple(range(len(keys.shape)))
    scores = fa.multiply(fa.matmul(query, fa.permute_dims(keys, (*axes[:-2], axes[-1], axes[-2]))), 1.0 / math.sqrt(query.shape[-1]))
    scores = fa.where(mask, scores, float("-inf")) if mask.dtype == np.bool_ else fa.add(scores, mask)
    blind = fa.equal(fa.stop_gradient(fa.max(scores, axis=-1, keepdims=True)), float("-inf"))
    shares = fa.where(blind, 0.0, fa.softmax(fa.where(blind, 0.0, scores), axis=-1))
    return fa.matmul(shares, values)


# -- recurrent layers


@row("lstm.input")
def lstm(
    x: Array, state: Any, weights: Any, biases: bool, layers: int, rate: float, training: bool, both: bool, batch_first: bool
) -> Any:  # fmt: skip
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    if state[0].shape != state[1].shape:
        raise refuse("projections (proj_size)")
    return recurrent.lstm(x, state, weights, biases, layers, both, batch_first)


@row("gru.input")
def gru(
    x: Array, state: Array, weights: Any, biases: bool, layers: int, rate: float, training: bool, both: bool, batch_first: bool
) -> Any:  # fmt: skip
    if training and rate > 0:
        raise refuse("random masks (module.eval() turns dropout off)")
    return recurrent.gru(x, state, weights, biases, layers, both, batch_first)


for _name, _f in {"rnn_tanh": fa.tanh, "rnn_relu": nn.relu}.items():

    @row(f"{_name}.input")
    def rnn(
        x: Array, state: Array, weights: Any, biases: bool, layers: int, rate: float, training: bool, both: bool, batch_first: bool,
        activation: Any = _f,
    ) -> Any:  # fmt: skip
        if training and rate > 0:
            raise refuse("random masks (module.eval() turns dropout off)")
        return recurrent.rnn(activation, x, state, weights, biases, layers, both, batch_first)

    @row(f"{_name}_cell.default")
    def rnn_cell(x: Array, h: Array, *weights: Array, activation: Any = _f) -> Array:
        return recurrent.rnn_cell(activation, x, h, *weights)


@row("lstm_cell.default")
def lstm_cell(x: Array, state: Any, *weights: Array) -> Any:
    return nn.lstm_cell(recurrent.lstm_params(*_given(weights)), x, tuple(state))


@row("gru_cell.default")
def gru_cell(x: Array, h: Array, *weights: Array) -> Array:
    return nn.gru_cell(recurrent.gru_params(*_given(weights)), x, h)


def _given(weights: Sequence[Any]) -> list[Array]:
    """The weights of a cell without biases that are None."""
    return [w for w in weights if w is not None]
