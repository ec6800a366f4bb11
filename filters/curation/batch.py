"""Texts that are measured together, in windows of about equal size, with their lines: what the rules of quality read.

One text of a megabyte and two hundred of five kilobytes take the same time: arrays run over all texts of a batch.

A text of n words has ceil(n / size) windows. A cut is at a line break where one stands within the last tenth of the
window, else before a word; it ends a line, a paragraph and a run of words. So any sum over a text's windows is that of
the text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from filters.curation.tokens import Array, Tokens, tokens
from filters.curation.words import mixed

if TYPE_CHECKING:
    from filters.curation.text import Text

_ODD = np.uint64(0x9E3779B97F4A7C15)
_BETWEEN = "\n\n"
_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that are not blank: none is without a token. `texts`: as they stand. `starts`: where in the batch.
    `sizes`: characters (lines,). `first`: the first token of each and, at the end, the number of tokens (lines + 1,).
    `cuts`: the first line of each window. `keys`: uint64 (lines,), equal where equal tokens stand at equal places.
    `paragraphs`: bool (lines,), where one starts: at the start of a window or after a blank line."""

    texts: list[str]
    starts: Array
    sizes: Array
    first: Array
    cuts: Array
    keys: Array
    paragraphs: Array

    def counts(self) -> Array:
        """Lines by window."""
        return _steps(self.cuts, len(self.texts))

    def windows(self) -> Array:
        """The window of each line."""
        return np.repeat(np.arange(len(self.cuts)), self.counts())

    def at(self, places: Array) -> Array:
        """The lines in which characters stand that are not white space."""
        return np.searchsorted(self.starts, places, "right") - 1


@dataclass(frozen=True, slots=True)
class Windows:
    """`parts`: the windows' texts, `sizes` their characters, `cuts` the first token of each. `firsts`: the first
    window of each text."""

    tokens: Tokens
    parts: list[str]
    sizes: Array
    cuts: Array
    firsts: Array
    lines: Lines

    def __len__(self) -> int:
        return len(self.parts)

    def several(self) -> bool:
        """Has a text more than one?"""
        return len(self.parts) > len(self.firsts)

    def texts(self) -> Array:
        """The text of each window."""
        return np.repeat(np.arange(len(self.firsts)), _steps(self.firsts, len(self.parts)))

    def token_counts(self) -> Array:
        return _steps(self.cuts, len(self.tokens))

    def count(self, what: str) -> Array:
        """How often a string occurs, by window."""
        return np.array([part.count(what) for part in self.parts])


class Batch:
    """`words`: of each text that was given, has it a word? All else is of those that have. It keeps no objects,
    so that arrays go when the batch goes."""

    def __init__(self, texts: Iterable["Text"]) -> None:
        given = list(texts)
        self.words = [_WORD.search(text.text) is not None for text in given]
        kept = [text for text, has_words in zip(given, self.words, strict=True) if has_words]
        self.languages = [text.language for text in kept]
        self.text = _BETWEEN.join(text.text for text in kept)
        self.sizes = np.array([len(text.text) for text in kept], np.int64)
        self.starts = np.cumsum(self.sizes + len(_BETWEEN)) - self.sizes - len(_BETWEEN)
        self.tokens = tokens(self.text)
        self._windows: dict[int, Windows] = {}

    def __len__(self) -> int:
        return len(self.languages)

    def windows(self, size: int) -> Windows:
        """Of at most `size` words; where there is a text."""
        if size not in self._windows:
            starts, cuts, firsts = self._cuts(size)
            ends = np.append(starts[1:], 0)
            ends[np.append(firsts[1:], len(starts)) - 1] = self.starts + self.sizes
            parts = [self.text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
            lines = _lines(parts, starts, cuts, self.tokens)
            self._windows[size] = Windows(self.tokens, parts, ends - starts, cuts, firsts, lines)
        return self._windows[size]

    def _cuts(self, size: int) -> tuple[Array, Array, Array]:
        """The first character and the first token of each window, and the first window of each text."""
        words = np.flatnonzero(self.tokens.words)
        first_words = np.append(np.searchsorted(self.tokens.starts[words], self.starts), len(words))
        counts = -(-np.diff(first_words) // size)
        firsts = np.cumsum(counts) - counts
        starts, cuts = np.repeat(self.starts, counts), np.repeat(0, int(counts.sum()))
        cuts[firsts] = np.searchsorted(self.tokens.starts, self.starts)
        for text in np.flatnonzero(counts > 1).tolist():
            first, total, count = int(first_words[text]), int(first_words[text + 1] - first_words[text]), counts[text]
            for number in range(1, count):
                word = first + number * total // count
                start, token = int(self.tokens.starts[words[word]]), int(words[word])
                line = self.text.rfind("\n", self.tokens.starts[words[word - total // count // 10]], start) + 1
                if line:
                    start, token = line, int(np.searchsorted(self.tokens.starts, line))
                starts[firsts[text] + number], cuts[firsts[text] + number] = start, token
        return starts, cuts, firsts


def _lines(parts: list[str], starts: Array, cuts: Array, tokens: Tokens) -> Lines:
    """Blank ones are left out: those without a token."""
    split = [part.split("\n") for part in parts]
    texts = split[0] if len(split) == 1 else [line for one in split for line in one]
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    counts = np.fromiter(map(len, split), np.int64, len(split))
    before = np.cumsum(sizes + 1) - sizes - 1
    line_starts = before + np.repeat(starts - before[np.cumsum(counts) - counts], counts)
    first = np.searchsorted(tokens.starts, line_starts)
    numbers = np.flatnonzero(_steps(first, len(tokens)))
    kept = texts if len(numbers) == len(texts) else [texts[number] for number in numbers.tolist()]
    line_starts, first = line_starts[numbers], np.append(first[numbers], len(tokens))
    offsets = tokens.starts - np.repeat(line_starts, first[1:] - first[:-1])
    keys = np.add.reduceat(mixed(tokens.hashes + offsets.astype(np.uint64) * _ODD), first[:-1])
    line_cuts = np.searchsorted(first, cuts)
    paragraphs = np.ones(len(numbers), bool)
    np.greater(numbers[1:], numbers[:-1] + 1, out=paragraphs[1:])
    paragraphs[line_cuts] = True
    return Lines(kept, line_starts, sizes[numbers], first, line_cuts, keys, paragraphs)


def _steps(starts: Array, end: int) -> Array:
    """From each start to the next, and from the last to the end."""
    steps = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=steps[:-1])
    steps[-1:] = end - starts[-1:]
    return steps
