"""Sentence citations in the form of LongCite (arXiv 2409.02897): numbered sentences, and answers whose statements name
the sentences that support them. Pure functions on text; nothing is ever repaired.

A numbered context: `<C1>It rained. <C2>Nobody came.`
A cited answer: `<statement>Nobody came because it rained.<cite>[1-1][2-2]</cite></statement>`
Both can be taken apart again to the very characters they were made of. A text that holds such tags itself could not:
it is refused.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SentenceSpan = tuple[int, int]  # numbers of the first and the last sentence, both included, from 1

_CLOSERS = "\"'”’»)\\]"
_END = re.compile(
    rf"(?<![.!?…؟۔])[.!?…؟۔]++[{_CLOSERS}]*+(?=\s)"  # before white space only: 3.14, e.g.this, file.txt
    rf"|[。！？｡।]+[{_CLOSERS}」』）]*"
    r"|\n[^\S\n]*\n"  # an empty line ends a sentence that has no full stop, such as a heading
)
_NO_END = re.compile(
    r"(?:^|[^\w.])(?:[^\W\d_]|(?:[^\W\d_]\.)+[^\W\d_]"  # initials and "U.S.", "e.g."
    r"|Mrs?|Ms|Drs?|Prof|St|Jr|Sr|vs|cf|etc|al|approx|No|Nos|Fig|Eq|Sec|Ch|Vol|pp?|resp|incl|bzw|usw|ca|Nr)$"
)
_LOOK_BACK = 16  # characters: longer than any abbreviation

_NUMBER = re.compile(r"<C[0-9]+>")
_TAG = re.compile(r"(</?(?:statement|cite)>)")
_TAGS = ("<statement>", "<cite>", "</cite>", "</statement>")  # of each statement, in this order
_CITES = re.compile(r"(?:\[[0-9]{1,9}-[0-9]{1,9}\])*")
_SPAN = re.compile(r"\[([0-9]+)-([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Statement:
    """A piece of an answer and the sentences it stands on; without `spans` it is uncited. All pieces of an answer,
    joined, are the answer: white space between statements belongs to one of them."""

    text: str
    spans: tuple[SentenceSpan, ...] = ()


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each sentence, without white space around it; between them is white space only.
    Chinese, Japanese and Hindi full stops count. A text without full stops is cut at empty lines."""
    borders = [match.end() for match in _END.finditer(text) if _ends_sentence(text, match)]
    spans = []
    for start, end in zip([0, *borders], [*borders, len(text)], strict=True):
        stripped = text[start:end].strip()
        if stripped:
            start = text.index(stripped[0], start)
            spans.append((start, start + len(stripped)))
    return spans


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    mark = match[0][0]
    if mark not in ".!?…":
        return True
    if text.startswith("\n\n", match.end()):
        return True
    if text[match.end() : match.end() + 64].lstrip()[:1].islower():
        return False
    return match[0] != "." or not _NO_END.search(text[max(0, match.start() - _LOOK_BACK) : match.start()])


def number_sentences(text: str, sentences: Sequence[tuple[int, int]] | None = None) -> str:
    """The text with `<C1>`, `<C2>`, ... before its sentences (`sentence_spans`, or the given ones). ValueError: the
    text holds such a mark already."""
    if found := _NUMBER.search(text):
        raise ValueError(f"the text holds the sentence mark {found[0]} already")
    parts, last = [], 0
    for number, (start, _) in enumerate(sentence_spans(text) if sentences is None else sentences, 1):
        parts += [text[last:start], f"<C{number}>"]
        last = start
    return "".join([*parts, text[last:]])


def strip_numbers(numbered: str) -> str:
    """The text that `number_sentences` was given."""
    return _NUMBER.sub("", numbered)


def write_citations(pieces: Iterable[Statement]) -> str:
    """The cited answer. White space around a piece stays outside its tags. ValueError: a piece holds one of the tags,
    a piece of white space has citations, or a span runs backwards or starts below 1."""
    parts = []
    for piece in pieces:
        if found := _TAG.search(piece.text):
            raise ValueError(f"the answer holds the tag {found[0]} itself")
        for first, last in piece.spans:
            if not 1 <= first <= last:
                raise ValueError(f"[{first}-{last}] is no span of sentences")
        text = piece.text.strip()
        if not text:
            if piece.spans:
                raise ValueError("citations on an empty statement")
            parts.append(piece.text)
            continue
        before, after = piece.text[: piece.text.index(text[0])], piece.text[len(piece.text.rstrip()) :]
        cites = "".join(f"[{first}-{last}]" for first, last in piece.spans)
        parts.append(f"{before}<statement>{text}<cite>{cites}</cite></statement>{after}")
    return "".join(parts)


def parse_citations(cited: str, sentences: int) -> list[Statement]:
    """The pieces of a cited answer on a context of that many sentences; joined they are the answer. ValueError says
    what is wrong: text outside the tags, tags that do not pair, a sentence that does not exist."""
    before, *rest = _TAG.split(cited)  # text, tag, text, tag, ..., text
    if before.strip() or len(rest) % 8:
        raise ValueError(f"text outside the statements, or a tag without its partner: {cited[:80]!r}")
    pieces: list[Statement] = []
    for at in range(0, len(rest), 8):
        _, text, _, cites, _, between, _, after = rest[at : at + 8]
        if tuple(rest[at : at + 8 : 2]) != _TAGS:
            raise ValueError(f"not the tags of a statement: {' '.join(rest[at : at + 8 : 2])}")
        if between or after.strip():
            raise ValueError(f"text outside the statements: {(between or after)[:80]!r}")
        if not text.strip():
            raise ValueError("an empty statement")
        pieces.append(Statement(before + text + after, _read_spans(cites, sentences)))
        before = ""
    return pieces if pieces or not before else [Statement(before)]


def _read_spans(cites: str, sentences: int) -> tuple[SentenceSpan, ...]:
    if not _CITES.fullmatch(cites):
        raise ValueError(f"not citations: {cites[:80]!r}")
    spans = tuple((int(first), int(last)) for first, last in _SPAN.findall(cites))
    for first, last in spans:
        if not 1 <= first <= last <= sentences:
            raise ValueError(f"[{first}-{last}] is no span of the {sentences} sentences")
    return spans


def strip_citations(cited: str) -> str:
    """The answer without tags and citations, byte for byte. ValueError where `cited` is no cited answer."""
    return "".join(piece.text for piece in parse_citations(cited, 10**9))


def cited_share(pieces: Sequence[Statement]) -> float:
    """Share (0..1) of the statements that name a sentence; 0 without statements."""
    statements = [piece for piece in pieces if piece.text.strip()]
    return sum(bool(piece.spans) for piece in statements) / len(statements) if statements else 0.0
