"""GEMM and CONV as C++: how a factor's elements are found, what is written, and the tile or block a lane takes.

A rowwise phase behind a product is done on each element as it is written, where nothing that another lane reads is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, isnan

from fastmeta.backends.codegen.choice import Side, block, factor_dims, of_library, out_dims, rows_and_cols, tile
from fastmeta.backends.codegen.phases import LANES, MEMORY, Stage, Work, begin, op_lines, read, split, stages, total
from fastmeta.backends.codegen.words import BOOL, ITEM, STORE, Operand, Phase, Product, Words


def pick(values: Sequence[object]) -> str:
    """The value of product p."""
    if len(set(values)) == 1:
        return str(values[0])
    return "".join(f"p == {k} ? {v} : " for k, v in enumerate(values[:-1])) + str(values[-1])


def fused(plan: Words, p: Product) -> int:
    """How many of the first phases can be done on each element as it is written."""
    dims = out_dims(p)
    if of_library(p):
        return 0
    written = [p.out]
    elsewhere = [(x, d) for f in p.factors for x, d in zip((f.a, f.b), factor_dims(p, f), strict=True)]
    passed = [p.cin] if p.cin else []
    for k, phase in enumerate(p.phases):
        if not phase.rowwise or phase.dims != dims or any(s.mode != STORE for s in phase.stores):
            return k
        targets = [s.target for s in phase.stores]
        met = [(x, y) for x in phase.loads for y in written] + [(x, y) for x in targets for y in (*written, *passed, *phase.loads, *targets)]
        if not all(x.same(y) or plan.apart(x, dims, y, dims) for x, y in met):
            return k
        if not all(plan.apart(x, dims, y, d) for x in targets for y, d in elsewhere):
            return k
        written += targets
        passed += phase.loads
    return len(p.phases)


def at_element(x: Operand, dims: tuple[int, ...], names: Sequence[str]) -> str:
    """Where element (m, n) of an operand lies; m counts the dims before the last."""
    lead = [(n, s) for n, s in zip(dims[:-1], x.strides[:-1], strict=True) if n != 1]
    terms = []
    if lead and all(s == lead[k + 1][0] * lead[k + 1][1] for k, (_, s) in enumerate(lead[:-1])):
        terms.append(("m", lead[-1][1]))
    else:
        terms += [(name, s) for name, n, s in zip(names, dims[:-1], x.strides[:-1], strict=True) if n != 1]
    if dims[-1] != 1:
        terms.append(("n", x.strides[-1]))
    return total([name if s == 1 else f"{name} * {s}" for name, s in terms if s])


class Writer:
    """The lines of write(m, n, sum): the product's element, and the phases done with it."""

    def __init__(self, p: Product, phases: Sequence[Phase]) -> None:
        self.batch = len(p.dims) - 2 if p.kind < 0 else 0
        self.dims = out_dims(p)[self.batch :]
        self.names = [f"m{d}" for d in range(len(self.dims) - 1)]
        self.operands: list[tuple[Operand, str, bool]] = []  # with their names, and whether they are written
        self.lines = [] if p.alpha == 1.0 else [f"sum *= T({number(p.alpha)});"]
        if p.cin:
            self.lines.append(f"sum = sum + {self.element(p.cin)};")
        held = {p.out._replace(at=0): (p.out, "sum")}  # what registers hold of memory, by operand
        for j, phase in enumerate(phases):
            values = [held[x._replace(at=0)][1] if x._replace(at=0) in held else self.loaded(x, f"x{j}_{k}") for k, x in enumerate(phase.loads)]
            values += [f"v{j}_{k}" for k in range(len(phase.ops))]
            self.lines += op_lines(phase, values, range(len(values)))
            held |= {s.target._replace(at=0): (s.target, values[s.value]) for s in phase.stores}
        for x, text in held.values():
            self.lines.append(f"{self.element(x, True)} = {f'uint8_t({text})' if x.dtype == BOOL else text};")
        if any(name in line for name in self.names for line in self.lines):
            self.lines.insert(0, split("m", self.dims[:-1], self.names))

    def element(self, x: Operand, written: bool = False) -> str:
        """Element (m, n) of an operand; m counts the dims before the last."""
        self.operands.append((x, f"q{len(self.operands)}", written))
        strides = x.strides[self.batch :]
        lead = [(n, s, name) for n, s, name in zip(self.dims[:-1], strides[:-1], self.names, strict=True) if n != 1]
        if lead and all(s == inner[0] * inner[1] for (_, s, _), inner in pairwise(lead)):
            lead = [(0, lead[-1][1], "m")]
        terms = [(s, name) for _, s, name in lead] + ([(strides[-1], "n")] if self.dims[-1] != 1 else [])
        place = total([name if s == 1 else f"{name} * {s}" for s, name in terms if s])
        name = self.operands[-1][1]
        return f"{name}[{place}]" if written else read(x, name, place)

    def loaded(self, x: Operand, name: str) -> str:
        """Declares an element that is read."""
        self.lines.append(f"const auto {name} = {self.element(x)};")
        return name


