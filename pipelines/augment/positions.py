"""Short rows at long positions: where each token of a document goes, and where it pretends to stand.

Works on lengths: tokens and labels are both taken by `take`. One such row is one sample: positions do not restart at
0, so a collator that finds borders by position resets would misread it. It goes alone, or with cu_seqlens.
"""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.augment.parts import row_random
from schemas.augment import Offset, Pose, Positions
from schemas.errors import UserError


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """`take` [n]: places in the document, rising. `position_ids` [n]: strictly rising, below the target length. The
    other columns are the recipe's: target_length, scheme (`augment`), seed."""

    take: NDArray[np.int64]
    position_ids: NDArray[np.int64]


def place(length: int, config: Positions, *, row_length: int, seed: int, row: int) -> PlacedRow:
    """At most `row_length` tokens of a document of `length` tokens. UserError where they exceed the target."""
    if not length:
        raise ValueError(f"row {row}: a document without tokens has no positions")
    size = min(length, row_length)
    room = config.target_length - size
    if room < 0:
        raise UserError(f"{config.augment}: target_length {config.target_length} is below the {size} tokens of a row")
    random = row_random(config.augment, seed, row)
    take = np.arange(size)
    if isinstance(config, Pose):
        first = random.randint(1, (size + 1) // 2)  # as published: the first chunk is at most half
        starts, offsets = [0, first], [0, random.randint(0, room)]
        if config.content == "later":
            take[first:] += random.randint(0, length - size)
    elif isinstance(config, Offset):
        starts, offsets = [0], [random.randint(0, room)]
    else:
        chunks = min(config.chunks, size)
        starts = [number * size // chunks for number in range(chunks)]
        offsets = _in_slices(room, chunks, random)
    sizes = np.diff([*starts, size])
    return PlacedRow(take, np.arange(size) + np.repeat(offsets, sizes))


def _in_slices(room: int, chunks: int, random: Random) -> list[int]:
    """One offset for each chunk, from neighbouring ranges that make up 0 to `room`: chunks keep their order, and over
    many rows they cover every position."""
    edges = [number * room // chunks for number in range(chunks + 1)]
    return [random.randint(low, high) for low, high in pairwise(edges)]
