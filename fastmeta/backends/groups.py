"""Runs with many tasks together: the plans of a program, for more tasks and fewer, and what their arguments look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastmeta.backends import Loaded
from fastmeta.ops.structure import Loop
from fastmeta.program import Program
from fastmeta.transforms.batch import batch, mapped_inside
from fastmeta.transforms.fused import has_kernels, unfused
from fastmeta.transforms.groups import Form, counting, form, grouped, over_tasks, widened
from fastmeta.transforms.simplify import simplify


def load_in_groups(p: Program, load: Callable[[Program], Loaded]) -> Loaded:
    """``p`` by ``load``, with tasks together where that pays; calls that have a kernel, for which there is no rule, by their bodies then.

    So they are where fewer loops stay inside of a task without them.
    """
    ready = batch(simplify(p))
    if has_kernels(p) and (stay := mapped_inside(ready)):
        bodies = batch(simplify(unfused(p)))
        if mapped_inside(bodies) < stay:
            p, ready = unfused(p), bodies
    return _together(p, ready, load) or has_kernels(p) and _together(p, batch(simplify(unfused(p))), load) or load(p)


def _together(p: Program, ready: Program, load: Callable[[Program], Loaded]) -> Loaded | None:
    spec = over_tasks(ready)
    if spec is not None and form(spec, 1 << 30):
        return Groups(p, ready, spec, load).loaded()
    wide = widened(ready)
    return None if wide is ready else _exact(load(wide), cache(lambda: load(p)))


def _exact(wide: Loaded, plain: Callable[[], Loaded]) -> Loaded:
    """``wide``, but for errors: their task is told by the program that runs tasks one by one."""

    def run(arrays: Sequence[Any]) -> Any:
        try:
            return wide.run(arrays)
        except IndexError:
            return plain().run(arrays)

    return wide._replace(run=run)


class Groups:
    """A program with a loop over tasks whose number is known at run time: its plans by how many tasks run together, and how."""

    def __init__(self, p: Program, ready: Program, spec: Loop, load: Callable[[Program], Loaded]) -> None:
        self.p, self.ready, self.spec, self.load = p, ready, spec, load
        self.plans: dict[Form | None, Loaded] = {}
        self.mapped = [v.shape[:1] == (-1,) for v in p.inputs]
        self.stacked = [v.shape[:1] == (-1,) for v in p.outputs]
        self.first = self.mapped.index(True)

    def plan(self, of: Form | None) -> Loaded:
        found = self.plans.get(of)
        if found is None:
            found = self.plans[of] = self.load(grouped(self.ready, of) if of else self.p)
        return found

    def run(self, arrays: Sequence[Any]) -> Any:
        try:
            tasks = len(arrays[self.first])
        except (IndexError, TypeError):
            return None
        of = form(self.spec, tasks)
        if not of or len(arrays) != len(self.mapped):
            return self.plan(None).run(arrays)
        n = of[1]
        groups = -(-tasks // n)
        given = []
        for x, on in zip(arrays, self.mapped, strict=True):
            if on:
                if not isinstance(x, np.ndarray) or x.shape[:1] != (tasks,):
                    return None
                if groups * n > tasks:
                    x = np.concatenate([x, np.broadcast_to(x[-1:], (groups * n - tasks, *x.shape[1:]))])
                x = x.reshape(groups, n, *x.shape[1:])
            given.append(x)
        if self.spec.summed:
            given.append(_counting(tasks, groups, n))
        try:
            outs = self.plan(of).run(given)
        except IndexError:
            return self.plan(None).run(arrays)
        return outs and tuple([x.reshape(groups * n, *x.shape[2:])[:tasks] if on else x for x, on in zip(outs, self.stacked, strict=True)])

    def loaded(self) -> Loaded:
        def footprint(tasks: int, threads: int) -> tuple[int, int, int, int, int, int]:
            of = form(self.spec, tasks)
            told = self.plan(of).footprint
            assert told is not None
            return told(-(-tasks // of[1]) if of else tasks, threads)

        return Loaded(self.run, footprint)


_counting = lru_cache(64)(counting)
