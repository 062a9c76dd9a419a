"""Copies that swap axes, by blocks that a lane holds: it reads and writes 16 bytes at a time, where an element at a time would
take ten times the instructions, most of them to find places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastmeta.backends.codegen.phases import LANES, MEMORY, Stage, Walk, Work, part, pointer, split, total
from fastmeta.backends.codegen.words import ITEM, STORE, Phase, Words
from fastmeta.ops.microops import NUMBER


def transposition(plan: Words, phase: Phase) -> list[Work]:
    """The stage of a phase that only copies, from neighbours along one axis to neighbours along another; none for any other."""
    if any(op.number != NUMBER["copy"] for op in phase.ops) or len(phase.loads) != 1 or len(phase.stores) != 1 or phase.stores[0].mode != STORE:
        return []
    source, target = phase.loads[0], phase.stores[0].target
    if source.dtype != target.dtype or ITEM[source.dtype] != 4 or not (plan.aligned(source, 16) and plan.aligned(target, 16)):
        return []
    walk = Walk.of(phase.dims, [source, target])
    read, write = ([x.strides[d] for d in walk.dims] for x in (source, target))
    if read.count(1) != 1 or write.count(1) != 1 or read.index(1) == write.index(1):
        return []
    across, along = read.index(1), write.index(1)  # axes of neighbours that are read, and that are written
    if any(n % 4 for n in (walk.sizes[across], walk.sizes[along], *(s for s in (*read, *write) if s != 1))):
        return []
    blocks = [n // 4 if k in (across, along) else n for k, n in enumerate(walk.sizes)]
    kind = MEMORY[source.dtype]
    names = [f"i{k}" for k in range(len(blocks))]
    index = split("id", blocks, names)
    if plan.told:  # neighbouring lanes take blocks along a diagonal: a column of them lies in few banks of a team's own memory
        index += f" const int turned = (i{across} + i{along}) % {max(1, blocks[across])};"
        names[across] = "turned"

    def offset(strides: Sequence[int], step: int) -> str:
        """Of row e of a block, the rows following each other by `step`."""
        return total([*(f"{names[k]} * {s * (4 if k in (across, along) else 1)}" for k, s in enumerate(strides)), f"e * {step}"])

    lines = [
        pointer(plan, source, "from"),
        pointer(plan, target, "to", True),
        "for (int id = first + team.lane; id < end; id += team.lanes) {",
        f"  {index}",
        f"  {kind} x[4][4];",
        f"  FM_UNROLL for (int e = 0; e < 4; ++e) load<4>(from + ({offset(read, read[along])}), x[e]);",
        "  FM_UNROLL for (int e = 0; e < 4; ++e) {",
        f"    const {kind} row[4] = {{x[0][e], x[1][e], x[2][e], x[3][e]}};",
        f"    store<4>(row, to + ({offset(write, write[across])}));",
        "  }",
        "}",
    ]
    return [Work(Stage(part(lines), prod(blocks), LANES), ((source, phase.dims),), ((target, phase.dims),))]
