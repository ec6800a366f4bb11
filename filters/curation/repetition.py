"""Gopher's rules of repetition (Rae et al. 2112.11446, table A1), as datatrove has them.

A copy of a line, a paragraph or a run of tokens is one that stands behind an equal one; `count_first_copy` counts the
one in front too, as Dolma does. Shares of characters are of all characters of the text. Runs of tokens: the commonest
one (the first of several), its characters with a space between tokens, times its copies, which may overlap; and all
that were there before, read from left to right, each counted once and without the spaces.

Runs of n tokens that have a copy are looked for only where the run of n - 1 has one: one sort of all pairs of tokens,
then ever fewer.
"""

from bisect import bisect_left
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
        if not len(groups.places):
            return np.zeros(count)
        runs = np.flatnonzero(groups.starts)
        first_of = np.repeat(groups.places[runs], np.diff(runs, append=len(groups.starts)))
        first = np.full(len(self.places), -1)
        first[groups.places[~groups.starts]] = first_of[~groups.starts]
        copies = np.flatnonzero(first >= 0)
        places = _read(self.places[copies], self.places[first[copies]], self.size)
        characters = self.characters[places + self.size] - self.characters[places]
        return np.bincount(of[places], characters, minlength=count)

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


def _read(places: Array, firsts: Array, size: int) -> Array:
    """Reads tokens from left to right and looks at the run of `size` tokens that starts at each: where it was looked at
    before, its place is in the result, and reading goes on behind it. Only `places` with an equal run in front can be;
    `firsts`: where the first one of these is. Neighbouring places are read at once."""
    # A first one may itself be jumped over, if one of the places is just before it.
    doubtful = np.searchsorted(places, firsts) > np.searchsorted(places, firsts - size, "right")
    apart = np.ones(len(places), bool)
    apart[1:] = (places[1:] - places[:-1] > 1) | doubtful[1:] | doubtful[:-1]
    begins = np.flatnonzero(apart)
    lasts = np.append(begins[1:], len(places))[: len(begins)] - 1
    first_of = np.where(doubtful[begins], firsts[begins], -1)
    starts: list[int] = []  # of hits in a row, each behind the other
    counts: list[int] = []
    known: set[int] = set()  # firsts that were jumped over, but a copy was looked at since
    reached = 0
    for start, last, first in zip(places[begins].tolist(), places[lasts].tolist(), first_of.tolist(), strict=True):
        start = max(start, reached)
        if start > last:
            continue
        if first >= 0 and first not in known:
            row = bisect_left(starts, first) - 1
            if row >= 0 and first < starts[row] + size * counts[row] and (first - starts[row]) % size:
                known.add(first)
                continue
        starts.append(start)
        counts.append((last - start) // size + 1)
        reached = start + size * counts[-1]
    rows, many = np.array(starts, np.int64), np.array(counts, np.int64)
    before = np.cumsum(many) - many
    hits: Array = np.repeat(rows - size * before, many) + size * np.arange(int(many.sum()))
    return hits
