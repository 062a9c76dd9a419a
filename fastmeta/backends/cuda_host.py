"""The text of the CUDA core compiled for the host: for tests on machines without a GPU, never chosen by itself."""

from __future__ import annotations

from typing import Any

from fastmeta.backends import Loaded, device
from fastmeta.program import Program

try:
    import fastmeta._cuda_host as _core

    REASON = None
except ImportError as error:
    REASON = f"the module fastmeta._cuda_host is built for tests only, by .ci/cuda ({error})"
OPTIONS: dict[str, Any] = {}  # tests set them


def core() -> Any:
    """The compiled module."""
    return _core


def missing() -> str | None:
    """Why the backend is not there, or None."""
    return REASON or device.mismatch(_core)


def load(p: Program) -> Loaded:
    """Plans the program for teams of the host."""
    return device.load(_core, p, **OPTIONS)
