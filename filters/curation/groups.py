"""What is equal to what: things by a hash of each, without a table of hashes."""

from dataclasses import dataclass

import numpy as np

from filters.curation.batch import Windows
from filters.curation.tokens import Array
from filters.curation.words import mixed

_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Groups:
    """Things that are equal stand together, in their order. `places`: which thing (things,). `starts`: bool (things,),
    where a group begins."""

    places: Array
    starts: Array

    def repeated(self) -> "Groups":
        """Without groups of one."""
        several = ~self.starts
        several[:-1] |= ~self.starts[1:]
        kept = np.flatnonzero(several)
        return Groups(self.places[kept], self.starts[kept])

    def within(self, windows: Array) -> "Groups":
        """Equal and of one window, which is given for each thing."""
        of = windows[self.places]
        starts = self.starts.copy()
        starts[1:] |= of[1:] != of[:-1]
        return Groups(self.places, starts)


def grouped(keys: Array) -> Groups:
    """Sorts keys of 64 bits, their lowest bits replaced by the place: many times faster than a sort of places. Of a
    million keys, 44 bits are compared."""
    places = np.uint64((1 << max(1, len(keys) - 1).bit_length()) - 1)
    packed = keys & ~places
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    starts = np.ones(len(keys), bool)
    np.greater(packed[1:] ^ packed[:-1], places, out=starts[1:])
    packed &= places
    return Groups(packed.view(np.int64), starts)


@dataclass(frozen=True, slots=True)
class Copies:
    """Things that have an equal one: which of them in their text, and which in their window. `of`: the window of each
    thing."""

    in_text: Array
    in_window: Array
    of: Array
    windows: Windows

    def sums(self, sizes: Array, whole: Array) -> tuple[Array, Array]:
        """Their sizes' share in a whole that is given by window: of each text and of each window."""
        count, firsts = len(self.windows), self.windows.firsts
        text = np.bincount(self.of[self.in_text], sizes[self.in_text], minlength=count)
        window = np.bincount(self.of[self.in_window], sizes[self.in_window], minlength=count)
        return np.add.reduceat(text, firsts) / np.add.reduceat(whole, firsts), window / whole


def copies(keys: Array, of: Array, windows: Windows, first_too: bool = False) -> Copies:
    """Things that stand behind an equal one; `first_too`: also the ones in front. `of`: the window of each thing."""
    groups = grouped(mixed(keys + windows.texts()[of].astype(np.uint64) * _ODD)).repeated()
    found = []
    for its in [groups, groups.within(of).repeated()] if windows.several() else [groups]:
        found.append(its.places if first_too else its.places[~its.starts])
    return Copies(found[0], found[-1], of, windows)
