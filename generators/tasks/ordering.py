"""Ordering (Ada-LEval's TSort, arXiv 2404.06480): put shuffled pieces of a text back into their order."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.shaping import TOLERANCE, Text, check_range, tagged

QUESTION = (
    "The text above is made of {count} pieces of equal length that followed one another directly in a longer text. "
    "Their order was changed. In which order do they belong? Write the numbers of the pieces, the one that comes first "
    "in the longer text first, separated by commas, between <order> and </order>, and use these tags only once."
)
_UNEVEN = 0.1  # the longest piece may be that much longer than the shortest
_PASSAGES = 20  # tried
_STARTS = 100  # tried in a passage
_NUMBER = r"(?:\d+|[ivxlcdm]+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|first|second|third|last)"
_HEADING = (
    r"(?:chapter|part|book|section|volume|act|scene|canto|letter|lesson|appendix|page|kapitel|teil|abschnitt|buch|"
    r"chapitre|partie|livre|capítulo|capitolo|parte|глава|часть)"
)
# What gives the order away in the first line of a piece: "Chapter 3", "IV.", "2.1 Setup", "Second part", "第三章".
NUMBERED = re.compile(
    rf"^[\W_]*(?:\d+\b|[ivxlcdm]+[\W_]*$|[ivxlcdm]+[.):])|\b{_HEADING}\W{{1,3}}{_NUMBER}\b|\b{_NUMBER}\W{{1,3}}{_HEADING}\b"
    r"|第\s*[\d一二三四五六七八九十百零〇两]+\s*[章节回卷部篇]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ordering(VerifiableTask):
    """`pieces`: into how many a text is cut."""

    name: ClassVar[str] = "ordering"
    targets: ClassVar[tuple[str, ...]] = ("answer",)
    needs_haystack: ClassVar[bool] = True
    pieces: int = 4

    def __post_init__(self) -> None:
        check_range("pieces", (self.pieces, self.pieces), 2, 8)

    def make(self, rng: Random, room: Room) -> Item:
        assert room.haystack is not None
        order = list(range(self.pieces))  # order[n]: which piece of the source is shown as number n + 1
        rng.shuffle(order)
        around = room.tokenizer.count(self._item([""] * self.pieces, order).prompt)
        budget = room.tokens - around
        if budget < 5 * self.pieces:
            raise ValueError(f"{room.tokens} tokens are too few for {self.pieces} pieces")
        for _ in range(_PASSAGES):
            item = self._cut(rng, _lines(room.haystack.passage(rng, budget + budget // 4), room), budget, order, room)
            if item is not None:
                return item
        raise ValueError(f"no {self.pieces} equal pieces of whole lines found for {room.tokens} tokens")

    def _cut(self, rng: Random, lines: list[tuple[str, int]], budget: int, order: list[int], room: Room) -> Item | None:
        """The task from a passage; None where it cannot be cut into equal pieces."""
        starts = list(range(len(lines)))
        rng.shuffle(starts)
        for start in starts[:_STARTS]:
            cuts = _cuts(lines, start, budget, self.pieces)
            if cuts is None:
                continue
            pieces = ["".join(line for line, _ in lines[a:b]).strip("\n") for a, b in pairwise(cuts)]
            item = self._item(pieces, order)
            off = abs(room.tokenizer.count(item.prompt) - room.tokens)
            sizes = room.tokenizer.count_many(pieces)
            if (
                off <= TOLERANCE * room.tokens
                and max(sizes) <= (1 + _UNEVEN) * min(sizes)
                and len(set(pieces)) == len(pieces)
            ):
                return item
        return None

    def _item(self, pieces: list[str], order: list[int]) -> Item:
        text, spans = Text(), {}
        for label, piece in enumerate(order, 1):
            text.add(f"{'' if label == 1 else chr(10) * 2}[Piece {label}]\n")
            spans[piece] = text.add(pieces[piece])
        right = [order.index(piece) + 1 for piece in range(len(pieces))]
        return Item(
            context=str(text),
            question=QUESTION.format(count=len(pieces)),
            answer=_answer(right),
            check={"order": right},
            evidence=tuple(spans[piece] for piece in range(len(pieces))),
            details={"pieces": len(pieces)},
        )

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        given = re.split(r"[\s,>]+", (tagged(answer, "order") or "").strip())
        return given == [str(label) for label in check["order"]]

    def corrupt(self, item: Item, rng: Random) -> str:
        """Two pieces change places."""
        order = list(item.check["order"])
        first, second = rng.sample(range(len(order)), 2)
        order[first], order[second] = order[second], order[first]
        return _answer(order)

    def solve(self, item: Item) -> str:
        """From the evidence, which lists the pieces in their order: no program reads prose well enough."""
        labels = [match.end() for match in re.finditer(r"\[Piece \d+\]\n", item.context)]
        return _answer([labels.index(start) + 1 for start, _ in item.evidence])


def _answer(order: list[int]) -> str:
    return f"<order>{', '.join(map(str, order))}</order>"


def _lines(text: str, room: Room) -> list[tuple[str, int]]:
    """The lines of a text (with their ends), and about how many tokens each has."""
    lines = text.splitlines(keepends=True)
    return list(zip(lines, room.tokenizer.count_many(lines), strict=True))


def _cuts(lines: list[tuple[str, int]], start: int, budget: int, pieces: int) -> list[int] | None:
    """Line numbers that cut `pieces` equal pieces from `start` on, the last one where they end. Between paragraphs
    where that is equal enough, else between lines. None: there are none, or a piece would start with its number."""
    before = [0, *accumulate(tokens for _, tokens in lines)]
    share, cuts = budget / pieces, [start]
    if not _opens(lines, start):
        return None
    for n in range(1, pieces + 1):
        aim = before[start] + n * share
        # The end settles the length of the prompt, which is to be closer than that of a piece.
        slack = share * _UNEVEN / 2 if n < pieces else budget * TOLERANCE
        first = max(cuts[-1] + 1, bisect_left(before, aim - slack))
        near = [at for at in range(first, bisect_right(before, aim + slack)) if n == pieces or _opens(lines, at)]
        if not near:
            return None
        cuts.append(min(near, key=lambda at: (bool(lines[at - 1][0].strip()), abs(before[at] - aim))))
    return cuts


def _opens(lines: list[tuple[str, int]], at: int) -> bool:
    """May a piece start with this line? It is not blank and does not say which part of the text it is."""
    line = lines[at][0] if at < len(lines) else ""
    return bool(line.strip()) and NUMBERED.search(line) is None
