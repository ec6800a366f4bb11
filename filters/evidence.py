"""Scope and dispersion of a sample's evidence (after Goldman et al., arXiv 2407.00402): how much of the context the
answer needs, and how hard that is to find. No model.

Amounts are counted in words of `filters.matching` (each CJK character is one), places in characters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from filters.bm25 import BM25
from filters.matching import fold

CHUNK = 800  # characters of a chunk that BM25 ranks, some 130 English words

Spans = Sequence[tuple[int, int]]


def evidence_columns(context: str, spans: Spans, question: str | None, documents: int | None) -> dict[str, Any]:
    """The columns of scores_evidence. `spans`: characters [start, end) of the context that hold evidence, at least one;
    those that overlap or touch count as one. `documents`: how many hold evidence. ValueError for a span outside."""
    merged = merge(spans, len(context))
    evidence = [context[start:end] for start, end in merged]
    scope, first, last = len(_words(" ".join(evidence))), merged[0][0], merged[-1][1]
    gaps = [after[0] - before[1] for before, after in pairwise(merged)]
    chunks = cut(context)
    return {
        "scope_tokens": scope,
        "n_spans": len(merged),
        "scope_share": sum(end - start for start, end in merged) / len(context),
        "span_extent": (last - first) / len(context),
        "mean_gap": sum(gaps) / len(gaps) / len(context) if gaps else 0.0,
        "n_documents": documents,
        "depth": (first + last) / 2 / len(context),
        "bm25_rank": None if question is None else bm25_rank(context, chunks, merged, question),
        "n_chunks": len(chunks),
        "overlap": None if question is None else overlap(question, " ".join(evidence)),
    }


def merge(spans: Spans, length: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if not 0 <= start < end <= length:
            raise ValueError(f"evidence at {start}:{end} is no part of a text of {length} characters")
        if merged and start <= merged[-1][1]:
            start, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((start, end))
    return merged


def cut(text: str) -> list[tuple[int, int]]:
    """Chunks of at most CHUNK characters, cut after white space where there is some."""
    chunks, start = [], 0
    while start < len(text):
        end = min(start + CHUNK, len(text))
        if end < len(text):
            end = next((place for place in range(end, start, -1) if text[place - 1].isspace()), end)
        chunks.append((start, end))
        start = end
    return chunks


def bm25_rank(context: str, chunks: Spans, evidence: Spans, question: str) -> int:
    """The best rank of a chunk with evidence; 1 is easy. Where none of them shares a word with the question, the last:
    the number of chunks."""
    holders = {
        number
        for number, (start, end) in enumerate(chunks)
        if any(start < evidence_end and evidence_start < end for evidence_start, evidence_end in evidence)
    }
    found = BM25([context[start:end] for start, end in chunks]).top(question, len(chunks))
    return next((rank for rank, number in enumerate(found, 1) if number in holders), len(chunks))


def overlap(question: str, evidence: str) -> float | None:
    """The share of the question's different words that stand in the evidence. None for a question without words."""
    asked = set(_words(question))
    return len(asked & set(_words(evidence))) / len(asked) if asked else None


def _words(text: str) -> list[str]:
    return fold(text).split()
