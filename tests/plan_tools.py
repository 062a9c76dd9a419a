"""Builds native plans by hand, word by word as docs/plan.md has them, for tests of the core."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from fastmeta import _core
from fastmeta.ops.microops import CAST, MICROOPS

MAGIC = 0x464D504C
OPS = {op.name: number for number, op in enumerate(MICROOPS)} | {"cast": CAST}
PASS, GEMM, GATHER, SCATTER, CUMSUM, ARGREDUCE, LOOP, CONV, ORDER, DISTANCE, PULL, PROTO, INVERSE, DEPTHWISE = range(1, 15)
STORE, SUM, MAX, MIN, ACCUMULATE = range(5)
DTYPES = [np.dtype(name) for name in ("float32", "float64", "int32", "bool")]


FLOATS = [np.float32, np.float64]
NUMBERS = [*FLOATS, np.int32]
f32 = np.float32


def sample(shape, dtype=f32, seed=0) -> np.ndarray:
    """Random numbers of any dtype."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) == np.int32:
        return rng.integers(-9, 10, shape, dtype=np.int32)
    if np.dtype(dtype) == np.bool_:
        return rng.random(shape) < 0.5
    return rng.standard_normal(shape).astype(dtype)


def close(got, want, dtype=None) -> None:
    """Asserts equality within what the dtype allows."""
    kind = np.dtype(dtype or got.dtype)
    tolerance = {"float32": 2e-5, "float64": 1e-12}.get(kind.name, 0)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 10)


def code(dtype) -> int:
    return DTYPES.index(np.dtype(dtype))


def bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


class tested:  # noqa: N801
    """The core whose plans are run: what --backend of conftest.py chose, else the native one."""

    plan: Any = _core.Plan
    bad_index: Any = _core.BadIndex


class View(NamedTuple):
    """An operand: a base, a byte offset, and the layout of an array in it."""

    base: int
    offset: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements

    @property
    def words(self) -> list[int]:
        return [self.base, self.offset, self.dtype, *self.strides]

    def to(self, shape) -> View:
        """The same, broadcast to `shape`."""
        extra = len(shape) - len(self.shape)
        old = (1,) * extra + self.shape
        strides = tuple(0 if a != b else s for a, b, s in zip(old, shape, (0,) * extra + self.strides, strict=True))
        return self._replace(shape=tuple(shape), strides=strides)


