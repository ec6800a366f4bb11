"""Where a sentence may be inserted into a text, and which character stands at which token."""

import re
from bisect import bisect_right
from itertools import accumulate

from generators.base import Tokenizer

# After the end of a sentence, or at the start of a paragraph. A point after "Mr", "Prof" or one letter ends none.
_NOT_LAST = ("Mrs", "Prof", "Capt", "Col", "Gen", "Rev", "Hon", "Sgt", "Lt", "Jr", "Sr", "St", "vs", "No", "cf", "etc")
_NO_END = "".join(f"(?<!{word})" for word in _NOT_LAST)
_BORDER = re.compile(
    rf"[a-z0-9)\]]{{2}}{_NO_END}[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])|[。！？][”’」』）]*(?![”’」』）。！？])|\n\s*\n"
)
_END = re.compile(r"[.!?。！？][\"'”’)\]」』）]*\s*$")
_BACK = 20_000  # characters searched for the last border
_BLOCK = 2000  # characters counted at once


def borders(text: str, places: list[int], end: int) -> list[int]:
    """For each place the first border at or past it in text[:end], or the last one before it where none is past it; no
    two are the same where there are enough. The end of the text is a border if a sentence ends there."""
    found: dict[int, int] = {}
    taken = -1
    for n in sorted(range(len(places)), key=places.__getitem__):
        taken = found[n] = _next(text, max(places[n], taken + 1), end)
    return [found[n] for n in range(len(places))]


def _next(text: str, place: int, end: int) -> int:
    if place == 0:
        return 0
    # A border is where a match ends: one that ends at `place` begins before it.
    match = _BORDER.search(text, max(0, place - 8), end)
    while match is not None and match.end() < place:
        match = _BORDER.search(text, match.start() + 1, end)
    if match is not None:
        return match.end()
    if _END.search(text, max(0, end - 8), end):
        return end
    start = max(0, place - _BACK)
    return max((match.end() for match in _BORDER.finditer(text, start, end)), default=end)


class TokenMap:
    """A text and how its tokens are spread over it, counted block by block: exact at the ends of blocks of about 2,000
    characters, in proportion between them."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self._ends, blocks = [0], []
        while self._ends[-1] < len(text):
            start = self._ends[-1]
            end = text.find("\n", start + _BLOCK) + 1
            end = end if 0 < end < start + 2 * _BLOCK else min(len(text), start + _BLOCK)
            blocks.append(text[start:end])
            self._ends.append(end)
        self._tokens = [0, *accumulate(tokenizer.count_many(blocks))]

    def place(self, tokens: float) -> int:
        """The character at which that many tokens have passed."""
        n = min(bisect_right(self._tokens, tokens) - 1, len(self._ends) - 2)
        held = self._tokens[n + 1] - self._tokens[n]
        into = (tokens - self._tokens[n]) / held if held else 0.0
        return min(len(self.text), self._ends[n] + round(into * (self._ends[n + 1] - self._ends[n])))

    def tokens_at(self, place: int) -> float:
        """How many tokens have passed at a character."""
        n = min(bisect_right(self._ends, place) - 1, len(self._ends) - 2)
        chars = self._ends[n + 1] - self._ends[n]
        return self._tokens[n] + (self._tokens[n + 1] - self._tokens[n]) * (place - self._ends[n]) / chars

    def cut(self, tokens: int) -> int:
        """Where the text ends when it has about that many tokens: at a border within 1.2%, else at a space."""
        slack = max(4.0, 0.012 * tokens)
        place, low, high = (self.place(max(0.0, n)) for n in (tokens, tokens - slack, tokens + slack))
        if place >= len(self.text):
            return len(self.text)
        ends = (match.end() for match in _BORDER.finditer(self.text, max(0, low - 8), min(len(self.text), high + 8)))
        near = [end for end in ends if low <= end <= high]
        end = min(near, key=lambda end: abs(end - place)) if near else _space(self.text, place)
        while end and self.text[end - 1].isspace():
            end -= 1
        return end


def _space(text: str, place: int) -> int:
    """The last space before a place; where there is none near, the place itself."""
    near = max(0, place - 40)
    found = max(text.rfind(" ", near, place), text.rfind("\n", near, place))
    return found if found > 0 else place
