"""The order of a mixture: all groups evenly through the whole of it, and curricula by length."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CYCLES = 8  # of Grow-P2


def progress(lengths: Array, phase: float = 0.5) -> Array:
    """For each document of a sequence, how far the sequence is at it: the share of the tokens up to a point in the
    document (phase 0: its end, 0.5: its middle). float64 in (0, 1]."""
    ends = np.cumsum(lengths)
    return (ends - lengths * phase) / ends[-1] if len(ends) else ends.astype(np.float64)


def interleave(lengths: Sequence[Array], phases: Sequence[float]) -> Array:
    """The order that merges sequences of documents (their lengths in tokens), each evenly from begin to end: wherever
    all are as far, each has given its share of the tokens within one document. int64: places in the concatenation. The
    order inside each sequence stays. Different phases in [0, 1) keep sequences of a single document apart."""
    places = [progress(one, phase) for one, phase in zip(lengths, phases, strict=True)]
    return np.argsort(np.concatenate(places), kind="stable")


def octaves(lengths: Array) -> Array:
    """Of each length its power of two, rounded down (int32): 255 -> 7, 256 -> 8."""
    exponents: Array = np.frexp(lengths.astype(np.float64))[1] - 1
    return exponents


def by_length(lengths: Array) -> Array:
    """Shorter powers of two first; inside one the order stays, so that its sources stay mixed."""
    return np.argsort(octaves(lengths).astype(np.uint8), kind="stable")


def grow_p2(lengths: Array, cycles: int = CYCLES) -> Array:
    """Dataset Decomposition's curriculum (2405.13226): each cycle has the same share of every power of two, and draws
    from one that is not used up with a chance of (its tokens) x (odds that halve from each power of two to the next:
    32, 16, 8, 4, 2, 1). So short documents are used up first, then longer ones, `cycles` times. Not drawn but laid out
    as expected: when one with odds o is used up, 1/o of the longest is."""
    powers = octaves(lengths)
    place = np.empty(len(lengths))
    for power in np.unique(powers):
        members = np.flatnonzero(powers == power)
        cycle, within = np.divmod(progress(lengths[members]) * cycles, 1)
        place[members] = cycle + within * 2.0 ** (power - powers.max())
    return np.argsort(place, kind="stable")


CURRICULA = {"by_length": by_length, "grow_p2": grow_p2}
