"""How much of a text says again what it has said: loops are the commonest failure of long generation."""

from filters.lengths import words

SPAN = 8  # words


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
