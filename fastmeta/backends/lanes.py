"""Runs with many tasks side by side: the plans of a program, for more tasks and fewer, and what their arguments look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastmeta.backends import Loaded
from fastmeta.ops.structure import Loop
from fastmeta.program import Program
from fastmeta.transforms.batch import batch
from fastmeta.transforms.lanes import counting, grouped, over_tasks, widened, width
from fastmeta.transforms.simplify import simplify


def load_in_lanes(p: Program, load: Callable[[Program], Loaded]) -> Loaded:
    """``p`` by ``load``, with tasks side by side where that pays."""
    ready = batch(simplify(p))
    spec = over_tasks(ready)
    if spec is not None and width(spec, 1 << 30) > 1:
        return Lanes(p, ready, spec, load).loaded()
    wide = widened(ready)
    return load(p) if wide is ready else _exact(load(wide), cache(lambda: load(p)))


def _exact(wide: Loaded, plain: Callable[[], Loaded]) -> Loaded:
    """``wide``, but for errors: their task is told by the program that runs tasks one by one."""

    def run(arrays: Sequence[Any]) -> Any:
        try:
            return wide.run(arrays)
        except IndexError:
            return plain().run(arrays)

    return wide._replace(run=run)


class Lanes:
    """A program with a loop over tasks whose number is known at run time: its plans by how many tasks run side by side."""

    def __init__(self, p: Program, ready: Program, spec: Loop, load: Callable[[Program], Loaded]) -> None:
        self.p, self.ready, self.spec, self.load = p, ready, spec, load
        self.plans: dict[int, Loaded] = {}
        self.mapped = [v.shape[:1] == (-1,) for v in p.inputs]
        self.stacked = [v.shape[:1] == (-1,) for v in p.outputs]
        self.first = self.mapped.index(True)

    def plan(self, n: int) -> Loaded:
        found = self.plans.get(n)
        if found is None:
            found = self.plans[n] = self.load(self.one() if n == 1 else grouped(self.ready, n))
        return found

    def one(self) -> Program:
        wide = widened(self.ready)
        return self.p if wide is self.ready else wide

    def run(self, arrays: Sequence[Any]) -> Any:
        try:
            tasks = len(arrays[self.first])
        except (IndexError, TypeError):
            return None
        n = width(self.spec, tasks)
        if n == 1 or len(arrays) != len(self.mapped):
            return self.plan(1).run(arrays)
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
            outs = self.plan(n).run(given)
        except IndexError:
            return self.plan(1).run(arrays)
        return outs and tuple([x.reshape(groups * n, *x.shape[2:])[:tasks] if on else x for x, on in zip(outs, self.stacked, strict=True)])

    def loaded(self) -> Loaded:
        def footprint(tasks: int, threads: int) -> tuple[int, int, int, int, int, int]:
            n = width(self.spec, tasks)
            told = self.plan(n).footprint
            assert told is not None
            return told(-(-tasks // n), threads)

        return Loaded(self.run, footprint)


_counting = lru_cache(64)(counting)
