"""GEMM and CONV as C++: how a factor's elements are found, what is written, and the tile or block a lane takes.

A rowwise phase behind a product is done on each element as it is written, where nothing that another lane reads is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from fastmeta.backends.codegen.phases import LANES, MEMORY, Stage, Work, begin, op_lines, read, split, stages, total
from fastmeta.backends.codegen.words import BOOL, ITEM, STORE, Factors, Operand, Phase, Product, Words

DEEP = 1024  # terms of a segment, at least
MANY_ROWS = 768  # enough for tiles of 128 of them
FEW_TILES, SMALL_RESULT = 16, 2048  # of a task
TEAMS, WAIT, WRITE = 3, 2.0, 3.0  # teams of a processor, about; what waiting weighs; cycles of a number that is written
LIBRARY = 128  # products whose sides are all this long are a library's, where there is one (executor.cu)


class Side(NamedTuple):
    """How a factor lies in memory: `deep`: neighbours in k are neighbours; `vector`: how many can be read at once."""

    deep: bool
    vector: int


def pick(values: Sequence[object]) -> str:
    """The value of product p."""
    if len(set(values)) == 1:
        return str(values[0])
    return "".join(f"p == {k} ? {v} : " for k, v in enumerate(values[:-1])) + str(values[-1])


def rows_and_cols(p: Product) -> tuple[int, int, int]:
    """Batch elements, rows and columns of the result."""
    if p.kind < 0:
        return prod(p.dims[:-2]), p.dims[-2], p.dims[-1]
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    return (1, n * oh * ow, o) if p.kind == 0 else (1, n * h * w, c) if p.kind == 1 else (1, kh * kw * c, o)


def out_dims(p: Product) -> tuple[int, ...]:
    """The dims of what is written."""
    if p.kind < 0:
        return p.dims
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    return ((n, oh, ow, o), (n, h, w, c), (kh, kw, c, o))[p.kind]


def factor_dims(p: Product, f: Factors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dims of A and B."""
    if p.kind < 0:
        return (*p.dims[:-2], p.dims[-2], f.depth), (*p.dims[:-2], f.depth, p.dims[-1])
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    x, weights, y = (n, h, w, c), (kh, kw, c, o), (n, oh, ow, o)
    return ((x, weights), (y, weights), (x, y))[p.kind]


def of_library(p: Product) -> bool:
    """Whether a product is large enough for a library."""
    return p.kind < 0 and min(p.dims[-2:]) >= LIBRARY and all(f.depth >= LIBRARY for f in p.factors)


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
        clear = lambda x, y: x.same(y) or plan.apart(x, dims, y, dims)  # noqa: E731
        if not all(clear(x, y) for x in phase.loads for y in written):
            return k
        targets = [s.target for s in phase.stores]
        if not all(clear(x, y) for x in targets for y in (*written, *passed, *phase.loads, *targets)):
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


