"""Linear layers, dropout, and losses, which are means."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.array.arguments import array_function, integer_operand
from fastmeta.errors import expected
from fastmeta.ops import shape as sh
from fastmeta.ops.index import gather
from fastmeta.program import Var
from fastmeta.trace import Array, located


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """x [..., in] @ w [in, out] (+ b [out]).

    Errors: ValueError for b of another shape than [out].

    >>> linear(np.ones((4, 3)), np.ones((3, 2)), np.array([0.0, 1.0]))[0]
    array([3., 4.])
    """
    y = fa.matmul(x, w)
    if b is None:
        return y
    like("linear", "b", b, y.shape[-1:])
    return fa.add(y, b)


def dropout(x: Array, mask: Array, rate: float) -> Array:
    """x / (1 - rate) where the bool ``mask``, of x's shape, is True, and 0 elsewhere; ``rate`` in [0, 1) is the share dropped.

    The mask is an argument, so that the function has no hidden state.
    Errors: ValueError for another rate or a mask of another shape; TypeError for one that is not of bools.

    >>> dropout(np.ones(4, np.float32), np.array([True, False, True, True]), 0.5)
    array([2., 0., 2., 2.], dtype=float32)
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise located(expected("dropout", "a rate in [0, 1)", repr(rate)))
    like("dropout", "a mask", mask, np.shape(x))
    if getattr(mask, "dtype", None) != np.bool_:
        raise located(expected("dropout", "a mask of bools", getattr(mask, "dtype", type(mask).__name__), TypeError))
    return fa.where(mask, fa.multiply(x, 1.0 / (1.0 - rate)), 0.0)


def like(where: str, name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Refuses an array of another shape, where broadcasting would hide a mistake."""
    if tuple(np.shape(x)) != tuple(shape):
        raise located(expected(where, f"{name} of shape {tuple(shape)}", tuple(np.shape(x))))


def _labels(where: str, logits: Array, labels: Array) -> None:
    if len(np.shape(logits)) < 1:
        raise located(expected(where, "logits of at least one axis", logits))
    if isinstance(labels, list | tuple):
        raise located(expected(where, "labels as one array", type(labels).__name__, TypeError))
    like(where, "labels", labels, np.shape(logits)[:-1])
    if np.dtype(getattr(labels, "dtype", int)).kind not in "iu":
        raise located(expected(where, "integer labels", labels.dtype, TypeError))


def mse(prediction: Array, target: Array, *, weights: Array | None = None) -> Array:
    """The mean of (prediction - target)^2; the two must have one shape [n, ...].

    ``weights`` [n], floats or bools: the weighted mean over rows, sum(weights * row) / sum(weights); 0 for rows that fill up a batch.

    Errors: ValueError for a target that would broadcast.

    >>> import numpy as np
    >>> mse(np.zeros(2, np.float32), np.array([1, 3], np.float32))
    array(5., dtype=float32)
    """
    like("mse", "a target", target, np.shape(prediction))
    return _mean("mse", fa.square(fa.subtract(prediction, target)), weights, np.shape(prediction)[:1])


def cross_entropy(logits: Array, labels: Array, *, weights: Array | None = None) -> Array:
    """The mean over rows of -log softmax(logits [n, classes]) at the integer labels [n].

    ``weights`` [n], floats or bools: the weighted mean, sum(weights * row) / sum(weights); 0 for rows that fill up a batch, whose
    labels must be some class.
    A label outside 0..classes-1 raises IndexError when the function runs.

    TypeError for labels that are no integers, one-hot rows for instance; ValueError for another number of them.

    >>> cross_entropy(np.array([[0.0, 0.0], [1000.0, 0.0]]), np.array([1, 0]))
    array(0.34657359)
    """
    _labels("cross_entropy", logits, labels)
    return fa.negative(_mean("cross_entropy", _at_labels(fa.log_softmax(logits, axis=-1), labels), weights, np.shape(labels)))


@array_function
def _at_labels(x: Any, labels: Any) -> Var:
    """The entries of x [.., classes] at labels [..]; the error of a bad one calls it what the user does."""
    if x.graph.line:
        x.graph.line = (*x.graph.line, "cross_entropy", "a label")
    index = x.graph.const(labels, (), "i32") if type(labels) is int else integer_operand("cross_entropy", labels, "labels")
    return gather(x, sh.reshape(index, (*index.shape, 1)), len(index.shape))


def accuracy(logits: Array, labels: Array, *, weights: Array | None = None) -> Array:
    """The share of rows of logits [n, classes] whose first largest entry is at the label [n], of their weight if ``weights`` [n] are given.

    Errors: TypeError for labels that are no integers; ValueError for another number of them.

    >>> accuracy(np.array([[2.0, 2.0], [0.0, 1.0]]), np.array([1, 1]))
    array(0.5, dtype=float32)
    """
    _labels("accuracy", logits, labels)
    right = fa.astype(fa.equal(fa.argmax(logits, axis=-1), labels), dtype="float32")
    return _mean("accuracy", right, weights, np.shape(labels))


def _mean(where: str, x: Array, weights: Array | None, shape: tuple[int, ...]) -> Array:
    """The mean of x, by the weights of its leading axes."""
    if weights is None:
        return fa.mean(x)
    like(where, "weights", weights, shape)
    x = fa.mean(x, axis=tuple(range(len(shape), len(np.shape(x)))))
    weights = fa.astype(weights, dtype=x.dtype)
    return fa.divide(fa.sum(fa.multiply(weights, x)), fa.sum(weights))
