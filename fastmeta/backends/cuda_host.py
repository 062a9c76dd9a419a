"""The text of the CUDA core compiled for the host: for tests on machines without a GPU, never chosen by itself."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fastmeta.backends import Loaded, device
from fastmeta.backends.cupy import source
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
    return device.load(_core, p, compile_text(), **OPTIONS)


TEXT = False  # tests set it: plans have text of their own


def compile_text() -> device.Compile | None:
    """What compiles the text of a plan, where it shall have one."""
    return text_compiled if TEXT else None


def text_compiled(text: str, architecture: int) -> bytes:
    """The name of a library, made by the C++ compiler; kept for the length of the process."""
    if text not in LIBRARIES:
        made = Path(FOLDER.name) / f"{hashlib.sha256(text.encode()).hexdigest()}.so"
        command = ["c++", *FLAGS, f"-I{source()}", "-x", "c++", "-", "-o", str(made)]
        said = subprocess.run(command, input=text.encode(), stderr=subprocess.PIPE)
        if said.returncode:
            raise RuntimeError(said.stderr.decode()[:2000])
        LIBRARIES[text] = str(made).encode()
    return LIBRARIES[text]


FLAGS = ["-std=c++17", "-O0", "-fwrapv", "-w", "-shared", "-fPIC"]
FOLDER = tempfile.TemporaryDirectory()
LIBRARIES: dict[str, bytes] = {}
