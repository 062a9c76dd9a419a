"""Pytrees, by optree: nested tuples, lists, dicts and named tuples with arrays as leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optree

from fastmeta.errors import expected
from fastmeta.trace import Tracer, located


def tree_map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Applies ``f`` leaf by leaf to trees of one structure.

    Errors: ValueError for trees of other structure.

    >>> tree_map(lambda p, g: p - 0.5 * g, {"w": 2.0}, {"w": 1.0})
    {'w': 1.5}
    """
    spec = optree.tree_structure(tree)
    for other in rest:
        if not spec.is_prefix(optree.tree_structure(other)):
            raise located(expected("tree_map", f"trees of structure {shown(spec)}", shown(optree.tree_structure(other))))
    return optree.tree_map(f, tree, *rest)


def shown(spec: Any) -> str:
    """A structure as text, * for each leaf.

    >>> shown(optree.tree_structure({"w": 1, "b": [2, 3]}))
    "{'b': [*, *], 'w': *}"
    """
    return str(spec).removeprefix("PyTreeSpec(").removesuffix(")").removesuffix(", NoneIsLeaf")


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure; None is a leaf."""
    leaves, structure = optree.tree_flatten(tree, none_is_leaf=True)
    return leaves, structure


def is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | Tracer | np.generic) or hasattr(x, "__dlpack__") or hasattr(x, "__array__")


def is_number(x: Any) -> bool:
    return type(x) in (float, int, bool)


def beside_float32(xs: Sequence[Any]) -> Sequence[Any]:
    """The arguments, of which NumPy's float64 numbers, as ``np.sqrt(64)`` gives them, are Python's if one is a float32 array."""
    if any(type(x) is np.float64 for x in xs) and any(getattr(x, "dtype", None) == np.float32 for x in xs):
        return [float(x) if type(x) is np.float64 else x for x in xs]
    return xs


def prefix(where: str, spec: Any, tree: Any) -> list[Any]:
    """``spec``, a prefix of ``tree``, as one value per leaf (None counts as a value)."""
    try:
        return optree.broadcast_prefix(spec, tree, none_is_leaf=True)
    except ValueError:
        whole = shown(optree.tree_structure(tree, none_is_leaf=True))
        raise expected(where, f"a prefix of {whole}", f"{spec!r}") from None
