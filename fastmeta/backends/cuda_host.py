"""The device text of the CUDA core on the host: for tests on machines without a GPU, never chosen by itself."""

from __future__ import annotations

from typing import Any

from fastmeta.backends import device
from fastmeta.program import Program

try:
    import fastmeta._cuda_host as _core

    REASON = None
except ImportError as error:  # tests build it: cmake -DFASTMETA_CUDA_HOST=ON
    REASON = f"the module fastmeta._cuda_host is built for tests only ({error})"

OPTIONS = {"way": "auto", "lanes": 1}  # tests set them


def core() -> Any:
    """The compiled module."""
    return _core


def missing() -> str | None:
    """Why the backend is not there, or None."""
    return REASON


def load(p: Program) -> Any:
    """Plans the program."""
    return device.load(_core, p, **OPTIONS)
