"""The inner kernel of products with a vector whose matrices have unit stride along k: rows times the vector, as LLVM code.

    c[m] = alpha * sum over products p, k of A_p[m, k] * b_p[k]  (+ d[m])

A sum is one chain for every lane of a vector, over all products, and then over the lanes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types
from numba.extending import intrinsic

from fastmeta.backends.numba.writer import INT, RECORD, VECTOR_BYTES, Writer, choose

MOST_ROWS = 8


class _Dots(Writer):
    """The function of so many rows at a time."""

    def __init__(self, module: Any, name: str, element: Any, rows: int) -> None:
        # records, products, first row, blocks of rows, c, bytes between its elements, d, bytes between its elements, alpha
        super().__init__(module, name, element, [INT] * 8 + [element])
        b = self.b
        records, products, start, blocks, c, c_row, d, d_row, alpha = self.function.args
        sums = self.variables(rows)
        with self.loop(blocks) as block:
            first = b.add(start, b.mul(block, INT(rows)))
            self.clear(sums)
            with self.loop(products) as p:
                self.sum_product(sums, b.add(records, b.mul(p, INT(8 * RECORD))), first)

            def finish(added: bool) -> None:
                for i, place in enumerate(sums):
                    to, source = (b.add(x, b.mul(size, b.add(first, INT(i)))) for x, size in ((c, c_row), (d, d_row)))
                    value = b.fmul(alpha, self.total(b.load(place)))
                    self.save_number(b.fadd(value, self.number(source)) if added else value, to)

            self.finish(d, finish)
        b.ret_void()

    def sum_product(self, sums: list[Any], record: Any, first: Any) -> None:
        b = self.b
        a, b_at, depth, a_m, _, _ = self.record(record)
        rows = [b.add(a, b.mul(a_m, b.add(first, INT(i)))) for i in range(len(sums))]
        lanes = INT(self.lanes)
        whole = b.sdiv(depth, lanes)
        with self.loop(whole) as k:
            self.add_vectors(sums, rows, b_at, b.mul(k, INT(VECTOR_BYTES)))
        self.add_vectors(sums, rows, b_at, b.mul(whole, INT(VECTOR_BYTES)), self.present(b.srem(depth, lanes)))

    def add_vectors(self, sums: list[Any], rows: list[Any], vector: Any, offset: Any, mask: Any = None) -> None:
        factor = self.read(self.b.add(vector, offset), mask)
        for row, place in zip(rows, sums, strict=True):
            self.add_product(self.read(self.b.add(row, offset), mask), factor, place)


@intrinsic
def dots(
    typingctx: Any, rows: Any, records: Any, products: Any, start: Any, blocks: Any, c: Any, c_row: Any, d: Any, d_row: Any, alpha: Any
) -> Any:
    """blocks x rows elements of c from `start` on; d 0: none."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cases = {r: partial(_Dots, rows=r) for r in range(1, MOST_ROWS + 1)}
        choose(builder, args[0], f"fastmeta_dots_{alpha}", context.get_data_type(alpha), cases, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, alpha), codegen
