"""Benchmarks: fastmeta against PyTorch and JAX on the same meta-gradients (`python -m bench --help`)."""

import sys
from importlib.util import find_spec
from pathlib import Path

# What is measured is the installed fastmeta; the source tree beside this folder may have no compiled core.  It comes last
# instead of being left out: child processes, which get this path, look for `bench` there.
_root = Path(__file__).resolve().parents[1]
if not list((_root / "fastmeta").glob("_core*.so")):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != _root] + [str(_root)]
    _found = find_spec("fastmeta")
    if _found is None or _found.origin is None or Path(_found.origin).is_relative_to(_root):
        raise SystemExit('bench: fastmeta is not installed; pip install ".[bench]"')
