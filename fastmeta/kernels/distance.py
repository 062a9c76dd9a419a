"""Distances between the rows of two arrays, whose derivatives of any order need no array of x rows x y rows x features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastmeta import array as fa
from fastmeta.array.composed import root
from fastmeta.errors import expected
from fastmeta.kernels.fused import fused
from fastmeta.kernels.tasks import Argument, features, known, per_task, repeated
from fastmeta.loops import map_tasks
from fastmeta.ops import distance as kernels
from fastmeta.ops.linalg import positive_definite
from fastmeta.trace import Array, located

FEW_ROWS = 10  # whose derivatives cost no more by differences than by products of matrices
SHORT = 128  # features
ONE_PASS_WORK = 1 << 21  # pairs times features


def pairwise_distance(x: Array, y: Array, *, metric: str, scale: Array | None = None) -> Array:
    """The distance of every row of x from every row of y; in every metric smaller means nearer.

    | metric | distance of two rows a and b |
    |---|---|
    | sqeuclidean | sum (a - b)^2 |
    | euclidean | its root; derivative 0 where a = b |
    | cosine | 1 - cos(a, b); a row of zeros is at distance 1 from all rows, with derivative 0 |
    | dot | -sum a b |
    | l1 | sum abs(a - b); derivative 0 where two entries are equal |
    | rbf | 1 - exp(-sum (a - b)^2 / (2 h^2)), h the bandwidth ``scale`` |
    | sqmahalanobis | (a - b) S^-1 (a - b), S the covariance ``scale`` |
    | mahalanobis | its root; derivative 0 where a = b |

    Sums of squares keep their digits however far from 0, or from other rows, rows are.

    Args:
        x: [n, D] floats; or [T, n, D], a task each.
        y: [m, D]; or [T, m, D].
        metric: a name of the table.
        scale: for ``rbf`` the bandwidth, a positive number, or one per task [T].  For ``mahalanobis`` variances [D], a covariance
            matrix [D, D], or one per row of y [m, D, D]; with tasks [D] and [D, D] are shared, [T, D, D] is a matrix per task
            and [T, m, D, D] one per task and row.  No other metric has one.

    Returns:
        [n, m]; or [T, n, m].

    Raises:
        ValueError: for an unknown metric, lengths that differ, and a scale that is missing, not positive, or singular.  Inside a
            trace the values of a scale are not known yet: there a matrix that is not positive definite gives NaN.
        TypeError: for arrays of integers.

    >>> x = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    >>> pairwise_distance(x, x, metric="euclidean")
    array([[0., 5.],
           [5., 0.]], dtype=float32)
    """
    if scale is None and (out := repeated(distance, x, y, None, metric=metric)) is not None:
        return out
    x, y = features("pairwise_distance", x=x, y=y)
    check_metric("pairwise_distance", metric, scale, x, y.shape[-2])
    arguments: list[Argument] = [("x", x, 2), ("y", y, 2), ("scale", scale, scale_axes(metric))]
    return per_task("pairwise_distance", distance, arguments, metric=metric)


def distance(x: Array, y: Array, scale: Array | None, *, metric: str) -> Array:
    """The distances of one task, its arguments already checked."""
    return METRICS[metric](x, y, scale)


def nearness(x: Array, y: Array, absent: Array, scale: Array | None, *, metric: str) -> Array:
    """Minus the distances, transposed [m, n], but for a number per row of x: what a softmax over the rows of y needs.

    ``absent``, bools [m]: rows of y that are infinitely far.
    """
    bar = fa.expand_dims(fa.where(absent, float("-inf"), fa.zeros_like(y[:, 0])), axis=1)
    if metric != "sqeuclidean":
        return fa.subtract(bar, fa.permute_dims(distance(x, y, scale, metric=metric), (1, 0)))
    if y.shape[0] <= FEW_ROWS:
        return fa.subtract(bar, _squared(y, x))
    # the mean of the rows that are there: others would pull it away from an offset of all
    x, y, dtype = fa.astype(x, dtype="float64"), fa.astype(y, dtype="float64"), x.dtype
    there = fa.expand_dims(fa.where(absent, 0.0, fa.ones_like(y[:, 0])), axis=1)
    centre = fa.stop_gradient(fa.divide(fa.sum(fa.multiply(y, there), axis=0), fa.maximum(fa.sum(there), 1.0)))
    x, y = fa.subtract(x, centre), fa.multiply(fa.subtract(y, centre), there)
    near = fa.subtract(fa.multiply(fa.permute_dims(_products(x, y), (1, 0)), 2.0), fa.sum(fa.square(y), axis=1, keepdims=True))
    return fa.add(fa.astype(fa.subtract(near, fa.stop_gradient(fa.max(near, axis=0, keepdims=True))), dtype=dtype), bar)


def in_one_pass(x: Array, y: Array) -> bool:
    """Whether one kernel, on one thread, should do all that an episode does with x and y: what it prepares of long rows of y is
    paid back by two rows of x for each, and more work is for several threads."""
    (n, features), m = x.shape, y.shape[0]
    return (features <= SHORT or n >= 2 * m) and n * m * features <= ONE_PASS_WORK


# -- metrics of one task: x [n, D], y [m, D], scale -> [n, m]


def _squared(x: Array, y: Array) -> Array:
    few = min(x.shape[0], y.shape[0]) <= FEW_ROWS
    return fused(kernels.SQUARED if few else kernels.SQUARED_BY_PRODUCTS, _sqeuclidean, x, y)


def _sqeuclidean(x: Array, y: Array) -> Array:
    """From differences; of float32 by products in float64, which lose no more digits, however far from 0 or apart rows are."""
    if x.dtype != np.float32:
        return _over_differences(lambda d: fa.sum(fa.square(d), axis=1), x, y)
    return fa.astype(_expanded(fa.astype(x, dtype="float64"), fa.astype(y, dtype="float64")), dtype=x.dtype)


def _expanded(x: Array, y: Array) -> Array:
    """|x|^2 - 2 x y + |y|^2."""
    if x.shape[0] < y.shape[0]:
        return fa.permute_dims(_expanded(y, x), (1, 0))
    xx, yy = fa.sum(fa.square(x), axis=1), fa.sum(fa.square(y), axis=1, keepdims=True)
    products = fa.permute_dims(_products(x, y), (1, 0))  # [m, n]: the longer rows fill vectors
    d = _not_negative(fa.add(fa.subtract(yy, fa.multiply(products, 2.0)), xx))
    return fa.permute_dims(d, (1, 0))


def _not_negative(d: Array) -> Array:
    """Rounding may leave a little less than 0 of a distance: that goes, and the derivative stays."""
    return fa.add(d, fa.stop_gradient(fa.relu(fa.negative(d))))


def _products(x: Array, y: Array) -> Array:
    return fa.matmul(x, fa.permute_dims(y, (1, 0)))


def _cosine(x: Array, y: Array) -> Array:
    """Half the squared distance of the directions: of two that are almost equal, 1 - cos would leave only rounding."""
    x, zero_x = _direction(x)
    y, zero_y = _direction(y)
    apart = fa.multiply(_sqeuclidean(x, y), 0.5)
    return fa.where(fa.logical_or(fa.expand_dims(zero_x, axis=1), zero_y), 1.0, apart)


def _direction(x: Array) -> tuple[Array, Array]:
    """Rows of length 1, and which are zeros instead (or have no inverse).  Scaled first, so that squares neither overflow nor vanish."""
    largest = fa.stop_gradient(fa.max(fa.abs(x), axis=1, keepdims=True))
    zero = fa.less(largest, float(np.finfo(x.dtype).tiny))
    x = fa.divide(x, fa.where(zero, 1.0, largest))
    length = fa.sum(fa.square(x), axis=1, keepdims=True)
    return fa.multiply(x, fa.where(zero, 0.0, fa.rsqrt(fa.where(zero, 1.0, length)))), fa.squeeze(zero, axis=1)


def _dot(x: Array, y: Array, scale: None = None) -> Array:
    return fa.negative(_products(x, y))


def _euclidean(x: Array, y: Array, scale: None = None) -> Array:
    squares = partial(_over_differences, lambda d: fa.sum(fa.square(d), axis=1))
    return root(fused(kernels.SQUARED, squares, x, y))


def _l1(x: Array, y: Array) -> Array:
    return _over_differences(lambda d: fa.sum(fa.abs(d), axis=1), x, y)


def _over_differences(f: Callable[..., Array], x: Array, y: Array, *each: Array) -> Array:
    """``f(x - row of y, *row of each)`` -> [n] for every row of y, one after the other: [n, m]."""
    rows = map_tasks(lambda x, y, *each: f(fa.subtract(x, y), *each), in_axes=(None, 0, *[0 for _ in each]))
    return fa.permute_dims(rows(x, y, *each), (1, 0))


def _rbf(x: Array, y: Array, scale: Array) -> Array:
    h = number(scale, x)
    return fa.negative(fa.expm1(fa.divide(fa.divide(fa.multiply(_squared(x, y), -0.5), h), h)))


def _sqmahalanobis(x: Array, y: Array, scale: Array) -> Array:
    if len(np.shape(scale)) == 1:
        weight = fa.divide(1.0, fa.where(fa.greater(scale, 0.0), scale, float("nan")))
        return _over_differences(lambda d: fa.sum(fa.multiply(fa.square(d), weight), axis=1), x, y)
    inverse = fa.inverse(scale)
    if len(np.shape(scale)) == 3:
        return _over_differences(lambda d, p: fa.sum(fa.multiply(fa.matmul(d, p), d), axis=1), x, y, inverse)
    centre = fa.stop_gradient(fa.mean(y, axis=0))
    x, y = fa.subtract(x, centre), fa.subtract(y, centre)
    px, py = fa.matmul(x, inverse), fa.matmul(y, inverse)
    return _over_differences(lambda d, p: fa.sum(fa.multiply(d, fa.subtract(px, p)), axis=1), x, y, py)


def _mahalanobis(x: Array, y: Array, scale: Array) -> Array:
    return root(_sqmahalanobis(x, y, scale))


def number(n: Array, x: Array) -> Array:
    """A number in the dtype of x."""
    return n if type(n) in (float, int) else fa.astype(n, dtype=x.dtype)


METRICS: dict[str, Callable[..., Array]] = {  # the distances of one task by the names that `pairwise_distance` takes, ``METRICS[name](x, y, scale)``
    "sqeuclidean": lambda x, y, _: _squared(x, y),
    "euclidean": _euclidean,
    "cosine": lambda x, y, _: fused(kernels.COSINE, _cosine, x, y),
    "dot": _dot,
    "l1": lambda x, y, _: fused(kernels.ABSOLUTE, _l1, x, y),
    "rbf": _rbf,
    "sqmahalanobis": _sqmahalanobis,
    "mahalanobis": _mahalanobis,
}


# -- checks


def scale_axes(metric: str) -> tuple[int, ...]:
    """How many axes the scale of a metric has in one task; all but the last number are shared by tasks."""
    return (1, 2, 3) if "mahalanobis" in metric else (0, 0)


def check_metric(where: str, metric: str, scale: Array | None, x: Array, rows: int) -> None:
    """Refuses an unknown metric and a scale that does not fit it; ``rows`` is the number of rows of y."""
    if metric not in METRICS:
        raise located(expected(where, f"a metric of {', '.join(METRICS)}", repr(metric)))
    if metric == "rbf":
        positive(where, "scale, a bandwidth,", scale)
    elif "mahalanobis" in metric:
        _check_covariance(where, scale, x.shape[-1], rows, len(x.shape) - 2)
    elif scale is not None:
        raise located(expected(where, f"no scale for {metric}", f"one of shape {np.shape(scale)}"))


def is_positive(x: Array) -> bool:
    """Whether x is one of Python's numbers, above 0 and finite."""
    return type(x) in (float, int) and 0 < x < float("inf")


