"""What the backends of device text share: arrays matched to a plan, run, and the errors of a run.

A core module (``fastmeta._cuda``, its host build for tests, or `fastmeta.backends.cupy`'s own) has ``Plan`` with
``inputs``, ``outputs``, ``device`` and ``run(addresses, on_host, tasks, stream, wait)``, ``BadIndex`` and ``DeviceError``;
where plans can have text of their own (`fastmeta.backends.codegen`), ``facts()``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastmeta
from fastmeta.backends import Loaded
from fastmeta.backends import arrays as libraries
from fastmeta.backends.codegen.source import MOST_LANES, OWN_BYTES, RESIDENT_LANES, source
from fastmeta.backends.codegen.words import Words
from fastmeta.errors import bad_index, expected
from fastmeta.plan import Plan, encoded, parked, prepare
from fastmeta.program import Program


def mismatch(core: Any) -> str | None:
    """Why a compiled module does not go with this package, or None."""
    if core.version == fastmeta.__version__:
        return None
    return f"{core.__name__} was built for fastmeta {core.version}, and this is {fastmeta.__version__}: install again"


TEAMS = MOST_LANES // RESIDENT_LANES  # of a processor: as many as its registers are for
Compile = Callable[[str, int], Any]  # a text and an architecture to what a core loads


def for_teams(core: Any, ready: Program, plan: Plan) -> Plan:
    """The plan, or the first of those that park more and more with which TEAMS teams share a processor's memory, or with which most do."""
    _, most, shared = core.facts()
    if shared == 0 or not 0 < plan.near <= most:
        return plan
    def fit(p: Plan) -> int:
        return int(shared // (p.near + OWN_BYTES))

    for other in parked(ready):
        if fit(plan) >= TEAMS:
            break
        if fit(other) > fit(plan):
            plan = other
    return plan


def with_text(
    core: Any, words: np.ndarray, const_bytes: int, compile_text: Compile, way: str = "auto", near: int | None = None, **options: Any
) -> dict[str, Any]:
    """The options of a core's plan, with text of the plan's own where it can be written; ``near``: of the plan (all of its arena)."""
    from concurrent.futures import ThreadPoolExecutor

    core.check(words, const_bytes)
    architecture, most, shared = core.facts()
    plan = Words(words)
    near = plan.arena_bytes if near is None else near
    if way == "auto":
        way = "resident" if near <= most else "batched"
    if shared == 0 or way == "batched" or near > most:
        near = 0
    made = source(plan, way == "resident", near, shared // (near + OWN_BYTES))
    if made is None:
        return {"way": way, **options}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        codes = list(threads.map(lambda text: compile_text(text, architecture), made.texts))
    return {"way": way, "fixed": (codes, made.bodies, made.stages, made.alone, made.lanes, made.partials, near), **options}


class DevicePlan:
    """A plan on a device, with the calls of ``_core.Plan``: arrays of the host are copied, those of a device are not."""

    def __init__(self, core: Any, words: np.ndarray, consts: bytes, compile_text: Compile | None = None, **options: Any) -> None:
        self.plan = core.Plan(words, consts, **(with_text(core, words, len(consts), compile_text, **options) if compile_text else options))
        self.inputs, self.outputs = self.plan.inputs, self.plan.outputs
        self.has_tasks = any(shape[:1] == (-1,) for _, shape in (*self.inputs, *self.outputs))
        self.work = self.plan.work
        self.kind: Any = libraries.HOST  # of the last call's arrays

    def tasks(self, given: Sequence[Any], kind: Any) -> int | None:
        """The number of tasks; None where the arrays are not just the plan's."""
        if len(given) != len(self.inputs):
            return None
        length = 0
        for x, (code, shape) in zip(given, self.inputs, strict=True):
            if not kind.fits(x, code):
                return None
            got = tuple(x.shape)
            if shape[:1] != (-1,):
                if got != shape:
                    return None
            elif got[1:] != shape[1:] or not got or got[0] != (length or got[0]):
                return None
            else:
                length = got[0]
                if length == 0:
                    return None
        return length or (None if self.has_tasks else 1)

    def run(self, given: Sequence[Any], threads: int = 1) -> tuple[Any, ...] | None:
        """Results like the inputs: NumPy's on the host, else of the library and device of the inputs."""
        kind = self.kind
        if not kind.has(given):
            kind = self.kind = libraries.library(given)
        on_host = kind is libraries.HOST
        if not on_host:
            if kind.number != self.plan.device:
                raise expected("array", f"arrays on GPU {self.plan.device}, which this function was planned for", f"arrays on {kind.device}")
            given = [kind.put(x) for x in given]
        length = self.tasks(given, kind)
        if length is None:
            return None
        outputs = tuple([kind.empty((length, *shape[1:]) if shape[:1] == (-1,) else shape, code) for code, shape in self.outputs])
        self.plan.run([kind.address(x) for x in (*given, *outputs)], on_host, length, kind.stream(), kind.waits)
        return outputs


def load(core: Any, p: Program, compile_text: Compile | None = None, **options: Any) -> Loaded:
    """Plans the program for a core."""
    ready = prepare(p, kernels=False)
    made = encoded(ready, kernels=False)
    if compile_text and options.get("way", "auto") != "batched":
        made = for_teams(core, ready, made)
        options = {"near": made.near, **options}
    plan = DevicePlan(core, made.words, made.consts, compile_text, **options)

    def run(given: Sequence[Any]) -> Any:
        try:
            return plan.run(given)
        except core.BadIndex as error:
            tag, task, index, bound = error.args
            op, line = made.lines[tag]
            raise bad_index(op, index, bound, task, line) from None
        except core.DeviceError as error:
            text, tag = error.args
            op, line = made.lines[tag] if tag >= 0 else ("cuda", None)
            raise RuntimeError(f"[{op}] {text}" + (f" ({line[0]}:{line[1]})" if line else "")) from None

    return Loaded(run)
