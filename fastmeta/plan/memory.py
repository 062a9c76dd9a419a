"""Memory: where in one arena the values lie that live between two instructions; values that never meet share memory.

While a plan is written a value has a provisional address, and the arena notes from when to when it lives.  Once all
that is known places are found, and the offsets of these places take the addresses' place in the words of the plan.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

ALIGN = 64
PROVISIONAL = 1 << 50  # addresses are in [PROVISIONAL, 2 PROVISIONAL): other words are far below (lengths, offsets) or far above (floats)
LOSS = 1 << 20  # bytes between values that nothing uses: more are worth a second, slower search for places
FEW = 256  # values, for which that search takes no time


def aligned(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


class Addresses:
    """Provisional addresses, none given twice, and the offsets found for them."""

    def __init__(self) -> None:
        self.next = PROVISIONAL
        self.known: list[tuple[int, int]] = []

    def new(self, size: int) -> int:
        self.next += size
        return self.next - size

    def settle(self, words: np.ndarray) -> np.ndarray:
        """The words with offsets for addresses."""
        found = np.array(sorted(self.known), np.int64).reshape(-1, 2)
        at = np.nonzero((words >= PROVISIONAL) & (words < 2 * PROVISIONAL))[0]
        first = np.searchsorted(found[:, 0], words[at], "right") - 1
        words[at] += found[first, 1] - found[first, 0]
        return words


class Value:
    """Memory of one value, or of all that a loop's body needs, and the moments between which it is held."""

    __slots__ = ("address", "size", "begin", "end", "body")

    def __init__(self, address: int, size: int, begin: int, body: Arena | None) -> None:
        self.address, self.size, self.begin, self.end, self.body = address, size, begin, -1, body


class Arena:
    """The memory of a block: who holds how much from when to when, then where."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self.values: list[Value] = []
        self.held: dict[int, Value] = {}
        self.moments: list[tuple[int, bool]] = []  # (value, it is taken)
        self.offsets: list[int] = []

    def take(self, size: int, body: Arena | None = None) -> int:
        """The address of ``size`` bytes, held from now on."""
        size = aligned(max(size, 1))
        address = self.addresses.new(size)
        self.held[address] = Value(address, size, len(self.moments), body)
        self.moments.append((len(self.values), True))
        self.values.append(self.held[address])
        return address

    def give(self, address: int) -> None:
        value = self.held.pop(address)
        value.end = len(self.moments)
        self.moments.append((self.moments[value.begin][0], False))

    def place(self) -> int:
        """Finds places for all values; returns the size of the arena."""
        for address in list(self.held):
            self.give(address)
        self.offsets, size = self._in_turn()
        now = most = 0
        for k, taken in self.moments:
            now += self.values[k].size if taken else -self.values[k].size
            most = max(most, now)
        if size - most > (LOSS if len(self.values) > FEW else 0):
            offsets, less = self._largest_first()
            if less < size:
                self.offsets, size = offsets, less
        return size

    def settle(self, start: int = 0) -> None:
        """Makes the places known, the arena beginning at ``start``."""
        for value, offset in zip(self.values, self.offsets, strict=True):
            if value.body is None:
                self.addresses.known.append((value.address, start + offset))
            else:
                value.body.settle(start + offset)

    def _in_turn(self) -> tuple[list[int], int]:
        """Each value in the smallest gap that it fits into when it is taken."""
        offsets = [0] * len(self.values)
        gaps: list[tuple[int, int]] = []  # (offset, size), sorted, never adjacent
        top = 0
        for k, taken in self.moments:
            need = self.values[k].size
            if not taken:
                offset = offsets[k]
                at = bisect_left(gaps, (offset, 0))
                if at < len(gaps) and offset + need == gaps[at][0]:
                    need += gaps.pop(at)[1]
                if at and sum(gaps[at - 1]) == offset:
                    offset, before = gaps.pop(at - 1)
                    need, at = before + need, at - 1
                gaps.insert(at, (offset, need))
                continue
            best = min((g for g in range(len(gaps)) if gaps[g][1] >= need), key=lambda g: gaps[g][1], default=None)
            if best is None:
                offsets[k] = gaps.pop()[0] if gaps and sum(gaps[-1]) == top else top
                top = offsets[k] + need
                continue
            offsets[k], have = gaps.pop(best)
            if have > need:
                gaps.insert(best, (offsets[k] + need, have - need))
        return offsets, top

    def _largest_first(self) -> tuple[list[int], int]:
        """Each value at the lowest place that no larger value needs while it is held."""
        order = sorted(range(len(self.values)), key=lambda k: (-self.values[k].size, k))
        rows = np.array([(v.begin, v.end, 0, v.size) for v in (self.values[k] for k in order)], np.int64)
        for n, (begin, end, _, size) in enumerate(rows.tolist()):
            met = rows[:n][(rows[:n, 0] < end) & (rows[:n, 1] > begin)]
            offset = 0
            for _, _, low, need in met[np.argsort(met[:, 2], kind="stable")].tolist():
                if low - offset >= size:
                    break
                offset = max(offset, low + need)
            rows[n, 2] = offset
        offsets = [0] * len(order)
        for k, offset in zip(order, rows[:, 2].tolist(), strict=True):
            offsets[k] = offset
        return offsets, int((rows[:, 2] + rows[:, 3]).max())
