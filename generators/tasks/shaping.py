"""What tasks share: bringing a prompt to its length, reading answers, checking options."""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any

from generators.tasks.base import Item, Room

TOLERANCE = 0.02  # of the length asked for
_AIM = 0.01  # good enough at once
_TRIES = 12
_PATIENCE = 3  # tries for the aim; after these the tolerance will do
_PUNCTUATION = " \t\r\n.,;:!?\"'`*()[]{}<>。，；：！？“”‘’「」『』（）"


def fit(build: Callable[[int, int], Item], room: Room, size: int, per_unit: float, least: int = 1) -> Item:
    """The task `build(size, attempt)` whose prompt has `room.tokens` tokens, within 2%.

    `size` is a first guess, in units of about `per_unit` tokens (pairs, sentences, ...); other attempts at the same
    size should differ a little. Raises ValueError where no attempt comes near enough.
    """
    best: tuple[int, Item] | None = None
    for attempt in range(_TRIES):
        item = build(max(size, least), attempt)
        off = room.tokenizer.count(item.prompt) - room.tokens
        if best is None or abs(off) < abs(best[0]):
            best = off, item
        if abs(best[0]) <= room.tokens * (_AIM if attempt < _PATIENCE else TOLERANCE):
            return best[1]
        if size <= least and off > 0 and off > per_unit:
            break
        size = max(least, size - round(off / per_unit))
    assert best is not None
    if abs(best[0]) <= room.tokens * TOLERANCE:
        return best[1]
    raise ValueError(f"no task of {room.tokens} tokens: the nearest has {room.tokens + best[0]}")


def grow(build: Callable[[int, int], Item], room: Room, least: int) -> Item:
    """`fit` for tasks made of many like units: what a unit costs is found from the smallest task and one of about an
    eighth of the length."""
    low = room.tokenizer.count(build(least, 0).prompt)
    if low > room.tokens * (1 + TOLERANCE):
        raise ValueError(f"no task of {room.tokens} tokens: the shortest has {low}")
    size = max(2 * least + 24, least * room.tokens // (8 * low))
    high = room.tokenizer.count(build(size, 0).prompt)
    per_unit = max(1.0, (high - low) / (size - least))
    return fit(build, room, size + round((room.tokens - high) / per_unit), per_unit, least)


class Text:
    """A text put together piece by piece, that knows where each piece stands."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0

    def add(self, piece: str) -> tuple[int, int]:
        """Characters [start, end) of the piece."""
        start = self._length
        self._pieces.append(piece)
        self._length += len(piece)
        return start, self._length

    def __str__(self) -> str:
        return "".join(self._pieces)


# ---------------------------------------------------------------- answers


def normal(answer: str) -> str:
    """An answer without what does not matter: case, width, spaces, punctuation around it."""
    text = unicodedata.normalize("NFKC", answer).casefold().strip(_PUNCTUATION)
    return " ".join(text.split())


def normal_list(answer: str) -> list[str]:
    """The parts of an answer that are separated by commas, semicolons or line ends."""
    return [part for part in map(normal, re.split(r"[,;，；、\n]", answer)) if part]


def numbers(answer: str) -> list[str]:
    """The whole numbers of an answer that lists such, as text without leading zeros (there is no limit to digits);
    nothing where anything else stands in it."""
    parts = re.split(r"[\s,;，；、]+", normal(answer).replace(" and ", " "))
    return [part.lstrip("0") or "0" for part in parts] if all(re.fullmatch("[0-9]+", part) for part in parts) else []


def tagged(answer: str, tag: str) -> str | None:
    """What stands in the only `<tag>...</tag>` of an answer; None: there is none, or more than one opens or closes."""
    before, opened, rest = answer.partition(f"<{tag}>")
    inside, closed, after = rest.partition(f"</{tag}>")
    if not opened or not closed or f"<{tag}>" in inside + after or f"</{tag}>" in before + after:
        return None
    return inside.strip("\r\n")


# ---------------------------------------------------------------- options


def check_choices(name: str, given: Sequence[str], allowed: Collection[str]) -> None:
    """ValueError unless `given` is a list of at least one of `allowed`."""
    if isinstance(given, str) or not given or not set(given) <= set(allowed):
        raise ValueError(f"{name}: a list of some of {', '.join(sorted(allowed))}, not {given!r}")


def check_range(name: str, given: Any, least: int, most: int) -> None:
    """ValueError unless `given` is two whole numbers, the smaller first, within the bounds."""
    good = isinstance(given, Sequence) and len(given) == 2 and all(type(n) is int for n in given)
    if not good or not least <= given[0] <= given[1] <= most:
        raise ValueError(f"{name}: two whole numbers like [{least}, {most}], in these bounds, not {given!r}")
