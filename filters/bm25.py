"""BM25 over a handful of texts: twenty lines of our own instead of a dependency, with words as `filters.matching` folds
them (each CJK character is one)."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from filters.matching import fold

_K1, _B = 1.5, 0.75


class BM25:
    """An index over `texts`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(fold(text).split()) for text in texts]
        self._lengths = [count.total() for count in self._counts]
        self._mean = sum(self._lengths) / len(texts) if any(self._lengths) else 1.0
        self._holders: dict[str, list[int]] = defaultdict(list)  # word -> the texts that hold it
        for number, count in enumerate(self._counts):
            for word in count:
                self._holders[word].append(number)

    def top(self, query: str, count: int) -> list[int]:
        """The best `count` texts that share a word with the query, best first; of equal ones the earlier first."""
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(fold(query).split()):
            holders = self._holders.get(word, ())
            weight = math.log(1 + (len(self._counts) - len(holders) + 0.5) / (len(holders) + 0.5))
            for number in holders:
                times = self._counts[number][word]
                norm = _K1 * (1 - _B + _B * self._lengths[number] / self._mean)
                scores[number] += weight * times * (_K1 + 1) / (times + norm)
        return sorted(scores, key=lambda number: (-scores[number], number))[:count]
