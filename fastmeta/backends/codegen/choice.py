"""What a team or a lane takes of a product at once, and what a library does: by shapes only, so that bits do not depend on the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from fastmeta.backends.codegen.words import ITEM, Factors, Product

DEEP = 1024  # terms of a segment, at least
MANY_ROWS = 768  # enough for tiles of 128 of them
FEW_TILES, SMALL_RESULT = 16, 2048  # of a task
TEAMS, WAIT, WRITE = 3, 2.0, 3.0  # teams of a processor, about; what waiting weighs; cycles of a number that is written
LIBRARY = 128  # products whose sides are all this long are a library's, where there is one (executor.cu)


class Side(NamedTuple):
    """How a factor lies in memory: `deep`: neighbours in k are neighbours; `vector`: how many can be read at once."""

    deep: bool
    vector: int


def rows_and_cols(p: Product) -> tuple[int, int, int]:
    """Batch elements, rows and columns of the result."""
    if p.kind < 0:
        return prod(p.dims[:-2]), p.dims[-2], p.dims[-1]
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    return (1, n * oh * ow, o) if p.kind == 0 else (1, n * h * w, c) if p.kind == 1 else (1, kh * kw * c, o)


def out_dims(p: Product) -> tuple[int, ...]:
    """The dims of what is written."""
    if p.kind < 0:
        return p.dims
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    return ((n, oh, ow, o), (n, h, w, c), (kh, kw, c, o))[p.kind]


def factor_dims(p: Product, f: Factors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dims of A and B."""
    if p.kind < 0:
        return (*p.dims[:-2], p.dims[-2], f.depth), (*p.dims[:-2], f.depth, p.dims[-1])
    n, h, w, c, kh, kw, o, oh, ow = p.dims[:9]
    x, weights, y = (n, h, w, c), (kh, kw, c, o), (n, oh, ow, o)
    return ((x, weights), (y, weights), (x, y))[p.kind]


def of_library(p: Product) -> bool:
    """Whether a product is large enough for a library."""
    return p.kind < 0 and min(p.dims[-2:]) >= LIBRARY and all(f.depth >= LIBRARY for f in p.factors)


def block(p: Product, sides: Sequence[tuple[Side, Side]], lanes: int) -> tuple[int, int]:
    """Rows and columns that a lane takes of a product that is read where it lies: what costs least, in cycles for each k.

    Lanes of a warp share rows, so a row is read for all of them at once and columns are not: wide blocks of few rows read
    most. The reads and multiplications of a processor's TEAMS teams queue, and a team waits for its own longest lane.
    """
    batch, rows, cols = rows_and_cols(p)

    def cost(m: int, n: int) -> float:
        items = batch * -(-rows // m) * -(-cols // n)
        passes, reads = 0.0, 0.0
        for a, b in sides:
            row = m / a.vector if a.deep else 1 if 1 < m <= a.vector else m
            passes += (row + n) / len(sides)
            reads += (row + (n / b.vector if b.deep else 1 if 1 < n <= b.vector else n)) / len(sides)
        written = WRITE * m * n * len(sides) / max(1, sum(f.depth for f in p.factors))
        queue = -(-items // 32) * (passes + m * n / 4 + written)
        wait = -(-items // lanes) * (reads + m * n + 2 + written)
        return TEAMS * queue + WAIT * wait

    return min(((m, n) for m in (1, 2, 4, 8) for n in (1, 2, 4) if m <= rows and n <= cols), key=lambda mn: cost(*mn), default=(1, 1))


class Shape(NamedTuple):
    """A tile: rows and columns of a lane, lanes along both; segments that k is cut into."""

    rows: int
    cols: int
    high: int
    wide: int
    segments: int = 1

    @property
    def name(self) -> str:
        """In C++."""
        return f"Tile<Factors, {', '.join(str(n) for n in self)}>"

    def tiles(self, rows: int, cols: int) -> int:
        """How many cover a result."""
        return -(-rows // (self.rows * self.high)) * -(-cols // (self.cols * self.wide))


def tile(p: Product) -> Shape | None:
    """The tile of a product that is worth going through shared memory: the highest that wastes no more than a third."""
    batch, rows, cols = rows_and_cols(p)
    depth = max(f.depth for f in p.factors)
    if batch * rows == 0 or cols < 16 or depth < 8 or (rows < 16 and depth < DEEP):
        return None
    wide = 16 if cols > 32 else 8 if cols > 16 else 4
    highest = Shape(8, 4, 16, wide) if ITEM[p.dtype] == 4 and rows >= MANY_ROWS else Shape(4, 4, 16, wide)
    shapes = [highest, *(Shape(4, 4, high, wide) for high in (16, 8, 4) if high * wide >= 32)]
    found = next((s for s in shapes if 2 * s.rows * s.high * -(-rows // (s.rows * s.high)) <= 3 * rows), shapes[-1])
    if of_library(p):  # in the place of one stage
        return found
    # Few tiles of many terms leave a device idle: segments are summed apart, and meet in order.
    enough = FEW_TILES if rows * cols > SMALL_RESULT else 4 * FEW_TILES
    return found._replace(segments=max(1, min(-(-enough // (found.tiles(rows, cols) * batch)), depth // DEEP)))
