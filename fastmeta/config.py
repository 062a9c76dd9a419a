"""The settings: five environment variables; docs/backends.md has their run-time setters.

``FASTMETA_BACKEND`` (native, numba, cuda, cupy or numpy), ``FASTMETA_NUM_THREADS`` (a positive integer), ``FASTMETA_DEBUG`` (0 or 1: check
every program before it is planned), ``FASTMETA_WINOGRAD`` (1 or 0: may float32 convolutions with windows of 3 x 3 and
stride 1 use Winograd's algorithm, which multiplies up to four times less and rounds a little differently?).  The fifth, ``FASTMETA_CACHE`` (the folder of decoded data sets and
compiled CUDA code), is read by those who keep something there.
"""

from __future__ import annotations

import os

from fastmeta.errors import expected

BACKENDS = ("native", "numba", "cuda", "cupy", "numpy")


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
    return _switch("FASTMETA_DEBUG", "0")


def winograd() -> bool:
    """Whether FASTMETA_WINOGRAD allows it, as it does unless set to 0."""
    return _switch("FASTMETA_WINOGRAD", "1")


def _switch(name: str, default: str) -> bool:
    text = os.environ.get(name, default)
    if text not in ("0", "1"):
        raise expected(name, "0 or 1", repr(text))
    return text == "1"