def write_text(p: Product, phases: Sequence[Phase]) -> tuple[list[tuple[Operand, str, bool]], list[str]]:
    """Operands with their names and whether they are written, and the lines of write(m, n, sum)."""
    batch = len(p.dims) - 2 if p.kind < 0 else 0
    dims = out_dims(p)[batch:]
    names = [f"m{d}" for d in range(len(dims) - 1)]
    operands: list[tuple[Operand, str, bool]] = []
    place = lambda x: at_element(x._replace(strides=x.strides[batch:]), dims, names)  # noqa: E731

    def named(x: Operand, written: bool) -> str:
        operands.append((x, f"q{len(operands)}", written))
        return operands[-1][1]

    known: dict[tuple[int, int, int, tuple[int, ...]], str] = {}  # what registers hold, by operand
    key = lambda x: (x.base, x.offset, x.dtype, x.strides)  # noqa: E731
    last: dict[tuple[int, int, int, tuple[int, ...]], tuple[Operand, str]] = {}
    if p.alpha != 1.0:
        lines = [f"sum *= T({p.alpha!r});"]
    else:
        lines = []
    if p.cin:
        lines.append(f"sum = sum + {read(p.cin, named(p.cin, False), place(p.cin))};")
    known[key(p.out)] = "sum"
    last[key(p.out)] = (p.out, "sum")
    for j, phase in enumerate(phases):
        values = []
        for k, x in enumerate(phase.loads):
            if key(x) in known:
                values.append(known[key(x)])
            else:
                lines.append(f"const auto x{j}_{k} = {read(x, named(x, False), place(x))};")
                values.append(f"x{j}_{k}")
        value = lambda k, j=j, values=values: values[k] if k < len(values) else f"v{k}_{j}"  # noqa: E731
        body = op_lines(phase, value, set(range(len(phase.loads) + len(phase.ops))))
        lines += [line.replace(f" v{k} = ", f" v{k}_{j} = ", 1) for k, line in enumerate(body, len(phase.loads))]
        for s in phase.stores:
            known[key(s.target)] = value(s.value)
            last[key(s.target)] = (s.target, value(s.value))
    for x, text in last.values():
        lines.append(f"{named(x, True)}[{place(x)}] = {f'uint8_t({text})' if x.dtype == BOOL else text};")
    if any(name in line for name in names for line in lines):
        lines.insert(0, split("m", dims[:-1], names))
    return operands, lines


def vectors(item: int, operand_ok: Sequence[bool], extents: Sequence[int]) -> int:
    """How many numbers can be read at once: 16 bytes of them, where all is aligned, or one."""
    n = 16 // item
    return n if all(operand_ok) and all(x % n == 0 for x in extents) else 1


def gemm_sides(plan: Words, p: Product) -> list[tuple[Side, Side]]:
    """How the factors of each product lie."""
    item, out = ITEM[p.dtype], []
    for f in p.factors:
        sides = []
        for x, rows, cols, a_side in ((f.a, p.dims[-2], f.depth, True), (f.b, f.depth, p.dims[-1], False)):
            row, col = -2, -1
            strides, by_row = x.strides, x.strides[col] == 1 and cols > 1
            deep = by_row if a_side else x.strides[row] == 1 and not by_row
            along = (cols if by_row else rows) if (by_row or x.strides[row] == 1) else 0
            others = [s for s, n, k in zip(strides, (*p.dims[:-2], rows, cols), range(-len(strides), 0), strict=True) if n > 1 and k != (col if by_row else row)]
            sides.append(Side(deep, vectors(item, [along > 1, plan.aligned(x, 16)], [along, *others]) if along else 1))
        out.append((sides[0], sides[1]))
    return out


def conv_sides(plan: Words, p: Product) -> list[tuple[Side, Side]]:
    """The same for windows: channels are neighbours."""
    item, (c, o) = ITEM[p.dtype], (p.dims[3], p.dims[6])
    fits = lambda x, channels, strides: vectors(item, [plan.aligned(x, 16)], [channels, *strides])  # noqa: E731
    out = []
    for f in p.factors:
        if p.kind == 0:
            out.append((Side(True, fits(f.a, c, f.a.strides[:3])), Side(False, fits(f.b, o, ()))))
        elif p.kind == 1:
            out.append((Side(True, fits(f.a, o, f.a.strides[:3])), Side(True, fits(f.b, o, ()))))
        else:
            out.append((Side(False, fits(f.a, c, f.a.strides[:3])), Side(False, fits(f.b, o, f.b.strides[:3]))))
    return out


