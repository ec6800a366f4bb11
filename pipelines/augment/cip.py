"""Chunk-interleaved pretraining (CIP-n of LongSkywork, arXiv 2406.00605): D1a D2a D3a D1b D2b D3b."""

from collections.abc import Sequence

import numpy as np

from pipelines.augment.parts import MixedRow, Part, Tokens, cut, row_random
from schemas.augment import Cip


def interleave(documents: Sequence[Tokens], config: Cip, *, seed: int, row: int) -> MixedRow:
    """All first parts, then all second parts, and so on, documents in their order. Nothing is added and nothing lost; a
    document with fewer tokens than parts stands whole among the first parts."""
    random = row_random("cip", seed, row)
    cuts = [cut(len(document), config.parts, random) for document in documents]
    pieces: list[Tokens] = []
    parts: list[Part] = []
    length = 0
    for number in range(config.parts):
        for doc, spans in enumerate(cuts):
            if number < len(spans):
                start, end = spans[number]
                pieces.append(documents[doc][start:end])
                parts.append(Part(doc, number, length, length + end - start))
                length += end - start
    return MixedRow(np.concatenate(pieces), np.arange(length) > 0, parts)
