"""Phases as C++: a loop over elements, or over what a reduction keeps and cuts."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from fastmeta.backends.codegen.words import (
    ACCUMULATE,
    ADD,
    BOOL,
    F32,
    F64,
    I32,
    LARGEST,
    SMALLEST,
    STORE,
    Operand,
    Phase,
    Store,
    Words,
)
from fastmeta.ops.microops import CAST, MICROOPS

MEMORY = ("float", "double", "int32_t", "uint8_t")  # C++ types, by dtype
VALUE = ("float", "double", "int32_t", "int32_t")
UNIT = 1024  # elements of a unit
LANES = 256  # lanes that share one
PARTIALS = 4096  # numbers of a task between the two halves of a reduction (words.cuh)
SEGMENT = 16  # elements of a segment that is worth being one


class Stage(NamedTuple):
    """A struct of C++ whose `part(team, w, first, end)` does some of its elements."""

    text: str  # the body of the struct
    elements: int
    unit: int  # elements of a unit where several teams share them
    lanes: int = LANES
    partials: int = 0  # bytes of a task that it leaves for the next stage, beyond those that every plan has


Touched = tuple[tuple[Operand, tuple[int, ...]], ...]  # operands with their dims


class Work(NamedTuple):
    """A stage and the memory that it touches, which the text does not tell."""

    stage: Stage
    reads: Touched
    writes: Touched


@dataclass(frozen=True)
class Walk:
    """Dims without those of length 1, neighbours merged where every operand allows it."""

    sizes: tuple[int, ...]
    dims: tuple[int, ...]  # whose strides count

    @staticmethod
    def of(dims: Sequence[int], operands: Sequence[Operand]) -> Walk:
        """Of these dims and what is read and written over them."""
        sizes: list[int] = []
        kept: list[int] = []
        for d, n in enumerate(dims):
            if n == 1:
                continue
            if kept and all(x.strides[kept[-1]] == x.strides[d] * n for x in operands):
                sizes[-1] *= n
                kept[-1] = d
            else:
                sizes.append(n)
                kept.append(d)
        return Walk(tuple(sizes), tuple(kept))

    def offset(self, x: Operand) -> str:
        """Where an operand's element lies, of indices i0, i1, ..."""
        return total(f"i{k} * {x.strides[d]}" if x.strides[d] != 1 else f"i{k}" for k, d in enumerate(self.dims) if x.strides[d])


def total(terms: Iterable[str]) -> str:
    """A sum as text."""
    return " + ".join(terms) or "0"


def split(name: str, sizes: Sequence[int], names: Sequence[str]) -> str:
    """Declares the indices of a number counted over `sizes`."""
    out, step = [], 1
    for k in reversed(range(len(sizes))):
        text = f"{name} / {step}" if step > 1 else name
        out.append(f"const int {names[k]} = {text if k == 0 else f'{text} % {max(1, sizes[k])}'};")
        step *= max(1, sizes[k])
    return " ".join(out)


def pointer(plan: Words, x: Operand, name: str, written: bool = False) -> str:
    """Declares where an operand begins."""
    kind = f"{'' if written else 'const '}{MEMORY[x.dtype]}"
    return f"{kind}* const {name} = {begin(plan, x, kind)};"


def begin(plan: Words, x: Operand, kind: str) -> str:
    """Where an operand begins: of what a team runs, as it is told (source.py), else as the words say."""
    return f"{'near' if plan.in_near(x) else 'far'}<{kind}>(w.o{x.at})" if plan.told else f"far<{kind}>(w, {x.at})"


def op_text(number: int, ctype: int, source: int, args: Sequence[str]) -> str:
    """A micro-op of arguments given as text."""
    if number == CAST:
        if ctype == BOOL:
            return f"int32_t({args[0]} != 0)"
        return args[0] if (source == ctype or {source, ctype} == {I32, BOOL}) else f"{VALUE[ctype]}({args[0]})"
    expr = re.sub(r"\blit\(", f"lit<{VALUE[ctype]}>(", MICROOPS[number].expr)
    return re.sub(r"\b([xyz])\b", lambda found: args["xyz".index(found[1])], expr)


def op_lines(phase: Phase, values: Sequence[str], needed: Container[int]) -> list[str]:
    """Declares what the micro-ops compute, those that are needed; `values`: the names of loads, then of micro-ops."""
    return [
        f"const {VALUE[op.ctype]} {values[k]} = {op_text(op.number, op.ctype, op.source, [values[a] for a in op.args])};"
        for k, op in enumerate(phase.ops, len(phase.loads))
        if k in needed
    ]


def needed_for(phase: Phase, values: Sequence[int]) -> set[int]:
    """Loads and micro-ops that these values take."""
    out, todo = set(), list(values)
    while todo:
        k = todo.pop()
        if k not in out:
            out.add(k)
            if k >= len(phase.loads):
                todo += phase.ops[k - len(phase.loads)].args
    return out