def functor(plan: Words, p: Product, phases: Sequence[Phase]) -> str:
    """The struct `Factors` that the products of fixed.cuh work on."""
    operands, lines = write_text(p, phases)
    batch, rows, cols = rows_and_cols(p)
    sides = gemm_sides(plan, p) if p.kind < 0 else conv_sides(plan, p)
    ks = [f.depth for f in p.factors]
    members = [(f.a, f"a{k}", False) for k, f in enumerate(p.factors)] + [(f.b, f"b{k}", False) for k, f in enumerate(p.factors)] + operands
    batches = len(p.dims) - 2 if p.kind < 0 else 0
    names = [f"d{d}" for d in range(batches)]
    constant = lambda kind, name, values: f"FM_BOTH static constexpr {kind} {name}(int p) {{ return {pick(values)}; }}"  # noqa: E731
    number = lambda flag: "true" if flag else "false"  # noqa: E731
    text = [
        f"using T = {MEMORY[p.dtype]};",
        f"static constexpr int kBatch = {batch}, kRows = {rows}, kCols = {cols}, kProducts = {len(ks)};",
        f"static constexpr bool kHoles = {number(p.kind >= 0)};",
        constant("int", "depth", ks),
        constant("bool", "a_deep", [number(a.deep) for a, _ in sides]),
        constant("bool", "b_deep", [number(b.deep) for _, b in sides]),
        constant("int", "a_vector", [a.vector for a, _ in sides]),
        constant("int", "b_vector", [b.vector for _, b in sides]),
        *(f"{'' if w else 'const '}{MEMORY[x.dtype]}* {name};" for x, name, w in members),
        "template <class W> FM_DEVICE Factors(const W& w, int batch) {",
    ]
    if batch > 1:
        text.append("  " + split("batch", p.dims[:batches], names))
    for x, name, w in members:
        start = begin(plan, x, f"{'' if w else 'const '}{MEMORY[x.dtype]}")
        offset = total([f"{d} * {s}" for d, s in zip(names, x.strides[:batches], strict=True) if s and batch > 1])
        text.append(f"  {name} = {start}{'' if offset == '0' else f' + ({offset})'};")
    text += ["}", *(gemm_places(p) if p.kind < 0 else conv_places(p)), "FM_DEVICE void write(int m, int n, T sum) const {", *(f"  {line}" for line in lines), "}"]
    return "\n".join(["  struct Factors {", *(f"    {line}" for line in text), "  };"])


def each(p: Product, name: str) -> str:
    """The pointer of product p."""
    return f"({pick([f'{name}{k}' for k in range(len(p.factors))])})"


def gemm_places(p: Product) -> list[str]:
    """Where elements of A and B are, by strides."""
    strides = lambda side, d: pick([(f.a, f.b)[side].strides[d] for f in p.factors])  # noqa: E731
    return [
        "using Row = int; using Col = int;",
        f"FM_DEVICE Row row(int p, int m) const {{ return m * ({strides(0, -2)}); }}",
        f"FM_DEVICE Col col(int p, int n) const {{ return n * ({strides(1, -1)}); }}",
        f"FM_DEVICE const T* a_at(int p, Row row, int k) const {{ return {each(p, 'a')} + row + k * ({strides(0, -1)}); }}",
        f"FM_DEVICE const T* b_at(int p, Col col, int k) const {{ return {each(p, 'b')} + col + k * ({strides(1, -2)}); }}",
    ]


def conv_places(p: Product) -> list[str]:
    """Where they are under windows: `Windows` of fixed.cuh."""
    steps = lambda side: ", ".join(f"{pick([(f.a, f.b)[side].strides[d] for f in p.factors])}" for d in range(3))  # noqa: E731
    found = lambda side, at: f"const int at = {at}; return at == kHole ? nullptr : {each(p, side)} + at;"  # noqa: E731
    b_at = f"return {each(p, 'b')} + Places::weight(col, k);" if p.kind < 2 else f"return {each(p, 'b')} + Places::pixel(k, {steps(1)}) + col;"
    return [
        f"using Places = Windows<{p.kind}, {', '.join(str(d) for d in p.dims)}>; using Row = typename Places::Row; using Col = int;",
        f"FM_DEVICE Row row(int p, int m) const {{ return Places::row(m, {steps(0)}); }}",
        "FM_DEVICE Col col(int, int n) const { return n; }",
        f"FM_DEVICE const T* a_at(int p, const Row& row, int k) const {{ {found('a', f'Places::under(row, k, {steps(0)})')} }}",
        f"FM_DEVICE const T* b_at(int p, Col col, int k) const {{ {b_at} }}",
    ]


