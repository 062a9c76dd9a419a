"""Plans: what backends run.  A program is unrolled, simplified, expanded, rid of products that can wait, laid out, hoisted, rid of long-lived values, fused and encoded."""

from __future__ import annotations

from fastmeta import config
from fastmeta.plan.defer import defer
from fastmeta.plan.encode import Encoder, Plan
from fastmeta.plan.expand import expand
from fastmeta.plan.hoist import hoist
from fastmeta.plan.layout import lay_out
from fastmeta.plan.recompute import recompute
from fastmeta.program import Program, check
from fastmeta.transforms.fused import unfused
from fastmeta.transforms.simplify import simplify
from fastmeta.transforms.unroll import unroll


def prepare(p: Program, kernels: bool = True) -> Program:
    """The program as it will be encoded, for a backend with or without ``kernels`` for fused calls."""
    verify = config.debug()
    if not kernels:
        p = unfused(p)
    for step in (simplify, unroll, simplify, lambda p: expand(p, kernels), defer, lay_out, hoist, recompute):
        p = check(step(p)) if verify else step(p)
    return p


def make_plan(p: Program, kernels: bool = True) -> Plan:
    """The plan of a program; see `prepare`."""
    ready = prepare(p, kernels)
    return Encoder(ready, kernels).plan(ready)
