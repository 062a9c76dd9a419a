"""Runs phases: for each tile its steps.  The words are those of `fastmeta.backends.numba.steps`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fastmeta.backends.numba.elementwise import _add, apply_floats, apply_integers
from fastmeta.backends.numba.kernels import CONVERT as CONVERT_AT
from fastmeta.backends.numba.kernels import ELEMENTWISE_F32, OPTIONS, REDUCE_F32, kernel
from fastmeta.backends.numba.kernels import TAKE as TAKE_AT
from fastmeta.backends.numba.memory import call, clear, each, load, move, store, words
from fastmeta.backends.numba.scalars import function, larger, smaller
from fastmeta.backends.numba.steps import CONVERT, DENSE, HEAD_WORDS, MAX, OP, STEP_WORDS, SUM, TAKE
from fastmeta.backends.numba.transpose import SIDE, transpose_block

F32, F64, I32, BYTE = np.float32(0), np.float64(0), np.int32(0), np.uint8(0)


# -- planes of rows x columns; strides in bytes


@function
def fill_row(to: int, n: int, value: Any) -> None:
    for k in range(n):
        store(to, k, value)


@function
def take_elements(
    to: int, source: int, to_row: int, to_column: int, row: int, column: int, first: int, last: int, left: int, right: int, like: Any
) -> None:
    for r in range(first, last):
        for c in range(left, right):
            store(to + r * to_row + c * to_column, 0, load(source + r * row + c * column, 0, like))


@function
def take_plane(to: int, source: int, to_row: int, to_column: int, row: int, column: int, rows: int, columns: int, like: Any, item: int) -> None:
    """Copies a plane of any strides."""
    if to_column == item and column == item:
        if to_row == columns * item and row == to_row:
            move(to, source, rows * to_row)
        else:
            for r in range(rows):
                move(to + r * to_row, source + r * row, columns * item)
    elif to_column == item and column == 0 and row == 0 and to_row == columns * item:
        fill_row(to, rows * columns, load(source, 0, like))
    elif to_column == item and column == 0:
        for r in range(rows):
            fill_row(to + r * to_row, columns, load(source + r * row, 0, like))
    elif to_column == item and row == item and item > 1:
        whole_rows, whole_columns = rows // SIDE * SIDE, columns // SIDE * SIDE
        for r in range(0, whole_rows, SIDE):
            for c in range(0, whole_columns, SIDE):
                transpose_block(to + r * to_row + c * item, to_row, source + r * item + c * column, column, like)
        take_elements(to, source, to_row, item, row, column, 0, whole_rows, whole_columns, columns, like)
        take_elements(to, source, to_row, item, row, column, whole_rows, rows, 0, columns, like)
    else:
        take_elements(to, source, to_row, to_column, row, column, 0, rows, 0, columns, like)


@kernel
def take(item: int, to: int, source: int, to_row: int, to_column: int, row: int, column: int, rows: int, columns: int) -> int:
    if item == 4:
        take_plane(to, source, to_row, to_column, row, column, rows, columns, I32, 4)
    elif item == 8:
        take_plane(to, source, to_row, to_column, row, column, rows, columns, 0, 8)
    else:
        take_plane(to, source, to_row, to_column, row, column, rows, columns, BYTE, 1)
    return 0


@njit(**{**OPTIONS, "fastmath": {"reassoc", "contract"}})
def total(x: int, n: int, like: Any) -> Any:
    """The sum of n elements, lane by lane and then over the lanes."""
    s = like
    for k in range(n):
        s += load(x, k, like)
    return s


@function
def combine(mode: int, x: Any, y: Any) -> Any:
    if mode == SUM:
        return type(x)(x + y)
    return larger(x, y) if mode == MAX else smaller(x, y)


@function
def combine_row(mode: int, to: int, x: int, n: int, like: Any) -> None:
    """to[i] = combine(to[i], x[i])."""
    if mode == SUM:
        each(_add, n, to, (to, x), like, like)
    elif mode == MAX:
        each(larger, n, to, (to, x), like, like)
    else:
        each(smaller, n, to, (to, x), like, like)


@function
def reduce_plane(mode: int, to: int, to_row: int, to_column: int, x: int, rows: int, columns: int, like: Any, item: int) -> None:
    """to[r, c] = combine(to[r, c], x[r, c]); x is dense, strides of `to` may be 0."""
    if to_column == item:
        whole = to_row == columns * item
        n = rows * columns if whole else columns
        for r in range(1 if whole else rows):
            combine_row(mode, to + r * to_row, x + r * columns * item, n, like)
        return
    whole = to_column == 0 and to_row == 0
    n = rows * columns if whole else columns
    for r in range(1 if whole else rows):
        at, row = to + r * to_row, x + r * columns * item
        if mode == SUM and to_column == 0:
            store(at, 0, type(like)(load(at, 0, like) + total(row, n, like)))
        else:
            for c in range(n):
                store(at + c * to_column, 0, combine(mode, load(at + c * to_column, 0, like), load(row, c, like)))


# -- casts


@function
def _same(x: Any) -> Any:
    return x


@function
def _is_true(x: Any) -> Any:
    return x != 0


@function
def convert_from(like: Any, kind: int, n: int, to: int, x: int) -> None:
    if kind == 0:
        each(_same, n, to, (x,), like, F32)
    elif kind == 1:
        each(_same, n, to, (x,), like, F64)
    elif kind == 2:
        each(_same, n, to, (x,), like, I32)
    else:
        each(_is_true, n, to, (x,), like, BYTE)


@kernel
def convert(source: int, kind: int, n: int, to: int, x: int) -> int:
    if source == 0:
        convert_from(F32, kind, n, to, x)
    elif source == 1:
        convert_from(F64, kind, n, to, x)
    elif source == 2:
        convert_from(I32, kind, n, to, x)
    else:
        convert_from(BYTE, kind, n, to, x)
    return 0


# -- kernels of a type


@kernel
def elementwise_f32(op: int, n: int, to: int, x: int, y: int, z: int) -> int:
    apply_floats(op, n, to, x, y, z, F32)
    return 0


@kernel
def elementwise_f64(op: int, n: int, to: int, x: int, y: int, z: int) -> int:
    apply_floats(op, n, to, x, y, z, F64)
    return 0


@kernel
def elementwise_i32(op: int, n: int, to: int, x: int, y: int, z: int) -> int:
    apply_integers(op, n, to, x, y, z, I32)
    return 0


@kernel
def reduce_f32(mode: int, to: int, to_row: int, to_column: int, x: int, rows: int, columns: int) -> int:
    reduce_plane(mode, to, to_row, to_column, x, rows, columns, F32, 4)
    return 0


@kernel
def reduce_f64(mode: int, to: int, to_row: int, to_column: int, x: int, rows: int, columns: int) -> int:
    reduce_plane(mode, to, to_row, to_column, x, rows, columns, F64, 8)
    return 0


@kernel
def reduce_i32(mode: int, to: int, to_row: int, to_column: int, x: int, rows: int, columns: int) -> int:
    reduce_plane(mode, to, to_row, to_column, x, rows, columns, I32, 4)
    return 0


# -- phases


@function
def run_steps(code: Any, q: int, count: int, at: Any, rows: int, columns: int) -> None:
    """The steps at word q on one tile; at[slot] is where the tile begins in each slot."""
    n = rows * columns
    for _ in range(count):
        kind, dtype, what = code[q], code[q + 1], code[q + 2]
        to, x = at[code[q + 3]], at[code[q + 4]]
        if kind == OP:
            call(code[ELEMENTWISE_F32 + dtype], (what, n, to, x, at[code[q + 5]], at[code[q + 6]]))
        elif kind == CONVERT:
            call(code[CONVERT_AT], (what, dtype, n, to, x))
        else:
            to_row, to_column, row, column = code[q + 7], code[q + 8], code[q + 9], code[q + 10]
            if to_row == DENSE:
                to_row = columns * to_column
            if row == DENSE:
                row = columns * column
            if kind == TAKE:
                call(code[TAKE_AT], (what, to, x, to_row, to_column, row, column, rows, columns))
            else:
                call(code[REDUCE_F32 + dtype], (what, to, to_row, to_column, x, rows, columns))
        q += STEP_WORDS


@function
def start_value(mode: int, like: Any) -> Any:
    if mode == SUM:
        return like
    return type(like)(-np.inf) if mode == MAX else type(like)(np.inf)


@function
def fill_phase(code: Any, p: int, bases: Any) -> None:
    """Sets the targets of the phase's reductions to their start values."""
    q = p + code[p + 11]
    outer = code[p + 4]
    for _ in range(code[p + 10]):
        slot, dtype, mode, rank = p + HEAD_WORDS + outer + code[q] * (4 + outer), code[q + 1], code[q + 2], code[q + 3]
        target = bases[code[slot]] + code[slot + 1]
        dims, strides = q + 4, q + 4 + rank
        n = code[dims + rank - 1]
        count = 1
        for d in range(rank - 1):
            count *= code[dims + d]
        for k in range(count):
            to, rest = target, k
            for d in range(rank - 2, -1, -1):
                to += rest % code[dims + d] * code[strides + d]
                rest //= code[dims + d]
            if dtype == 0:
                fill_row(to, n, start_value(mode, F32))
            elif dtype == 1:
                fill_row(to, n, start_value(mode, F64))
            elif mode == SUM:
                clear(to, n * 4)
            else:
                fill_row(to, n, np.int32(-(2**31)) if mode == MAX else np.int32(2**31 - 1))
        q += 4 + 2 * rank


