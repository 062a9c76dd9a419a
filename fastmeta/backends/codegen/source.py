"""The text of one plan: each kind of instruction once, whatever addresses it is used with, and entry points."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from fastmeta.backends.codegen.phases import Stage, stages
from fastmeta.backends.codegen.products import of_library, out_dims, product_stages
from fastmeta.backends.codegen.words import PASS, Instruction, Operand, Phase, Product, Words, extent

RESIDENT_LANES = 128  # of a team that runs whole tasks


class Source(NamedTuple):
    """Text, and what the host's side must know of it (FixedText in csrc/cuda/executor.hpp)."""

    text: str
    bodies: list[int]  # by word of an instruction
    stages: list[list[tuple[int, int]]]  # units and lanes, by body; none of those that a team runs
    alone: list[bool]  # by body: a product without phases comes first
    lanes: int


def fits(instruction: Instruction) -> bool:
    """Whether every place can be counted in 32 bits."""
    body = instruction.body
    if body is None:
        return True

    def small(x: Operand, dims: tuple[int, ...]) -> bool:
        first, end = extent(x, tuple(max(1, n) for n in dims))
        return end - first < 2**31 and all(abs(s) < 2**31 for s in x.strides)

    def phase_fits(p: Phase) -> bool:
        return prod(p.dims) < 2**30 and all(small(x, p.dims) for x in (*p.loads, *(s.target for s in p.stores)))

    if not isinstance(body, Product):
        return all(phase_fits(p) for p in body)
    dims = out_dims(body)
    operands = [body.out, *([body.cin] if body.cin else [])]
    return all(small(x, dims) for x in operands) and prod(body.dims[:9]) < 2**62 and all(f.depth < 2**30 for f in body.factors) and all(map(phase_fits, body.phases))


def source(plan: Words, resident: bool, fast: bool) -> Source | None:
    """The text of a plan, with arenas that teams have in memory of their own if ``fast``; None where an instruction needs
    more than 32 bits to count."""
    plan.near = fast
    if not all(fits(instruction) for block in plan.blocks for instruction in block):
        return None
    numbers: dict[tuple[object, ...], int] = {}
    kinds: list[tuple[list[Stage], bool]] = [([], True)]  # stages; whether each is a kernel
    alone = [False]
    bodies = [0] * len(plan.words)
    for number, block in enumerate(plan.blocks):
        by_team = resident and number > 0
        for instruction in block:
            made = instruction_stages(plan, instruction, by_team)
            if made is None:
                continue
            key = (by_team, *made)
            if key not in numbers:
                numbers[key] = len(kinds)
                kinds.append((made, not by_team))
                alone.append(isinstance(instruction.body, Product) and of_library(instruction.body))
            bodies[instruction.at] = numbers[key]
    text = ['#include "fixed.cuh"\nnamespace fastmeta {\nnamespace device {\n']
    entries, cases, table = [], [], []
    for b, (made, kernels) in enumerate(kinds):
        table.append([(-(-s.elements // s.unit), s.lanes) for s in made] if kernels else [])
        for k, s in enumerate(made):
            constants = f"static constexpr int64_t kElements = {s.elements}, kUnit = {s.unit};"
            text.append(f"struct B{b}_{k} {{\n  {constants}\n{s.text}\n}};\n")
            if kernels and s.elements:
                size = f"fastmeta::device::B{b}_{k}::kBytes" if "kBytes" in s.text else "16"
                entries.append(f"FM_ENTRY(fastmeta_{b}_{k}, {s.lanes}, {size}, fastmeta::device::FixedKernel<fastmeta::device::B{b}_{k}>)\n")
            elif kernels:
                entries.append(f"FM_ENTRY(fastmeta_{b}_{k}, 32, 16, fastmeta::device::Nothing)\n")
        if made and not kernels:
            steps = " ".join(f"B{b}_{k}::part(team, frame, w, 0, {s.elements}); team.sync();" for k, s in enumerate(made))
            text.append(f"FM_NOINLINE void body{b}(const Team& team, const Frame& frame, const int64_t* w) {{ {steps} }}\n")
            cases.append(f"case {b}: return body{b}(team, frame, p.words + at);")
    if resident:
        text.append(
            "struct Bodies {\n  FM_DEVICE static void run(const Team& team, const Frame& frame, const Program& p, int64_t at) {\n    switch (p.bodies[at]) {\n      "
            + "\n      ".join(cases)
            + "\n      default: run_instruction<true>(team, frame, p.words, at);\n    }\n  }\n};\n"
        )
        entries.append(f"FM_ENTRY(fastmeta_tasks, {RESIDENT_LANES}, 16, fastmeta::device::TasksKernel<fastmeta::device::Bodies>)\n")
    return Source("".join([*text, "}  // namespace device\n}  // namespace fastmeta\n", *entries]), bodies, table, alone, RESIDENT_LANES)


def instruction_stages(plan: Words, instruction: Instruction, by_team: bool) -> list[Stage] | None:
    """The stages of PASS, GEMM and CONV; the others' are not written anew."""
    lanes = RESIDENT_LANES if by_team else 256
    if isinstance(instruction.body, Product):
        return product_stages(plan, instruction.body, by_team, lanes)
    if instruction.op == PASS and instruction.body is not None:
        return [s for phase in instruction.body for s in stages(plan, phase, lanes)]
    return None
