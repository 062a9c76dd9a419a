"""Plans: what backends run.  A program is batched, unrolled, simplified, expanded, rid of products that can wait, laid out, hoisted, rid of long-lived values, fused and encoded."""

from __future__ import annotations

from collections.abc import Iterator

from fastmeta import config
from fastmeta.plan.defer import defer
from fastmeta.plan.encode import Encoder, Plan
from fastmeta.plan.expand import expand
from fastmeta.plan.hoist import hoist
from fastmeta.plan.layout import lay_out
from fastmeta.plan.park import park
from fastmeta.plan.recompute import recompute
from fastmeta.plan.vectors import vectors
from fastmeta.program import Program, check
from fastmeta.transforms.batch import batch
from fastmeta.transforms.fused import unfused
from fastmeta.transforms.simplify import simplify
from fastmeta.transforms.unroll import unroll

GAPS = (400, 200, 100, 50, 25)  # equations that do not read what is parked


def prepare(p: Program, kernels: bool = True) -> Program:
    """The program as it will be encoded, for a backend with or without ``kernels`` for fused calls."""
    verify = config.debug()
    if not kernels:
        p = unfused(p)
    for step in (simplify, batch, unroll, simplify, vectors, lambda p: expand(p, kernels), defer, lay_out, hoist, recompute):
        p = check(step(p)) if verify else step(p)
    return p


def make_plan(p: Program, kernels: bool = True) -> Plan:
    """The plan of a program; see `prepare`."""
    return encoded(prepare(p, kernels), kernels)


def encoded(ready: Program, kernels: bool = True) -> Plan:
    """The plan of a prepared program."""
    return Encoder(ready, kernels).plan(ready)


def parked(ready: Program) -> Iterator[Plan]:
    """Plans of a prepared program for a backend without kernels, whose tasks keep less and less in a team's own memory."""
    for gap in GAPS:
        p = park(ready, gap)
        yield encoded(check(p) if config.debug() else p, kernels=False)
