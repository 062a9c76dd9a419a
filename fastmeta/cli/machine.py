"""Where a figure was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

import fastmeta
from fastmeta import backends


def versions() -> dict[str, str]:
    """fastmeta, Python and NumPy.

    >>> sorted(versions())
    ['fastmeta', 'numpy', 'python']
    """
    return {"fastmeta": fastmeta.__version__, "python": platform.python_version(), "numpy": np.__version__}


def machine() -> dict[str, Any]:
    """CPU, cores, threads in use, instruction set and backend."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": backends.num_threads(),
        "isa": isa(),
        "backend": backends.chosen(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def isa() -> str:
    """The instruction set that the core chose, or why there is none."""
    try:
        from fastmeta import _core
    except ImportError as error:
        return f"none ({error})"
    name = getattr(_core, "isa", None)
    return str(name()) if callable(name) else "unknown"


def cache_folder() -> str:
    """Where decoded data sets are kept."""
    return os.environ.get("FASTMETA_CACHE") or str(Path.home() / ".cache" / "fastmeta")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
