"""Near-duplicates among short texts: MinHash finds candidates, the exact Jaccard similarity decides."""

from typing import Any

from filters.lengths import words

SHINGLE = 3  # words
_PERMUTATIONS = 128


class NearDuplicates:
    """Texts seen so far. `threshold`: Jaccard similarity of the sets of three-word runs from which two texts count as
    the same. Needs datasketch."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._shingles: list[frozenset[str]] = []

    def is_new(self, text: str) -> bool:
        """False for a text like one seen before; a new one is remembered."""
        from datasketch import MinHash

        shingles = _shingles(text)
        signature = MinHash(num_perm=_PERMUTATIONS)
        signature.update_batch([shingle.encode("utf-8", "replace") for shingle in sorted(shingles)])
        if any(_jaccard(shingles, self._shingles[key]) >= self._threshold for key in self._index.query(signature)):
            return False
        self._index.insert(len(self._shingles), signature)
        self._shingles.append(shingles)
        return True


def _shingles(text: str) -> frozenset[str]:
    tokens = [word.casefold() for word in words(text)] or [text.strip()]
    return frozenset(" ".join(tokens[i : i + SHINGLE]) for i in range(max(1, len(tokens) - SHINGLE + 1)))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)
