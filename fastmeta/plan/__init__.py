"""Plans: what backends run.  A program is unrolled, simplified, laid out, hoisted, fused and encoded."""

from __future__ import annotations

from fastmeta.plan.encode import Encoder, Plan
from fastmeta.plan.hoist import hoist
from fastmeta.plan.layout import lay_out
from fastmeta.program import Program
from fastmeta.transforms.simplify import simplify
from fastmeta.transforms.unroll import unroll


def prepare(p: Program) -> Program:
    """The program as it will be encoded."""
    return hoist(lay_out(simplify(unroll(simplify(p)))))


def make_plan(p: Program) -> Plan:
    """The plan of a program."""
    ready = prepare(p)
    return Encoder(ready).plan(ready)
