"""The conventions for errors: plain exceptions whose message says where, what was expected and what came.

Bad input raises ValueError, TypeError or IndexError with the message ``[where] expected ..., got ...``;
`expected` builds it. Only two situations have a class of their own, because a caller may want to handle them:
a run that diverged and a checkpoint that cannot be used.
"""

from __future__ import annotations

import operator
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)


def expected(where: str, what: object, got: object, kind: type[E] = ValueError, hint: str = "") -> E:  # type: ignore[assignment]  # the default of kind is ValueError whatever E
    """Build (not raise) the exception ``[where] expected <what>, got <got>``, with an optional hint after it.

    >>> raise expected("matmul", "inner sizes to agree", "[2, 3] and [4, 5]")
    Traceback (most recent call last):
    ValueError: [matmul] expected inner sizes to agree, got [2, 3] and [4, 5]
    """
    return kind(f"[{where}] expected {what}, got {got}" + (f". {hint}" if hint else ""))


def whole(where: str, name: str, value: Any, least: int = 1, below: int = 2**31) -> int:
    """Return `value` as an int in [least, below); TypeError or ValueError naming the argument otherwise."""
    try:
        if isinstance(value, bool):  # np.bool_ is refused by index()
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise expected(where, f"{name} a whole number", f"{value!r} ({type(value).__name__})", TypeError) from None
    if not least <= number < below:
        bound = f"at least {least}" if number < least else f"below {below}"
        raise expected(where, f"{name} {bound}", number)
    return number


def bad_index(op: str, index: int, bound: int, task: int, line: tuple[Any, ...] | None) -> IndexError:
    """The error of an index found out of range while a program runs; ``task`` is -1 outside `map_tasks`.

    ``line``: file and number, and behind them the names of function and index where they are not those of ``op``.

    >>> str(bad_index("take", 7, 5, 3, ("episode.py", 12)))
    '[take] expected an index in 0..4, got 7 in task 3 (episode.py:12)'
    >>> str(bad_index("take", 7, 5, 3, ("episode.py", 12, "cross_entropy", "a label")))
    '[cross_entropy] expected a label in 0..4, got 7 in task 3 (episode.py:12)'
    """
    where, what = line[2:] if line and len(line) > 2 else (op, "an index")
    got = f"{index} in task {task}" if task >= 0 else str(index)
    error = expected(where, f"{what} in 0..{bound - 1}", got + (f" ({line[0]}:{line[1]})" if line else ""), IndexError)
    error.line = line  # type: ignore[attr-defined]  # it is in the message already
    return error


class DivergedError(RuntimeError):
    """An inner loss of one task is not finite; names the task, the inner step and, when known, the meta-step.

    >>> str(DivergedError("MAML", task=3, inner_step=2, loss=float("inf"), step=100))
    '[MAML] expected finite losses, got inf in task 3 at inner step 2 (meta-step 100)'
    """

    def __init__(self, where: str, task: int, inner_step: int, loss: float, step: int | None = None):
        super().__init__(where, task, inner_step, loss, step)  # all arguments, so that the exception pickles
        self.where, self.task, self.inner_step, self.loss, self.step = where, task, inner_step, loss, step

    def __str__(self) -> str:
        at = "" if self.step is None else f" (meta-step {self.step})"
        return (
            f"[{self.where}] expected finite losses, got {self.loss} in task {self.task} "
            f"at inner step {self.inner_step}{at}"
        )


class CheckpointError(ValueError):
    """A checkpoint file is unreadable, damaged, or belongs to another model.

    >>> issubclass(CheckpointError, ValueError)
    True
    """
