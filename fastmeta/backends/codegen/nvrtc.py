"""NVRTC, CUDA's compiler at run time, and what it compiled before."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fastmeta.atomic import replacing
from fastmeta.backends.cupy import source as folder_of_text
from fastmeta.errors import expected

NEWEST = 13  # CUDA's version that is looked for


def candidates() -> Iterator[str]:
    """Where the library may be: the loader's, the toolkit's, a wheel's; the newest that the driver knows first."""
    folders = [Path(folder) / "lib64" for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda") if folder]
    spec = importlib.util.find_spec("nvidia")
    for found in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(found).glob("*/lib"))
    for version in range(min(NEWEST, driver()), 11, -1):
        name = f"libnvrtc.so.{version}"
        yield name
        yield from (str(folder / name) for folder in folders if (folder / name).exists())


def driver() -> int:
    """The CUDA version that the driver knows, without its minor part; NEWEST where there is no driver."""
    try:
        number = ctypes.c_int()
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
        return number.value // 1000
    except OSError:
        return NEWEST


def supports(architecture: int) -> bool:
    """Whether there is an NVRTC that knows an architecture (90: 9.0)."""
    lib, count = library(), ctypes.c_int()
    if lib is None:
        return False
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    lib.nvrtcGetSupportedArchs(known)
    return architecture in known


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC, or None."""
    for name in candidates():
        try:
            for other in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")) if "/" in name else ():
                ctypes.CDLL(str(other), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def version(lib: ctypes.CDLL) -> tuple[int, int]:
    """Of NVRTC."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def text_compiled(text: str, architecture: int) -> bytes:
    """The machine code of a text for an architecture (90: 9.0), kept in the cache folder.

    Raises:
        RuntimeError: the compiler refuses the text, with what it says.
    """
    lib = library()
    assert lib is not None
    folder = folder_of_text()
    options = ["-std=c++17", "-w", f"--gpu-architecture=sm_{architecture}"]
    parts = [text, *options, str(version(lib)), *(path.read_text() for path in sorted(folder.glob("*.cuh")))]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    kept = Path(os.environ.get("FASTMETA_CACHE") or Path.home() / ".cache" / "fastmeta") / "cuda" / f"{name}.cubin"
    if kept.is_file():
        return kept.read_bytes()
    code = _compiled(lib, text, [*options, f"-I{folder}"])
    with contextlib.suppress(OSError):  # it is compiled again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as file:
            file.write(code)
    return code


def _compiled(lib: ctypes.CDLL, text: str, options: list[str]) -> bytes:
    program = ctypes.c_void_p()
    if lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"fastmeta.cu", 0, None, None) != 0:
        raise expected("cuda", "NVRTC to take a text", "an error", RuntimeError)
    try:
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        status, size = lib.nvrtcCompileProgram(program, len(options), given), ctypes.c_size_t()
        if status != 0:
            lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            lib.nvrtcGetProgramLog(program, log)
            raise expected("cuda", "NVRTC to compile the plan's text", log.value.decode(errors="replace")[:2000], RuntimeError)
        lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        lib.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))
