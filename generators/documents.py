"""What part of a document a request gets: whole, an excerpt of whole lines, a chunk."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import pairwise
from random import Random

from generators.base import PROMPT_RESERVE, Llm, Tokenizer
from schemas.ids import derive_seed
from schemas.model import SamplingConfig, TokenRange
from schemas.rows import Document
from schemas.states import Reject, State


def document_budget(window: int, answers: Iterable[SamplingConfig], limit: int | None = None) -> int:
    """Tokens of a document that fit the window beside the longest answer, at most `limit`. May be negative."""
    budget = window - max(answer.max_tokens for answer in answers) - PROMPT_RESERVE
    return budget if limit is None else min(budget, limit)


def excerpt(
    row: Document, llm: Llm, wanted: TokenRange, answers: Iterable[SamplingConfig], too_long: str = "excerpt"
) -> tuple[int, int]:
    """Characters [start, end) of a document: all of it where it fits, else a random run of whole lines (the same for
    every request on the document: they share it in the engine's prefix cache). Raises Reject: the document is shorter
    than `wanted.min` tokens, longer than fits with `too_long="reject"`, or nothing fits."""
    budget = document_budget(llm.window, answers, wanted.max)
    if budget <= 0:
        raise Reject(State.OVER_BUDGET, "no_room_for_document", f"window {llm.window}")
    tokens = llm.tokenizer.count(row.text)
    if tokens < wanted.min:
        raise Reject(State.FILTERED, "document_too_short", f"{tokens} tokens, {wanted.min} wanted")
    if tokens > budget and too_long == "reject":
        raise Reject(State.OVER_BUDGET, "document_too_long", f"{tokens} tokens, {budget} fit")
    return lines_window(row.text, budget, llm.tokenizer, Random(derive_seed(row.document_id, "excerpt")))


def lines_window(text: str, budget: int, tokenizer: Tokenizer, rng: Random) -> tuple[int, int]:
    """Characters [start, end) of a random run of whole lines of at most `budget` tokens; all of a text that fits.
    Where whole lines would cost more than a quarter of the window at an end, it is cut inside a line."""
    offsets = tokenizer.offsets(text)
    if len(offsets) <= budget:
        return 0, len(text)
    first = rng.randrange(len(offsets) - budget + 1)
    last = first + budget - 1
    start = 0 if first == 0 else offsets[first][0]
    return whole_lines(text, start, len(text) if last == len(offsets) - 1 else offsets[last][1])


def whole_lines(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters [start, end) without the broken lines at its ends; a line that is more than a quarter of it is cut."""
    margin = (end - start) // 4
    if start and text[start - 1] != "\n":
        start = text.find("\n", start, start + margin) + 1 or start
    if end < len(text):
        end = text.rfind("\n", end - margin, end) + 1 or end
    return start, end


def without_blank_ends(text: str, start: int, end: int) -> tuple[int, int]:
    """Characters [start, end) without line breaks at its ends: what stands there is then exactly what a prompt shows,
    since `render` takes those away."""
    part = text[start:end]
    start += len(part) - len(part.lstrip("\n"))
    return start, start + len(part.strip("\n"))


def draw_chunks(text: str, count: int, budget: int, tokenizer: Tokenizer, rng: Random) -> list[tuple[int, int]]:
    """Characters [start, end) of `count` runs of at most `budget` tokens, in random order: anywhere in the text, never
    overlapping, of whole lines where that costs little. Fewer where fewer fit side by side; none where the text is no
    longer than a run."""
    offsets = tokenizer.offsets(text)
    count = min(count, len(offsets) // budget) if len(offsets) > budget else 0
    gaps = sorted(rng.randrange(len(offsets) - count * budget + 1) for _ in range(count))
    chunks: list[tuple[int, int]] = []
    behind = 0  # tokens of one character share its offsets: two chunks must not both have it
    for number, gap in enumerate(gaps):
        first = gap + number * budget
        start, end = max(behind, offsets[first][0]), max(behind, offsets[first + budget - 1][1])
        start, end = whole_lines(text, start, end)
        while (excess := tokenizer.count(text[start:end]) - budget) > 0:
            end -= excess  # a text cut out of another may have more tokens than it had there
        chunks.append(without_blank_ends(text, start, end))
        behind = end
    rng.shuffle(chunks)
    return chunks


def window_around(text: str, start: int, end: int, budget: int, tokenizer: Tokenizer, rng: Random) -> tuple[int, int]:
    """Characters [low, high) of a random run of at most `budget` tokens that holds characters [start, end); all of a
    text that fits. Ends are moved inwards to whole lines as in `lines_window`, but never into [start, end)."""
    offsets = tokenizer.offsets(text)
    if len(offsets) <= budget:
        return 0, len(text)
    # Tokens [held, after) touch [start, end). Those of one character may share its place: hence the bisection.
    held = bisect_right(offsets, start, key=lambda place: place[1])
    after = bisect_left(offsets, end, key=lambda place: place[0])
    if after - held >= budget:
        return start, end
    first = rng.randint(max(0, after - budget), min(held, len(offsets) - budget))
    low, high = min(start, offsets[first][0]), max(end, offsets[first + budget - 1][1])
    margin = (high - low) // 4
    low, high = 0 if first == 0 else low, len(text) if first + budget == len(offsets) else high
    if low and text[low - 1] != "\n":
        low = text.find("\n", low, min(start, low + margin)) + 1 or low
    if high < len(text):
        high = text.rfind("\n", max(end - 1, high - margin), high) + 1 or high
    return low, high


def split_chunks(text: str, tokens: int, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Characters [start, end) of runs of `tokens` tokens; together they are the text."""
    borders = sorted({0, len(text), *(start for start, _ in tokenizer.offsets(text)[tokens::tokens])})
    return list(pairwise(borders))
