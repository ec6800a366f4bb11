"""Cutting samples into pieces. Every token of a sample that is in a piece is in one, in order from the front."""

from typing import NamedTuple

import numpy as np

from pipelines.packing.arrays import Array, offsets, ranges
from schemas.packing import Packing


class Pieces(NamedTuple):
    """int64 (pieces,) each: number of the sample, first token in it, tokens."""

    sample: Array
    start: Array
    length: Array


def cut_every(size: int, places: Array, lengths: Array) -> tuple[Pieces, Array]:
    """Samples that lie from `places` on in a stream, cut where the stream is at a multiple of `size`; and for each
    piece, in which stretch of the stream it lies."""
    first = places // size
    counts = (places + lengths - 1) // size - first + 1
    sample, stretch = np.repeat(np.arange(len(lengths)), counts), ranges(first, counts)
    begin = np.maximum(stretch * size, places[sample])
    end = np.minimum((stretch + 1) * size, (places + lengths)[sample])
    return Pieces(sample, begin - places[sample], end - begin), stretch


def decompose(lengths: Array, config: Packing, rng: np.random.Generator) -> Pieces:
    """Dataset decomposition (Pouransari et al. 2024, arXiv:2405.13226, section 2): from the front the largest piece of
    2^k + 1 tokens (2^k predictions) with min_exponent <= k <= max_exponent; the rest that holds none is left out.

    `randomize`: while 2^(max_exponent + 1) + 1 tokens or more are left, k is drawn with a chance in proportion to
    2^-k, so that each size has as many tokens."""
    low, high = config.min_exponent, config.max_exponent
    left = lengths.copy()
    found: list[tuple[Array, Array]] = []  # (samples, size of a piece of each)
    exponents = np.arange(low, high + 1)
    chances = 2.0 ** (high - exponents)
    while config.randomize and len(long := np.flatnonzero(left > 2 ** (high + 1))):
        sizes = 2 ** rng.choice(exponents, len(long), p=chances / chances.sum()) + 1
        found.append((long, sizes))
        left[long] -= sizes
    for size in (2 ** exponents[::-1] + 1).tolist():
        times, left = np.divmod(left, size)  # below max_exponent at most once: two would hold the next larger size
        some = np.repeat(np.arange(len(lengths)), times)
        found.append((some, np.full(len(some), size)))
    sample, length = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(sample, kind="stable")
    sample, length = sample[order], length[order]
    ends = offsets(length)
    first = np.searchsorted(sample, sample)  # of each piece, the first piece of its sample
    return Pieces(sample, ends[:-1] - ends[first], length)
