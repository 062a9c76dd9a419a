"""From the words of a plan to the words of the interpreter: operands as byte strides, phases as steps, blocks by place."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from fastmeta.backends.numba import convolution, index, passes, products
from fastmeta.backends.numba.interpreter import CONV, CUMSUM, END, GATHER, GEMM, HEAD, LOOP, ORDER, PASS, SCATTER, START
from fastmeta.backends.numba.kernels import NAMES, Kernel
from fastmeta.backends.numba.nest import ITEM
from fastmeta.backends.numba.products import PACKED
from fastmeta.backends.numba.steps import TYPES, MicroOp, Operand, Phase, Steps, steps_of
from fastmeta.backends.numba.writer import RECORD
from fastmeta.ops.microops import CAST
from fastmeta.plan.encode import B_ARENA, B_CONST, B_INPUT, B_OUTPUT, B_SHARED
from fastmeta.plan.memory import aligned

TABLE: dict[str, Kernel] = {
    name: k for module in (passes, products, index, convolution) for name, k in vars(module).items() if isinstance(k, Kernel)
}


ROW, COLUMN = 2, 3  # where a matrix has its strides
UNIT_BYTES = 16 << 10  # of a convolution's target: what the phases after it find in L1
TAP_PIXELS = 128  # of the maps that a weight gradient reads at a time


class Array(NamedTuple):
    """What an input must be, or an output will be; dim 0 may be -1: the number of tasks."""

    dtype: int
    dims: tuple[int, ...]


class Bound(NamedTuple):
    """A program of the interpreter, and what it needs."""

    code: np.ndarray
    inputs: list[Array]
    outputs: list[Array]
    places: list[tuple[int, int, int]]  # (base, kind, which input or output)
    n_bases: int
    shared_bytes: int
    arena_bytes: int
    scratch_bytes: int
    loops: dict[int, tuple[int, int]]  # by the place of a parallel loop: its length, -1 for the call's, and the bytes of its sums



class Binder:
    """Reads a plan, of which docs/plan.md tells the format, and writes the interpreter's program.

    Plans come from the planner of this package and are taken as right.
    """

    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.at = 0
        self.scratch_bytes = 0
        self.loops: dict[int, tuple[int, int]] = {}
        self.uses: set[str] = set()  # kernels

    def next(self) -> int:
        self.at += 1
        return self.words[self.at - 1]

    def take(self, n: int) -> tuple[int, ...]:
        self.at += n
        return tuple(self.words[self.at - n : self.at])

    def bind(self) -> Bound:
        _, _, _, n_inputs, n_outputs, n_bases, n_blocks, _, shared_bytes, arena_bytes, _ = self.take(11)
        inputs, outputs = ([self.array() for _ in range(n)] for n in (n_inputs, n_outputs))
        self.bases = [self.take(4) for _ in range(n_bases)]
        code = [0] * START
        starts: list[int] = []
        loops: list[int] = []
        for _ in range(n_blocks):
            starts.append(len(code))
            n_instructions, _ = self.take(2)
            for _ in range(n_instructions):
                opcode, _, tag = self.take(3)
                if opcode == LOOP:
                    loops.append(len(code))
                payload, cost = self.instruction(opcode, len(code))
                code += [opcode, len(code) + HEAD + len(payload), tag, cost, *payload]
            code += [END, 0, 0, 0]
        for at in loops:
            code[at + HEAD] = starts[code[at + HEAD]]
        kinds = (B_INPUT, B_OUTPUT, B_CONST, B_SHARED, B_ARENA)
        places = [(k, base[0], base[1]) for k, base in enumerate(self.bases) if base[0] in kinds]
        for name in self.uses:
            code[NAMES.index(name)] = TABLE[name].address
        return Bound(np.array(code, np.int64), inputs, outputs, places, n_bases, shared_bytes, arena_bytes, self.scratch_bytes, self.loops)

    def array(self) -> Array:
        dtype, rank = self.take(2)
        return Array(dtype, self.take(rank))

    def operand(self, rank: int) -> Operand:
        base, offset, dtype = self.take(3)
        return Operand(base, offset, dtype, self.take(rank))

    def instruction(self, opcode: int, place: int) -> tuple[list[int], int]:
        """The payload and its elementary operations."""
        if opcode == PASS:
            return self.phases(steps_of([self.phase() for _ in range(self.next())]))
        if opcode == GEMM:
            return self.product()
        if opcode == LOOP:
            return self.loop(place), 1
        if opcode == CONV:
            return self.convolution()
        return self.indexed(opcode)

    def need(self, scratch_bytes: int) -> None:
        self.scratch_bytes = max(self.scratch_bytes, scratch_bytes)

    # -- phases

    def phase(self) -> Phase:
        rowwise, rank = self.take(2)
        dims = self.take(rank)
        loads = [self.operand(rank) for _ in range(self.next())]
        ops = []
        for _ in range(self.next()):
            op, dtype, register, n = self.take(4)
            values = self.take(n)
            ops.append(MicroOp(op, dtype, register, values[:1], values[1]) if op == CAST else MicroOp(op, dtype, register, values, dtype))
        stores = []
        for _ in range(self.next()):
            value, mode = self.take(2)
            stores.append((value, mode, self.operand(rank)))
        return Phase(bool(rowwise), dims, loads, ops, stores)

    def phases(self, bound: list[Steps]) -> tuple[list[int], int]:
        for steps in bound:
            self.need(steps.scratch_bytes)
            self.uses |= {"phase", *steps.kernels}
        words = [word for steps in bound for word in steps.words()]
        return [len(bound), *words], sum(steps.work for steps in bound)

    # -- products

    def product(self) -> tuple[list[int], int]:
        dtype, rank = self.take(2)
        batch = self.take(rank)
        m, n, alpha, products = self.take(4)
        item = ITEM[dtype]
        factors = []
        for _ in range(products):
            k = self.next()
            factors.append((k, self.matrix(batch, (m, k), item), self.matrix(batch, (k, n), item)))
        results = [self.matrix(batch, (m, n), item)]
        if self.next():
            results.append(self.matrix(batch, (m, n), item))
        if turns(m, n, factors, results, item):
            factors = [(k, turned(b, n, k, item), turned(a, k, m, item)) for k, a, b in factors]
            results = [turned(matrix, n, m, item) for matrix in results]
            m, n = n, m
        vector = n == 1 and all(a[COLUMN] == b[ROW] == item for _, a, b in factors)
        kernel = f"{'dots' if vector else 'multiply'}_{TYPES[dtype]}"
        self.uses |= {"product", "take", kernel}
        operands: list[int] = []
        offset = 8 * PACKED
        for k, a, b in factors:
            operands += [k, offset, *a, *b]
            offset += (k * n * item + 63) // 64 * 64
        phases, work = self.phases(steps_of([self.phase() for _ in range(self.next())]))
        batches = prod(batch) if m and n else 0
        self.need(offset)
        head = [dtype, alpha, rank, batches, m, n, products, len(results) - 1, phases[0], 0, NAMES.index(kernel)]
        payload = [*head, *batch, *operands, *(word for matrix in results for word in matrix)]
        payload[9] = len(payload)
        return [*payload, *phases[1:]], work + batches * m * n * (1 + sum(k for k, _, _ in factors))

    def matrix(self, batch: Sequence[int], sizes: tuple[int, int], item: int) -> list[int]:
        """Base, offset, strides along rows, columns and the batch, in bytes."""
        operand = self.operand(len(batch) + 2)
        *outer, row, column = (s * item for s in operand.strides)
        return tidy([operand.base, operand.offset, row, column, *outer], *sizes, item)

    # -- convolutions

    def convolution(self) -> tuple[list[int], int]:
        dtype, kind, *sizes = self.take(15)
        n, h, w, c, kh, kw, o, oh, ow, step_h, step_w = sizes[:11]
        item = ITEM[dtype]
        self.uses |= {"convolution", "take", f"multiply_{TYPES[dtype]}", "rows", "phase"}
        products = self.next()
        operands = [word for _ in range(2 * products) for word in self.map(item)]
        target = self.map(item)
        cin = self.map(item) if self.next() else None
        out_h, out_w, channels = ((oh, ow, o), (h, w, c), (kh, kw * c, o))[kind]
        # Some images at a time: their part of the target, or of the maps that a weight gradient reads, stays near.
        pixels = oh * ow if kind == 2 else out_h * out_w
        unit = min(n, max(1, TAP_PIXELS // pixels if kind == 2 else UNIT_BYTES // (pixels * channels * item)))
        down, across = (h + kh - 1, w + kw - 1) if kind == 1 else ((oh - 1) * step_h + kh, (ow - 1) * step_w + kw)
        records = products * (unit * oh if kind == 2 else kh)
        at_maps = aligned(records * RECORD * 8)
        at_weights = at_maps + aligned(products * unit * down * across * (o if kind == 1 else c) * item)
        at_tiles = at_weights + (aligned(products * kh * kw * c * o * item) if kind == 1 else 0)
        payload = [dtype, kind, *sizes, products, int(cin is not None), 0, 0, unit, at_maps, at_weights, at_tiles, *operands, *target, *(cin or [])]
        payload[convolution.AT_PHASES] = len(payload)
        work, rowwise = n * oh * ow * o * kh * kw * c * products, kind != 2
        payload[convolution.PHASES] = self.next()
        for _ in range(payload[convolution.PHASES]):
            phase = self.phase()
            rowwise = rowwise and phase.rowwise
            steps = Steps(phase, rowwise)
            self.uses |= steps.kernels
            self.need(at_tiles + steps.scratch_bytes)
            words = steps.words()
            payload += [int(rowwise), 2 + len(words), *words]
            work += steps.work
        self.need(at_tiles)
        return payload, work

    def map(self, item: int) -> list[int]:
        """Base, offset, and strides over images, rows and columns in bytes; channels have unit stride."""
        operand = self.operand(4)
        return [operand.base, operand.offset, *(s * item for s in operand.strides[:3])]

    # -- the rest

    def indexed(self, opcode: int) -> tuple[list[int], int]:
        self.uses.add("indexed")
        dtype = self.next()
        picks = opcode in (GATHER, SCATTER)
        o, n = self.take(2)
        j, i = self.take(2) if picks else (0, self.next())
        if opcode == ORDER:
            j = self.next()
        flag = 0 if picks else self.next()
        payload = [dtype, o, n, j, i, flag]
        middle = opcode in (GATHER, SCATTER, CUMSUM, ORDER)
        for k in range(3 if picks else 2):
            operand = self.operand(3 if middle or k == 0 else 2)
            first, *inner = (s * ITEM[operand.dtype] for s in operand.strides)
            payload += [operand.base, operand.offset, first, inner[0] if len(inner) == 2 else 0, inner[-1]]
        if opcode == SCATTER:
            payload[5] = self.next()
        return payload, o * (n + j) * i

    def loop(self, place: int) -> list[int]:
        block, length, parallel, reverse = self.take(4)
        slices = self.take(self.next())
        swaps = self.take(2 * self.next())
        n_sums = self.next()
        payload = [block, length, parallel, reverse, len(slices), len(swaps) // 2, n_sums, 0]
        for base in slices:
            payload += [base, *self.bases[base][1:]]
        for base in swaps:
            payload += [base, *self.bases[base][1:3]]
        for _ in range(n_sums):
            base, dtype, count, target, offset = self.take(5)
            self.uses.add(f"elementwise_{TYPES[dtype]}")
            _, start, size, _ = self.bases[base]
            payload += [base, start, count * ITEM[dtype], dtype, target, offset]
            payload[7] = max(payload[7], (start + size + 63) // 64 * 64)
        if parallel:
            self.loops[place] = (length, payload[7])
        return payload


def tidy(matrix: list[int], rows: int, columns: int, item: int) -> list[int]:
    """The matrix; a stride that is never taken is what kernels like best."""
    base, offset, row, column, *outer = matrix
    return [base, offset, row if rows > 1 else columns * item, column if columns > 1 else item, *outer]


def turned(matrix: list[int], rows: int, columns: int, item: int) -> list[int]:
    """Its transpose, of so many rows and columns."""
    base, offset, row, column, *outer = matrix
    return tidy([base, offset, column, row, *outer], rows, columns, item)


def turns(m: int, n: int, factors: Sequence[tuple[int, list[int], list[int]]], results: Sequence[list[int]], item: int) -> bool:
    """Is C^T = B^T A^T better: a row of C instead of a column, or dot products instead of copies of B?"""
    if n == 1 < m:
        return all(matrix[ROW] == item for matrix in (*results, *(a for _, a, _ in factors)))
    columns = any(b[COLUMN] != item for _, _, b in factors)
    return m == 1 < n and columns and all(a[COLUMN] == b[ROW] == item for _, a, b in factors)
