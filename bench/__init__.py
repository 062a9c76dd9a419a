"""Benchmarks: fastmeta against PyTorch and JAX on the same meta-gradients (`python -m bench --help`)."""

import sys
from pathlib import Path

# What is measured is the installed fastmeta; the source tree beside this folder may have no compiled core.
_root = Path(__file__).resolve().parents[1]
if not list((_root / "fastmeta").glob("_core*.so")):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != _root]