def block(p: Product, sides: Sequence[tuple[Side, Side]], lanes: int) -> tuple[int, int]:
    """Rows and columns that a lane takes of a product that is read where it lies: what costs least, in cycles for each k.

    Lanes of a warp share rows, so a row is read for all of them at once and columns are not: wide blocks of few rows read
    most. The reads and multiplications of a processor's TEAMS teams queue, and a team waits for its own longest lane.
    """
    batch, rows, cols = rows_and_cols(p)

    def cost(m: int, n: int) -> float:
        items = batch * -(-rows // m) * -(-cols // n)
        passes, reads = 0.0, 0.0
        for a, b in sides:
            row = m / a.vector if a.deep else 1 if 1 < m <= a.vector else m
            passes += (row + n) / len(sides)
            reads += (row + (n / b.vector if b.deep else 1 if 1 < n <= b.vector else n)) / len(sides)
        written = WRITE * m * n * len(sides) / max(1, sum(f.depth for f in p.factors))
        queue = -(-items // 32) * (passes + m * n / 4 + written)
        wait = -(-items // lanes) * (reads + m * n + 2 + written)
        return TEAMS * queue + WAIT * wait

    return min(((m, n) for m in (1, 2, 4, 8) for n in (1, 2, 4) if m <= rows and n <= cols), key=lambda mn: cost(*mn), default=(1, 1))


class Shape(NamedTuple):
    """A tile: rows and columns of a lane, lanes along both; segments that k is cut into."""

    rows: int
    cols: int
    high: int
    wide: int
    segments: int = 1

    @property
    def name(self) -> str:
        """In C++."""
        return f"Tile<Factors, {', '.join(str(n) for n in self)}>"

    def tiles(self, rows: int, cols: int) -> int:
        """How many cover a result."""
        return -(-rows // (self.rows * self.high)) * -(-cols // (self.cols * self.wide))


def tile(p: Product) -> Shape | None:
    """The tile of a product that is worth going through shared memory: the highest that wastes no more than a third."""
    batch, rows, cols = rows_and_cols(p)
    depth = max(f.depth for f in p.factors)
    if cols < 16 or depth < 8 or (rows < 16 and depth < DEEP):
        return None
    wide = 16 if cols > 32 else 8 if cols > 16 else 4
    highest = Shape(8, 4, 16, wide) if ITEM[p.dtype] == 4 and rows >= MANY_ROWS else Shape(4, 4, 16, wide)
    shapes = [highest, *(Shape(4, 4, high, wide) for high in (16, 8, 4) if high * wide >= 32)]
    found = next((s for s in shapes if 2 * s.tiles(rows, cols) * s.rows * s.high * s.cols * s.wide <= 3 * rows * s.tiles(1, cols) * s.cols * s.wide), shapes[-1])
    # Few tiles of many terms leave a device idle: segments are summed apart, and meet in order.
    enough = FEW_TILES if rows * cols > SMALL_RESULT else 4 * FEW_TILES
    return found._replace(segments=max(1, min(-(-enough // (found.tiles(rows, cols) * batch)), depth // DEEP)))


def product_stages(plan: Words, p: Product, lanes: int) -> list[Work]:
    """The product, then the phases that are not done with it."""
    n_fused = fused(plan, p)
    batch, rows, cols = rows_and_cols(p)
    sides = gemm_sides(plan, p) if p.kind < 0 else conv_sides(plan, p)
    text = functor(plan, p, p.phases[:n_fused])
    head = "  template <class W> FM_DEVICE static void part(const Team& team, const W& w, int first, int end)"
    shape = None if plan.told else tile(p)
    made = []
    if shape:
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
