from __future__ import annotations
from typing import Any
from fastmeta.backends.numba.kernels import kernel
