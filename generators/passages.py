"""A document as numbered passages: how it is split, which passages fit, in which of them a text stands."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from generators.base import Tokenizer
from generators.citations import sentence_spans

MARK_TOKENS = 8  # what the number of a passage and the empty line after it may take in a prompt
_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")
CharSpan = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters [start, end) of a document; `number` counts its passages from 1."""

    number: int
    start: int
    end: int
    text: str
    tokens: int


def split_passages(text: str, tokenizer: Tokenizer, low: int, high: int | None) -> list[Passage]:
    """The passages of a text: its paragraphs (empty lines part them), where one of less than `low` tokens is joined
    with the next and one of more than `high` is cut between sentences (inside a sentence only where that alone is too
    long). Tokens are counted in the whole text: alone, a passage may have one more. Between passages is white space
    only. `low=0, high=None`: the paragraphs as they are."""
    starts = [start for start, _ in tokenizer.offsets(text)]

    def size(start: int, end: int) -> int:
        return bisect_left(starts, end) - _token_at(starts, start)

    limit = len(text) + len(starts) if high is None else high
    pieces = [piece for paragraph in paragraphs(text) for piece in _cut(text, paragraph, starts, size, limit)]
    spans: list[CharSpan] = []
    for index, (start, end) in enumerate(pieces):
        short = bool(spans) and size(*spans[-1]) < low
        rest = index == len(pieces) - 1 and size(start, end) < low  # the last piece has no next one to join
        if spans and (short or rest) and size(spans[-1][0], end) <= limit:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    texts = [text[start:end] for start, end in spans]
    counts = tokenizer.count_many(texts)
    return [Passage(n + 1, *spans[n], texts[n], counts[n]) for n in range(len(spans))]


def paragraphs(text: str) -> list[CharSpan]:
    """Characters [start, end) of what empty lines part, without white space around it."""
    borders = [match.span() for match in _EMPTY_LINES.finditer(text)]
    starts, ends = [0, *(end for _, end in borders)], [*(start for start, _ in borders), len(text)]
    return [span for pair in zip(starts, ends, strict=True) if (span := _stripped(text, *pair)) is not None]


def _token_at(starts: Sequence[int], character: int) -> int:
    """The token that a character stands in, or begins."""
    token = bisect_left(starts, character)
    return token if token < len(starts) and starts[token] == character else max(0, token - 1)


def _stripped(text: str, start: int, end: int) -> CharSpan | None:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return (start, start + len(piece.strip())) if piece.strip() else None


def _cut(
    text: str, span: CharSpan, starts: Sequence[int], size: Callable[[int, int], int], limit: int
) -> list[CharSpan]:
    """A paragraph as runs of whole sentences of at most `limit` tokens."""
    if size(*span) <= limit:
        return [span]
    runs: list[CharSpan] = []
    for first, last in sentence_spans(text[span[0] : span[1]]):
        for start, end in _cut_sentence(text, (span[0] + first, span[0] + last), starts, limit):
            if runs and size(runs[-1][0], end) <= limit:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
    return runs


def _cut_sentence(text: str, span: CharSpan, starts: Sequence[int], limit: int) -> list[CharSpan]:
    """A sentence in pieces of at most `limit` tokens, cut at white space where a piece's second half has some."""
    pieces, (start, end) = [], span
    while start < end:
        token = _token_at(starts, start) + limit
        cut = starts[token] if token < len(starts) and starts[token] < end else end
        if cut < end:
            half = (start + cut) // 2
            cut = max(text.rfind(space, half, cut + 1) for space in " \n") + 1 or max(cut, start + 1)
        piece = _stripped(text, start, cut)
        pieces += [piece] if piece is not None else []
        start = cut
    return pieces


def fitting(passages: Sequence[Passage], budget: int) -> list[Passage]:
    """The first passages, as many as fit `budget` tokens with their numbers. What does not fit is left off at the
    end, so that every number stays what it was."""
    total, kept = 0, list[Passage]()
    for passage in passages:
        total += passage.tokens + MARK_TOKENS
        if total > budget:
            break
        kept.append(passage)
    return kept


def locate(wanted: str, text: str) -> list[CharSpan]:
    """Where a text stands in another, its white space aside: characters [start, end) of every place."""
    words = wanted.split()
    if not words:
        return []
    return [match.span() for match in re.finditer(r"\s+".join(map(re.escape, words)), text)]


def numbers_of(span: CharSpan, passages: Sequence[Passage]) -> tuple[int, ...]:
    """The passages that share a character with a span, ascending."""
    return tuple(p.number for p in passages if p.start < span[1] and span[0] < p.end)
