"""The text of one plan: each kind of instruction once, whatever addresses it is used with, and entry points."""

from __future__ import annotations

import re
from math import prod
from typing import NamedTuple

from fastmeta.backends.codegen import index
from fastmeta.backends.codegen.choice import factor_dims, of_library, out_dims
from fastmeta.backends.codegen.copies import copies
from fastmeta.backends.codegen.phases import Stage, Work, stages
from fastmeta.backends.codegen.products import product_stages
from fastmeta.backends.codegen.words import LOOP, PASS, Instruction, Operand, Phase, Product, Words, extent

RESIDENT_LANES = 128  # of a team that runs whole tasks
KERNELS = 32  # of one text, so that several are compiled side by side
MOST_LANES = 640  # of a processor: more would leave each too few registers
OWN_BASES = 128  # how many bases a team keeps in its own memory
OWN_BYTES = 8 * OWN_BASES + 1024  # of a team beside its arena, about


class Source(NamedTuple):
    """Text, and what the host's side must know of it (FixedText in csrc/cuda/executor.hpp)."""

    texts: list[str]  # each for the compiler by itself
    bodies: list[int]  # by word of an instruction that is run stage by stage; 0: none
    stages: list[list[tuple[int, int, int]]]  # units, lanes and number of the text, by body
    alone: list[bool]  # by body: a product for a library comes first
    lanes: int  # of a team that runs whole tasks; its text is the last
    partials: int  # bytes of a task between two stages


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
    operands = [(x, out_dims(body)) for x in (body.out, *([body.cin] if body.cin else []))]
    operands += [(x, dims) for f in body.factors for x, dims in zip((f.a, f.b), factor_dims(body, f), strict=True)]
    return all(small(x, dims) and prod(dims) < 2**31 for x, dims in operands) and all(map(phase_fits, body.phases))


