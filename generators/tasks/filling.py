"""What tasks share: filling a prompt to its length, and reading the one tagged part of an answer."""

import re
from collections.abc import Callable

from generators.tasks.base import Room

TOLERANCE = 0.02  # of room.tokens
_CLOSE = 0.005


def fill(render: Callable[[int], str], room: Room, most: int) -> int:
    """The n of 0 to `most` for which `render(n)` has about `room.tokens` tokens; more filling makes it longer.
    ValueError: no n comes within 2%."""
    target, count = room.tokens, room.tokenizer.count
    low, high = 0, most
    least, greatest = count(render(low)), count(render(high))
    if least > target:
        high, greatest = low, least
    elif greatest < target:
        low, least = high, greatest
    while high - low > 1:
        slope = (greatest - least) / (high - low)
        middle = low + min(max(round((target - least) / slope) if slope > 0 else 1, 1), high - low - 1)
        found = count(render(middle))
        if abs(found - target) <= _CLOSE * target:
            return middle
        if found <= target:
            low, least = middle, found
        else:
            high, greatest = middle, found
    best, tokens = min(((low, least), (high, greatest)), key=lambda pair: abs(pair[1] - target))
    if abs(tokens - target) > TOLERANCE * target:
        raise ValueError(f"{target} tokens wanted, {tokens} is the closest that this task gets")
    return best


def tagged(text: str, tag: str) -> str | None:
    """What stands in the only `<tag>...</tag>` of a text; None: there is none, or more than one opens or closes."""
    before, opened, rest = text.partition(f"<{tag}>")
    inside, closed, after = rest.partition(f"</{tag}>")
    if not opened or not closed or f"<{tag}>" in inside + after or f"</{tag}>" in before + after:
        return None
    return inside.strip()


def words(text: str) -> list[str]:
    """Words and numbers, case folded, without punctuation."""
    return re.findall(r"\w+", text.casefold())
