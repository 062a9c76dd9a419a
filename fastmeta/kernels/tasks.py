"""Functions of one task as functions of one task or of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastmeta.compile import Compiled, jit
from fastmeta.errors import expected
from fastmeta.loops import map_tasks
from fastmeta.program import FLOATS, NAMES
from fastmeta.trace import Array, Tracer, as_array, current, located

Argument = tuple[str, Any, "int | tuple[int, ...]"]


def per_task(where: str, task: Callable[..., Any], arguments: Sequence[Argument], **options: Any) -> Any:
    """``task(*arrays, **options)``, or that of every task if the first array has one axis more than a task's.

    Args:
        where: the public function, for errors.
        task: a module's function of the arrays of one task.
        arguments: name, value and number of axes in one task of each array.  With several numbers the array is shared by
            the tasks as long as its axes are among them; an array that may be either counts as shared.
        options: what is known while tracing; hashable.

    The same task function and options share one compiled program per shape.
    """
    name, first, axes = arguments[0]
    assert isinstance(axes, int)
    many = _ndim(first) - axes
    if many not in (0, 1):
        raise located(expected(where, f"{name} of {axes} axes (or {axes + 1}, the first being the task's)", f"shape {tuple(np.shape(first))}"))
    mapped = tuple([many == 1 and x is not None and _leads(where, name, x, axes) for name, x, axes in arguments])
    if not many:
        for name, x, axes in arguments:
            allowed = (axes,) if isinstance(axes, int) else axes
            if x is not None and _ndim(x) not in allowed:
                raise located(expected(where, f"{name} of {' or '.join(map(str, allowed))} axes", f"shape {tuple(np.shape(x))}"))
    arrays = [x for _, x, _ in arguments]
    if current() is not None and not many:
        return task(*arrays, **options)
    program = _compiled(task, mapped if many else None, tuple(options.items()))
    if current() is None:
        _last[task, *options.values()] = program
    return program(*arrays)


def repeated(task: Callable[..., Any], *arrays: Any, **options: Any) -> Any:
    """What `per_task` gives for arrays of the same kinds as the last ones, without checking them again; None for others.

    Outside traces only.  For arguments that are refused for their kinds: what is refused for its values must be checked before.
    """
    if current() is not None or not all([type(x) in (int, str) for x in options.values()]):
        return None
    program = _last.get((task, *options.values()))
    return None if program is None else program.again(arrays)


_last: WeakValueDictionary[Any, Compiled] = WeakValueDictionary()  # of a task and its options


def _leads(where: str, name: str, x: Array, axes: int | tuple[int, ...]) -> bool:
    """Whether x has a leading task axis."""
    n = _ndim(x)
    if isinstance(axes, int):
        if n != axes + 1:
            raise located(expected(where, f"{name} of {axes + 1} axes, the first being the task's", f"shape {tuple(np.shape(x))}"))
        return True
    if n > max(axes) + 1:
        raise located(expected(where, f"{name} of at most {max(axes) + 1} axes", f"shape {tuple(np.shape(x))}"))
    return n not in axes[:-1]


@lru_cache(maxsize=1024)
def _compiled(task: Callable[..., Any], mapped: tuple[bool, ...] | None, options: tuple[tuple[str, Any], ...]) -> Any:
    def f(*arrays: Array) -> Any:
        return task(*arrays, **dict(options))

    return jit(f) if mapped is None else map_tasks(f, in_axes=tuple([0 if on else None for on in mapped]))


def _ndim(x: Array) -> int:
    return len(np.shape(x))


def known(x: Array) -> np.ndarray | None:
    """The values of x if there are any now: None for what is being traced."""
    return None if x is None or isinstance(x, Tracer) else as_array(x)


def enter(x: Array) -> Array:
    """x as an array: what is traced, None and Python's numbers stay."""
    return x if x is None or type(x) in (float, int) or isinstance(x, Tracer) else as_array(x)


def features(where: str, **arrays: Array) -> list[Array]:
    """The arrays, after refusing what is no array of floats with rows and a last axis of the same length in all."""
    found = {name: enter(x) for name, x in arrays.items()}
    for name, x in found.items():
        dtype: Any = getattr(x, "dtype", None)
        if NAMES.get(dtype, "") not in FLOATS:
            raise located(expected(where, f"{name} an array of floats", dtype or type(x).__name__, TypeError))
        if len(x.shape) < 2 or 0 in x.shape:
            raise located(expected(where, f"{name} with rows of features, at least one of each", f"shape {x.shape}"))
    lengths = [x.shape[-1] for x in found.values()]
    if len(set(lengths)) > 1:
        raise located(expected(where, "as many features in " + " and ".join(found), " and ".join(map(str, lengths))))
    return list(found.values())
