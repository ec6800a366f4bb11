"""Gopher's rules of repetition (Rae et al. 2112.11446, table A1), as datatrove has them.

A copy of a line, a paragraph or a run of tokens is one that stands behind an equal one; `count_first_copy` counts the
one in front too, as Dolma does. Shares of characters are of all characters of the text. Runs of tokens: the commonest
one (the first of several), its characters with a space between tokens, times its copies, which may overlap; and all
that were there before. Of these, neighbours are read in steps of n, so that a row of k counts ceil(k / n) times, and no
character counts twice, nor do spaces. (datatrove reads from left to right and forgets runs that begin inside one it has
just counted.)

Runs of n tokens that have a copy are looked for only where the run of n - 1 has one: one sort of all pairs of tokens,
then ever fewer.
"""

from collections.abc import Callable

import numpy as np

from filters.curation.batch import Batch, Windows
from filters.curation.family import Family, Measure
from filters.curation.groups import Groups, copies, grouped
from filters.curation.tokens import Array
from filters.curation.words import mixed
from schemas.curation.quality import RepetitionConfig

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_BITS = 40
_LAST = (1 << _BITS) - 1


class Repetition(Family[RepetitionConfig]):
    name = "repetition"

    def measures(self, batch: Batch, windows: Windows) -> list[Measure]:
        return self._lines(windows) + _Runs(windows).measures(self.config.top_ngrams, self.config.duplicate_ngrams)

    def _lines(self, windows: Windows) -> list[Measure]:
        config, lines, of = self.config, windows.lines, windows.lines.windows()
        starts = np.flatnonzero(lines.paragraphs)
        place = np.arange(len(lines.keys)) - np.repeat(starts, np.diff(starts, append=len(lines.keys)))
        keys = np.add.reduceat(mixed(lines.keys + place.astype(np.uint64) * _ODD), starts)
        sizes = np.add.reduceat(lines.sizes + 1, starts) - 1
        line = copies(lines.keys, of, windows, config.count_first_copy)
        paragraph = copies(keys, of[starts], windows, config.count_first_copy)
        lines_in, paragraphs_in = np.bincount(of), np.bincount(of[starts])
        one, ones = np.ones(len(of), np.int64), np.ones(len(starts), np.int64)
        whole = windows.sizes
        return [
            Measure("dup_line_frac", *line.sums(one, lines_in), most=config.max_duplicate_lines),
            Measure("dup_line_char_frac", *line.sums(lines.sizes, whole), most=config.max_duplicate_line_characters),
            Measure("dup_para_frac", *paragraph.sums(ones, paragraphs_in), most=config.max_duplicate_paragraphs),
            Measure(
                "dup_para_char_frac", *paragraph.sums(sizes, whole), most=config.max_duplicate_paragraph_characters
            ),
        ]