def stages(plan: Words, phase: Phase, lanes: int) -> list[Work]:
    """The stages of a phase. Stores that reduce over the same dims are one walk, the plain ones are with the last."""
    plain = [s for s in phase.stores if s.mode == STORE]
    patterns: dict[tuple[int, ...], list[Store]] = {}
    for s in phase.stores:
        if s.mode != STORE:
            patterns.setdefault(tuple(d for d, n in enumerate(phase.dims) if n != 1 and s.target.strides[d] == 0), []).append(s)
    made = [] if patterns else [elementwise(plan, phase, plain, lanes)]
    for k, (reduced, stores) in enumerate(patterns.items()):
        made += reduction(plan, phase, reduced, stores, plain if k == len(patterns) - 1 else [])
    reads = tuple((x, phase.dims) for x in phase.loads)
    writes = tuple((s.target, phase.dims) for s in phase.stores)
    return [Work(stage, reads, writes) for stage in made]


def read(x: Operand, name: str, offset: str) -> str:
    """An element of an operand."""
    return f"{VALUE[x.dtype]}({name}[{offset}])" if x.dtype == BOOL else f"{name}[{offset}]"


def store_lines(stores: Sequence[Store], values: Sequence[str], walk: Walk) -> list[str]:
    """Plain stores."""
    texts = [f"uint8_t({values[s.value]})" if s.target.dtype == BOOL else values[s.value] for s in stores]
    return [f"s{k}[{walk.offset(s.target)}] = {text};" for k, (s, text) in enumerate(zip(stores, texts, strict=True))]


def names_of(phase: Phase) -> list[str]:
    """Of values in a batch of elements, in a loop's turn e."""
    return [f"x{k}[e]" for k in range(len(phase.loads))] + [f"v{k}" for k in range(len(phase.loads), len(phase.loads) + len(phase.ops))]


def elementwise(plan: Words, phase: Phase, stores: Sequence[Store], lanes: int) -> Stage:
    """One walk of plain stores. A lane reads a batch of elements before it writes them, so that reads overlap."""
    needed = needed_for(phase, [s.value for s in stores])
    loads = [(k, x) for k, x in enumerate(phase.loads) if k in needed]
    walk = Walk.of(phase.dims, [x for _, x in loads] + [s.target for s in stores])
    elements = prod(phase.dims)
    if elements == 0:
        return Stage(part([]), 0, UNIT)
    batch = 4 if elements >= 4 * lanes else 1
    index = split("i", walk.sizes, [f"i{k}" for k in range(len(walk.sizes))])
    lines = [
        *(pointer(plan, x, f"l{k}") for k, x in loads),
        *(pointer(plan, s.target, f"s{k}", True) for k, s in enumerate(stores)),
        f"for (int start = first + team.lane; start < end; start += {batch} * team.lanes) {{",
        *(f"  {VALUE[x.dtype]} x{k}[{batch}];" for k, x in loads),
        f"  FM_UNROLL for (int e = 0; e < {batch}; ++e) {{",
        f"    const int i = start + e * team.lanes; if (i >= end) break; {index}",
        *(f"    x{k}[e] = {read(x, f'l{k}', walk.offset(x))};" for k, x in loads),
        "  }",
        f"  FM_UNROLL for (int e = 0; e < {batch}; ++e) {{",
        f"    const int i = start + e * team.lanes; if (i >= end) break; {index}",
    ]
    values = names_of(phase)
    lines += [f"    {line}" for line in op_lines(phase, values, needed) + store_lines(stores, values, walk)]
    return Stage(part([*lines, "  }", "}"]), elements, UNIT)


def part(lines: Sequence[str]) -> str:
    """The function that does elements first..end."""
    head = "template <class W> FM_DEVICE static void part(const Team& team, const W& w, int first, int end) {"
    return "\n".join([f"  {head}", *(f"    {line}" for line in lines), "  }"])


IDENTITY = {LARGEST: ("float(-infinity())", "-infinity()", "-2147483647 - 1"), SMALLEST: ("float(infinity())", "infinity()", "2147483647")}


def held(s: Store, terms: int) -> int:
    """The dtype in which a store's sum is held: of more than a few floats as doubles, for a long chain of float additions
    would lose digits; of a few as floats, for GPUs convert slowly."""
    return F64 if s.target.dtype == F32 and s.mode in (ADD, ACCUMULATE) and terms > SEGMENT else s.target.dtype


def combined(s: Store, x: str, y: str) -> str:
    """Two results of a reducing store as one."""
    return f"{'max' if s.mode == LARGEST else 'min' if s.mode == SMALLEST else 'add'}({x}, {y})"


