"""How much memory a compiled function will take, told before it runs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from fastmeta import backends
from fastmeta.compile import Compiled
from fastmeta.errors import expected
from fastmeta.program import DTYPES

__all__ = ["MemoryEstimate", "memory_estimate"]


class MemoryEstimate(NamedTuple):
    """Bytes that a call takes beside its arguments; as text, megabytes.

    ``arenas``: values of a task between two instructions, once for each thread that runs tasks; ``scratch``: space of
    kernels, once for each thread; ``shared``: what is computed once for all tasks; ``sums``: partial sums of what is reduced
    over tasks, once for each group of tasks; ``constants``; ``code``: the traced and planned program itself, about;
    ``outputs``: the results.

    >>> estimate = MemoryEstimate(arenas=6 << 20, scratch=0, shared=0, sums=1 << 20, constants=0, code=0, outputs=0)
    >>> print(estimate, estimate.total == 7 << 20)
    7.0 MB (arenas 6.0, sums 1.0) True
    """

    arenas: int
    scratch: int
    shared: int
    sums: int
    constants: int
    code: int
    outputs: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self)

    def __str__(self) -> str:
        mb = {name: f"{n / (1 << 20):.1f}" for name, n in self._asdict().items()}
        parts = ", ".join(f"{name} {text}" for name, text in mb.items() if text != "0.0")
        return f"{self.total / (1 << 20):.1f} MB" + (f" ({parts})" if parts else "")


def memory_estimate(f: Callable[..., Any], *args: Any) -> MemoryEstimate:
    """The memory that ``f(*args)`` will take at its peak beside the arguments, in bytes by parts; f is compiled, not run.

    f is what a transform returned (`map_tasks`, `jit`, ...), which keeps the program for the call to come, or any function
    that `jit` takes, a learner's ``value_and_grad`` among them.  It counts the threads in use (`set_num_threads`) and the
    number of tasks in ``args``; values of args do not matter.  Results of earlier calls that are still held are not counted.
    Errors: RuntimeError on another backend than native; those of f for its arguments.

    >>> import numpy as np
    >>> from fastmeta.loops import map_tasks
    >>> f = map_tasks(lambda x: (x @ x).sum())
    >>> memory_estimate(f, np.ones((4, 8, 8), np.float32)).outputs
    16
    """
    compiled = f if isinstance(f, Compiled) else Compiled(f, None, f, same_arguments=True)
    entry, values = compiled.entry(*args)
    if entry.footprint is None:
        raise expected("memory_estimate", "the native backend", entry.backend, RuntimeError)
    tasks = entry.tasks(values)
    outputs = sum(prod(tasks if n < 0 else n for n in v.shape) * DTYPES[v.dtype].itemsize for v in entry.program.outputs)
    return MemoryEstimate(*entry.footprint(tasks, backends.num_threads()), outputs)
