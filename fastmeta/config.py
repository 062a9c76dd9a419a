"""The settings: three environment variables, read once, and their run-time setters.

``FASTMETA_BACKEND`` (native or numpy), ``FASTMETA_NUM_THREADS`` (a positive integer), ``FASTMETA_DEBUG`` (0 or 1: check
every program after every transform).
"""

from __future__ import annotations

import os

from fastmeta.errors import expected


def backend() -> str | None:
    return os.environ.get("FASTMETA_BACKEND") or None


def threads() -> int | None:
    text = os.environ.get("FASTMETA_NUM_THREADS")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise expected("FASTMETA_NUM_THREADS", "a positive integer", repr(text))
    return int(text)


def debug() -> bool:
    text = os.environ.get("FASTMETA_DEBUG", "0")
    if text not in ("0", "1"):
        raise expected("FASTMETA_DEBUG", "0 or 1", repr(text))
    return text == "1"
