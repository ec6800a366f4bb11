"""How the answer to a task with evidence is written: plain, after its evidence, or with citations.

* `answer`: as the task has it.
* `evidence_first` (ALR^2, arXiv 2410.03227): the supporting passages, word for word, one a bullet; an empty line; the
  answer. All of it is the answer turn, so that the loss is on both.
* `citations` (LongCite, arXiv 2409.02897): the sentences of the context are numbered, and the answer names those it
  rests on. A context of lines rather than prose has its lines numbered.
* `passages` (L-CiteEval, arXiv 2410.02115): the same with passages of about PASSAGE characters, named after the answer.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

from generators.citations import (
    SentenceSpan,
    Statement,
    number_sentences,
    parse_citations,
    sentence_spans,
    write_citations,
)
from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.shaping import TOLERANCE
from schemas.errors import UserError

QUOTE = (
    "Before that, quote the passages of the text that the answer rests on, word for word, each on a line of its own "
    'that begins with "- ". Then leave a line empty, and give the answer as it is asked for above.'
)
CITE = (
    "Each part of the text has a number: <C1> stands before the first, <C2> before the second, and so on. Write the "
    "answer as <statement>ANSWER<cite>[FIRST-LAST]</cite></statement>, where the brackets hold the numbers of the "
    "first and the last of some parts in a row that the answer rests on; name several such runs as [2-2][7-8]."
)
PASSAGES = (
    "The text is cut into passages: [Passage 1] stands before the first, [Passage 2] before the second, and so on. "
    "Behind the answer name all passages that it rests on, and no others, each by its number in brackets of its own, "
    "as in [3][7]."
)
PASSAGE = 600
Span = tuple[int, int]  # characters [start, end)
_PASSAGE_MARK = re.compile(r"\[Passage [0-9]+\]\n")
_NAMED = re.compile(r"(?:\[[0-9]{1,7}\])+$")
_MOST = 2  # an answer may show at most this many times the evidence it needs
_TRIES = 6


def check(task: VerifiableTask, target: str) -> None:
    """UserError: the task cannot be answered in this form."""
    if target not in task.targets:
        raise UserError(f"task {task.name!r} has no target {target!r}, only {', '.join(task.targets)}")


def make(task: VerifiableTask, seed: int | str, room: Room, target: str) -> Item:
    """A task written for a target. Its prompt, with all that the target adds to it, is within 2% of `room.tokens`.
    ValueError: the task cannot be made so, or cannot be answered in that form (see `write`)."""
    tokens = room.tokens
    for _ in range(_TRIES):
        item = write(task, task.make(Random(seed), replace(room, tokens=tokens)), target)
        if target == "answer":
            return item
        found = room.tokenizer.count(item.prompt)
        if abs(found - room.tokens) <= TOLERANCE * room.tokens:
            return item
        tokens = round(tokens * room.tokens / found)
    raise ValueError(f"no task of {room.tokens} tokens with the target {target}: the nearest has {found}")


def write(task: VerifiableTask, item: Item, target: str) -> Item:
    """The item with its answer in the form of the target, and its prompt asking for that. ValueError: it has no
    evidence; its evidence has several lines (evidence_first); its context holds tags of that form."""
    if target == "answer":
        return item
    if not item.evidence:
        raise ValueError(f"the task {task.name} has no evidence to show")
    if target == "evidence_first":
        return _quoting(item)
    parts = _parts(item, prose=task.needs_haystack)
    return _citing(item, parts) if target == "citations" else _naming(item, parts)


def accepts(task: VerifiableTask, target: str, check: Mapping[str, Any], prompt: str, answer: str) -> bool:
    """Is this a right answer in the form of the target? `check` and `prompt` are those of the item that `write`
    returned. Never raises."""
    if target == "answer":
        return task.verify(check, answer)
    if target == "evidence_first":
        return _quotes(task, check, prompt, answer)
    return _cites(task, check, answer) if target == "citations" else _names(task, check, answer)


# ---------------------------------------------------------------- evidence first


def _quoting(item: Item) -> Item:
    quotes = list(dict.fromkeys(item.context[start:end].strip() for start, end in item.evidence))
    if any("\n" in quote for quote in quotes):
        raise ValueError("evidence of several lines cannot be quoted as a bullet")
    bullets = "\n".join(f"- {quote}" for quote in quotes)
    return replace(
        item,
        question=f"{item.question}\n\n{QUOTE}",
        answer=f"{bullets}\n\n{item.answer}",
        check={"plain": item.check, "quotes": quotes},
    )


def _quotes(task: VerifiableTask, check: Mapping[str, Any], prompt: str, answer: str) -> bool:
    """Bullets that stand in the prompt and hold all the evidence, then a right answer."""
    head, _, plain = answer.strip().partition("\n\n")
    bullets = [line.removeprefix("- ").strip() for line in head.splitlines() if line.startswith("- ")]
    if not bullets or len(bullets) != len(head.splitlines()) or not all(b and b in prompt for b in bullets):
        return False
    needed = check["quotes"]
    if sum(map(len, bullets)) > _MOST * sum(map(len, needed)):
        return False
    return all(any(quote in bullet for bullet in bullets) for quote in needed) and task.verify(check["plain"], plain)


# ---------------------------------------------------------------- citations


def _citing(item: Item, parts: list[Span]) -> Item:
    needed = _needed(item, parts)
    return replace(
        item,
        context=number_sentences(item.context, parts),
        question=f"{item.question}\n\n{CITE}",
        answer=write_citations([Statement(item.answer, tuple(_runs(needed)))]),
        check={"plain": item.check, "parts": needed, "count": len(parts)},
        evidence=_moved(item, parts, [f"<C{n}>" for n in range(1, len(parts) + 1)]),
    )


def _cites(task: VerifiableTask, check: Mapping[str, Any], answer: str) -> bool:
    """Citations that exist and name all the evidence, on a right answer."""
    try:
        pieces = parse_citations(answer.strip(), check["count"])
    except ValueError:
        return False
    cited = {n for piece in pieces for first, last in piece.spans for n in range(first, last + 1)}
    needed = set(check["parts"])
    if not needed <= cited or len(cited) > _MOST * len(needed):
        return False
    return task.verify(check["plain"], "".join(piece.text for piece in pieces))


def _naming(item: Item, parts: list[Span]) -> Item:
    if found := _PASSAGE_MARK.search(item.context):
        raise ValueError(f"the text holds the mark {found[0].strip()} already")
    passages = _passages(parts)
    needed = _needed(item, passages)
    marks = [f"[Passage {n}]\n" for n in range(1, len(passages) + 1)]
    pieces = [f"{mark}{item.context[start:end]}" for mark, (start, end) in zip(marks, passages, strict=True)]
    gaps = [item.context[a[1] : b[0]] for a, b in pairwise(passages)]
    context = "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""], strict=True))
    return replace(
        item,
        context=item.context[: passages[0][0]] + context + item.context[passages[-1][1] :],
        question=f"{item.question}\n\n{PASSAGES}",
        answer=f"{item.answer} {''.join(f'[{n}]' for n in needed)}",
        check={"plain": item.check, "passages": needed, "count": len(passages)},
        evidence=_moved(item, passages, marks),
    )


def _names(task: VerifiableTask, check: Mapping[str, Any], answer: str) -> bool:
    """A right answer, then passages that exist, all that are needed among them."""
    found = _NAMED.search(answer.strip())
    if found is None:
        return False
    named = {int(n) for n in re.findall("[0-9]+", found[0])}
    needed = set(check["passages"])
    if not needed <= named or len(named) > _MOST * len(needed) or not named <= set(range(1, check["count"] + 1)):
        return False
    return task.verify(check["plain"], answer.strip()[: found.start()])


def _passages(parts: list[Span]) -> list[Span]:
    """Runs of parts of at least PASSAGE characters; the last one may be shorter."""
    passages: list[Span] = []
    for start, end in parts:
        if passages and passages[-1][1] - passages[-1][0] < PASSAGE:
            passages[-1] = passages[-1][0], end
        else:
            passages.append((start, end))
    return passages


def _needed(item: Item, parts: list[Span]) -> list[int]:
    """Numbers of the parts that hold evidence."""
    return [n for n, part in enumerate(parts, 1) if any(_overlap(part, span) for span in item.evidence)]


def _moved(item: Item, parts: list[Span], marks: list[str]) -> tuple[Span, ...]:
    """Where the evidence stands once each part begins with its mark."""

    def moved(at: int) -> int:
        return at + sum(len(mark) for mark, (start, _) in zip(marks, parts, strict=True) if start <= at)

    return tuple((moved(start), moved(end - 1) + 1) for start, end in item.evidence)


def _parts(item: Item, prose: bool) -> list[Span]:
    """What is numbered: sentences; lines, where the context is no prose and they fit the evidence as closely."""
    sentences = sentence_spans(item.context)
    if prose:
        return sentences
    lines = [match.span() for match in re.finditer(r"\S.*", item.context)]
    return min(lines, sentences, key=lambda parts: _covered(parts, item.evidence))


def _covered(parts: list[Span], evidence: tuple[Span, ...]) -> int:
    """Characters of the parts that hold evidence."""
    return sum(part[1] - part[0] for part in parts if any(_overlap(part, span) for span in evidence))


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _runs(numbers: list[int]) -> list[SentenceSpan]:
    """Rising numbers as runs: 2, 3, 7 -> (2, 3), (7, 7)."""
    runs: list[SentenceSpan] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1] = runs[-1][0], n
        else:
            runs.append((n, n))
    return runs