def reduction(plan: Words, phase: Phase, reduced: tuple[int, ...], stores: Sequence[Store], plain: Sequence[Store]) -> list[Stage]:
    """Reducing stores over the same dims: every result by segments of its elements, whose results meet in order."""
    needed = needed_for(phase, [s.value for s in (*stores, *plain)])
    loads = [(k, x) for k, x in enumerate(phase.loads) if k in needed]
    walk = Walk.of(phase.dims, [x for _, x in loads] + [s.target for s in (*stores, *plain)])
    names = [f"i{k}" for k in range(len(walk.sizes))]
    over = [d in reduced for d in walk.dims]
    kept_sizes, reduced_sizes = ([n for n, o in zip(walk.sizes, over, strict=True) if o is flag] for flag in (False, True))
    kept_names, reduced_names = ([n for n, o in zip(names, over, strict=True) if o is flag] for flag in (False, True))
    kept, length = prod(kept_sizes), prod(reduced_sizes)
    segments = max(1, min(PARTIALS // max(kept * len(stores), 1), -(-length // SEGMENT)))
    kinds = [held(s, length) for s in stores]
    types = [VALUE[kind] for kind in kinds]
    # Neighbouring lanes read neighbouring memory: along the segments where the last dim is reduced.
    inner = bool(over) and over[-1]
    cut = f"id / {segments}, segment = id % {segments}" if inner else f"id % {kept}, segment = id / {kept}"
    place = f"const int kept = {'id, segment = 0' if segments == 1 else cut};"
    batch = 4 if length >= 4 * segments else 1
    index = split("r", reduced_sizes, reduced_names)
    first_of = [f"{VALUE[kind]} sum{k} = {identity(s, kind)};" for k, (kind, s) in enumerate(zip(kinds, stores, strict=True))]
    values = names_of(phase)
    lines = [
        *(pointer(plan, x, f"l{k}") for k, x in loads),
        *(pointer(plan, s.target, f"s{k}", True) for k, s in enumerate(plain)),
        *(pointer(plan, s.target, f"t{k}", True) for k, s in enumerate(stores) if segments == 1),
        "for (int id = first + team.lane; id < end; id += team.lanes) {",
        f"  {place} {split('kept', kept_sizes, kept_names)}",
        *(f"  {line}" for line in first_of),
        f"  {'FM_UNROLL ' if length <= 4 * batch * segments else ''}for (int start = segment; start < {length}; start += {batch * segments}) {{",
        *(f"    {VALUE[x.dtype]} x{k}[{batch}];" for k, x in loads),
        f"    FM_UNROLL for (int e = 0; e < {batch}; ++e) {{",
        f"      const int r = start + e * {segments}; if (r >= {length}) break; {index}",
        *(f"      x{k}[e] = {read(x, f'l{k}', walk.offset(x))};" for k, x in loads),
        "    }",
        f"    FM_UNROLL for (int e = 0; e < {batch}; ++e) {{",
        f"      const int r = start + e * {segments}; if (r >= {length}) break; {index}",
        *(f"      {line}" for line in op_lines(phase, values, needed)),
        *(f"      sum{k} = {combined(s, f'sum{k}', f'{t}({values[s.value]})')};" for k, (t, s) in enumerate(zip(types, stores, strict=True))),
        *(f"      {line}" for line in store_lines(plain, values, walk)),
        "    }",
        "  }",
    ]
    if segments == 1:
        lines += [f"  {line}" for line in settle(stores, walk)]
        return [Stage(part([*lines, "}"]), kept, LANES)]
    partials = [f"{t}* const p{k} = reinterpret_cast<{t}*>(w.partials + {8 * k * kept * segments});" for k, t in enumerate(types)]
    lines = [*partials, *lines, *(f"  p{k}[segment * {kept} + kept] = sum{k};" for k in range(len(stores))), "}"]
    meet = [
        *partials,
        *(pointer(plan, s.target, f"t{k}", True) for k, s in enumerate(stores)),
        "for (int kept = first + team.lane; kept < end; kept += team.lanes) {",
        f"  {split('kept', kept_sizes, kept_names)}",
        *(f"  {t} sum{k} = p{k}[kept];" for k, t in enumerate(types)),
        f"  FM_UNROLL_BY(8) for (int s = 1; s < {segments}; ++s) {{",
        *(f"    sum{k} = {combined(s, f'sum{k}', f'p{k}[s * {kept} + kept]')};" for k, s in enumerate(stores)),
        "  }",
        *(f"  {line}" for line in settle(stores, walk)),
        "}",
    ]
    return [Stage(part(lines), kept * segments, LANES), Stage(part(meet), kept, LANES)]


def identity(s: Store, kind: int) -> str:
    """What a reduction in a dtype starts from."""
    return IDENTITY[s.mode][min(kind, I32)] if s.mode in IDENTITY else "0"


def settle(stores: Sequence[Store], walk: Walk) -> list[str]:
    """A result goes to its place."""
    out = []
    for k, s in enumerate(stores):
        to, value = f"t{k}[{walk.offset(s.target)}]", f"{MEMORY[s.target.dtype]}(sum{k})"
        out.append(f"{to} = {f'add({to}, {value})' if s.mode == ACCUMULATE else value};")
    return out
