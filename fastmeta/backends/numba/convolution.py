"""Runs the CONV instruction: maps padded into scratch some images at a time, and windows as products with accumulating sums.

A row of a result is one product per row of taps: in the padded copy the columns and channels under a row of taps follow
each other, from pixel to pixel a stride further, and weights [KW * C, O] are the matrix as it stands.  The input gradient
is the same on maps with zeros between their pixels and turned weights; the weight gradient sums over rows of pixels.
"""

from __future__ import annotations

from typing import Any

from fastmeta.backends.numba.kernels import MULTIPLY_F32, PHASE, ROWS, TAKE, kernel
from fastmeta.backends.numba.memory import call, clear, move, store, words
from fastmeta.backends.numba.scalars import function
from fastmeta.backends.numba.steps import HEAD_WORDS
from fastmeta.backends.numba.writer import RECORD

ONE = 0x3FF0000000000000  # the bits of the double 1
# Words of a payload: dtype, kind, then these, then products x [A, B], the target, CIN, and phases x [rowwise, words..]
# An operand is [base, offset, strides over images, rows and columns in bytes].
(N, H, W, C, KH, KW, OUT, OH, OW, STRIDE_H, STRIDE_W, PAD_TOP, PAD_LEFT, PRODUCTS, ADDED, PHASES, AT_PHASES,
 UNIT, AT_MAPS, AT_WEIGHTS, AT_TILES) = range(2, 23)  # fmt: skip
OPERANDS, OPERAND = 23, 5


@function
def pad_map(
    to: int, source: int, row: int, column: int, height: int, width: int, rows: int, columns: int,
    top: int, left: int, spread_h: int, spread_w: int, pixel: int,
) -> None:  # fmt: skip
    """A map in rows x columns pixels of `pixel` bytes: from (top, left) on, its pixels `spread` apart, zeros elsewhere."""
    first = min(max(left, 0), columns)
    last = min(max(left + width, first), columns)
    for r in range(rows):
        line, h = to + r * columns * pixel, r - top
        if h < 0 or h % spread_h or h // spread_h >= height:
            clear(line, columns * pixel)
            continue
        from_row = source + h // spread_h * row
        if spread_w == 1:
            clear(line, first * pixel)
            clear(line + last * pixel, (columns - last) * pixel)
            from_row += (first - left) * column
            if column == pixel:
                move(line + first * pixel, from_row, (last - first) * pixel)
            else:
                for k in range(last - first):
                    move(line + (first + k) * pixel, from_row + k * column, pixel)
        else:
            clear(line, columns * pixel)
            for w in range(width):
                at = left + w * spread_w
                if 0 <= at < columns:
                    move(line + at * pixel, from_row + w * column, pixel)


@function
def pad_maps(code: Any, p: int, bases: Any, maps: int, image: int, images: int, rows: int, columns: int, item: int) -> None:
    """The maps of some images, by product."""
    turned = code[p + 1] == 1
    height, width = (code[p + OH], code[p + OW]) if turned else (code[p + H], code[p + W])
    depth = code[p + OUT] if turned else code[p + C]
    top, left = code[p + PAD_TOP], code[p + PAD_LEFT]
    spread_h, spread_w = 1, 1
    if turned:
        top, left = code[p + KH] - 1 - top, code[p + KW] - 1 - left
        spread_h, spread_w = code[p + STRIDE_H], code[p + STRIDE_W]
    size = rows * columns * depth * item
    for k in range(code[p + PRODUCTS]):
        q = p + OPERANDS + 2 * OPERAND * k
        for i in range(images):
            source = bases[code[q]] + code[q + 1] + (image + i) * code[q + 2]
            pad_map(
                maps + (k * images + i) * size, source, code[q + 3], code[q + 4], height, width, rows, columns,
                top, left, spread_h, spread_w, depth * item,
            )  # fmt: skip


@function
def turn_weights(code: Any, p: int, bases: Any, to: int, item: int) -> None:
    """Each tap [C, O] as [O, C], the taps backwards."""
    taps, size = code[p + KH] * code[p + KW], code[p + C] * code[p + OUT] * item
    for k in range(code[p + PRODUCTS]):
        q = p + OPERANDS + 2 * OPERAND * k + OPERAND
        source = bases[code[q]] + code[q + 1]
        for tap in range(taps):
            place = to + (k * taps + taps - 1 - tap) * size
            call(code[TAKE], (item, place, source + tap * size, code[p + C] * item, item, item, code[p + OUT] * item, code[p + OUT], code[p + C]))


@function
def added_to(code: Any, p: int, bases: Any) -> int:
    """Where what is added to the target is, in the target's layout; 0 where there is nothing."""
    cin = p + OPERANDS + OPERAND * (2 * code[p + PRODUCTS] + 1)
    return bases[code[cin]] + code[cin + 1] if code[p + ADDED] else 0


