"""The inner kernel of products: a tile of C in vector registers, as LLVM code for one number of rows and vectors each.

    C[m, n] = alpha * sum over products p, k of A_p[m, k] * B_p[k, n]  (+ D[m, n])

B, C and D have unit stride along n; D may be C.  Every element of C is one chain of multiply-adds, products in order and
k ascending, whatever tile computes it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types
from numba.extending import intrinsic

from fastmeta.backends.numba.writer import INT, RECORD, VECTOR_BYTES, WIDE, Writer, choose

# Vectors of a row of a tile, and rows for so many vectors: as many accumulators as registers hold.
MOST_VECTORS = 4 if WIDE else 3
MOST_ROWS = (0, 8, 8, 8, 6) if WIDE else (0, 8, 6, 4)


class _Tile(Writer):
    """The function of one tile: `rows` x `vectors`, the last vector masked to `tail` elements."""

    def __init__(self, module: Any, name: str, element: Any, rows: int, vectors: int) -> None:
        # records, products, first row, blocks of rows, C, bytes of a row of C, D, bytes of a row of D, alpha, byte offset of the columns, tail
        super().__init__(module, name, element, [INT] * 8 + [element, INT, INT])
        b = self.b
        records, products, start, blocks, c, c_row, d, d_row, alpha, columns, tail = self.function.args
        self.whole = b.icmp_signed("==", tail, INT(self.lanes))
        self.masks = [*[None] * (vectors - 1), self.present(tail)]
        tile = [self.variables(vectors) for _ in range(rows)]
        with self.loop(blocks) as block:
            first = b.add(start, b.mul(block, INT(rows)))
            for row in tile:
                self.clear(row)
            with self.loop(products) as p:
                self.sum_product(tile, b.add(records, b.mul(p, INT(8 * RECORD))), first, columns)
            factor = self.splat(alpha)

            def finish(added: bool) -> None:
                for i, row in enumerate(tile):
                    to, source = (b.add(b.add(x, columns), b.mul(size, b.add(first, INT(i)))) for x, size in ((c, c_row), (d, d_row)))
                    for j, (place, mask) in enumerate(zip(row, self.masks, strict=True)):
                        value, at = b.load(place), INT(j * VECTOR_BYTES)
                        value = self.multiply_add(factor, value, self.read(b.add(source, at), mask)) if added else b.fmul(factor, value)
                        if mask:
                            self.save_present(value, b.add(to, at), mask, self.whole)
                        else:
                            self.save(value, b.add(to, at))

            self.finish(d, finish)
        b.ret_void()

    def sum_product(self, tile: list[list[Any]], record: Any, first: Any, columns: Any) -> None:
        b = self.b
        a, b_at, depth, a_m, a_k, b_k = self.record(record)
        a, b_at = b.add(a, b.mul(first, a_m)), b.add(b_at, columns)
        rows = [b.mul(a_m, INT(i)) for i in range(len(tile))]

        def sum_terms(masks: list[Any]) -> None:
            with self.loop(depth) as k:
                a_now, b_now = b.add(a, b.mul(k, a_k)), b.add(b_at, b.mul(k, b_k))
                vectors = [self.read(b.add(b_now, INT(j * VECTOR_BYTES)), mask) for j, mask in enumerate(masks)]
                for i, row in enumerate(tile):
                    factor = self.splat(self.number(b.add(a_now, rows[i])))
                    for vector, place in zip(vectors, row, strict=True):
                        self.add_product(factor, vector, place)

        if WIDE:  # masks are registers of their own, and cost nothing
            sum_terms(self.masks)
            return
        with b.if_else(self.whole) as (whole, partial):
            with whole:
                sum_terms([None] * len(self.masks))
            with partial:
                sum_terms(self.masks)


@intrinsic
def tile(
    typingctx: Any, rows: Any, vectors: Any, records: Any, products: Any, start: Any, blocks: Any,
    c: Any, c_row: Any, d: Any, d_row: Any, alpha: Any, columns: Any, tail: Any,
) -> Any:  # fmt: skip
    """blocks x rows rows from row `start` on and `vectors` vectors of C, from byte offset `columns` on, the last of `tail` elements; D 0: none."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.add(builder.mul(args[1], INT(16)), args[0])
        cases = {v * 16 + r: partial(_Tile, rows=r, vectors=v) for v in range(1, MOST_VECTORS + 1) for r in range(1, MOST_ROWS[v] + 1)}
        choose(builder, number, f"fastmeta_tile_{alpha}", context.get_data_type(alpha), cases, args[2:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10, alpha, types.int64, types.int64), codegen
