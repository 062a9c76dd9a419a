"""The settings: three environment variables, read once, and their run-time setters.

``FASTMETA_BACKEND`` (native, numba or numpy), ``FASTMETA_NUM_THREADS`` (a positive integer), ``FASTMETA_DEBUG`` (0 or 1: check
every program before it is planned).
"""

from __future__ import annotations

import os

from fastmeta.errors import expected

BACKENDS = ("native", "numba", "numpy")


def backend() -> str | None:
    """The name in FASTMETA_BACKEND, or None."""
    name = os.environ.get("FASTMETA_BACKEND") or None
    if name not in (None, *BACKENDS):
        raise expected("FASTMETA_BACKEND", f"one of {', '.join(BACKENDS)}", repr(name))
    return name


def threads() -> int | None:
    """The number in FASTMETA_NUM_THREADS, or None."""
    text = os.environ.get("FASTMETA_NUM_THREADS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise expected("FASTMETA_NUM_THREADS", "a positive integer", repr(text))
    return int(text)


def debug() -> bool:
    """Whether FASTMETA_DEBUG asks for checks."""
    text = os.environ.get("FASTMETA_DEBUG", "0")
    if text not in ("0", "1"):
        raise expected("FASTMETA_DEBUG", "0 or 1", repr(text))
    return text == "1"
