"""ProLong-score (arXiv 2405.17915): do chunks of a document help to predict chunks that stand far behind them?

The document's first `window_tokens` are cut into chunks. For pairs of chunks j < i, with PPL(c_i) the perplexity of
chunk i alone and PPL(c_i | c_j) its perplexity right behind chunk j:

    gain        = PPL(c_i) - PPL(c_i | c_j)
    strength    = gain / PPL(c_i); pairs count where it is above 0.1
    distance    = (i - j) / (n - 1)
    specificity = 1 - H(softmax of the gains of row i) / log(number of them)
    score       = sum over the pairs that count of (strength + distance) * specificity of row i

Specificity tells a chunk that some earlier one explains (1) from a chunk that everything explains alike (0), which is
what mere style, boilerplate or a list looks like. What the formulas leave open, and is decided here:

* The first token of c_i is given and never scored, in both perplexities. As in the published code, c_i alone thus
  follows nothing (or the tokenizer's BOS), and no gain comes from a word that the cut divided.
* n is the number of chunks of the window, not of the document: as in the published code a distance means the same
  number of tokens in all documents, and short ones cannot reach the score of long ones.
* Softmax is taken over gains in perplexity, as published. Texts of low perplexity (code, lists) therefore have flat
  rows and low scores: compare within a source.
* Pairs are drawn from all alike, which gives rows of about 2 with 500 pairs and 256 chunks: a row's specificity is
  rough, and that of a row with a single pair is 1, as published. Only the sum of many rows means something. (Fewer rows
  with more pairs each told real texts from joined ones no better, see benchmarks/README.md.)
* Of a document longer than the window the published code draws chunks from everywhere and closes the gaps; here the
  window is its beginning, without gaps.
* Fewer possible pairs than `pairs`: `too_short` (published: 0, as if nothing depended on anything).
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from filters.scorers.core import Reading, Tokens
from filters.scorers.documents import DocumentReader, too_short
from filters.scorers.pool import perplexity, softmax
from schemas.ids import derive_seed

STRENGTH = 0.1  # a pair counts above it

Pair = tuple[int, int]  # (i, j): chunk i after the earlier chunk j


class LongRange(DocumentReader):
    """`options`: those of schemas.scores.LongRange, and the recipe's seed."""

    def longest(self) -> int:
        return len(self._begin) + 2 * int(self._options["chunk_tokens"])

    def line(self, document_id: str, ids: list[int]) -> dict[str, Any]:
        size, window, wanted = (self._options[name] for name in ("chunk_tokens", "window_tokens", "pairs"))
        chunks = [ids[start : start + size] for start in range(0, min(len(ids), window) - size + 1, size)]
        possible = len(chunks) * (len(chunks) - 1) // 2
        if possible < wanted:
            raise too_short(len(ids), f"{possible} pairs of chunks, {wanted} wanted")
        pairs = draw_pairs(len(chunks), wanted, derive_seed(self._options["seed"], document_id, "long_range"))
        return {
            **score(*self._perplexities(chunks, pairs), window // size),
            "n_chunks": len(chunks), "window_tokens": window, "chunk_tokens": size, "lds_model": self._model,
        }  # fmt: skip

    def _perplexities(self, chunks: list[list[int]], pairs: list[Pair]) -> tuple[dict[int, float], dict[Pair, float]]:
        """Of the chunks alone, and behind an earlier one."""
        rows = sorted({i for i, _ in pairs})
        before = [[], *chunks]
        samples = [
            Tokens([*self._begin, *before[j + 1], chunks[i][0]], chunks[i][1:])
            for i, j in [*((i, -1) for i in rows), *pairs]
        ]
        found = [_perplexity(reading) for reading in self._read(samples)]
        return dict(zip(rows, found[: len(rows)], strict=True)), dict(zip(pairs, found[len(rows) :], strict=True))


def _perplexity(reading: Reading) -> float:
    return perplexity(-reading.sum() / len(reading.logps))


def draw_pairs(chunks: int, count: int, seed: int) -> list[Pair]:
    """`count` different pairs, all equally likely. They are numbered row by row: (1, 0), (2, 0), (2, 1), (3, 0) ..."""
    pairs = []
    for number in Random(seed).sample(range(chunks * (chunks - 1) // 2), count):
        i = (1 + math.isqrt(8 * number + 1)) // 2
        pairs.append((i, number - i * (i - 1) // 2))
    return pairs


def specificity(gains: Sequence[float]) -> float:
    """1: one of them stands out, or is the only one; 0: all are alike."""
    if len(gains) == 1:
        return 1.0
    entropy = -math.fsum(share * math.log(share) for share in softmax(gains) if share > 0)
    return min(1.0, max(0.0, 1 - entropy / math.log(len(gains))))


def score(alone: dict[int, float], behind: dict[Pair, float], chunks: int) -> dict[str, Any]:
    """The score and what it is made of: `strength`, `distance` and `specificity` are means over the pairs that count,
    None without any. `chunks`: of the window."""
    gains = {(i, j): alone[i] - ppl for (i, j), ppl in behind.items()}
    rows: dict[int, list[float]] = {}
    for (i, _), gain in gains.items():
        rows.setdefault(i, []).append(gain)
    special = {i: specificity(row) for i, row in rows.items()}
    kept = [
        (gain / alone[i], (i - j) / (chunks - 1), special[i])
        for (i, j), gain in gains.items()
        if gain / alone[i] > STRENGTH
    ]
    strength, distance, specific = (
        (math.fsum(part) / len(kept) for part in zip(*kept, strict=True)) if kept else [None] * 3
    )
    return {
        "lds_score": math.fsum((one + far) * weight for one, far, weight in kept), "n_pairs": len(gains),
        "n_kept": len(kept), "strength": strength, "distance": distance, "specificity": specific,
    }  # fmt: skip
