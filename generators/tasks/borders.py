"""Where a sentence may be inserted into a text, and which character stands at which token."""

import re
from bisect import bisect_right
from itertools import accumulate

from generators.base import Tokenizer

# After the end of a sentence, or at the start of a paragraph. A point after "Mr", "Prof" or one letter ends none.
_NO_END = "".join(f"(?<!{word})" for word in "Mrs Prof Capt Col Gen Rev Hon Sgt Lt Jr Sr St vs No cf etc al".split())
_BORDER = re.compile(
    rf"[a-z0-9)\]]{{2}}{_NO_END}[.!?][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])|[。！？][”’」』）]*(?![”’」』）。！？])|\n\s*\n"
)
_BLOCK = 2000  # characters counted at once


def borders(text: str, places: list[int], end: int) -> list[int]:
    """For each place the first border at or past it, up to `end`; no two are the same where there are enough."""
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
    return end if match is None else match.end()


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
        """Where the text ends when it has about that many tokens: at a border if one is near, else at a space."""
        place = self.place(tokens)
        if place >= len(self.text):
            return len(self.text)
        low = self.place(tokens - max(4, tokens // 200))
        near = [match.end() for match in _BORDER.finditer(self.text, max(0, low - 8), place + 1)]
        end = max((end for end in near if low <= end <= place), default=0) or _space(self.text, place)
        return len(self.text[:end].rstrip())


def _space(text: str, place: int) -> int:
    """The last space before a place; where there is none near, the place itself."""
    found = max(text.rfind(" ", 0, place), text.rfind("\n", 0, place))
    return found if place - found < 200 and found > 0 else place