@function
def run_tiles(code: Any, p: int, bases: Any, at: Any, scratch: int, outer_first: int, outer_last: int, first: int, last: int) -> None:
    """Rows first .. last of the outer iterations outer_first .. outer_last; targets of reductions are filled already."""
    n_memory, n_tiles, tile_bytes, n_outer = code[p + 1], code[p + 2], code[p + 3], code[p + 4]
    columns, tile_rows, tile_columns, flat = code[p + 6], code[p + 7], code[p + 8], code[p + 9]
    places = p + HEAD_WORDS + n_outer
    size = 4 + n_outer
    for k in range(n_tiles):
        at[n_memory + k] = scratch + k * tile_bytes
    if code[p + 12]:
        for k in range(n_memory):
            at[k] = bases[code[places + k * size]] + code[places + k * size + 1]
        run_steps(code, p + code[p + 13], code[p + 12], at, tile_rows, tile_columns)
    rows = last - first
    if flat:
        columns *= rows
        rows = 1
    if n_outer == 0 and rows <= tile_rows and columns <= tile_columns:  # one tile: counting places would take longer than the steps
        for k in range(n_memory):
            q = places + k * size
            at[k] = bases[code[q]] + code[q + 1] + first * code[q + 2]
        run_steps(code, p + code[p + 15], code[p + 14], at, rows, columns)
        return
    origin = n_memory + n_tiles
    for outer in range(outer_first, outer_last):
        for k in range(n_memory):
            q = places + k * size
            place = bases[code[q]] + code[q + 1] + first * code[q + 2]
            rest = outer
            for d in range(n_outer - 1, -1, -1):
                n = code[p + HEAD_WORDS + d]
                place += rest % n * code[q + 4 + d]
                rest //= n
            at[origin + k] = place
        for row in range(0, rows, tile_rows):
            for column in range(0, columns, tile_columns):
                for k in range(n_memory):
                    q = places + k * size
                    at[k] = at[origin + k] + row * code[q + 2] + column * code[q + 3]
                run_steps(code, p + code[p + 15], code[p + 14], at, min(tile_rows, rows - row), min(tile_columns, columns - column))


@kernel
def rows(code_at: int, p: int, bases_at: int, slots_at: int, scratch: int, outer_first: int, outer_last: int, first: int, last: int) -> int:
    """Rows first .. last of the outer iterations outer_first .. outer_last; with first = last the targets of reductions are filled."""
    code, bases = words(code_at), words(bases_at)
    if first == last:
        fill_phase(code, p, bases)
    else:
        run_tiles(code, p, bases, words(slots_at), scratch, outer_first, outer_last, first, last)
    return 0


@kernel
def phase(code_at: int, p: int, bases_at: int, slots_at: int, scratch: int) -> int:
    """A whole phase."""
    code, bases = words(code_at), words(bases_at)
    fill_phase(code, p, bases)
    count = 1
    for d in range(code[p + 4]):
        count *= code[p + HEAD_WORDS + d]
    if code[p + 5] > 0 and code[p + 6] > 0:
        run_tiles(code, p, bases, words(slots_at), scratch, 0, count, 0, code[p + 5])
    return 0
