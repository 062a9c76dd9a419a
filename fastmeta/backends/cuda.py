"""The CUDA core as a backend: built with ``-C cmake.define.FASTMETA_CUDA=ON``, see docs/cuda.md."""

from __future__ import annotations

import warnings
from typing import Any

from fastmeta.backends import Loaded, device
from fastmeta.backends.codegen import nvrtc
from fastmeta.program import Program

try:
    import fastmeta._cuda as _core

    REASON = None
except ImportError as error:
    REASON = f"the compiled module fastmeta._cuda cannot be imported ({error}); install with `pip install . -C cmake.define.FASTMETA_CUDA=ON`"
OPTIONS: dict[str, Any] = {}  # tests set them


def core() -> Any:
    """The compiled module."""
    return _core


def missing() -> str | None:
    """Why the backend is not there, or None."""
    return REASON or device.mismatch(_core) or _core.missing() or None


def load(p: Program) -> Loaded:
    """Plans the program for the GPU in use."""
    return device.load(_core, p, compile_text(), **OPTIONS)


def compile_text() -> device.Compile | None:
    """What compiles the text of a plan; None without an NVRTC for the GPU in use, where words are read as plans run, with a warning."""
    if nvrtc.supports(_core.facts()[0]):
        return nvrtc.text_compiled
    hint = f"pip install nvidia-cuda-nvrtc of CUDA {nvrtc.driver()}, or set CUDA_HOME"
    warnings.warn(f"[cuda] no NVRTC for this GPU and driver was found, so plans are read as they run, many times slower; {hint}", stacklevel=2)
    return None
