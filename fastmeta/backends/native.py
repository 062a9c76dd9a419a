"""The compiled core as a backend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fastmeta import backends, config
from fastmeta.backends import Loaded
from fastmeta.backends.groups import load_in_groups
from fastmeta.errors import bad_index
from fastmeta.plan import make_plan
from fastmeta.program import Program

try:
    import fastmeta._core as _core

    REASON = None
except ImportError as error:  # a source tree without a build, or a build for another Python
    REASON = f"the compiled module fastmeta._core cannot be imported ({error}); install with `pip install .`"


CODE_BYTES = 300  # resident memory of a traced and planned program by word of its plan: 270 to 315 in MAML of any size


def missing() -> str | None:
    """Why the backend is not there, or None."""
    return REASON


def default_threads() -> int:
    """Threads that this process may use: its affinity and, where the core tells it, its quota."""
    if REASON is None:
        return int(_core.default_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load(p: Program) -> Loaded:
    """Plans the program; runs are one call into the core."""
    return load_in_groups(p, _load)


def _load(p: Program) -> Loaded:
    plan = make_plan(p)
    core = _core.Plan(plan.words, plan.consts, winograd=config.winograd())
    lines = plan.lines
    run_core = core.run

    def run(arrays: Sequence[Any]) -> Any:
        try:
            return run_core(arrays, backends.state.threads or backends.num_threads())
        except _core.BadIndex as error:
            tag, task, index, bound = error.args
            op, line = lines[tag]
            raise bad_index(op, index, bound, task, line) from None

    code = CODE_BYTES * len(plan.words)

    def footprint(tasks: int, threads: int) -> tuple[int, int, int, int, int, int]:
        return (*core.footprint(tasks, threads), code)

    return Loaded(run, footprint)

