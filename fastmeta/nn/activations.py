"""Activations that are a few array functions; relu, tanh, sigmoid and softmax are array functions themselves."""

from __future__ import annotations

import math

from fastmeta import array as fa
from fastmeta.trace import Array


def leaky_relu(x: Array, slope: Array = 0.01) -> Array:
    """x above 0, else slope times x; the slope may be an array that broadcasts with x.

    >>> import numpy as np
    >>> leaky_relu(np.array([2.0, -2.0]), 0.1)
    array([ 2. , -0.2])
    """
    return fa.where(fa.greater(x, 0.0), x, fa.multiply(x, slope))


def gelu(x: Array, *, approximate: bool = False) -> Array:
    """x times the normal distribution's share below x; ``approximate``: by a tanh, as many language models have it.

    Source: Hendrycks and Gimpel 2016.

    >>> import numpy as np
    >>> gelu(np.array([0.0, 1.0])).round(4), gelu(np.array([1.0]), approximate=True).round(4)
    (array([0.    , 0.8413]), array([0.8412]))
    """
    if approximate:
        inner = fa.multiply(fa.add(x, fa.multiply(fa.multiply(fa.square(x), x), 0.044715)), math.sqrt(2 / math.pi))
        share = fa.tanh(inner)
    else:
        share = fa.erf(fa.multiply(x, math.sqrt(0.5)))
    return fa.multiply(fa.multiply(x, 0.5), fa.add(share, 1.0))


def silu(x: Array) -> Array:
    """x times its sigmoid, also called swish.

    >>> import numpy as np
    >>> silu(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7311])
    """
    return fa.multiply(x, fa.sigmoid(x))


def softplus(x: Array) -> Array:
    """log(1 + e ** x), safe for large |x|.

    >>> import numpy as np
    >>> softplus(np.array([0.0, 1000.0])).round(4)
    array([6.931e-01, 1.000e+03])
    """
    return fa.logaddexp(x, fa.zeros_like(x))
