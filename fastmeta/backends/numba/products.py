"""Runs the GEMM instruction.  Its words are written by `fastmeta.backends.numba.bind`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmeta.backends.numba.dots import MOST_ROWS as MOST_DOTS
from fastmeta.backends.numba.dots import dots
from fastmeta.backends.numba.kernels import PHASE, TAKE, kernel
from fastmeta.backends.numba.memory import call, load, number, store, words
from fastmeta.backends.numba.scalars import function
from fastmeta.backends.numba.tiles import MOST_ROWS, MOST_VECTORS, tile
from fastmeta.backends.numba.writer import RECORD, VECTOR_BYTES

PACKED = 32  # words at the start of scratch that hold the records of products: 4 of 6, and what is packed


@function
def rows_of_block(m: int, most: int) -> int:
    """m rows in as few blocks as hold `most` each, and these as even as they get."""
    blocks = (m + most - 1) // most
    return (m + blocks - 1) // blocks


@function
def multiply(records: int, products: int, m: int, n: int, c: int, c_row: int, d: int, d_row: int, alpha: Any, item: int) -> None:
    """C [m, n] = alpha * sum_p A_p B_p (+ D, where it is not 0) by tiles as even as they get."""
    lanes = VECTOR_BYTES // item
    vectors = (n + lanes - 1) // lanes
    panels = (vectors + MOST_VECTORS - 1) // MOST_VECTORS
    done = 0
    for panel in range(panels):
        wide = (vectors * (panel + 1)) // panels - done
        tail = min(n - done * lanes, wide * lanes) - (wide - 1) * lanes
        rows = rows_of_block(m, MOST_ROWS[wide])
        whole = m // rows
        tile(rows, wide, records, products, 0, whole, c, c_row, d, d_row, alpha, done * VECTOR_BYTES, tail)
        if m > whole * rows:
            tile(m - whole * rows, wide, records, products, whole * rows, 1, c, c_row, d, d_row, alpha, done * VECTOR_BYTES, tail)
        done += wide


@function
def multiply_vector(records: int, products: int, m: int, c: int, c_row: int, d: int, d_row: int, alpha: Any) -> None:
    """The same for n = 1, where matrices and vectors have unit stride along k."""
    rows = rows_of_block(m, MOST_DOTS)
    whole = m // rows
    dots(rows, records, products, 0, whole, c, c_row, d, d_row, alpha)
    if m > whole * rows:
        dots(m - whole * rows, records, products, whole * rows, 1, c, c_row, d, d_row, alpha)


@function
def place(code: Any, q: int, bases: Any, index: int, batch: int, dims: int) -> int:
    """The address of an operand [base, offset, row, column, batch strides..] at a batch element; strides in bytes."""
    at = bases[code[q]] + code[q + 1]
    for d in range(batch - 1, -1, -1):
        n = code[dims + d]
        at += index % n * code[q + 4 + d]
        index //= n
    return at


@kernel
def multiply_f32(records: int, products: int, m: int, n: int, c: int, c_row: int, d: int, d_row: int, alpha: int) -> int:
    multiply(records, products, m, n, c, c_row, d, d_row, np.float32(number(alpha, 0.0)), 4)
    return 0


@kernel
def multiply_f64(records: int, products: int, m: int, n: int, c: int, c_row: int, d: int, d_row: int, alpha: int) -> int:
    multiply(records, products, m, n, c, c_row, d, d_row, number(alpha, 0.0), 8)
    return 0


@kernel
def dots_f32(records: int, products: int, m: int, n: int, c: int, c_row: int, d: int, d_row: int, alpha: int) -> int:
    multiply_vector(records, products, m, c, c_row, d, d_row, np.float32(number(alpha, 0.0)))
    return 0


@kernel
def dots_f64(records: int, products: int, m: int, n: int, c: int, c_row: int, d: int, d_row: int, alpha: int) -> int:
    multiply_vector(records, products, m, c, c_row, d, d_row, number(alpha, 0.0))
    return 0


@kernel
def product(code_at: int, p: int, bases_at: int, slots_at: int, scratch: int) -> int:
    """The instruction whose payload is at word p, and its phases."""
    code, bases, records = words(code_at), words(bases_at), scratch
    # dtype, alpha, batch rank, batch elements, M, N, products, whether D is added, phases, words, kernel, batch dims..
    item = 4 if code[p] == 0 else 8
    batch, batches, m, n, products, added = code[p + 2], code[p + 3], code[p + 4], code[p + 5], code[p + 6], code[p + 7]
    dims = p + 11
    size = 4 + batch
    operands = dims + batch
    c_at = operands + products * (2 + 2 * size)
    for index in range(batches):
        c = place(code, c_at, bases, index, batch, dims)
        c_row, d, d_row = code[c_at + 2], 0, 0
        if added:
            q = c_at + size
            d, d_row = place(code, q, bases, index, batch, dims), code[q + 2]
            if code[q + 3] != item:
                call(code[TAKE], (item, c, d, c_row, item, d_row, code[q + 3], m, n))
                d, d_row = c, c_row
        q = operands
        for k in range(products):
            a, b = q + 2, q + 2 + size
            record = records + k * 8 * RECORD
            b_row, b_from = code[b + 2], place(code, b, bases, index, batch, dims)
            if code[b + 3] != item:
                # B along n in steps: a dense copy, made anew only for another B
                packed, b_row = code[q + 1] + records, n * item
                if index == 0 or load(records, PACKED - 4 + k, index) != b_from:
                    call(code[TAKE], (item, packed, b_from, b_row, item, code[b + 2], code[b + 3], code[q], n))
                    store(records, PACKED - 4 + k, b_from)
                b_from = packed
            store(record, 0, place(code, a, bases, index, batch, dims))
            store(record, 1, b_from)
            store(record, 2, code[q])
            store(record, 3, code[a + 2])
            store(record, 4, code[a + 3])
            store(record, 5, b_row)
            q += 2 + 2 * size
        call(code[code[p + 10]], (records, products, m, n, c, c_row, d, d_row, code[p + 1]))
    q = p + code[p + 9]
    for _ in range(code[p + 8]):
        call(code[PHASE], (code_at, q, bases_at, slots_at, scratch))
        q += code[q]
    return 0
