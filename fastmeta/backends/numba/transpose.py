"""Transposed copies by square blocks in vector registers: rows of a block are loaded, exchanged and stored as LLVM code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INT = ir.IntType(64)
SIDE = 8


@intrinsic
def transpose_block(typingctx: Any, to: Any, to_row: Any, source: Any, column: Any, like: Any) -> Any:
    """to[r, c] = source[c, r] for SIDE x SIDE elements; rows of `to` and of the source have unit stride, the strides are in bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_data_type(like), SIDE)
        item = like.bitwidth // 8

        def at(address: Any, stride: Any, k: int) -> Any:
            return builder.inttoptr(builder.add(address, builder.mul(stride, INT(k))), vector.as_pointer())

        rows = []
        for k in range(SIDE):
            rows.append(builder.load(at(args[2], args[3], k)))
            rows[-1].align = item
        # Each round interleaves row k with row k + SIDE / 2; after log2(SIDE) rounds rows are columns.
        half = SIDE // 2
        low = [x for k in range(half) for x in (k, SIDE + k)]
        high = [x + half for x in low]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), SIDE), m) for m in (low, high)]
        for _ in range(SIDE.bit_length() - 1):
            rows = [builder.shuffle_vector(rows[k], rows[k + half], mask) for k in range(half) for mask in masks]
        for k in range(SIDE):
            builder.store(rows[k], at(args[0], args[1], k)).align = item
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, like), codegen
