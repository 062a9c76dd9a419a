"""All arrays of a tree as one vector, and back."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import optree

from fastmeta import array as fa
from fastmeta.trace import Array

__all__ = ["ravel", "unravel"]


def ravel(tree: Any) -> Array:
    """The entries of all arrays side by side: [n].

    >>> import numpy as np
    >>> ravel({"w": np.ones((2, 1)), "b": np.zeros(1)})
    array([0., 1., 1.])
    """
    return fa.concat([fa.reshape(leaf, (-1,)) for leaf in optree.tree_leaves(tree)])


def unravel(flat: Array, like: Any) -> Any:
    """The tree of the structure and shapes of ``like`` whose `ravel` is ``flat`` [n].

    >>> import numpy as np
    >>> unravel(np.arange(3.0), [np.ones((2, 1)), np.ones(1)])
    [array([[0.],
           [1.]]), array([2.])]
    """
    leaves, tree = optree.tree_flatten(like)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    parts = [flat[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return optree.tree_unflatten(tree, [fa.reshape(part, leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])
