"""Memory: offsets in one arena for values that live between two instructions, best fit, reused as values die."""

from __future__ import annotations

from bisect import bisect_left

ALIGN = 64


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


class Arena:
    """Hands out and takes back blocks of a growing arena."""

    __slots__ = ("free", "top", "high")

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # (offset, size), sorted, never adjacent
        self.top = 0
        self.high = 0  # what blocks on top of this one reached

    def take(self, size: int) -> int:
        size = aligned(max(size, 1))
        best = -1
        for k, (_, have) in enumerate(self.free):
            if have >= size and (best < 0 or have < self.free[best][1]):
                best = k
        if best >= 0:
            offset, have = self.free.pop(best)
            if have > size:
                self.free.insert(best, (offset + size, have - size))
            return offset
        if self.free and sum(self.free[-1]) == self.top:
            offset, _ = self.free.pop()
        else:
            offset = self.top
        self.top = offset + size
        return offset

    def give(self, offset: int, size: int) -> None:
        size = aligned(max(size, 1))
        k = bisect_left(self.free, (offset, 0))
        if k < len(self.free) and offset + size == self.free[k][0]:
            size += self.free.pop(k)[1]
        if k and sum(self.free[k - 1]) == offset:
            offset, size = self.free[k - 1][0], size + self.free.pop(k - 1)[1]
            k -= 1
        self.free.insert(k, (offset, size))
