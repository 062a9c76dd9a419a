"""The engine's batched building blocks as functions on arrays with a leading task axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta.compile import transformed
from fastmeta.errors import expected
from fastmeta.gradients import grad
from fastmeta.gradients import hvp as _hvp
from fastmeta.loops import map_tasks, scan
from fastmeta.tree import tree_map

Loss = Callable[..., Any]


def gradient_steps(loss: Loss, params: Any, batch: tuple[Any, ...], *, lr: float, steps: int) -> Any:
    """Every task's parameters after ``steps`` of gradient descent on its own batch, from shared ``params``.

    Args:
        loss: ``loss(params, *batch of one task) -> scalar``.
        params: a pytree of float arrays, shared by all tasks.
        batch: arrays with a leading task axis [T, ...].
        lr: the learning rate.
        steps: the number of steps, known before the call.

    Returns:
        A tree like ``params`` with a leading task axis [T, ...].

    Raises:
        ValueError: for a number of steps below 0, or batches of different numbers of tasks.

    >>> import numpy as np
    >>> x = np.array([[1.0], [2.0]], np.float32)
    >>> gradient_steps(lambda p, x: ((p - x) ** 2.0).sum(), np.float32(0), (x,), lr=0.25, steps=1)
    array([0.5, 1. ], dtype=float32)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise expected("gradient_steps", "steps a whole number of at least 0", repr(steps))

    def task(params: Any, batch: tuple[Any, ...], lr: Any) -> Any:
        def step(p: Any, _: None) -> tuple[Any, None]:
            return tree_map(lambda a, g: a - lr * g, p, grad(loss)(p, *batch)), None

        return scan(step, params, length=steps)[0]

    return _per_task(loss, ("gradient_steps", steps), task, (None, 0, None))(params, tuple(batch), float(lr))


def hvp(loss: Loss, params: Any, v: Any, batch: tuple[Any, ...]) -> Any:
    """Every task's Hessian of ``loss`` at shared ``params``, times its own vector.

    Args:
        loss: ``loss(params, *batch of one task) -> scalar``.
        params: a pytree of float arrays, shared by all tasks.
        v: a tree like ``params`` with a leading task axis [T, ...].
        batch: arrays with a leading task axis [T, ...].

    Returns:
        A tree like ``v``.

    Raises:
        ValueError: for a v or batches of different numbers of tasks.

    >>> import numpy as np
    >>> x = np.array([1.0, 2.0], np.float32)
    >>> hvp(lambda p, x: x * p * p * p, np.float32(1), np.ones(2, np.float32), (x,))
    array([ 6., 12.], dtype=float32)
    """

    def task(params: Any, v: Any, batch: tuple[Any, ...]) -> Any:
        return _hvp(lambda p: loss(p, *batch))(params, v)

    return _per_task(loss, ("kernels.hvp",), task, (None, 0, 0))(params, v, tuple(batch))


def _per_task(loss: Loss, key: Any, task: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
    """``task`` over tasks, compiled once per loss: it lives as long as the loss does."""
    mapped = map_tasks(task, in_axes)
    return transformed(loss, key, lambda: mapped.f, mapped.tasks)


__all__ = ["gradient_steps", "hvp"]
