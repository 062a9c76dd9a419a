"""The inner kernel of products: a tile of C in vector registers, as LLVM code for one number of rows and vectors each.

    C[m, n] = alpha * sum over products p, k of A_p[m, k] * B_p[k, n]  (+ C[m, n])

B has unit stride along n.  Every element of C is one chain of multiply-adds, products in order and k ascending, whatever
tile computes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT, BYTE, BOOL = ir.IntType(64), ir.IntType(8), ir.IntType(1)
_FEATURES = binding.get_host_cpu_features()
WIDE = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if WIDE else 32 if _FEATURES.get("avx") else 16
# Vectors of a row of a tile, and rows for so many vectors: as many accumulators as registers hold.
MOST_VECTORS = 4 if WIDE else 3
MOST_ROWS = (0, 8, 8, 8, 6) if WIDE else (0, 8, 6, 4)
RECORD = 6  # words of a product: A, B, K, and strides in bytes of A along m and k, of B along k


def vectors_of(item: int) -> int:
    """Elements of a vector."""
    return VECTOR_BYTES // item


class _Tile:
    """Writes the function of one tile: `rows` x `vectors`, the last vector masked to `tail` elements."""

    def __init__(self, module: Any, name: str, element: Any, item: int, rows: int, vectors: int) -> None:
        self.lanes = vectors_of(item)
        self.item, self.rows, self.vectors = item, rows, vectors
        self.element, self.vector, self.mask = element, ir.VectorType(element, self.lanes), ir.VectorType(BOOL, self.lanes)
        # records, products, first row, blocks of rows, C, bytes of a row of C, whether to add to C, alpha, byte offset of the columns, tail
        signature = ir.FunctionType(ir.VoidType(), [INT, INT, INT, INT, INT, INT, INT, element, INT, INT])
        self.function = ir.Function(module, signature, name)
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.module = module
        self.write()

    def declare(self, name: str, result: Any, arguments: list[Any]) -> Any:
        suffix = f"v{self.lanes}f{8 * self.item}"
        return cgutils.get_or_insert_function(self.module, ir.FunctionType(result, arguments), f"llvm.masked.{name}.{suffix}.p0")

    def at(self, address: Any, offset: Any, kind: Any) -> Any:
        return self.b.inttoptr(self.b.add(address, offset), kind.as_pointer())

    def read(self, address: Any, j: int) -> Any:
        place = self.at(address, INT(j * VECTOR_BYTES), self.vector)
        if j + 1 < self.vectors:
            value = self.b.load(place)
            value.align = self.item
            return value
        masked = self.declare("load", self.vector, [self.vector.as_pointer(), ir.IntType(32), self.mask, self.vector])
        return self.b.call(masked, [place, ir.IntType(32)(self.item), self.present, self.vector(None)])

    def save(self, value: Any, address: Any, j: int) -> None:
        place = self.at(address, INT(j * VECTOR_BYTES), self.vector)
        if j + 1 < self.vectors:
            self.b.store(value, place).align = self.item
            return
        masked = self.declare("store", ir.VoidType(), [self.vector, self.vector.as_pointer(), ir.IntType(32), self.mask])
        self.b.call(masked, [value, place, ir.IntType(32)(self.item), self.present])

    def splat(self, value: Any) -> Any:
        one = self.b.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None)
        return self.b.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), lanes)

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        return self.b.fadd(self.b.fmul(x, y, flags=("contract",)), z, flags=("contract",))

    @contextmanager
    def loop(self, count: Any) -> Iterator[Any]:
        with cgutils.for_range(self.b, count) as loop:
            yield loop.index

    def write(self) -> None:
        b = self.b
        records, products, start, blocks, c, c_row, add, alpha, columns, tail = self.function.args
        numbers = ir.Constant(ir.VectorType(INT, self.lanes), list(range(self.lanes)))
        ends = b.insert_element(ir.Constant(numbers.type, ir.Undefined), tail, ir.IntType(32)(0))
        ends = b.shuffle_vector(ends, ir.Constant(numbers.type, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))
        self.present = b.icmp_signed("<", numbers, ends)
        tile = [[cgutils.alloca_once(b, self.vector) for _ in range(self.vectors)] for _ in range(self.rows)]
        with self.loop(blocks) as block:
            first = b.add(start, b.mul(block, INT(self.rows)))
            for row in tile:
                for place in row:
                    b.store(self.vector(None), place)
            with self.loop(products) as p:
                self.add_product(tile, b.add(records, b.mul(p, INT(8 * RECORD))), first, columns)
            to = b.add(b.add(c, columns), b.mul(first, c_row))
            factor = self.splat(alpha)
            with b.if_else(b.icmp_signed("!=", add, INT(0))) as (then, otherwise):
                with then:
                    self.finish(tile, to, c_row, lambda value, at, j: self.multiply_add(factor, value, self.read(at, j)))
                with otherwise:
                    self.finish(tile, to, c_row, lambda value, at, j: b.fmul(factor, value))
        b.ret_void()

    def add_product(self, tile: list[list[Any]], record: Any, first: Any, columns: Any) -> None:
        b = self.b
        a, b_at, depth, a_m, a_k, b_k = (b.load(self.at(record, INT(8 * k), INT)) for k in range(RECORD))
        a, b_at = b.add(a, b.mul(first, a_m)), b.add(b_at, columns)
        rows = [b.mul(a_m, INT(i)) for i in range(self.rows)]
        with self.loop(depth) as k:
            a_now, b_now = b.add(a, b.mul(k, a_k)), b.add(b_at, b.mul(k, b_k))
            vectors = [self.read(b_now, j) for j in range(self.vectors)]
            for i, row in enumerate(tile):
                value = b.load(self.at(a_now, rows[i], self.element))
                factor = self.splat(value)
                for vector, place in zip(vectors, row, strict=True):
                    b.store(self.multiply_add(factor, vector, b.load(place)), place)

    def finish(self, tile: list[list[Any]], to: Any, c_row: Any, value_of: Any) -> None:
        for i, row in enumerate(tile):
            at = self.b.add(to, self.b.mul(c_row, INT(i)))
            for j, place in enumerate(row):
                self.save(value_of(self.b.load(place), at, j), at, j)


@intrinsic
def tile(
    typingctx: Any, rows: Any, vectors: Any, records: Any, products: Any, start: Any, blocks: Any,
    c: Any, c_row: Any, add: Any, alpha: Any, columns: Any, tail: Any,
) -> Any:
    """blocks x rows rows from row `start` on and `vectors` vectors of C, from byte offset `columns` on, the last of `tail` elements."""
    item = alpha.bitwidth // 8

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        after = builder.append_basic_block("tiled")
        number = builder.add(builder.mul(args[1], INT(16)), args[0])
        choice = builder.switch(number, after)
        for v in range(1, MOST_VECTORS + 1):
            for r in range(1, MOST_ROWS[v] + 1):
                name = f"fastmeta_tile_{alpha}_{r}_{v}"
                function = builder.module.globals.get(name) or _Tile(builder.module, name, context.get_data_type(alpha), item, r, v).function
                block = builder.append_basic_block("tile")
                choice.add_case(INT(v * 16 + r), block)
                builder.position_at_end(block)
                builder.call(function, args[2:])
                builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, alpha, types.int64, types.int64), codegen
