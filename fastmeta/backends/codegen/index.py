"""GATHER, SCATTER, CUMSUM, ARGREDUCE and ORDER as stages: index.cuh reads their words."""

from __future__ import annotations

from collections.abc import Sequence

from fastmeta.backends.codegen.phases import LANES, Stage, Work, part
from fastmeta.backends.codegen.words import ARGREDUCE, CUMSUM, GATHER, ORDER, SCATTER

FEW_COLUMNS, SMALL_SCAN = 64, 1 << 22  # of index.cuh


def stages(op: int, words: Sequence[int]) -> list[Work]:
    """The stages of an instruction; none where it is not of these."""
    if op in (CUMSUM, ARGREDUCE):
        return [stage("kColumnStage", words[4] * words[6])]
    if op == ORDER:
        return [stage("kOrderStage", words[4] * words[5] * words[6] if words[7] > 0 else 0)]
    if op not in (GATHER, SCATTER):
        return []
    o, n, j, i = words[4:8]
    by_target = o * i < FEW_COLUMNS and n * j <= SMALL_SCAN
    last = stage("kGatherStage", o * j * i) if op == GATHER else stage("kColumnStage", o * n * i if by_target else o * i)
    return [stage("kCheckStage", o * j * i), stage("kEndStage", 1), last]


def stage(kind: str, elements: int) -> Work:
    """Units of a stage of index.cuh, each of as many elements as a team has lanes."""
    loop = f"for (int unit = first; unit < end; ++unit) run_index_unit(team, w.frame, w.words, {kind}, unit);"
    return Work(Stage(part([loop]), -(-elements // LANES), 1), (), ())