def view(base: int, shape, dtype=np.float32, offset: int = 0, make=lambda array: array) -> View:
    """The dense array of `shape` at `offset` of `base`, looked at through `make`: any NumPy view of it."""
    dense = np.empty(shape, dtype)
    seen = make(dense)
    item = dense.itemsize
    start = seen.__array_interface__["data"][0] - dense.__array_interface__["data"][0] if seen.size else 0
    return View(base, offset + start, code(dtype), seen.shape, tuple(s // item for s in seen.strides))


def phase(dims, loads, ops, stores, rowwise: int = 0) -> list[int]:
    """ops: (name, dtype, reg, *values) or ("cast", to, reg, value, from); stores: (value, mode, view)."""
    words = [rowwise, len(dims), *dims, len(loads)]
    for load in loads:
        assert len(load.strides) == len(dims)
        words += load.words
    words.append(len(ops))
    for name, dtype, reg, *args in ops:
        if name == "cast":
            args = [args[0], code(args[1])]
        words += [OPS[name], code(dtype), reg, len(args), *args]
    words.append(len(stores))
    for value, mode, target in stores:
        assert len(target.strides) == len(dims)
        words += [value, mode, *target.words]
    return words


class Builder:
    """A plan in the making. Arrays are (dtype, shape), -1 as first dim for the number of tasks."""

    def __init__(self, inputs=(), outputs=(), *, consts: bytes = b"", shared: int = 0, arena: int = 0, work: int = 1 << 40):
        self.inputs, self.outputs, self.consts = list(inputs), list(outputs), consts
        self.shared_bytes, self.arena_bytes, self.work = shared, arena, work
        self.bases: list[list[int]] = []
        self.blocks: list[list[list[int]]] = [[]]

    def base(self, kind: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        self.bases.append([kind, a, b, c])
        return len(self.bases) - 1

    def input(self, k: int) -> int:
        return self.base(0, k)

    def output(self, k: int) -> int:
        return self.base(1, k)

    def const(self) -> int:
        return self.base(2)

    def shared(self) -> int:
        return self.base(3)

    def arena(self) -> int:
        return self.base(4)

    def slice(self, parent: int, offset: int, step: int) -> int:
        return self.base(5, parent, offset, step)

    def sum(self, offset: int, size: int) -> int:
        return self.base(6, offset, size)

    def carry(self, parent: int, offset: int, size: int) -> int:
        return self.base(7, parent, offset, size)

    def block(self) -> int:
        self.blocks.append([])
        return len(self.blocks) - 1

    def emit(self, opcode: int, payload, *, block: int = 0, tag: int = 0) -> None:
        self.blocks[block].append([opcode, 3 + len(payload), tag, *payload])

    def phases(self, *phases, block: int = 0, tag: int = 0) -> None:
        self.emit(PASS, [len(phases), *(word for words in phases for word in words)], block=block, tag=tag)

    def elementwise(self, dims, loads, ops, stores, *, block: int = 0, tag: int = 0) -> None:
        self.phases(phase(dims, loads, ops, stores), block=block, tag=tag)

    def gemm(self, dtype, batch, m, n, products, c, *, alpha=1.0, cin=None, phases=(), block=0, tag=0) -> None:
        """products: (k, a, b)."""
        words = [code(dtype), len(batch), *batch, m, n, bits(alpha), len(products)]
        for k, a, b in products:
            words += [k, *a.words, *b.words]
        words += [*c.words, cin is not None, *(cin.words if cin is not None else ()), len(phases)]
        self.emit(GEMM, words + [word for words in phases for word in words], block=block, tag=tag)

    def conv(self, dtype, kind, sizes, products, out, *, cin=None, phases=(), block=0, tag=0) -> None:
        """sizes: N, H, W, C, KH, KW, O, OH, OW, strides, paddings; products: (a, b)."""
        words = [code(dtype), kind, *sizes, len(products), *(word for pair in products for operand in pair for word in operand.words)]
        words += [*out.words, cin is not None, *(cin.words if cin is not None else ()), len(phases)]
        self.emit(CONV, words + [word for words in phases for word in words], block=block, tag=tag)

    def loop(self, inner, length, *, parallel=0, reverse=0, slices=(), swaps=(), sums=(), block=0, tag=0) -> None:
        """sums: (base, dtype, count, target base, target offset)."""
        words = [inner, length, parallel, reverse, len(slices), *slices, len(swaps), *(base for pair in swaps for base in pair), len(sums)]
        for base, dtype, count, target, offset in sums:
            words += [base, code(dtype), count, target, offset]
        self.emit(LOOP, words, block=block, tag=tag)

    def words(self) -> np.ndarray:
        body: list[int] = []
        for dtype, shape in [*self.inputs, *self.outputs]:
            body += [code(dtype), len(shape), *shape]
        for base in self.bases:
            body += base
        for block in self.blocks:
            body += [len(block), sum(map(len, block)), *(word for instr in block for word in instr)]
        counts = [len(self.inputs), len(self.outputs), len(self.bases), len(self.blocks)]
        header = [MAGIC, 1, 11 + len(body), *counts, len(self.consts), self.shared_bytes, self.arena_bytes, self.work]
        return np.array(header + body, np.int64)

    def plan(self) -> Any:
        return tested.plan(self.words(), self.consts)

    def run(self, *arrays, threads: int = 1):
        out = self.plan().run(arrays, threads)
        assert out is not None, "the arrays do not match the plan"
        return out
