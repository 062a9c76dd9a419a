"""What an episode does with embeddings: class means, their loss, nearest neighbours, attention."""

from __future__ import annotations

import numpy as np

from fastmeta import array as fa
from fastmeta.errors import expected, whole
from fastmeta.kernels.distance import (
    check_metric,
    distance,
    in_one_pass,
    is_positive,
    nearness,
    number,
    positive,
    scale_axes,
)
from fastmeta.kernels.fused import fused
from fastmeta.kernels.tasks import Argument, features, known, per_task, repeated
from fastmeta.ops.proto import proto_kernels
from fastmeta.trace import Array, located


def prototypes(x: Array, labels: Array, *, n_way: int, weights: Array | None = None) -> Array:
    """The mean of each class's rows, weighted if asked.

    Uneven shots need no care, but for those that pad an episode: give these any label and weight 0.  A class without rows, or
    whose weights are all 0, has the prototype 0.

    Args:
        x: embeddings [n, D]; or [T, n, D], a task each.
        labels: integers 0..n_way-1 [n]; or [T, n].
        n_way: the number of classes.
        weights: floats of at least 0, or bools, [n]; or [T, n].

    Returns:
        [n_way, D]; or [T, n_way, D].

    Raises:
        IndexError: for a label outside 0..n_way-1, when the function runs.
        ValueError: for shapes that do not fit, and negative weights if their values are known.

    Source: Snell et al. 2017, equation 1.

    >>> x = np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]], np.float32)
    >>> prototypes(x, np.array([0, 0, 1]), n_way=2)
    array([[2., 0.],
           [5., 5.]], dtype=float32)
    """
    if weights is None and (out := repeated(_prototypes, x, labels, None, n_way=n_way)) is not None:
        return out
    (x,) = features("prototypes", x=x)
    n_way = _whole("prototypes", "n_way", n_way)
    _labels("prototypes", "labels", labels, x)
    _weights("prototypes", "weights", weights, x)
    arguments: list[Argument] = [("x", x, 2), ("labels", labels, 1), ("weights", weights, 1)]
    return per_task("prototypes", _prototypes, arguments, n_way=n_way)