class _Runs:
    """Runs of tokens that lie in one window. `places`: where those of `size` tokens begin that may have a copy in their
    text; `keys` of them; `groups` of those that have one, as numbers of places."""

    def __init__(self, windows: Windows) -> None:
        tokens, counts = windows.tokens, windows.token_counts()
        self.windows, self.count, self.hashes = windows, len(tokens), tokens.hashes
        self.window = np.repeat(np.arange(len(windows)), counts)  # of each token
        self.text = np.repeat(windows.texts(), counts) if windows.several() else self.window
        if len(windows.firsts) > 1:  # equal in one text only
            self.hashes = self.hashes + self.text.astype(np.uint64) * _ODD
        self.characters = np.zeros(self.count + 1, np.int64)
        np.cumsum(tokens.ends - tokens.starts, out=self.characters[1:])
        self.size = 1
        self.places, self.keys = np.zeros(0, np.int64), self.hashes[:0]
        self.groups, self.may_repeat = Groups(self.places, np.zeros(0, bool)), np.zeros(0, bool)

    def measures(self, top: dict[int, float], duplicate: dict[int, float]) -> list[Measure]:
        measures = []
        for size in range(2, max([*top, *duplicate], default=1) + 1):
            self._grow()
            if size in top:
                measures.append(Measure(f"top_{size}gram", *self._top(), most=top[size]))
            if size in duplicate:
                measures.append(Measure(f"dup_{size}gram", *self._duplicates(), most=duplicate[size]))
        return measures

    def _grow(self) -> None:
        """Runs longer by one token: only where the shorter runs at this token and at the next have copies."""
        if self.size == 1:
            self.places = np.arange(max(0, self.count - 1))
            self.keys = _longer(self.hashes[:-1], self.hashes[1:])
            over = self.windows.cuts[1:] - 1  # begin in one window and end in the next: equal to none
            self.keys[over] = mixed(np.arange(len(over), dtype=np.uint64))
        elif len(self.groups.places):
            both = self.may_repeat[:-1] & self.may_repeat[1:]
            both &= self.places[1:] - self.places[:-1] == 1
            kept = np.flatnonzero(both)
            self.places = self.places[kept]
            self.keys = _longer(self.keys[kept], self.hashes[self.places + self.size])
        self.size += 1
        if self.size == 2 or len(self.groups.places):
            self.groups = grouped(self.keys).repeated()
            self.may_repeat = np.zeros(len(self.places), bool)
            self.may_repeat[self.groups.places] = True

    def _top(self) -> tuple[Array, Array]:
        """The share of the commonest run's characters; a run without a copy counts too."""
        windows = self.windows
        starts = np.where(windows.token_counts() >= self.size, windows.cuts, _LAST)
        first = np.minimum.reduceat(starts, windows.firsts)
        return self._shares(
            self._commonest(self.groups, self.text, first),
            lambda groups: self._commonest(groups, self.window, starts),
        )

    def _commonest(self, groups: Groups, of: Array, starts: Array) -> Array:
        """Its characters in each of the texts or windows `of`, whose first runs begin at `starts` (_LAST: none)."""
        best = np.where(starts < _LAST, 1 << _BITS | _LAST - starts, 0)  # most copies, then the earliest
        runs = np.flatnonzero(groups.starts)
        copies, first = np.diff(runs, append=len(groups.starts)), self.places[groups.places[runs]]
        np.maximum.at(best, of[first], copies << _BITS | _LAST - first)
        place = np.where(best, _LAST - (best & _LAST), 0)
        length = self.characters[np.minimum(place + self.size, self.count)] - self.characters[place]
        commonest: Array = (best >> _BITS) * (length + self.size - 1)
        return commonest

    def _duplicates(self) -> tuple[Array, Array]:
        """The share of characters in runs that were there before."""
        return self._shares(
            self._repeated(self.groups, self.text, len(self.windows.firsts)),
            lambda groups: self._repeated(groups, self.window, len(self.windows)),
        )

    def _repeated(self, groups: Groups, of: Array, count: int) -> Array:
        """Characters in each of the texts or windows `of`."""
        copy = np.zeros(len(self.places), bool)
        copy[groups.places] = ~groups.starts
        places = self.places[np.flatnonzero(copy)]
        row = np.ones(len(places), bool)
        np.greater(places[1:], places[:-1] + 1, out=row[1:])
        starts = np.flatnonzero(row)
        many = (np.diff(starts, append=len(places)) + self.size - 1) // self.size
        before = np.cumsum(many) - many
        places = np.repeat(places[starts] - self.size * before, many) + self.size * np.arange(int(many.sum()))
        ends = places + self.size
        ends[:-1] = np.minimum(ends[:-1], places[1:])
        return np.bincount(of[places], self.characters[ends] - self.characters[places], minlength=count)

    def _shares(self, whole: Array, by_window: Callable[[Groups], Array]) -> tuple[Array, Array]:
        windows = self.windows
        share = whole / np.add.reduceat(windows.sizes, windows.firsts)
        if not windows.several():
            return share, share
        within = self.groups.within(self.window[self.places]).repeated()
        return share, by_window(within) / windows.sizes


def _longer(keys: Array, hashes: Array) -> Array:
    """Keys of runs one token longer, of which the upper bits are the best mixed ones."""
    longer = keys * _ODD
    longer += hashes
    longer *= _MIX
    return longer
