"""A plan's words as records; docs/plan.md has their layout. Positions are counted from the first word of an instruction."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fastmeta.ops.microops import CAST

PASS, GEMM, GATHER, SCATTER, CUMSUM, ARGREDUCE, LOOP, CONV, ORDER = range(1, 10)
INPUT, OUTPUT, CONST, SHARED, ARENA, SLICE, SUM, CARRY = range(8)
STORE, ADD, LARGEST, SMALLEST, ACCUMULATE = range(5)
F32, F64, I32, BOOL = range(4)
ITEM = (4, 8, 4, 1)  # bytes, by dtype


class Operand(NamedTuple):
    """An array in a base; strides in elements."""

    at: int
    base: int
    offset: int
    dtype: int
    strides: tuple[int, ...]

    def same(self, other: Operand) -> bool:
        """Whether both are the same elements in the same order."""
        return self[1:] == other[1:]


class Op(NamedTuple):
    """A micro-op; `source`: of a cast."""

    number: int
    ctype: int
    args: tuple[int, ...]
    source: int


class Store(NamedTuple):
    """What becomes of a value."""

    value: int
    mode: int
    target: Operand


class Phase(NamedTuple):
    """An elementwise pass over `dims`."""

    rowwise: bool
    dims: tuple[int, ...]
    loads: tuple[Operand, ...]
    ops: tuple[Op, ...]
    stores: tuple[Store, ...]


class Factors(NamedTuple):
    """One product of a sum of products: of depth k."""

    depth: int
    a: Operand
    b: Operand


@dataclass(frozen=True)
class Product:
    """GEMM or CONV: a sum of products, and the phases behind it. `dims`: batch, rows, columns; or CONV's numbers."""

    kind: int  # -1: GEMM, else CONV's
    dtype: int
    dims: tuple[int, ...]
    alpha: float
    factors: tuple[Factors, ...]
    out: Operand
    cin: Operand | None
    phases: tuple[Phase, ...]


class Instruction(NamedTuple):
    """One instruction at a word of the plan."""

    at: int
    op: int
    body: tuple[Phase, ...] | Product | None  # of PASS, of GEMM and CONV


@dataclass
class Reader:
    """Walks the words of an instruction."""

    words: list[int]
    at: int = 0

    def one(self) -> int:
        """The next word."""
        self.at += 1
        return self.words[self.at - 1]

    def some(self, n: int) -> tuple[int, ...]:
        """The next n words."""
        self.at += n
        return tuple(self.words[self.at - n : self.at])

    def operand(self, rank: int) -> Operand:
        """OPERAND(rank)."""
        at = self.at
        base, offset, dtype = self.some(3)
        return Operand(at, base, offset, dtype, self.some(rank))

    def phases(self) -> tuple[Phase, ...]:
        """Their number, then they."""
        return tuple(self.phase() for _ in range(self.one()))

    def phase(self) -> Phase:
        """PHASE."""
        rowwise, rank = self.some(2)
        dims = self.some(rank)
        loads = tuple(self.operand(rank) for _ in range(self.one()))
        ops = []
        for _ in range(self.one()):
            number, ctype, _register, n = self.some(4)
            args = self.some(n)
            cast = number == CAST
            ops.append(Op(number, ctype, args[:1] if cast else args, args[1] if cast else ctype))
        stores = []
        for _ in range(self.one()):
            value, mode = self.some(2)
            stores.append(Store(value, mode, self.operand(rank)))
        return Phase(bool(rowwise), dims, loads, tuple(ops), tuple(stores))

    def gemm(self) -> Product:
        """GEMM behind its first three words."""
        dtype, batch = self.some(2)
        dims = self.some(batch + 2)
        alpha = float(np.array(self.one(), np.int64).view(np.float64))
        factors = tuple(Factors(self.one(), self.operand(batch + 2), self.operand(batch + 2)) for _ in range(self.one()))
        out = self.operand(batch + 2)
        cin = self.operand(batch + 2) if self.one() else None
        return Product(-1, dtype, dims, alpha, factors, out, cin, self.phases())

    def conv(self) -> Product:
        """CONV behind its first three words."""
        dtype, kind = self.some(2)
        dims = self.some(13)
        n, h, w, c, kh, kw, o, oh, ow = dims[:9]
        depth = (kh * kw * c, kh * kw * o, n * oh * ow)[kind]
        factors = tuple(Factors(depth, self.operand(4), self.operand(4)) for _ in range(self.one()))
        out = self.operand(4)
        cin = self.operand(4) if self.one() else None
        return Product(kind, dtype, dims, 1.0, factors, out, cin, self.phases())


