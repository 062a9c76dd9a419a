"""The plan run by compiled Python: for installations without the compiled core.

Numba compiles one interpreter of plans, once per machine and version (some seconds, then kept on disk); the tasks of a
call are shared by a pool of threads.  Nothing here imports numba before a program is loaded.
"""

from __future__ import annotations

from importlib.util import find_spec

from fastmeta.backends import Loaded
from fastmeta.backends.groups import load_in_groups
from fastmeta.program import Program
from fastmeta.transforms.fused import unfused


def missing() -> str | None:
    """Why the backend is not there, or None."""
    return None if find_spec("numba") else "numba is not installed; install with `pip install 'fastmeta[numba]'`"


def load(p: Program) -> Loaded:
    """Plans the program; runs are calls of the interpreter."""
    from fastmeta.backends.numba.executor import Executable

    return load_in_groups(unfused(p), lambda p: Loaded(Executable(p)))._replace(footprint=None)
