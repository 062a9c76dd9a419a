"""Copies, 16 bytes at a time: of dense memory, and by blocks that a lane turns where axes swap. An element at a time would take
many times the instructions, most of them to find places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastmeta.backends.codegen.phases import LANES, MEMORY, Stage, Walk, Work, part, pointer, split, total
from fastmeta.backends.codegen.words import ITEM, STORE, Operand, Phase, Words
from fastmeta.ops.microops import NUMBER


def copies(plan: Words, phase: Phase) -> list[Work]:
    """The stage of a phase that only copies neighbours; none for any other."""
    if any(op.number != NUMBER["copy"] for op in phase.ops) or len(phase.loads) != 1 or len(phase.stores) != 1 or phase.stores[0].mode != STORE:
        return []
    source, target = phase.loads[0], phase.stores[0].target
    if source.dtype != target.dtype or ITEM[source.dtype] != 4 or not (plan.aligned(source, 16) and plan.aligned(target, 16)):
        return []
    walk = Walk.of(phase.dims, [source, target])
    read, write = ([x.strides[d] for d in walk.dims] for x in (source, target))
    if read.count(1) != 1 or write.count(1) != 1 or any(s % 4 for s in (*read, *write) if s != 1):
        return []
    across, along = read.index(1), write.index(1)  # axes of neighbours that are read, and that are written
    if walk.sizes[across] % 4 or walk.sizes[along] % 4:
        return []
    made = _turned(plan, walk, source, target, across, along) if across != along else _straight(plan, walk, source, target, along)
    return [Work(made, ((source, phase.dims),), ((target, phase.dims),))]


def _straight(plan: Words, walk: Walk, source: Operand, target: Operand, along: int) -> Stage:
    pieces = [n // 4 if k == along else n for k, n in enumerate(walk.sizes)]
    names = [f"i{k}" for k in range(len(pieces))]

    def offset(x: Operand) -> str:
        return total(f"{name} * {x.strides[d] * (4 if k == along else 1)}" for k, (name, d) in enumerate(zip(names, walk.dims, strict=True)))

    lines = [f"{MEMORY[source.dtype]} x[4];", f"load<4>(from + ({offset(source)}), x);", f"store<4>(x, to + ({offset(target)}));"]
    return _stage(plan, source, target, pieces, [split("id", pieces, names), *lines], unroll=4)


def _turned(plan: Words, walk: Walk, source: Operand, target: Operand, across: int, along: int) -> Stage:
    blocks = [n // 4 if k in (across, along) else n for k, n in enumerate(walk.sizes)]
    names = [f"i{k}" for k in range(len(blocks))]
    lines = [split("id", blocks, names)]
    if plan.told:  # neighbouring lanes take blocks along a diagonal: a column of them lies in few banks of a team's own memory
        lines.append(f"const int turned = (i{across} + i{along}) % {max(1, blocks[across])};")
        names[across] = "turned"

    def offset(x: Operand, step: int) -> str:
        """Of row e of a block, the rows following each other along axis `step`."""
        places = [x.strides[d] for d in walk.dims]
        return total([*(f"{names[k]} * {s * (4 if k in (across, along) else 1)}" for k, s in enumerate(places)), f"e * {places[step]}"])

    kind = MEMORY[source.dtype]
    lines += [
        f"{kind} x[4][4];",
        f"FM_UNROLL for (int e = 0; e < 4; ++e) load<4>(from + ({offset(source, along)}), x[e]);",
        "FM_UNROLL for (int e = 0; e < 4; ++e) {",
        f"  const {kind} row[4] = {{x[0][e], x[1][e], x[2][e], x[3][e]}};",
        f"  store<4>(row, to + ({offset(target, across)}));",
        "}",
    ]
    return _stage(plan, source, target, blocks, lines, unroll=1)


def _stage(plan: Words, source: Operand, target: Operand, counts: Sequence[int], lines: Sequence[str], unroll: int) -> Stage:
    """What a lane does for each `id` of prod(counts)."""
    loop = "for (int id = first + team.lane; id < end; id += team.lanes) {"
    head = [pointer(plan, source, "from"), pointer(plan, target, "to", True), loop if unroll == 1 else f"FM_UNROLL_BY({unroll}) {loop}"]
    return Stage(part([*head, *(f"  {line}" for line in lines), "}"]), prod(counts), LANES)