def proto_loss(
    support: Array, labels: Array, query: Array, query_labels: Array, *, n_way: int, metric: str = "sqeuclidean",
    scale: Array | None = None, temperature: Array = 1.0, weights: Array | None = None, query_weights: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """The loss of a prototypical network: mean over queries of -log softmax(-distance to every prototype / temperature) at the label.

    A class without support rows has probability 0.

    Args:
        support, labels: embeddings [n, D] and integers 0..n_way-1 [n]; or [T, n, D] and [T, n].
        query, query_labels: [q, D] and [q]; or [T, q, D] and [T, q].
        n_way: the number of classes.
        metric, scale: as in `pairwise_distance`, of queries and prototypes.
        temperature: a positive number.
        weights, query_weights: floats of at least 0, or bools, of supports and queries, 0 for those that pad an episode.

    Returns:
        The loss and the accuracy, scalars; or [T] each.

    Raises:
        As `prototypes` and `pairwise_distance` do, for support and query alike.

    Source: Snell et al. 2017, algorithm 1.

    >>> x = np.array([[0.0], [4.0]], np.float32)
    >>> loss, accuracy = proto_loss(x, np.array([0, 1]), x, np.array([0, 1]), n_way=2)
    >>> float(accuracy)
    1.0
    """
    if weights is None and query_weights is None and scale is None and is_positive(temperature):
        out = repeated(_proto_loss, support, labels, query, query_labels, None, None, None, temperature, n_way=n_way, metric=metric)
        if out is not None:
            return out
    support, query = features("proto_loss", support=support, query=query)
    n_way = _whole("proto_loss", "n_way", n_way)
    for name, x, y, w in (("", support, labels, weights), ("query_", query, query_labels, query_weights)):
        _labels("proto_loss", name + "labels", y, x)
        _weights("proto_loss", name + "weights", w, x)
    check_metric("proto_loss", metric, scale, query, n_way)
    positive("proto_loss", "temperature", temperature)
    arguments: list[Argument] = [
        ("support", support, 2), ("labels", labels, 1), ("query", query, 2), ("query_labels", query_labels, 1), ("weights", weights, 1),
        ("query_weights", query_weights, 1), ("scale", scale, scale_axes(metric)), ("temperature", temperature, (0, 0)),
    ]  # fmt: skip
    return per_task("proto_loss", _proto_loss, arguments, n_way=n_way, metric=metric)


def attention(
    query: Array, keys: Array, values: Array, *, metric: str, temperature: Array = 1.0, scale: Array | None = None, mask: Array | None = None
) -> Array:
    """The mean of ``values`` for each query, weighted by softmax(-distance to the keys / temperature).

    With one-hot labels as values these are the class probabilities of a matching network.

    Args:
        query: [n, D]; or [T, n, D].
        keys: [m, D]; or [T, m, D].
        values: [m, C]; or [T, m, C].
        metric, scale: as in `pairwise_distance`, of queries and keys.  ``dot`` is the attention of transformers.
        temperature: a positive number, or one per task [T].
        mask: bools [m], or [T, m]: the keys that count.  At least one must.

    Returns:
        [n, C]; or [T, n, C].

    Raises:
        ValueError: for shapes that do not fit, a temperature that is not positive, and as `pairwise_distance` does.

    Source: Vinyals et al. 2016, equation 1.

    >>> keys = np.array([[0.0], [9.0]], np.float32)
    >>> attention(keys, keys, np.eye(2, dtype=np.float32), metric="sqeuclidean").round(3)
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    if scale is None and is_positive(temperature):
        out = repeated(_attention, query, keys, values, mask, None, temperature, metric=metric)
        if out is not None:
            return out
    query, keys = features("attention", query=query, keys=keys)
    (values,) = features("attention", values=values)
    if values.shape[-2] != keys.shape[-2]:
        raise located(expected("attention", "as many values as keys", f"{values.shape[-2]} and {keys.shape[-2]}"))
    check_metric("attention", metric, scale, query, keys.shape[-2])
    positive("attention", "temperature", temperature)
    _weights("attention", "mask", mask, keys)
    if mask is not None and np.dtype(mask.dtype) != np.bool_:
        raise located(expected("attention", "a mask of bools", mask.dtype, TypeError))
    arguments: list[Argument] = [
        ("query", query, 2), ("keys", keys, 2), ("values", values, 2), ("mask", mask, 1), ("scale", scale, scale_axes(metric)),
        ("temperature", temperature, (0, 0)),
    ]  # fmt: skip
    return per_task("attention", _attention, arguments, metric=metric)


def nearest(x: Array, y: Array, k: int, *, metric: str = "sqeuclidean", scale: Array | None = None) -> tuple[Array, Array]:
    """The k rows of y nearest to each row of x: their distances, nearest first, and their int32 indices; the first of equals wins.

    Args:
        x, y: [n, D] and [m, D]; or [T, n, D] and [T, m, D].
        k: 1..m.
        metric, scale: as in `pairwise_distance`.

    Returns:
        Distances and indices, [n, k]; or [T, n, k].  The distances can be differentiated.

    Raises:
        ValueError: for k outside 1..m, and as `pairwise_distance` does.

    >>> distances, indices = nearest(np.zeros((1, 1), np.float32), np.array([[3.0], [1.0], [2.0]], np.float32), 2)
    >>> distances, indices
    (array([[1., 4.]], dtype=float32), array([[1, 2]], dtype=int32))
    """
    if scale is None and (out := repeated(_nearest, x, y, None, k=k, metric=metric)) is not None:
        return out
    x, y = features("nearest", x=x, y=y)
    check_metric("nearest", metric, scale, x, y.shape[-2])
    k = _whole("nearest", "k", k)
    if k > y.shape[-2]:
        raise located(expected("nearest", f"k of at most the {y.shape[-2]} rows of y", k))
    return per_task("nearest", _nearest, [("x", x, 2), ("y", y, 2), ("scale", scale, scale_axes(metric))], k=k, metric=metric)


# -- one task


def _prototypes(x: Array, labels: Array, weights: Array | None, *, n_way: int) -> Array:
    return _means(x, labels, weights, n_way)[0]


def _means(x: Array, labels: Array, weights: Array | None, n_way: int) -> tuple[Array, Array]:
    """Class means [n_way, D], and [n_way] which classes have no rows: their means are 0."""
    w = fa.ones_like(x[:, 0]) if weights is None else fa.astype(weights, dtype=x.dtype)
    rows = x if weights is None else fa.multiply(x, fa.expand_dims(w, axis=1))
    zero = fa.zeros_like(x[0])
    total = fa.scatter_add(fa.broadcast_to(zero[0], (n_way,)), labels, w)
    absent = fa.less_equal(total, 0.0)
    share = fa.divide(1.0, fa.where(absent, 1.0, total))
    sums = fa.scatter_add(fa.broadcast_to(zero, (n_way, x.shape[1])), labels, rows)
    return fa.multiply(sums, fa.expand_dims(share, axis=1)), absent


def _proto_loss(
    support: Array, labels: Array, query: Array, query_labels: Array, weights: Array | None, query_weights: Array | None, scale: Array | None,
    temperature: Array, *, n_way: int, metric: str,
) -> tuple[Array, Array]:  # fmt: skip
    means, absent = _means(support, labels, weights, n_way)
    if query_weights is None:
        share = fa.multiply(fa.ones_like(query[:, 0]), 1.0 / query.shape[0])
    else:
        share = fa.astype(query_weights, dtype=query.dtype)
        share = fa.divide(share, fa.sum(share))

    def logits(x: Array, y: Array, absent: Array) -> Array:
        return fa.divide(nearness(x, y, absent, scale, metric=metric), number(temperature, x))

    def loss(x: Array, y: Array, labels: Array, share: Array, absent: Array) -> Array:
        z = logits(x, y, absent)
        picked = fa.squeeze(fa.take_along_axis(z, fa.expand_dims(labels, axis=0), axis=0), axis=0)
        return _total(fa.subtract(fa.logsumexp(z, axis=0), picked), share)

    def accuracy(x: Array, y: Array, labels: Array, share: Array, absent: Array) -> Array:
        return _total(fa.astype(fa.equal(fa.argmax(logits(x, y, absent), axis=0), labels), dtype=x.dtype), share)

    operands = query, means, query_labels, share, absent
    if metric != "sqeuclidean" or type(temperature) not in (int, float) or not in_one_pass(query, means):
        return loss(*operands), accuracy(*operands)
    of_loss, of_accuracy = proto_kernels(1.0 / temperature)
    return fused(of_loss, loss, *operands), fused(of_accuracy, accuracy, *operands)


def _total(x: Array, share: Array) -> Array:
    """What counts for nothing may be infinite."""
    return fa.sum(fa.where(fa.equal(share, 0.0), 0.0, fa.multiply(share, x)))


def _attention(
    query: Array, keys: Array, values: Array, mask: Array | None, scale: Array | None, temperature: Array, *, metric: str
) -> Array:  # fmt: skip
    logits = fa.divide(fa.negative(distance(query, keys, scale, metric=metric)), number(temperature, query))
    if mask is not None:
        logits = fa.where(mask, logits, float("-inf"))
    return fa.matmul(fa.softmax(logits), values)


def _nearest(x: Array, y: Array, scale: Array | None, *, k: int, metric: str) -> tuple[Array, Array]:
    values, indices = fa.top_k(distance(x, y, scale, metric=metric), k, largest=False)
    return values, indices


# -- checks


def _whole(where: str, name: str, n: int) -> int:
    try:
        return whole(where, name, n)
    except (TypeError, ValueError) as error:
        raise located(error) from None


def _labels(where: str, name: str, labels: Array, x: Array) -> None:
    _rows(where, name, labels, x)
    if np.dtype(getattr(labels, "dtype", int)).kind not in "iu":
        raise located(expected(where, f"integer {name}", labels.dtype, TypeError))


def _weights(where: str, name: str, weights: Array | None, x: Array) -> None:
    if weights is None:
        return
    _rows(where, name, weights, x)
    values = known(weights)
    if values is not None and values.dtype.kind == "f" and not (values >= 0).all():
        raise located(expected(where, f"{name} of at least 0", values.min()))


def _rows(where: str, name: str, each: Array, x: Array) -> None:
    """Refuses what has not one entry for each row of x."""
    if tuple(np.shape(each)) != x.shape[:-1]:
        raise located(expected(where, f"{name} of shape {x.shape[:-1]}", f"shape {tuple(np.shape(each))}"))
