"""What learned rules share that treat every single weight alike: all weights as one vector, and numbers of any size as inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optree

from fastmeta import array as fa
from fastmeta.trace import Array

__all__ = ["preprocessed", "ravel", "unravel"]

P = 10.0  # of `preprocessed`, as in both papers


def preprocessed(x: Array) -> Array:
    """Two numbers for each of x [...], its size and its sign, both of order 1 whatever the size: [..., 2].

    (log|x| / p, sign(x)) where |x| is at least e^-p, (-1, e^p x) elsewhere, p = 10.
    Source: Andrychowicz et al. 2016, appendix A; Ravi and Larochelle 2017, section 3.2.

    >>> preprocessed(np.array([1.0, -math.exp(-5.0), 0.0]))
    array([[ 0. ,  1. ],
           [-0.5, -1. ],
           [-1. ,  0. ]])
    """
    size = fa.multiply(fa.log(fa.maximum(fa.abs(x), math.exp(-P))), 1.0 / P)
    return fa.stack([size, fa.clip(fa.multiply(x, math.exp(P)), -1.0, 1.0)], axis=-1)


def ravel(tree: Any) -> Array:
    """The entries of all arrays side by side: [n].

    >>> ravel({"w": np.ones((2, 1)), "b": np.zeros(1)})
    array([0., 1., 1.])
    """
    return fa.concat([fa.reshape(leaf, (-1,)) for leaf in optree.tree_leaves(tree)])


def unravel(flat: Array, like: Any) -> Any:
    """The tree of the structure and shapes of ``like`` whose `ravel` is ``flat`` [n].

    >>> unravel(np.arange(3.0), [np.ones((2, 1)), np.ones(1)])
    [array([[0.],
           [1.]]), array([2.])]
    """
    leaves, tree = optree.tree_flatten(like)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves]).tolist()
    parts = [flat[end - math.prod(leaf.shape) : end] for leaf, end in zip(leaves, ends, strict=True)]
    return optree.tree_unflatten(tree, [fa.reshape(part, leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
