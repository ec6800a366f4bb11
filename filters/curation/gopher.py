"""Gopher's rules of quality (Rae et al. 2112.11446, section A1.1), as datatrove has them.

Tokens and words: see `tokens`. Blank lines are no lines here (datatrove counts them, so that bullets with a blank
line between them pass).
"""

import numpy as np

from filters.curation.batch import Batch, Windows
from filters.curation.family import Family, Measure, number, share
from filters.curation.tokens import LETTER, OTHER, OWN, Array, Tokens, hashes_of
from schemas.curation.quality import GopherConfig


class Gopher(Family[GopherConfig]):
    name = "gopher"

    def __init__(self, config: GopherConfig) -> None:
        super().__init__(config)
        for words in config.stop_words.values():
            hashes_of(words)  # an error in one is told at once

    def measures(self, batch: Batch, windows: Windows) -> list[Measure]:
        config, tokens, found = self.config, windows.tokens, windows.token_counts()
        words = np.add.reduceat(tokens.words, windows.cuts, dtype=np.int64)
        lengths = np.add.reduceat((tokens.ends - tokens.starts) * tokens.words, windows.cuts)
        lettered = np.add.reduceat(_with_letter(tokens), windows.cuts, dtype=np.int64)
        bullets, ellipses = _lines(windows)
        lines = np.maximum(windows.lines.counts(), config.line_floor)
        dots = windows.count("...") + windows.count("…")
        total = number(windows, "n_words", words)
        return [
            Measure("n_words", total.whole, None, config.min_words, config.max_words),
            *self._word_length(batch, share(windows, "mean_word_len", lengths, words)),
            share(windows, "hash_ratio", windows.count("#"), found, most=config.max_hashes),
            share(windows, "ellipsis_ratio", dots, found, most=config.max_ellipses),
            share(windows, "bullet_frac", bullets, lines, most=config.max_bullet_lines),
            share(windows, "ellipsis_frac", ellipses, lines, most=config.max_ellipsis_lines),
            share(windows, "alpha_frac", lettered, found, least=config.min_words_with_letter),
            *self._stop_words(batch, windows),
        ]

    def _word_length(self, batch: Batch, length: Measure) -> list[Measure]:
        """Judged in the languages of the stop words; but everyone has it."""
        least, most = self.config.min_mean_word_length, self.config.max_mean_word_length
        known = np.array([not one or one in self.config.stop_words for one in batch.languages])
        measures = []
        if known.any():
            measures.append(Measure(length.name, length.whole, length.windows, least, most, known))
        if not known.all():
            measures.append(Measure(length.name, length.whole, length.windows, of=~known))
        return measures

    def _stop_words(self, batch: Batch, windows: Windows) -> list[Measure]:
        """How many of its language's stop words a text has; of the most, where its language is not known."""
        measures = []
        unknown = np.array([not one for one in batch.languages])
        least = self.config.min_stop_words
        most_whole, most_parts = np.zeros(len(batch), np.int64), np.zeros(len(windows), np.int64)
        for language, words in self.config.stop_words.items():
            its = np.array([one == language for one in batch.languages])
            if its.any() or unknown.any():
                there = _which(windows, words)
                whole = np.logical_or.reduceat(there, windows.firsts, axis=1).sum(axis=0)
                parts = there.sum(axis=0)
                most_whole, most_parts = np.maximum(most_whole, whole), np.maximum(most_parts, parts)
                measures.append(Measure("stop_words", whole, parts, least, of=its))
        if self.config.stop_words and unknown.any():
            measures.append(Measure("stop_words", most_whole, most_parts, least, of=unknown))
        return measures


def _which(windows: Windows, words: tuple[str, ...]) -> Array:
    """Which of some words are in each window: bool (words, windows)."""
    tokens = windows.tokens
    ends = np.append(windows.cuts, len(tokens))
    there = np.zeros((len(words), len(windows)), bool)
    for place, one in enumerate(hashes_of(words)):
        there[place] = np.diff(np.searchsorted(np.flatnonzero(tokens.hashes == one), ends)) > 0
    return there


def _with_letter(tokens: Tokens) -> Array:
    """Which tokens have a letter (or are an ideograph): nearly all that do start with one."""
    classes = tokens.classes[tokens.starts]
    found: Array = (classes >= LETTER) | (classes == OWN)
    others = np.flatnonzero(classes == OTHER)
    if len(others):
        bounds = np.stack([tokens.starts[others], tokens.ends[others]], axis=1).ravel()
        classes = np.append(tokens.classes, np.uint8(0))
        found[others] = np.maximum.reduceat(classes, bounds)[::2] >= LETTER
    return found


def _lines(windows: Windows) -> tuple[Array, Array]:
    """Lines that start with a bullet, and lines that end with an ellipsis, by window."""
    tokens, lines = windows.tokens, windows.lines
    heads = tokens.points[tokens.starts[lines.first[:-1]]]
    last = lines.first[1:] - 1
    tails = tokens.points[tokens.starts[last]]
    long = tokens.ends[last] - tokens.starts[last] >= 3
    bullets = (heads == ord("-")) | (heads == 0x2022)
    ellipses = (tails == 0x2026) | ((tails == ord(".")) & long)
    cuts = lines.cuts
    return np.add.reduceat(bullets, cuts, dtype=np.int64), np.add.reduceat(ellipses, cuts, dtype=np.int64)
