"""Sets of numbers: bit masks of chunks, and the numbers of accepted letters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


def bits(mask: int) -> Iterator[int]:
    """Positions of the set bits, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def beyond_bytes(first: int, indexes: Iterable[int]) -> bytes:
    """Indexes (all >= first) as a little-endian bitmap whose bit 0 stands for `first`."""
    mask = 0
    for index in indexes:
        mask |= 1 << (index - first)
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def mask_of(first: int, beyond: bytes) -> int:
    """Bit mask of all indexes below `first` and those in the bitmap that beyond_bytes made."""
    return ((1 << first) - 1) | (int.from_bytes(beyond, "little") << first)


class Ranges:
    """A set of whole numbers kept as ranges, so that its memory grows with the gaps and not with the members."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # exclusive

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def add(self, number: int) -> None:
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number < self._ends[at]:
            return
        after = at + 1 < len(self._starts) and self._starts[at + 1] == number + 1
        if at >= 0 and self._ends[at] == number:
            if after:
                self._ends[at] = self._ends.pop(at + 1)
                self._starts.pop(at + 1)
            else:
                self._ends[at] += 1
        elif after:
            self._starts[at + 1] = number
        else:
            self._starts.insert(at + 1, number)
            self._ends.insert(at + 1, number + 1)

    def drop_below(self, number: int) -> None:
        while self._ends and self._ends[0] <= number:
            self._starts.pop(0)
            self._ends.pop(0)
        if self._starts and self._starts[0] < number:
            self._starts[0] = number

    def __len__(self) -> int:
        """Number of ranges."""
        return len(self._starts)
