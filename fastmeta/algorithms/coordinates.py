"""What learned rules share that treat every single weight alike: numbers of any size as inputs of a network."""

from __future__ import annotations

import math

from fastmeta import array as fa
from fastmeta.trace import Array

__all__ = ["preprocessed"]

P = 10.0  # of `preprocessed`, as in both papers


def preprocessed(x: Array) -> Array:
    """Two numbers for each of x [...], its size and its sign, both of order 1 whatever the size: [..., 2].

    (log|x| / p, sign(x)) where |x| is at least e^-p, (-1, e^p x) elsewhere, p = 10.
    Source: Andrychowicz et al. 2016, appendix A; Ravi and Larochelle 2017, section 3.2.

    >>> import numpy as np
    >>> preprocessed(np.array([1.0, -math.exp(-5.0), 0.0]))
    array([[ 0. ,  1. ],
           [-0.5, -1. ],
           [-1. ,  0. ]])
    """
    size = fa.multiply(fa.log(fa.maximum(fa.abs(x), math.exp(-P))), 1.0 / P)
    return fa.stack([size, fa.clip(fa.multiply(x, math.exp(P)), -1.0, 1.0)], axis=-1)
