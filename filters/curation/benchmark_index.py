"""An index of benchmark texts: hashes of their n-grams, sorted, each with the texts it is in and where.

Built once, saved as plain arrays and mapped into memory by every worker. A passage is one text of an item (its
question, its context); a text that many items have is one passage. A Bloom filter of 32 to 64 bits an n-gram rejects
nearly all n-grams of a document before any search.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from filters.curation.words import Array, Words, ngrams, words

_BLOCK = 1 << 14  # words of a document looked at together
_ARRAYS = ("hashes", "starts", "owner", "place", "filter")
_PLACES = 4  # of one n-gram in one passage: "a a a ..." must not give n x n hits
_MOST_HITS = 1 << 20  # of one document: one that repeats a benchmark without end must not fill the memory
_EMPTY = 128  # bytes of a saved array without elements, which cannot be mapped


@dataclass(frozen=True, slots=True)
class Passage:
    """One text of a benchmark's item. `whole`: a question, looked for as a whole where it is shorter than an n-gram."""

    benchmark: str
    item: str
    field: str
    text: str
    whole: bool


def passages(benchmark: str, item: str, row: dict[str, Any], fields: Iterable[str]) -> list[Passage]:
    """The passages of one row; the first of `fields` is the question. A key that is missing gives none."""
    found = []
    for place, field in enumerate(fields):
        text = "\n".join(strings(row.get(field)))
        if text:
            found.append(Passage(benchmark, item, field, text, whole=place == 0))
    return found


def strings(value: Any) -> Iterator[str]:
    """All texts in a value of JSON or Parquet."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list | tuple | np.ndarray):
        for one in value:
            yield from strings(one)


@dataclass(frozen=True, slots=True)
class Hits:
    """Places where a document has an n-gram of a passage: int64 (hits,). `first`: the document's word; `place`: the
    passage's word; `size`: words that are equal from there on."""

    passage: Array
    first: Array
    place: Array
    size: Array


def build_index(items: Iterable[Passage], ngram: int, short_words: int, boilerplate: int, folder: Path) -> None:
    """Writes the index into a folder. Holds the n-grams in memory: some 130 bytes each while sorting."""
    counts: dict[str, list[set[str]]] = {}
    names: list[list[tuple[str, str, str]]] = []
    lengths: list[int] = []
    known: dict[bytes, int] = {}
    long: list[tuple[int, Array]] = []
    short: list[tuple[int, Array]] = []
    for one in items:
        items_of, found_by = counts.setdefault(one.benchmark, [set(), set()])
        items_of.add(one.item)
        hashes = words(one.text).hashes
        is_short = len(hashes) < ngram
        if is_short and not (one.whole and len(hashes) >= short_words):
            continue
        found_by.add(one.item)
        number = known.setdefault(hashes.tobytes(), len(names))
        if number == len(names):
            names.append([])
            lengths.append(len(hashes))
            (short if is_short else long).append((number, hashes))
        names[number].append((one.benchmark, one.item, one.field))
    folder.mkdir(parents=True, exist_ok=True)
    _save_grams(folder, "gram", [(number, ngrams(hashes, ngram)) for number, hashes in long], boilerplate)
    _save_grams(folder, "head", [(number, ngrams(hashes[:short_words], short_words)) for number, hashes in short])
    _save_grams(folder, "whole", [(number, ngrams(hashes, len(hashes))) for number, hashes in short])
    np.save(folder / "lengths.npy", np.array(lengths, np.int64))
    (folder / "names.json").write_text(json.dumps(names))
    settings = {
        "ngram": ngram,
        "short_words": short_words,
        "sizes": sorted({len(hashes) for _, hashes in short}),
        "counts": {name: [len(one) for one in sets] for name, sets in counts.items()},
    }
    (folder / "index.json").write_text(json.dumps(settings))


