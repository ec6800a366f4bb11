"""Best fit decreasing (Ding et al. 2024, arXiv:2404.10830): each piece, longest first, into the fullest row it fits in.

Lengths are whole numbers, so neither pieces nor rows need to be looked at one by one. Of c pieces of the same length s,
the first goes into the row with the least free space f >= s; that row is then the fullest that fits as long as s fits.
So it takes f // s pieces at once, as do all rows with as much free space. A million pieces need some 40,000 such steps.
"""

from array import array

import numpy as np

from pipelines.packing.arrays import Array, in_order


class _Spaces:
    """Rows by their free space, and which spaces occur: a bit each, in words of 256, with a bit for each word."""

    def __init__(self, most: int) -> None:
        self._rows: dict[int, array[int]] = {}
        self._words = [0] * (most // 256 + 1)
        self._used = 0

    def least(self, size: int) -> int:
        """The least space of `size` or more that occurs; 0 where there is none."""
        number = size >> 8
        word = self._words[number] >> (size & 255) << (size & 255)
        if not word:
            above = self._used >> (number + 1)
            if not above:
                return 0
            number += (above & -above).bit_length()
            word = self._words[number]
        return (number << 8) + (word & -word).bit_length() - 1

    def take(self, space: int) -> "array[int]":
        """The rows with this much space, which must occur; they are in here no more."""
        number = space >> 8
        self._words[number] ^= 1 << (space & 255)
        if not self._words[number]:
            self._used ^= 1 << number
        return self._rows.pop(space)

    def add(self, space: int, rows: "array[int]") -> None:
        if space in self._rows:
            self._rows[space] += rows
        elif rows and space:
            self._rows[space] = rows
            self._words[space >> 8] |= 1 << (space & 255)
            self._used |= 1 << (space >> 8)


def best_fit(lengths: Array, capacity: int) -> Array:
    """The row of each piece, int64 (n,), for lengths of 1 to `capacity`. Rows are numbered from 0; how many they are
    depends on no order of the pieces."""
    order = in_order(capacity - lengths)
    counts = np.bincount(lengths)
    sizes = np.flatnonzero(counts)[::-1]
    spaces = _Spaces(capacity)
    placed = array("q")  # rows of the pieces in falling order of length
    opened = 0
    for size, count in zip(sizes.tolist(), counts[sizes].tolist(), strict=True):
        while count:
            space = spaces.least(size)
            if space:
                rows = spaces.take(space)
            else:
                space, new = capacity, -(-count // (capacity // size))
                rows = array("q", range(opened, opened + new))
                opened += new
            each = space // size
            full, rest = divmod(min(count, each * len(rows)), each)
            count -= full * each + rest
            if rest:
                last = array("q", [rows.pop()])
                placed += last * rest
                spaces.add(space - rest * size, last)
            if full < len(rows):
                others, rows = rows, rows[len(rows) - full :]
                del others[len(others) - full :]  # from the end, so that they are not copied
                spaces.add(space, others)
            placed += rows * each
            spaces.add(space - each * size, rows)
    result = np.empty(len(lengths), np.int64)
    result[order] = np.frombuffer(placed, np.int64)
    return result
