"""How much of a text says again what it has said: loops are the commonest failure of long generation."""

import re

from filters.lengths import words

SPAN = 8  # words
# Up to 40 characters with a letter or digit, 30 times in a row: "42 42 42 ...", "aaaa...", "yes, yes, yes, ...". Rules
# of a table ("-----") hold neither.
_LOOP = re.compile(r"(.{1,40}?)\1{29}", re.DOTALL)


def is_loop(text: str) -> bool:
    """Does a text say one short thing thirty times in a row? Also where `repetition` sees no words: digits, letters
    without spaces."""
    return any(any(map(str.isalnum, match[1])) for match in _LOOP.finditer(text))


def repetition(text: str, span: int = SPAN) -> float:
    """Share (0..1) of words that lie inside a span of `span` words seen earlier in the text. CJK characters count as
    words. Texts shorter than `span` words have no repetition."""
    tokens = [token.lower() for token in words(text)]
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(tokens)
    for start in range(len(tokens) - span + 1):
        gram = tuple(tokens[start : start + span])
        if gram in seen:
            repeated[start : start + span] = [True] * span
        seen.add(gram)
    return sum(repeated) / len(tokens) if tokens else 0.0
