"""Which build of fastmeta is tested, and the backends and instruction sets it must have.

With FASTMETA_PURE_PYTHON=1 it is the one without the compiled core; then the tests of the core itself are not collected.
Whatever of this is not so is a failure: nothing is skipped.
"""

from __future__ import annotations

import os

PURE = os.environ.get("FASTMETA_PURE_PYTHON") == "1"
ENGINES = ("numba",) if PURE else ("native",)  # what runs plans where nothing is asked for; each build tests its own
BACKENDS = (*ENGINES, "numpy")
OF_THE_CORE = (
    "test_core_calls.py", "test_core_instructions.py", "test_core_loops.py", "test_core_refused.py", "test_conv_core.py", "test_distance_core.py",
    "test_depthwise_core.py", "test_inverse_core.py", "test_lane_products.py", "test_park.py", "test_proto_core.py", "test_plan_safety.py", "test_gemm.py", "test_vmath.py",
)  # fmt: skip

if not PURE:
    from fastmeta import _core


def targets() -> list[str]:
    """The instruction sets of this build that this processor has."""
    if PURE:
        return []
    before, found = _core.isa(), []
    for name in ("baseline", "avx2", "avx512", "avx512-halves"):
        try:
            _core.set_isa(name)
            found.append(name)
        except ValueError as error:
            assert "[set_isa]" in str(error)
    _core.set_isa(before)
    return found


ISAS = targets()
