"""Judgements on the two answers of a preference pair: near-equal answers, and what LongPO drops (its repository's
filter script). In Chinese and Japanese, where no spaces part words, two characters stand for a word."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from filters.lengths import CJK

_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")  # digits too: 41 is another answer than 42
_LONG_WORD = re.compile(rf"[^\W\d_{CJK}]{{3,}}|[{CJK}]{{2}}")
_CJK_RUN = re.compile(rf"[{CJK}]+|[^\W{CJK}]+")
_CHARACTER = re.compile(f"[{CJK}]")
_MIN_REPEATS = 3
_SHORT = 10  # characters


def similarity(first: str, second: str) -> float:
    """How alike two texts are, 0..1: twice the words they have in common in the same order, over all words of both
    (difflib's ratio). Case, white space and punctuation do not count. Two texts without words are alike."""
    one, other = (_WORD.findall(text.casefold()) for text in (first, second))
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def repeated_words(text: str) -> float:
    """Share (0..1) of a text's words that occur more than once in it. An honest answer of 700 English words has some
    0.7, a loop 1.0."""
    found = [word for run in _CJK_RUN.findall(text.casefold()) for word in _words(run)]
    counts = Counter(found)
    return sum(counts[word] > 1 for word in found) / len(found) if found else 0.0


def _words(run: str) -> list[str]:
    if _CHARACTER.match(run) is None:
        return [run]
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def long_words(text: str) -> int:
    """How many words of at least three letters a text has."""
    return len(_LONG_WORD.findall(text))


def is_short(text: str) -> bool:
    """At most ten characters, of which each Chinese or Japanese one counts twice?"""
    return len(text) + len(_CHARACTER.findall(text)) <= _SHORT


def is_periodic(text: str) -> bool:
    """Is the whole text one piece, said at least three times, word by word or letter by letter? The last time may break
    off."""
    return _has_period(_WORD.findall(text.casefold())) or _has_period(" ".join(text.split()))


def _has_period(items: Sequence[str]) -> bool:
    return any(items[period:] == items[:-period] for period in range(1, len(items) // _MIN_REPEATS + 1))