def source(plan: Words, resident: bool, near: int, teams: int) -> Source | None:
    """The text of a plan, for teams that run whole tasks if ``resident``, with the first ``near`` bytes of their arenas in
    memory of their own, of which as many ``teams`` of a processor have one; None where an instruction needs more than 32 bits
    to count."""
    if not all(fits(instruction) for block in plan.blocks for instruction in block):
        return None
    by_stages = [plan.blocks[b] for b in outside_tasks(plan)] if resident else plan.blocks
    bodies, alone = [0] * len(plan.words), [False]
    table: list[list[tuple[int, int, int]]] = [[]]
    texts: list[tuple[str, str]] = []
    numbers: dict[tuple[Stage, ...], int] = {}
    for instruction in (instruction for block in by_stages for instruction in block):
        made = tuple(work.stage for work in instruction_stages(plan, instruction, 256))
        if not made:
            continue
        if made not in numbers:
            numbers[made] = len(table)
            table.append([(-(-s.elements // s.unit), s.lanes, (len(texts) + k) // KERNELS) for k, s in enumerate(made)])
            alone.append(isinstance(instruction.body, Product) and of_library(instruction.body))
            texts += [kernel(f"{numbers[made]}_{k}", s) for k, s in enumerate(made)]
        bodies[instruction.at] = numbers[made]
    units = [unit(texts[k : k + KERNELS]) for k in range(0, len(texts), KERNELS)]
    if resident:
        plan = plan.for_teams(near)
        own = len(plan.bases) <= OWN_BASES
        bounds = f"{RESIDENT_LANES}, {max(1, min(teams, MOST_LANES // RESIDENT_LANES))}, {8 * OWN_BASES if own else 16}"
        entry = f"FM_ENTRY(fastmeta_tasks, {bounds}, fastmeta::device::TasksKernel<fastmeta::device::Blocks>)\n"
        text = "".join([*team_text(plan), team_blocks(plan, own)])
        own_arena = "#define FM_FAST_ARENA\n" if plan.near else ""
        units.append(f"#define FM_LANES {RESIDENT_LANES}\n{own_arena}{unit([(text, entry)])}")
    return Source(units, bodies, table, alone, RESIDENT_LANES, max((s.partials for made in numbers for s in made), default=0))


def outside_tasks(plan: Words, block: int = 0) -> list[int]:
    """Block 0, and those of the loops in it that are not over tasks."""
    loops = [i.at for i in plan.blocks[block] if i.op == LOOP and not plan.words[i.at + 5]]
    return [block, *(b for at in loops for b in outside_tasks(plan, int(plan.words[at + 3])))]


def unit(texts: list[tuple[str, str]]) -> str:
    """Structs and entry points as one text for the compiler."""
    inside = "".join(text for text, _ in texts)
    return f'#include "fixed.cuh"\nnamespace fastmeta {{\nnamespace device {{\n{inside}}}  // namespace device\n}}  // namespace fastmeta\n' + "".join(entry for _, entry in texts)


def kernel(name: str, s: Stage) -> tuple[str, str]:
    """A stage that is run by itself, and its entry point."""
    size = f"fastmeta::device::B{name}::kBytes" if "kBytes" in s.text else "16"
    return struct(f"B{name}", s), f"FM_ENTRY(fastmeta_{name}, {s.lanes}, {512 // s.lanes}, {size}, fastmeta::device::FixedKernel<fastmeta::device::B{name}>)\n"


def instruction_stages(plan: Words, instruction: Instruction, lanes: int) -> list[Work]:
    """The stages of an instruction; a loop has none."""
    if isinstance(instruction.body, Product):
        return product_stages(plan, instruction.body, lanes)
    if instruction.op == PASS and instruction.body is not None:
        return [work for phase in instruction.body for work in copies(plan, phase) or stages(plan, phase, lanes)]
    return index.stages(instruction.op, plan.words[instruction.at : instruction.at + 8].tolist())


def struct(name: str, s: Stage, members: str = "") -> str:
    """A stage as a struct."""
    return f"struct {name} {{\n{members}  static constexpr int64_t kElements = {s.elements}, kUnit = {s.unit};\n{s.text}\n}};\n"


def told(s: Stage) -> list[str]:
    """What a stage must be told: o17, where the operand at word 17 begins; and where partial sums go."""
    return sorted(set(re.findall(r"\bw\.(\w+)\b", s.text)))


class Pending:
    """What a team has done since it last met: its lanes may not have seen it yet."""

    def __init__(self, plan: Words) -> None:
        self.plan = plan
        self.works: list[Work] = []
        self.lanes = 0  # those that are at work, about

    def wait(self, work: Work) -> bool:
        """Whether a stage must wait for what is pending; notes the stage."""
        waits = any(self.conflict(work, other) for other in self.works)
        if waits:
            self.works, self.lanes = [], 0
        self.works.append(work)
        return waits

    def conflict(self, x: Work, y: Work) -> bool:
        """Whether one reads or writes what the other writes."""
        if "partials" in told(x.stage) and "partials" in told(y.stage):
            return True
        pairs = [(a, b) for one, other in ((x, y), (y, x)) for a in one.writes for b in (*other.reads, *other.writes)]
        return any(not self.plan.apart(*a, *b) for a, b in pairs)

    def shift(self, stage: Stage) -> int:
        """The lane from which on a stage shall count its own: behind those that are at work."""
        first = self.lanes
        self.lanes = (first + -(-min(stage.elements, RESIDENT_LANES) // 32) * 32) % RESIDENT_LANES
        return first


def team_text(plan: Words) -> list[str]:
    """A function for each kind of instruction, then the blocks as calls of them."""
    functions: list[str] = []
    numbers: dict[object, int] = {}
    blocks: list[str] = []
    for number, block in reversed(list(enumerate(plan.blocks))[1:]):  # loops name later blocks
        lines = []
        pending = Pending(plan)
        for instruction in block:
            if instruction.body is None:
                lines += ["team.sync();", loop_text(plan, instruction) if instruction.op == LOOP else index_text(instruction)]
                pending = Pending(plan)
                continue
            works = instruction_stages(plan, instruction, RESIDENT_LANES)
            waits = [pending.wait(work) for work in works]
            if not works:
                continue
            places = {f"o{x.at}": x for work in works for x, _ in (*work.reads, *work.writes)}
            names = sorted({name for work in works for name in told(work.stage)})
            kinds = ["int" if name in places and plan.in_near(places[name]) else "char*" for name in names]
            key = (tuple(work.stage for work in works), tuple(waits[1:]))
            if key not in numbers:
                numbers[key] = len(numbers)
                functions.append(function(numbers[key], [work.stage for work in works], waits[1:], list(zip(kinds, names, strict=True))))
            arguments = ["frame.partials" if name == "partials" else place(plan, places[name]) for name in names]
            lines.append(f"{'team.sync(); ' if waits[0] else ''}body{numbers[key]}({', '.join(['team', str(pending.shift(works[-1].stage)), *arguments])});")
        lines.append("team.sync();")
        blocks.append(f"FM_DEVICE void block{number}(const Team& team, const Program& p, const Frame& frame, int64_t tasks) {{\n  " + "\n  ".join(lines) + "\n}\n")
    return functions + blocks


def place(plan: Words, x: Operand) -> str:
    """Where an operand begins, as a body is told."""
    return str(x.offset) if plan.in_near(x) else f"{'frame.far' if plan.in_far(x) else f'frame.bases[{x.base}]'} + {x.offset}"


def function(number: int, made: list[Stage], waits: list[bool], parameters: list[tuple[str, str]]) -> str:
    """All stages of an instruction, by a team."""
    text, steps = [], []
    for k, (s, waits_first) in enumerate(zip(made, [False, *waits], strict=True)):
        mine = [(kind, name) for kind, name in parameters if name in told(s)]
        text.append(struct(f"T{number}_{k}", s, "  struct Told { " + " ".join(f"{kind} {name};" for kind, name in mine) + " };\n"))
        steps.append(f"  {'team.sync(); ' if waits_first else ''}T{number}_{k}::part(team, T{number}_{k}::Told{{{', '.join(name for _, name in mine)}}}, 0, {s.elements});\n")
    head = ", ".join(["const Team& all", "int shift", *(f"{kind} {name}" for kind, name in parameters)])
    return "".join([*text, f"FM_NOINLINE void body{number}({head}) {{\n  const Team team = known(all, shift);\n", *steps, "}\n"])


def index_text(instruction: Instruction) -> str:
    """An instruction whose words are read; it meets at its end."""
    return f"run_instruction<true>(team, frame, p.words, {instruction.at}); if (frame.status->ended) return;"


def loop_text(plan: Words, instruction: Instruction) -> str:
    """A loop inside a task."""
    at, words = instruction.at, plan.words
    length = "tasks" if words[at + 4] < 0 else str(words[at + 4])
    return (
        f"{{ const LoopWords loop(p.words + {at}); if ({length} > 0) open_carries(team, p, loop, frame);\n"
        f"  for (int64_t k = 0; k < {length}; ++k) {{ if (k > 0) swap_carries(team, loop, frame); set_slices(team, p, loop, frame, k, {length}); team.sync();\n"
        f"    block{words[at + 3]}(team, p, frame, tasks); if (frame.status->ended) return; }} }}"
    )


def team_blocks(plan: Words, own: bool) -> str:
    """What TasksKernel runs."""
    parallel = [int(plan.words[i.at + 3]) for i in plan.blocks[0] if i.op == LOOP and plan.words[i.at + 5]]
    calls = " ".join(f"if (block == {b}) block{b}(team, p, frame, tasks);" for b in parallel)
    return (
        f"struct Blocks {{\n  static constexpr bool kOwnBases = {'true' if own else 'false'};\n"
        f"  FM_DEVICE static void block(const Team& team, const Program& p, const Frame& frame, int64_t block, int64_t tasks) {{ {calls} }}\n}};\n"
    )