def positive(where: str, name: str, x: Array | None) -> None:
    """Refuses what is no positive number, as far as that is known."""
    if is_positive(x):
        return
    if x is None or len(np.shape(x)) > 1:
        raise located(expected(where, f"{name} a positive number", "none" if x is None else f"shape {np.shape(x)}"))
    values = known(x)
    if values is not None and not (np.isfinite(values).all() and (values > 0).all()):
        raise located(expected(where, f"{name} above 0 and finite", values if values.ndim == 0 else values.min()))


def _check_covariance(where: str, scale: Array | None, features: int, rows: int, lead: int) -> None:
    shape = tuple(np.shape(scale)) if scale is not None else ()
    n = len(shape)
    fits = 1 <= n <= 3 + lead and shape[-1] == features and (n == 1 or shape[-2] == features) and (n < 3 + lead or shape[-3] == rows)
    if not fits:
        raise located(expected(where, f"scale, a covariance [{features}], [{features}, {features}] or [{rows}, {features}, {features}]", "none" if scale is None else f"shape {shape}"))
    values = known(scale)
    if values is None:
        return
    if n == 1 and not (values > 0).all():
        raise located(expected(where, "variances above 0", values.min()))
    definite = positive_definite(values) if n > 1 else np.True_
    if not definite.all():
        at = "" if definite.ndim == 0 else f" at {tuple(int(i) for i in np.argwhere(~definite)[0])}"
        raise located(expected(where, "a positive definite covariance", f"a singular or indefinite one{at}"))