def number(x: float) -> str:
    """A float64 in C++."""
    return repr(x) if isfinite(x) else "infinity() - infinity()" if isnan(x) else f"{'-' if x < 0 else ''}infinity()"


def vectors(item: int, aligned: bool, lengths: Sequence[int]) -> int:
    """How many numbers can be read at once: 16 bytes of them, where all is aligned, or one."""
    n = 16 // item
    return n if aligned and all(x % n == 0 for x in lengths) else 1


def gemm_sides(plan: Words, p: Product) -> list[tuple[Side, Side]]:
    """How the factors of each product lie."""
    item, out = ITEM[p.dtype], []
    for f in p.factors:
        sides = []
        for x, rows, cols, is_a in ((f.a, p.dims[-2], f.depth, True), (f.b, f.depth, p.dims[-1], False)):
            row_step, col_step = x.strides[-2:]
            by_row, by_col = col_step == 1 and cols > 1, row_step == 1 and not (col_step == 1 and cols > 1)
            along, other = (cols, (rows, row_step)) if by_row else (rows, (cols, col_step))
            steps = [s for n, s in (*zip(p.dims[:-2], x.strides, strict=False), other) if n > 1]
            vector = vectors(item, along > 1 and (by_row or by_col) and plan.aligned(x, 16), [along, *steps])
            sides.append(Side(by_row if is_a else by_col, vector))
        out.append((sides[0], sides[1]))
    return out


def conv_sides(plan: Words, p: Product) -> list[tuple[Side, Side]]:
    """The same for windows: channels are neighbours."""
    item, (c, o) = ITEM[p.dtype], (p.dims[3], p.dims[6])
    out = []
    for f in p.factors:
        a = vectors(item, plan.aligned(f.a, 16), [o if p.kind == 1 else c, *f.a.strides[:3]])
        b = vectors(item, plan.aligned(f.b, 16), [o, *(f.b.strides[:3] if p.kind == 2 else ())])
        out.append((Side(p.kind < 2, a), Side(p.kind == 1, b)))
    return out


def functor(plan: Words, p: Product, phases: Sequence[Phase]) -> str:
    """The struct `Factors` that the products of fixed.cuh work on."""
    writer = Writer(p, phases)
    batch, rows, cols = rows_and_cols(p)
    sides = gemm_sides(plan, p) if p.kind < 0 else conv_sides(plan, p)
    ks = [f.depth for f in p.factors]
    members = [(f.a, f"a{k}", False) for k, f in enumerate(p.factors)] + [(f.b, f"b{k}", False) for k, f in enumerate(p.factors)] + writer.operands
    batches = len(p.dims) - 2 if p.kind < 0 else 0
    names = [f"d{d}" for d in range(batches)]
    text = [
        f"using T = {MEMORY[p.dtype]};",
        f"static constexpr int kBatch = {batch}, kRows = {rows}, kCols = {cols}, kProducts = {len(ks)};",
        f"static constexpr bool kHoles = {str(p.kind >= 0).lower()};",
        by_product("int", "depth", ks),
        by_product("bool", "a_deep", [str(a.deep).lower() for a, _ in sides]),
        by_product("bool", "b_deep", [str(b.deep).lower() for _, b in sides]),
        by_product("int", "a_vector", [a.vector for a, _ in sides]),
        by_product("int", "b_vector", [b.vector for _, b in sides]),
        *(f"{'' if w else 'const '}{MEMORY[x.dtype]}* {name};" for x, name, w in members),
        "template <class W> FM_DEVICE Factors(const W& w, int batch) {",
    ]
    if batch > 1:
        text.append("  " + split("batch", p.dims[:batches], names))
    for x, name, w in members:
        start = begin(plan, x, f"{'' if w else 'const '}{MEMORY[x.dtype]}")
        offset = total([f"{d} * {s}" for d, s in zip(names, x.strides[:batches], strict=True) if s and batch > 1])
        text.append(f"  {name} = {start}{'' if offset == '0' else f' + ({offset})'};")
    text += ["}", *(gemm_places(p) if p.kind < 0 else conv_places(p)), "FM_DEVICE void write(int m, int n, T sum) const {", *(f"  {line}" for line in writer.lines), "}"]
    return "\n".join(["  struct Factors {", *(f"    {line}" for line in text), "  };"])


