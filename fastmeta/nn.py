"""Neural building blocks: linear weights are [in, out], labels are integers, losses are means."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.errors import expected
from fastmeta.trace import Array, located

relu = fa.relu
sigmoid = fa.sigmoid
tanh = fa.tanh
softmax = fa.softmax
log_softmax = fa.log_softmax


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """x [..., in] @ w [in, out] (+ b [out])."""
    y = fa.matmul(x, w)
    if b is None:
        return y
    _like("linear", "b", b, y.shape[-1:])
    return fa.add(y, b)


def _like(where: str, name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Refuses an array of another shape, where broadcasting would hide a mistake."""
    if tuple(np.shape(x)) != tuple(shape):
        raise located(expected(where, f"{name} of shape {tuple(shape)}", tuple(np.shape(x))))


def _labels(where: str, logits: Array, labels: Array) -> None:
    if len(np.shape(logits)) < 1:
        raise located(expected(where, "logits of at least one axis", logits))
    _like(where, "labels", labels, np.shape(logits)[:-1])
    if np.dtype(getattr(labels, "dtype", int)).kind not in "iu":
        raise located(expected(where, "integer labels", labels.dtype, TypeError))


def mse(prediction: Array, target: Array) -> Array:
    """The mean of (prediction - target)^2; the two must have one shape.

    >>> import numpy as np
    >>> mse(np.zeros(2, np.float32), np.array([1, 3], np.float32))
    array(5., dtype=float32)
    """
    _like("mse", "a target", target, np.shape(prediction))
    return fa.mean(fa.square(fa.subtract(prediction, target)))


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean over rows of -log softmax(logits [n, classes]) at the integer labels [n].

    A label outside 0..classes-1 raises IndexError when the function runs.
    """
    _labels("cross_entropy", logits, labels)
    at = fa.expand_dims(labels, axis=-1)
    return fa.negative(fa.mean(fa.take_along_axis(fa.log_softmax(logits, axis=-1), at, axis=-1)))


def accuracy(logits: Array, labels: Array) -> Array:
    """The share of rows of logits [n, classes] whose first largest entry is at the label [n]."""
    _labels("accuracy", logits, labels)
    return fa.mean(fa.astype(fa.equal(fa.argmax(logits, axis=-1), labels), dtype="float32"))


def batch_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, eps: float = 1e-5,
    statistics: tuple[Array, Array] | None = None, return_statistics: bool = False,
) -> Any:  # fmt: skip
    """x [..., channels] normalised over all axes but the last, by the batch's (mean, variance) unless given.

    Source: Ioffe and Szegedy 2015.  With ``return_statistics``: (y, (mean, variance)).
    """
    if len(np.shape(x)) < 2:
        raise located(expected("batch_norm", "an array of at least two axes", np.shape(x)))
    axes = tuple(range(x.ndim - 1))
    if statistics is None:
        if x.size == x.shape[-1]:
            raise located(expected("batch_norm", "more than one element per channel (or given statistics)", x.shape))
        mean = fa.mean(x, axis=axes)
        centred = fa.subtract(x, mean)
        variance = fa.mean(fa.square(centred), axis=axes)
    else:
        mean, variance = statistics
        _like("batch_norm", "a mean", mean, x.shape[-1:])
        _like("batch_norm", "a variance", variance, x.shape[-1:])
        centred = fa.subtract(x, mean)
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            _like("batch_norm", name, value, x.shape[-1:])
    y = fa.multiply(centred, fa.rsqrt(fa.add(variance, eps)))
    y = y if scale is None else fa.multiply(y, scale)
    y = y if shift is None else fa.add(y, shift)
    return (y, (mean, variance)) if return_statistics else y
