"""Backends: they turn a program into something that runs.

``native`` is the default, ``numba`` where there is no compiled core; ``numpy`` is the oracle, and runs only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from fastmeta import config
from fastmeta.errors import expected
from fastmeta.program import Program, check

Executable = Callable[[Sequence[Any]], "Sequence[np.ndarray] | None"]
Footprint = Callable[[int, int], tuple[int, int, int, int, int, int]]
NAMES = config.BACKENDS
FOR_TESTS = "cuda-host"  # the CUDA core's text compiled for the host
MOST_THREADS = 256  # kMaxThreads of csrc/native/pool.hpp
ENGINES = ("native", "numba")  # they run plans; the first that is there is chosen


class Loaded(NamedTuple):
    """What a backend makes of a program.

    ``run`` answers None to arrays that do not fit.  ``footprint(tasks, threads)`` tells the bytes that a run takes: arenas,
    scratch, values shared by tasks, sums over tasks, constants, the program itself; None where a backend cannot tell.
    """

    run: Executable
    footprint: Footprint | None = None


class _State:
    """What is chosen now.  Compiled programs remember the name they were made for."""

    def __init__(self) -> None:
        self.name: str | None = None  # chosen at first use
        self.threads: int | None = None


state = _State()


def available() -> dict[str, str]:
    """Each backend with "ok" or the reason why it is not there.

    >>> available()["numpy"]
    'ok'
    """
    return {name: module(name).missing() or "ok" for name in NAMES}


def module(name: str) -> Any:
    """The module of a backend: ``missing()`` and ``load(program)``."""
    return import_module(f"fastmeta.backends.{name.replace('-', '_')}")


def chosen() -> str:
    """The name of the backend in use."""
    if state.name is None:
        _choose(config.backend() or _default())
    assert state.name is not None
    return state.name


def _default() -> str:
    """The backend of host arrays; RuntimeError that says what to install where there is none."""
    there = available()
    for name in ENGINES:
        if there[name] == "ok":
            return name
    reasons = "; ".join(f"{name}: {there[name]}" for name in ENGINES)
    raise RuntimeError(f"[backends] expected one of the backends {' and '.join(ENGINES)} to be there, got {reasons}")


def _choose(name: str) -> None:
    if name not in (*NAMES, FOR_TESTS):
        raise expected("set_backend", f"one of {', '.join(NAMES)}", repr(name))
    reason = module(name).missing()
    if reason:
        raise RuntimeError(f"[set_backend] expected backend {name} to be there, got: {reason}")
    state.name = name


class set_backend:  # noqa: N801  (a function that is also a context)
    """Chooses the backend, for good or for the length of a ``with`` block; for all threads of the process, so that blocks of
    several threads must not overlap.
    Errors: ValueError for an unknown backend; RuntimeError, with the reason, for one that is not there.

    >>> with set_backend("numpy"):
    ...     chosen()
    'numpy'
    """

    def __init__(self, name: str) -> None:
        self.before = state.name
        _choose(name)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        state.name = self.before


def set_num_threads(n: int) -> None:
    """The number of threads for calls from now on, at most MOST_THREADS; results do not depend on it.

    Errors: ValueError for what is no whole number of at least 1.

    >>> set_num_threads(0)
    Traceback (most recent call last):
    ValueError: [set_num_threads] expected a positive integer, got 0
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise expected("set_num_threads", "a positive integer", repr(n))
    state.threads = min(int(n), MOST_THREADS)


def num_threads() -> int:
    """The number of threads in use: what was set, else FASTMETA_NUM_THREADS, else what the machine grants."""
    if state.threads is None:
        from fastmeta.backends import native

        state.threads = min(config.threads() or native.default_threads(), MOST_THREADS)
    return state.threads


def load(p: Program) -> Loaded:
    """``p`` on the chosen backend."""
    if config.debug():
        check(p)
    return module(chosen()).load(p)
