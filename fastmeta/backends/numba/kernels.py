"""Kernels: compiled functions that the interpreter calls by address.

Each is compiled by itself, when a program first needs it, and kept on disk by Numba; so no kernel's code is optimised
again with its callers, and programs of one dtype wait for no other.  The first words of a program are its kernels'
addresses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import cfunc, types

NAMES = (
    "elementwise_f32", "elementwise_f64", "elementwise_i32", "convert", "take", "reduce_f32", "reduce_f64", "reduce_i32",
    "phase", "rows", "multiply_f32", "multiply_f64", "dots_f32", "dots_f64", "product", "indexed", "convolution",
)  # fmt: skip
(ELEMENTWISE_F32, ELEMENTWISE_F64, ELEMENTWISE_I32, CONVERT, TAKE, REDUCE_F32, REDUCE_F64, REDUCE_I32,
 PHASE, ROWS, MULTIPLY_F32, MULTIPLY_F64, DOTS_F32, DOTS_F64, PRODUCT, INDEXED, CONVOLUTION) = range(len(NAMES))  # fmt: skip

# Multiply-adds may fuse, as in the native core; NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}


@cache
def digest() -> str:
    """Of all sources that are compiled: Numba looks at the file of the cached function only."""
    text = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.blake2b(text, digest_size=8).hexdigest()


class Kernel:
    """A function of int64 arguments that gives an int64, compiled when its address is first asked for."""

    def __init__(self, f: Callable[..., int]) -> None:
        self.f = f
        self.compiled: Any = None

    @property
    def address(self) -> int:
        if self.compiled is None:
            self.f.__qualname__ = f"{self.f.__name__}_{digest()}"
            signature = types.int64(*[types.int64] * self.f.__code__.co_argcount)
            self.compiled = cfunc(signature, cache=True, **OPTIONS)(self.f)
        return int(self.compiled.address)


kernel = Kernel
