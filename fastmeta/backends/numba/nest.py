"""Loop nests over strided operands, and the order in which their dims are best walked.  Strides in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

ITEM = (4, 8, 4, 1)  # bytes by dtype code


class Nest:
    """Dims, and for every operand a stride per dim."""

    def __init__(self, dims: Sequence[int]) -> None:
        self.dims = list(dims)
        self.strides: list[list[int]] = []

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def elements(self) -> int:
        return prod(self.dims)

    def add(self, strides: Sequence[int], dtype: int) -> None:
        """An operand, its strides in elements; a stride that is never taken counts as 0."""
        taken = self.elements > 0
        self.strides.append([s * ITEM[dtype] if taken and n > 1 else 0 for n, s in zip(self.dims, strides, strict=True)])

    def drop_ones(self) -> None:
        kept = [d for d, n in enumerate(self.dims) if n != 1]
        self.dims = [self.dims[d] for d in kept]
        self.strides = [[s[d] for d in kept] for s in self.strides]

    def exchange(self, d: int, e: int) -> None:
        for row in (self.dims, *self.strides):
            row[d], row[e] = row[e], row[d]

    def sort(self) -> None:
        """Outermost the largest strides, by the votes of the operands; ties leave the order."""

        def outer_wrong(d: int) -> bool:
            pairs = [(abs(s[d]), abs(s[d + 1])) for s in self.strides]
            return sum((x < y) - (x > y) for x, y in pairs if x and y) > 0

        for d in range(1, self.rank):
            e = d - 1
            while e >= 0 and outer_wrong(e):
                self.exchange(e, e + 1)
                e -= 1

    def merge(self) -> None:
        """Neighbours that all operands walk as one become one."""
        for d in range(self.rank - 2, -1, -1):
            n = self.dims[d + 1]
            if all(s[d] == s[d + 1] * n for s in self.strides):
                self.dims[d : d + 2] = [self.dims[d] * n]
                for s in self.strides:
                    s[d : d + 2] = [s[d + 1]]

    def merge_rows(self) -> None:
        """All dims but the last become one, if all operands walk them so."""
        whole = Nest(self.dims[:-1])
        whole.strides = [s[:-1] for s in self.strides]
        whole.drop_ones()
        whole.merge()
        if whole.rank == 1:
            self.dims = [*whole.dims, self.dims[-1]]
            self.strides = [[*w, s[-1]] for w, s in zip(whole.strides, self.strides, strict=True)]
