"""The compiled core: checks plans and runs them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

class BadIndex(IndexError):
    """An index out of range at run time; args are (tag, task, index, bound)."""

class Plan:
    """A plan, checked and decoded."""

    def __init__(self, words: np.ndarray[Any, np.dtype[np.int64]], consts: bytes, winograd: bool = True) -> None:
        """winograd: convolutions may use it. Raises ValueError, "[plan] ...", for words that are no plan or not a safe one."""

    def run(self, arrays: Sequence[Any], threads: int) -> tuple[np.ndarray[Any, Any], ...] | None:
        """The outputs; None where an array is not exactly what the plan takes."""

    def profile(self, arrays: Sequence[Any], rounds: int) -> list[tuple[int, int, int, int, float]]:
        """(block, index, opcode, tag, least nanoseconds) of each instruction, for one task on one thread."""

    def footprint(self, tasks: int, threads: int) -> tuple[int, int, int, int, int]:
        """Bytes that a run holds: arenas and scratch of all workers, values that tasks share, sums over tasks, constants."""

def default_threads() -> int:
    """The threads that the affinity mask and the control group's quota allow."""

def isa() -> str:
    """The instruction set in use: "baseline", "avx2" or "avx512"."""

def set_isa(name: str) -> None:
    """Chooses the instruction set; ValueError where the machine lacks it."""

def kernels() -> int:
    """The address of the table of kernels in use (csrc/native/kernels.hpp), for tests of single ones."""
