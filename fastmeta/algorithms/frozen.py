"""Embeddings that are features already: no parameters, a transform at most."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta.errors import expected
from fastmeta.trace import Array, as_array

__all__ = ["Frozen", "unit_rows"]


class Frozen:
    """The model of features that another network has computed: x [n, D] centred, then of length 1, if asked for.

    In a `ProtoNet` it makes nearest-centroid classification; with both transforms SimpleShot's CL2N.  A row of zeros stays
    zeros.

    Args:
        center: finite numbers [D] subtracted from every row, as the mean of the features of the training classes; None for nothing.
        normalize: whether rows are divided by their Euclidean length.

    Errors: TypeError or ValueError naming the argument; ValueError for features of another length.
    Source: Wang, Chao, Weinberger, van der Maaten 2019 (SimpleShot), section 3.

    >>> Frozen(center=np.array([1.0, 0.0]), normalize=True)((), np.array([[4.0, 4.0]]))
    array([[0.6, 0.8]])
    """

    def __init__(self, center: Any = None, normalize: bool = False):
        self.center = None if center is None else _center(center)
        if not isinstance(normalize, bool):
            raise expected("Frozen", "normalize True or False", repr(normalize), TypeError)
        self.normalize = normalize

    def init(self, seed: int = 0) -> tuple[()]:
        """No parameters."""
        return ()

    def __call__(self, params: Any, x: Array) -> Array:
        """x [n, D], transformed."""
        if len(x.shape) != 2 or (self.center is not None and x.shape[1] != len(self.center)):
            features = "D" if self.center is None else len(self.center)
            raise expected("Frozen", f"features [n, {features}]", f"shape {list(x.shape)}")
        if self.center is not None:
            x = fa.subtract(x, self.center.astype(x.dtype))
        return unit_rows(x) if self.normalize else x

    def __repr__(self) -> str:
        return f"Frozen(center={self.center if self.center is None else list(self.center.shape)}, normalize={self.normalize})"


def unit_rows(x: Array) -> Array:
    """The rows of x [n, D] divided by their Euclidean lengths; a row of zeros stays zeros."""
    # Scaled first, so that squares neither overflow nor vanish.
    largest = fa.stop_gradient(fa.max(fa.abs(x), axis=1, keepdims=True))
    x = fa.divide(x, fa.where(fa.equal(largest, 0.0), 1.0, largest))
    square = fa.sum(fa.square(x), axis=1, keepdims=True)
    return fa.multiply(x, fa.rsqrt(fa.where(fa.equal(square, 0.0), 1.0, square)))


def _center(values: Any) -> np.ndarray:
    """A copy, so that who changes theirs later does not change a model."""
    center = as_array(np.asarray(values) if isinstance(values, list | tuple) else values).copy()
    if center.ndim != 1 or center.dtype.kind not in "fi":
        raise expected("Frozen", "center numbers of shape [D]", f"{center.dtype} {list(center.shape)}")
    if not np.isfinite(center).all():
        raise expected("Frozen", "center finite", "NaN or infinity")
    return center if center.dtype.kind == "f" else center.astype(np.float64)