@function
def sum_pixels(code: Any, p: int, bases: Any, records: int, maps: int, weights: int, image: int, images: int, item: int) -> None:
    """Kinds 0 and 1: the pixels of some images of the target, a row at a time."""
    turned = code[p + 1] == 1
    taps, across = code[p + KH], code[p + KW]
    height, width = (code[p + H], code[p + W]) if turned else (code[p + OH], code[p + OW])
    depth, channels = (code[p + OUT], code[p + C]) if turned else (code[p + C], code[p + OUT])
    step_h, step_w = (1, 1) if turned else (code[p + STRIDE_H], code[p + STRIDE_W])
    rows, columns = (height - 1) * step_h + taps, (width - 1) * step_w + across
    pad_maps(code, p, bases, maps, image, images, rows, columns, item)
    products = code[p + PRODUCTS]
    line, size = columns * depth * item, rows * columns * depth * item
    target = p + OPERANDS + 2 * OPERAND * products
    to = bases[code[target]] + code[target + 1]
    start = image * height * width * channels * item
    added = added_to(code, p, bases)
    for i in range(images):
        for r in range(height):
            n = 0
            for k in range(products):
                q = p + OPERANDS + 2 * OPERAND * k + OPERAND
                taps_at = weights + k * taps * across * depth * channels * item if turned else bases[code[q]] + code[q + 1]
                for t in range(taps):
                    record = records + n * 8 * RECORD
                    store(record, 0, maps + (k * images + i) * size + (r * step_h + t) * line)
                    store(record, 1, taps_at + t * across * depth * channels * item)
                    store(record, 2, across * depth)
                    store(record, 3, step_w * depth * item)
                    store(record, 4, item)
                    store(record, 5, channels * item)
                    n += 1
            d = added + start if added else 0
            call(code[MULTIPLY_F32 + code[p]], (records, n, width, channels, to + start, channels * item, d, channels * item, ONE))
            start += width * channels * item


@function
def sum_taps(code: Any, p: int, bases: Any, records: int, maps: int, image: int, images: int, item: int) -> None:
    """Kind 2: what some images add to the target, a row of taps at a time."""
    taps, across, depth, channels = code[p + KH], code[p + KW], code[p + C], code[p + OUT]
    height, width, step_h, step_w = code[p + OH], code[p + OW], code[p + STRIDE_H], code[p + STRIDE_W]
    rows, columns = (height - 1) * step_h + taps, (width - 1) * step_w + across
    pad_maps(code, p, bases, maps, image, images, rows, columns, item)
    products = code[p + PRODUCTS]
    line, size = columns * depth * item, rows * columns * depth * item
    target = p + OPERANDS + 2 * OPERAND * products
    to = bases[code[target]] + code[target + 1]
    added = to if image else added_to(code, p, bases)
    for t in range(taps):
        n = 0
        for k in range(products):
            q = p + OPERANDS + 2 * OPERAND * k + OPERAND
            for i in range(images):
                for r in range(height):
                    record = records + n * 8 * RECORD
                    store(record, 0, maps + (k * images + i) * size + (r * step_h + t) * line)
                    store(record, 1, bases[code[q]] + code[q + 1] + (image + i) * code[q + 2] + r * code[q + 3])
                    store(record, 2, width)
                    store(record, 3, item)
                    store(record, 4, step_w * depth * item)
                    store(record, 5, code[q + 4])
                    n += 1
        part = across * depth * channels * item
        d = added + t * part if added else 0
        call(code[MULTIPLY_F32 + code[p]], (records, n, across * depth, channels, to + t * part, channels * item, d, channels * item, ONE))


@function
def run_images(code_at: int, code: Any, q: int, bases_at: int, slots_at: int, tiles: int, image: int, images: int, n: int) -> None:
    """A phase on some images of n: of its rows where they are all one dim, else of its outer iterations."""
    outer = 1
    for d in range(code[q + 6]):
        outer *= code[q + 2 + HEAD_WORDS + d]
    rows = code[q + 7]
    if code[q + 6] == 0:
        call(code[ROWS], (code_at, q + 2, bases_at, slots_at, tiles, 0, 1, rows // n * image, rows // n * (image + images)))
    else:
        each_image = outer // n
        call(code[ROWS], (code_at, q + 2, bases_at, slots_at, tiles, each_image * image, each_image * (image + images), 0, rows))


@kernel
def convolution(code_at: int, p: int, bases_at: int, slots_at: int, scratch: int) -> int:
    """The instruction whose payload is at word p, and its phases."""
    code, bases = words(code_at), words(bases_at)
    kind, item, unit = code[p + 1], 4 if code[p] == 0 else 8, code[p + UNIT]
    records, maps, weights, tiles = scratch, scratch + code[p + AT_MAPS], scratch + code[p + AT_WEIGHTS], scratch + code[p + AT_TILES]
    if kind == 1:
        turn_weights(code, p, bases, weights, item)
    q = p + code[p + AT_PHASES]
    for _ in range(code[p + PHASES]):
        if code[q]:
            call(code[ROWS], (code_at, q + 2, bases_at, slots_at, tiles, 0, 0, 0, 0))
        q += code[q + 1]
    for image in range(0, code[p + N], unit):
        images = min(unit, code[p + N] - image)
        if kind == 2:
            sum_taps(code, p, bases, records, maps, image, images, item)
        else:
            sum_pixels(code, p, bases, records, maps, weights, image, images, item)
        q = p + code[p + AT_PHASES]
        for _ in range(code[p + PHASES]):
            if code[q]:
                run_images(code_at, code, q, bases_at, slots_at, tiles, image, images, code[p + N])
            q += code[q + 1]
    q = p + code[p + AT_PHASES]
    for _ in range(code[p + PHASES]):
        if not code[q]:
            call(code[PHASE], (code_at, q + 2, bases_at, slots_at, tiles))
        q += code[q + 1]
    return 0