def _save_grams(folder: Path, kind: str, texts: list[tuple[int, Array]], boilerplate: int | None = None) -> None:
    hashes = np.concatenate([np.zeros(0, np.uint64), *(one for _, one in texts)])
    counts = [len(one) for _, one in texts]
    owner = np.repeat(np.array([number for number, _ in texts], np.uint32), counts)
    place = np.concatenate([np.zeros(0, np.uint32), *(np.arange(count, dtype=np.uint32) for count in counts)])
    order = np.lexsort((place, owner, hashes))
    hashes, owner, place = hashes[order], owner[order], place[order]
    new = np.append(True, (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1]))[: len(hashes)]
    firsts = np.flatnonzero(new)
    keep = np.arange(len(hashes)) - np.repeat(firsts, np.diff(np.append(firsts, len(hashes)))) < _PLACES
    if boilerplate is not None:
        _, group = np.unique(hashes, return_inverse=True)
        keep &= (np.bincount(group, new) <= boilerplate)[group]
    hashes, owner, place = hashes[keep], owner[keep], place[keep]
    unique, starts = np.unique(hashes, return_index=True)
    table = np.zeros(1 << max(14, (len(unique) // 2).bit_length()), np.uint64)
    for bit in _bits(unique):
        np.bitwise_or.at(table, _slots(unique, len(table)), np.uint64(1) << bit)
    starts = np.append(starts, len(hashes)).astype(np.int64)
    arrays: list[Array] = [unique, starts, owner, place, table]
    for name, array in zip(_ARRAYS, arrays, strict=True):
        np.save(folder / f"{kind}_{name}.npy", array)


def _slots(hashes: Array, size: int) -> Array:
    """The word of the filter, by the first bits of a hash; a filter has a power of two of words."""
    slots: Array = hashes >> np.uint64(65 - size.bit_length())
    return slots


def _bits(hashes: Array) -> tuple[Array, Array]:
    """The two bits of that word, by the last bits."""
    return hashes & np.uint64(63), (hashes >> np.uint64(6)) & np.uint64(63)


class _Grams:
    """Sorted n-gram hashes of one kind, with the passages they are in and where."""

    def __init__(self, folder: Path, kind: str) -> None:
        paths = [folder / f"{kind}_{name}.npy" for name in _ARRAYS]
        arrays = [np.load(path, mmap_mode="r" if path.stat().st_size > _EMPTY else None) for path in paths]
        self.hashes, self.starts, self.owner, self.place, self.filter = (one.view(np.ndarray) for one in arrays)

    def find(self, grams: Array) -> tuple[Array, Array, Array]:
        """Of each posting of each known gram: the gram's number among `grams`, the passage, the place in it."""
        word = self.filter[_slots(grams, len(self.filter))]
        one, other = _bits(grams)
        first = np.flatnonzero((word >> one) & (word >> other) & np.uint64(1))
        nothing = np.zeros(0, np.int64)
        if not len(first) or not len(self.hashes):
            return nothing, nothing, nothing
        at = np.minimum(np.searchsorted(self.hashes, grams[first]), len(self.hashes) - 1)
        known = self.hashes[at] == grams[first]
        first, at = first[known], at[known]
        counts = self.starts[at + 1] - self.starts[at]
        before = np.cumsum(counts) - counts
        posting = np.repeat(self.starts[at] - before, counts) + np.arange(counts.sum())
        return np.repeat(first, counts), self.owner[posting].astype(np.int64), self.place[posting].astype(np.int64)


class BenchmarkIndex:
    """An index that was built, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "index.json").read_text())
        self.ngram, self._head, self._sizes = int(settings["ngram"]), int(settings["short_words"]), settings["sizes"]
        self.lengths: Array = np.load(folder / "lengths.npy")
        self._grams, self._heads, self._whole = (_Grams(folder, kind) for kind in ("gram", "head", "whole"))
        self._folder = folder
        # Of each benchmark: its items, and those of which some text is long enough to be looked for.
        self.counts: dict[str, tuple[int, int]] = {name: (a, b) for name, (a, b) in settings["counts"].items()}

    @cached_property
    def names(self) -> list[list[tuple[str, str, str]]]:
        """Of each passage the items that have it: benchmark, item, field. Read only when something was found."""
        found: list[list[tuple[str, str, str]]] = json.loads((self._folder / "names.json").read_text())
        return found

    def hits(self, text: Words) -> Hits:
        """All n-grams and all short questions of the index that the document has, up to the block of words in which
        there are more than a million."""
        total = 0
        columns = [(np.zeros(0, np.int64),) * 4]
        for start in range(0, len(text), _BLOCK):
            part = text.hashes[start : start + _BLOCK + self.ngram - 1]
            first, passage, place = self._grams.find(ngrams(part, self.ngram))
            columns.append((passage, first + start, place, np.full(len(first), self.ngram)))
            total += len(first)
            if total > _MOST_HITS:
                break
            if self._sizes:
                heads = np.unique(self._heads.find(ngrams(part[: _BLOCK + self._head - 1], self._head))[0])
                if len(heads):
                    columns += [self._questions(text, heads + start, size) for size in self._sizes]
        return Hits(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def _questions(self, text: Words, heads: Array, size: int) -> tuple[Array, Array, Array, Array]:
        """The short questions of `size` words that begin at one of `heads`."""
        heads = heads[heads + size <= len(text)]
        runs = text.hashes[heads[:, None] + np.arange(size)].ravel()
        at, passage, place = self._whole.find(ngrams(runs, size)[::size])
        return passage, heads[at], place, np.full(len(at), size)