@dataclass
class Words:
    """A plan."""

    words: np.ndarray
    near: int = 0  # bytes of the arena that are a team's own memory: its first
    told: bool = False  # text is told where its operands begin
    arena_bytes: int = 0
    inputs: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)  # dtype, shape
    outputs: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    bases: list[tuple[int, ...]] = field(default_factory=list)  # kind, a, b, c
    blocks: list[list[Instruction]] = field(default_factory=list)

    def __post_init__(self) -> None:
        r = Reader([int(x) for x in self.words], 3)
        n_in, n_out, n_bases, n_blocks = r.some(4)
        self.arena_bytes = r.words[9]
        r.at = 11
        arrays = []
        for _ in range(n_in + n_out):
            dtype, rank = r.some(2)
            arrays.append((dtype, r.some(rank)))
        self.inputs, self.outputs = arrays[:n_in], arrays[n_in:]
        self.bases = [r.some(4) for _ in range(n_bases)]
        for _ in range(n_blocks):
            count, _words = r.some(2)
            block = []
            for _ in range(count):
                at, length = r.at, r.words[r.at + 1]
                block.append(self._instruction(r.words[at : at + length], at))
                r.at = at + length
            self.blocks.append(block)

    def for_teams(self, near: int) -> Words:
        """The same, for text that is told where its operands begin."""
        out = copy(self)
        out.near, out.told = near, True
        return out

    @staticmethod
    def _instruction(words: list[int], at: int) -> Instruction:
        r = Reader(words, 3)
        body = r.phases() if words[0] == PASS else r.gemm() if words[0] == GEMM else r.conv() if words[0] == CONV else None
        return Instruction(at, words[0], body)

    def in_near(self, x: Operand) -> bool:
        """Whether an operand lies in a team's own memory."""
        return x.offset < self.near and self.bases[x.base][0] == ARENA

    def in_far(self, x: Operand) -> bool:
        """Whether it lies in the rest of the arena."""
        return 0 < self.near <= x.offset and self.bases[x.base][0] == ARENA

    def root(self, base: int) -> tuple[int, int]:
        """The kind of the memory that a base lies in, and which array of that kind."""
        kind, a, _, _ = self.bases[base]
        if kind in (SLICE, CARRY):
            return self.root(a)
        return kind, a if kind in (INPUT, OUTPUT, SUM) else 0

    def aligned(self, operand: Operand, size: int) -> bool:
        """Whether an operand begins at a multiple of `size` bytes, at most 16: our own memory does, and arrays that are given
        are copied where they do not (fastmeta.backends.arrays)."""
        return operand.offset % size == 0 and self._aligned(operand.base, size)

    def _aligned(self, base: int, size: int) -> bool:
        kind, a, b, c = self.bases[base]
        if kind == CARRY:  # they swap places
            return all(start % size == 0 and self._aligned(parent, size) for kind, parent, start, _ in self.bases if kind == CARRY)
        if kind == SLICE:
            return b % size == 0 and c % size == 0 and self._aligned(a, size)
        return kind != SUM or a % size == 0

    def apart(self, x: Operand, x_dims: tuple[int, ...], y: Operand, y_dims: tuple[int, ...]) -> bool:
        """Whether two operands surely share no memory."""
        if self.root(x.base) != self.root(y.base):
            return True
        (x_first, x_end), (y_first, y_end) = extent(x, x_dims), extent(y, y_dims)
        return x.base == y.base and (x_end <= y_first or y_end <= x_first)


def extent(x: Operand, dims: tuple[int, ...]) -> tuple[int, int]:
    """The bytes of its base that an operand touches: from the first to behind the last."""
    steps = [s * (n - 1) * ITEM[x.dtype] for s, n in zip(x.strides, dims, strict=True)]
    return x.offset + sum(s for s in steps if s < 0), x.offset + sum(s for s in steps if s > 0) + ITEM[x.dtype]