def by_product(kind: str, name: str, values: Sequence[object]) -> str:
    """A function of the product's number."""
    return f"FM_BOTH static constexpr {kind} {name}(int p) {{ return {pick(values)}; }}"


def each(p: Product, name: str) -> str:
    """The pointer of product p."""
    return f"({pick([f'{name}{k}' for k in range(len(p.factors))])})"


def gemm_places(p: Product) -> list[str]:
    """Where elements of A and B are, by strides."""
    (a_row, a_col), (b_row, b_col) = ([pick([x.strides[d] for x in side]) for d in (-2, -1)] for side in zip(*((f.a, f.b) for f in p.factors), strict=True))
    return [
        "using Row = int; using Col = int;",
        f"FM_DEVICE Row row(int p, int m) const {{ return m * ({a_row}); }}",
        f"FM_DEVICE Col col(int p, int n) const {{ return n * ({b_col}); }}",
        f"FM_DEVICE const T* a_at(int p, Row row, int k) const {{ return {each(p, 'a')} + row + k * ({a_col}); }}",
        f"FM_DEVICE const T* b_at(int p, Col col, int k) const {{ return {each(p, 'b')} + col + k * ({b_row}); }}",
    ]


def conv_places(p: Product) -> list[str]:
    """Where they are under windows: `Windows` of fixed.cuh."""
    a_steps, b_steps = (", ".join(pick([x.strides[d] for x in side]) for d in range(3)) for side in zip(*((f.a, f.b) for f in p.factors), strict=True))
    b_at = "Places::weight(col, k)" if p.kind < 2 else f"Places::pixel(k, {b_steps}) + col"
    return [
        f"using Places = Windows<{p.kind}, {', '.join(str(d) for d in p.dims)}>; using Row = typename Places::Row; using Col = int;",
        f"FM_DEVICE Row row(int p, int m) const {{ return Places::row(m, {a_steps}); }}",
        "FM_DEVICE Col col(int, int n) const { return n; }",
        "FM_DEVICE const T* a_at(int p, const Row& row, int k) const {",
        f"  const int at = Places::under(row, k, {a_steps});",
        f"  return at == kHole ? nullptr : {each(p, 'a')} + at;",
        "}",
        f"FM_DEVICE const T* b_at(int p, Col col, int k) const {{ return {each(p, 'b')} + {b_at}; }}",
    ]


def product_stages(plan: Words, p: Product, lanes: int) -> list[Work]:
    """The product, then the phases that are not done with it."""
    n_fused = fused(plan, p)
    batch, rows, cols = rows_and_cols(p)
    sides = gemm_sides(plan, p) if p.kind < 0 else conv_sides(plan, p)
    text = functor(plan, p, p.phases[:n_fused])
    head = "  template <class W> FM_DEVICE static void part(const Team& team, const W& w, int first, int end)"
    shape = None if plan.told else tile(p)
    made = []
    if batch * rows * cols == 0:
        made = [Stage(f"{head} {{}}", 0, LANES)]
    elif shape:
        work = f"{text}\n  using Work = {shape.name};\n  static constexpr int kBytes = Work::kBytes;\n{head}"
        made = [Stage(f"{work} {{ Work::run(team, w, first, end); }}", batch * shape.tiles(rows, cols) * shape.segments, 1, shape.high * shape.wide,
                      batch * rows * cols * shape.segments * ITEM[p.dtype] if shape.segments > 1 else 0)]  # fmt: skip
        if shape.segments > 1:
            made.append(Stage(f"{work} {{ Work::meet(team, w, first, end); }}", batch * rows * cols, LANES))
    else:
        m, n = block(p, sides, lanes)
        text += f"\n{head} {{ near_product<Factors, {m}, {n}>(team, w, first, end); }}"
        made = [Stage(text, batch * -(-rows // m) * -(-cols // n), LANES)]
    dims, done = out_dims(p), p.phases[:n_fused]
    reads = [(x, d) for f in p.factors for x, d in zip((f.a, f.b), factor_dims(p, f), strict=True)]
    reads += [(x, dims) for x in (*([p.cin] if p.cin else []), *(x for phase in done for x in phase.loads))]
    writes = [(p.out, dims), *((s.target, dims) for phase in done for s in phase.stores)]
    works = [Work(stage, tuple(reads), tuple(writes)) for stage in made]
    return [*works, *(work for phase in p.phases[n_fused:] for work in stages(plan, phase, lanes))]
