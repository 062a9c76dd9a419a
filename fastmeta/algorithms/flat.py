"""All arrays of a tree as one vector, and back; trees that move along learned directions."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
import optree
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.trace import Array
from fastmeta.tree import tree_map

__all__ = ["along", "no_directions", "ravel", "unravel"]


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
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    parts = [flat[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return optree.tree_unflatten(tree, [fa.reshape(part, leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def no_directions(n: int, tree: Any) -> NDArray[np.float32]:
    """Directions of zeros [n, entries of all arrays], along which `along` goes nowhere.

    >>> no_directions(2, [np.ones((2, 1)), np.ones(1)]).shape
    (2, 3)
    """
    return np.zeros((n, sum(leaf.size for leaf in optree.tree_leaves(tree))), np.float32)


def along(tree: Any, h: Array, directions: Array) -> Any:
    """``tree + h @ directions``, h [1, n] and directions [n, entries of all arrays].

    >>> along({"b": np.zeros(1), "w": np.ones(2)}, np.array([[2.0]]), np.array([[1.0, 0.0, 3.0]]))
    {'b': array([2.]), 'w': array([1., 7.])}
    """
    return tree_map(fa.add, tree, unravel(fa.matmul(h, directions)[0], tree))
