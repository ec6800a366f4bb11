"""What Untie-the-Knots and CIP share: documents cut into parts, the table of parts, and the way back.

A document is an int32 array with whatever ends it: its end-of-document token is its last token and stays in its last
part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens start to end of a row are part `part` of its document `doc`, both counted from 0. `id`: its name in
    backtraces, empty where it has none."""

    doc: int
    part: int
    start: int
    end: int
    id: str = ""


@dataclass(frozen=True, slots=True)
class MixedRow:
    """`loss_mask` [n] says which tokens are predicted with loss: labels are `input_ids` [n] where it is true and -100
    elsewhere. The first is never: nothing predicts it. `parts` stand in the order of the row."""

    input_ids: Tokens
    loss_mask: NDArray[np.bool_]
    parts: list[Part]


def row_random(scheme: str, seed: int, row: int) -> Random:
    """All chances of one row. Seeded by text, of which Python hashes 512 bits: no two rows or seeds share a stream."""
    return Random(f"{scheme} {seed} {row}")


def cut(length: int, parts: int, random: Random) -> list[tuple[int, int]]:
    """(start, end) of `parts` parts, cut at distinct random points; one part where the document has fewer tokens."""
    if length < parts:
        return [(0, length)]
    points = [0, *sorted(random.sample(range(1, length), parts - 1)), length]
    return list(pairwise(points))


def restore(input_ids: Tokens, parts: Sequence[Part]) -> list[Tokens]:
    """The documents of a row, in their order."""
    pieces: dict[int, list[Tokens]] = {}
    for part in sorted(parts, key=lambda one: (one.doc, one.part)):
        pieces.setdefault(part.doc, []).append(input_ids[part.start : part.end])
    return [np.concatenate(pieces[doc]) for doc in sorted(pieces)]
