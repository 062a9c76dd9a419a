"""Phases made ready to run: dims ordered, cut into tiles, and micro-operations as steps on dense tiles.

The iteration space becomes outer dims x rows x columns, and rows x columns is cut into tiles that stay in L1.  A tile is
run as a list of steps, each one call on all its elements.  The operands of steps are slots: first the phase's loads and
stores, then tiles of scratch.  Micro-operations work on dense memory alone: a slot that is not dense over a tile (broadcast,
strided) is copied into one first, and once for all tiles where they all see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastmeta.backends.numba.nest import ITEM, Nest
from fastmeta.ops.microops import CAST, NUMBER

TILE_MEMORY = 24 << 10  # bytes of all tiles of a phase: half of a common L1
TILE_ELEMENTS, FEWEST_ELEMENTS = 2048, 64
DIRECT_ELEMENTS = 1 << 16  # of a "tile" that lives in memory only
CROSSED_COLUMNS = 64  # tiles to transpose are squarish
SHORT_ROW = 8
OP, CONVERT, TAKE, REDUCE = range(4)  # kinds of steps
STORE, SUM, MAX, MIN, ACCUMULATE = range(5)  # modes of stores
STEP_WORDS, HEAD_WORDS = 11, 16
TYPES = ("f32", "f64", "i32")
NONE = -1
DENSE = -(1 << 62)  # the row stride of a tile: as many items as it has columns


class Operand(NamedTuple):
    """An operand of an instruction; offset in bytes, strides in elements."""

    base: int
    offset: int
    dtype: int
    strides: tuple[int, ...]


class MicroOp(NamedTuple):
    op: int
    dtype: int
    register: int
    values: tuple[int, ...]
    source: int  # dtype of the arguments


class Phase(NamedTuple):
    """A phase as the plan has it; a store is (value, mode, operand)."""

    rowwise: bool
    dims: tuple[int, ...]
    loads: list[Operand]
    ops: list[MicroOp]
    stores: list[tuple[int, int, Operand]]


class Steps:
    """The words of a phase for the interpreter.

    Args:
        phase: the phase.
        by_rows: the order of the dims stays, and the last stays the columns, so that blocks of rows can be run alone.
    """

    def __init__(self, phase: Phase, by_rows: bool) -> None:
        self.phase = phase
        self.by_rows = by_rows
        self.operands = [*phase.loads, *(target for _, _, target in phase.stores)]
        self.items = [ITEM[operand.dtype] for operand in self.operands]
        self.crossed = False
        self.steps: list[list[int]] = []
        self.once: list[list[int]] = []
        self.copies: dict[int, int] = {}
        self.registers: dict[tuple[int, int], int] = {}
        self.tiles: list[int] = []  # items of scratch tiles
        self.lay_out()
        self.size_tiles(self.count_tiles())
        self.values = list(range(len(phase.loads)))
        self.write()

    # -- layout

    def lay_out(self) -> None:
        nest = self.nest = Nest(self.phase.dims)
        for operand in self.operands:
            nest.add(operand.strides, operand.dtype)
        if not self.by_rows:
            nest.drop_ones()
            nest.sort()
            nest.merge()
            self.turn()
        else:
            nest.merge_rows()
        dims = nest.dims
        self.outer = dims[:-2]
        self.columns = dims[-1] if dims else 1
        self.rows = dims[-2] if len(dims) > 1 else 1
        self.column = [s[-1] if dims and self.columns != 1 else item for s, item in zip(nest.strides, self.items, strict=True)]
        self.row = [s[-2] if self.rows != 1 else c * self.columns for s, c in zip(nest.strides, self.column, strict=True)]
        self.flat = self.by_rows and all(r == c * self.columns for r, c in zip(self.row, self.column, strict=True))

    def turn(self) -> None:
        """Short rows are walked the other way where that is no worse; an operand dense along another dim makes that dim the rows."""
        nest, last = self.nest, self.nest.rank - 1
        if last < 1:
            return

        def dense(d: int) -> int:
            return sum(s[d] in (0, item) for s, item in zip(nest.strides, self.items, strict=True))

        if nest.dims[last] < SHORT_ROW and nest.dims[last - 1] > nest.dims[last] and dense(last - 1) >= dense(last):
            nest.exchange(last - 1, last)
        for s, item in zip(nest.strides, self.items, strict=True):
            if s[last] in (0, item):
                continue
            for d in range(last - 1, -1, -1):
                if s[d] == item:
                    for e in range(d, last - 1):
                        nest.exchange(e, e + 1)
                    self.crossed = True
                    return

    def count_tiles(self) -> int:
        """At most so many tiles will be needed."""
        registers = {(op.register, ITEM[op.dtype]) for op in self.phase.ops}
        return len(registers) + sum(not self.is_dense(k, self.columns, self.rows) for k in range(len(self.operands)))

    def size_tiles(self, tiles: int) -> None:
        widest = max([4, *self.items, *(ITEM[op.dtype] for op in self.phase.ops)])
        elements = DIRECT_ELEMENTS
        if tiles:
            elements = min(max(TILE_MEMORY // (tiles * widest) // 16 * 16, FEWEST_ELEMENTS), TILE_ELEMENTS)
        elif any(mode != STORE for _, mode, _ in self.phase.stores):
            elements = TILE_ELEMENTS
        columns = self.rows * self.columns if self.flat else self.columns
        self.tile_columns = max(1, min(columns, elements, CROSSED_COLUMNS if self.crossed else elements))
        one = self.flat or (self.tile_columns < columns and not self.crossed)
        self.tile_rows = 1 if one else max(1, min(self.rows, elements // self.tile_columns))
        self.tile_bytes = (self.tile_rows * self.tile_columns * widest + 63) // 64 * 64

    def is_dense(self, k: int, tile_columns: int, tile_rows: int) -> bool:
        return self.column[k] == self.items[k] and (tile_rows == 1 or self.flat or self.row[k] == tile_columns * self.items[k])

    # -- steps

    def write(self) -> None:
        phase = self.phase
        first = len(phase.loads)
        moves = len(phase.ops) == 1 and phase.ops[0].op == NUMBER["copy"] and len(phase.stores) == 1 and phase.stores[0][0] == first
        if moves:
            self.values.append(self.values[phase.ops[0].values[0]])
        else:
            for op in phase.ops:
                self.add_op(op)
        self.fills: list[list[int]] = []
        for k, (value, mode, target) in enumerate(phase.stores):
            slot, source = first + k, self.values[value]
            if mode in (SUM, MAX, MIN):
                self.fills.append(self.fill(slot, mode, target))
            if mode != STORE:
                mode = SUM if mode == ACCUMULATE else mode
                self.step(REDUCE, target.dtype, mode, slot, self.dense(source))
            elif source != slot:
                self.step(TAKE, target.dtype, self.items[slot], slot, source)

    def step(self, kind: int, dtype: int, what: int, to: int, x: int, y: int = NONE, z: int = NONE, once: bool = False) -> None:
        words = [kind, dtype, what, to, x, y, z, *self.strides(to), *self.strides(x)]
        (self.once if once else self.steps).append(words)

    def strides(self, slot: int) -> tuple[int, int]:
        n = len(self.operands)
        if slot >= n:
            return DENSE, self.tiles[slot - n]
        return (self.row[slot], self.column[slot]) if not self.flat else (0, self.column[slot])

    def new_tile(self, item: int) -> int:
        self.tiles.append(item)
        return len(self.operands) + len(self.tiles) - 1

    def dense(self, slot: int) -> int:
        """The slot, or a dense tile with its content."""
        if slot >= len(self.operands) or self.is_dense(slot, self.tile_columns, self.tile_rows):
            return slot
        if slot not in self.copies:
            tile = self.copies[slot] = self.new_tile(self.items[slot])
            self.step(TAKE, self.operands[slot].dtype, self.items[slot], tile, slot, once=self.is_constant(slot))
        return self.copies[slot]

    def is_constant(self, slot: int) -> bool:
        """Is what a tile sees of this load the same for all tiles?"""
        whole = self.column[slot] == 0 or (self.tile_columns == self.columns and not self.flat)
        return slot < len(self.phase.loads) and whole and self.row[slot] == 0 and not any(self.nest.strides[slot][:-2])

    def add_op(self, op: MicroOp) -> None:
        values = [self.dense(self.values[v]) for v in op.values]
        to = NONE
        if op.register < 0:
            slot = len(self.phase.loads) - 1 - op.register
            if self.is_dense(slot, self.tile_columns, self.tile_rows):
                to = slot
        if to == NONE:
            # One tile per register and item size: a cast may keep its register.
            key = (op.register, ITEM[op.dtype])
            if op.register < 0 or key not in self.registers:
                self.registers[key] = self.new_tile(ITEM[op.dtype])
            to = self.registers[key]
        if op.op == CAST:
            self.step(CONVERT, op.dtype, op.source, to, values[0])
        else:
            x, y, z = (*values, NONE, NONE)[:3]
            self.step(OP, op.dtype, op.op, to, x, y, z)
        self.values.append(to)

    def fill(self, slot: int, mode: int, target: Operand) -> list[int]:
        """Words that set every element of a target once: slot, dtype, mode, bytes, rank, dims, strides."""
        nest = Nest([1 if s == 0 else n for n, s in zip(self.phase.dims, target.strides, strict=True)])
        nest.add(target.strides, target.dtype)
        nest.drop_ones()
        nest.sort()
        nest.merge()
        strides = nest.strides[0]
        if not nest.dims or strides[-1] != ITEM[target.dtype]:
            nest.dims.append(1)
            strides.append(ITEM[target.dtype])
        return [slot, target.dtype, mode, nest.rank, *nest.dims, *strides]

    # -- words

    @property
    def scratch_bytes(self) -> int:
        return self.tile_bytes * len(self.tiles)

    @property
    def work(self) -> int:
        return self.nest.elements * max(1, len(self.steps))

    @property
    def kernels(self) -> set[str]:
        """The names of those that the steps call."""
        names = {CONVERT: "convert", TAKE: "take"}
        prefix = {OP: "elementwise_", REDUCE: "reduce_"}
        return {names.get(s[0]) or prefix[s[0]] + TYPES[s[1]] for s in (*self.once, *self.steps)}

    def words(self) -> list[int]:
        """Head, outer dims, slots of memory (base, offset, row, column, outer strides), fills, steps."""
        places: list[int] = []
        for k, operand in enumerate(self.operands):
            places += [operand.base, operand.offset, self.row[k], self.column[k], *self.nest.strides[k][:-2]]
        fills = [word for fill in self.fills for word in fill]
        outer = len(self.outer)
        slots = HEAD_WORDS + outer
        at_fills = slots + len(places)
        at_once = at_fills + len(fills)
        at_steps = at_once + STEP_WORDS * len(self.once)
        size = at_steps + STEP_WORDS * len(self.steps)
        head = [size, len(self.operands), len(self.tiles), self.tile_bytes, outer, self.rows, self.columns, self.tile_rows,
                self.tile_columns, int(self.flat), len(self.fills), at_fills, len(self.once), at_once, len(self.steps), at_steps]  # fmt: skip
        return [*head, *self.outer, *places, *fills, *(w for s in (*self.once, *self.steps) for w in s)]


def steps_of(phases: Sequence[Phase]) -> list[Steps]:
    """Phases that run whole, one after another."""
    return [Steps(phase, False) for phase in phases]
