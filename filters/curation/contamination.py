"""Parts of benchmarks in documents: found, judged, cut out, reported.

Works on any text: a document, a sample's prompt. For each item of a benchmark that shares an n-gram with the text: how
many, which share of the item's text they cover, and the longest run of words in both.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from filters.curation.benchmark_index import BenchmarkIndex, Hits, strings
from filters.curation.text import Judgement, Text
from filters.curation.words import Array, words
from schemas.curation.contamination import ContaminationConfig, ExcisionConfig, MatchConfig


@dataclass(frozen=True, slots=True)
class Pair:
    """What a text shares with one text of a benchmark's item. `hits`: n-grams of the text; `covered`: share of the
    item's words in them; `longest_run`: words. `contaminated`: by the limits of the recipe."""

    benchmark: str
    item: str
    field: str
    hits: int
    covered: float
    longest_run: int
    contaminated: bool


@dataclass(frozen=True, slots=True)
class Match:
    """The same of one passage, whichever items have it. `first`, `size`: the text's shared words, int64 (hits,)."""

    passage: int
    covered: float
    longest_run: int
    contaminated: bool
    first: Array
    size: Array


class Contamination:
    """Drops documents that hold parts of a benchmark."""

    def __init__(self, config: ContaminationConfig) -> None:
        self._config = config

    def judge(self, text: Text) -> list[Judgement]:
        return [*_judgements(matches(text, self._config), "contaminated"), *_titles(text, self._config)]

    def pairs(self, text: Text) -> list[Pair]:
        return pairs(text, self._config)


class Excision:
    """Cuts parts of benchmarks out of documents, until none is left."""

    def __init__(self, config: ExcisionConfig) -> None:
        self._config = config

    def clean(self, text: Text) -> tuple[str, list[Judgement]]:
        """Every round takes something out, so it ends; a second is needed only where pieces join to a new match."""
        config, now, cut = self._config, text, 0
        found = matches(now, config)
        judgements = [*_judgements(found), *_titles(text, config)]
        while any(one.contaminated for one in found):
            kept, pieces = _pieces(now, [one for one in found if one.contaminated], config)
            cut += pieces
            now = Text("\n\n".join(kept), text.source, text.language)
            found = matches(now, config)
        if not cut:
            return text.text, judgements
        removed = float(len(text.text) - len(now.text))
        reason = "too_many_pieces" if cut > config.max_pieces else "nothing_left" if not now.text else ""
        judgements.append(Judgement("contamination.removed_characters", removed, not reason, reason))
        return now.text, judgements

    def pairs(self, text: Text) -> list[Pair]:
        return pairs(text, self._config)


def matches(text: Text, config: MatchConfig) -> list[Match]:
    """By passage, in the order of the index."""
    index = _index(config.index)
    hits = index.hits(text.words)
    if not len(hits.passage):
        return []
    order = np.lexsort((hits.first, hits.first - hits.place, hits.passage))
    hits = Hits(hits.passage[order], hits.first[order], hits.place[order], hits.size[order])
    ends = np.append(np.flatnonzero(np.diff(hits.passage)) + 1, len(order))
    starts = np.append(0, ends[:-1])
    return [_match(index, hits, slice(*span), config) for span in zip(starts.tolist(), ends.tolist(), strict=True)]


def _match(index: BenchmarkIndex, hits: Hits, span: slice, config: MatchConfig) -> Match:
    """Hits of one passage, sorted by (first - place, first): runs of equal words lie together."""
    passage = int(hits.passage[span.start])
    first, place, size = hits.first[span], hits.place[span], hits.size[span]
    length = int(index.lengths[passage])
    marks = np.zeros(length + 1, np.int64)
    np.add.at(marks, place, 1)
    np.add.at(marks, place + size, -1)
    covered = int(np.count_nonzero(np.cumsum(marks[:-1]))) / length
    breaks = np.flatnonzero((np.diff(first) != 1) | (np.diff(place) != 1)) + 1
    runs = np.diff(np.concatenate([[0], breaks, [len(first)]]))
    longest = int(runs.max() - 1 + size[0])
    whole = length < index.ngram
    contaminated = whole or longest >= config.min_run or covered >= config.min_covered
    return Match(passage, covered, longest, contaminated, first, size)


def pairs(text: Text, config: MatchConfig) -> list[Pair]:
    """One for each item and field that shares something with the text."""
    names = _index(config.index).names if (found := matches(text, config)) else []
    return [
        Pair(*name, len(np.unique(one.first)), one.covered, one.longest_run, one.contaminated)
        for one in found
        for name in names[one.passage]
    ]


def _judgements(found: list[Match], reason: str = "") -> list[Judgement]:
    """The verdict is on the number of texts of benchmarks that contaminate; a cleaner gives none (no `reason`)."""
    bad = sum(one.contaminated for one in found)
    verdict = Judgement("contamination.texts", float(bad), not (bad and reason), reason if bad else "")
    if not found:
        return [verdict]
    hits = len(np.unique(np.concatenate([one.first for one in found])))
    return [
        verdict,
        Judgement("contamination.hits", float(hits)),
        Judgement("contamination.covered", max(one.covered for one in found)),
        Judgement("contamination.longest_run", float(max(one.longest_run for one in found))),
    ]


def _titles(text: Text, config: MatchConfig) -> list[Judgement]:
    """How many benchmarks the document's metadata name, licences apart: title, URL, file, or any column that the recipe
    keeps. Compared as words are, so `gsm8k` is in `data/GSM8K_test.jsonl:3` and not in `gsm8ks`. The reason is the
    first benchmark's name: cutting words out would not help, so the document goes from a cleaner too."""
    if not any(one.titles for one in config.benchmarks):
        return []
    kept = {name: value for name, value in json.loads(text.metadata).items() if name != "licence"}
    said = [words(one) for one in strings(kept)]
    named = [
        benchmark.name
        for benchmark in config.benchmarks
        if any(np.isin(run, one.ngrams(size)).any() for size, run in map(_title, benchmark.titles) for one in said)
    ]
    return [Judgement("contamination.title", float(len(named)), not named, named[0] if named else "")]


@lru_cache(10_000)
def _title(title: str) -> tuple[int, Array]:
    """How many words, and the hash of their run."""
    found = words(title)
    return len(found), found.ngrams(len(found))


def _pieces(text: Text, found: list[Match], config: ExcisionConfig) -> tuple[list[str], int]:
    """What stays of a text without the shared words and their margins, in pieces, and how many were cut out. Cuts lie
    between words."""
    starts, ends = text.words.starts, text.words.ends
    first = np.concatenate([one.first for one in found])
    last = first + np.concatenate([one.size for one in found]) - 1
    low, high = starts[first] - config.margin, ends[last] + config.margin
    low = np.where(low <= 0, 0, np.minimum(ends[np.searchsorted(ends, low)], starts[first]))
    after = starts[np.searchsorted(starts, high, "right") - 1]
    high = np.where(high >= len(text.text), len(text.text), np.maximum(after, ends[last]))
    kept, at, cut = [], 0, 0
    order = np.argsort(low, kind="stable")
    for start, end in zip(low[order].tolist(), high[order].tolist(), strict=True):
        if cut == 0 or start > at:
            kept.append(text.text[at:start])
            cut += 1
        at = max(at, end)
    kept.append(text.text[at:])
    kept = [piece.strip() for piece in kept]
    return [piece for piece in kept if piece and len(piece) >= config.min_piece], cut


def _index(folder: str) -> BenchmarkIndex:
    return _loaded(folder, (Path(folder) / "index.json").stat().st_mtime_ns)


@lru_cache(4)
def _loaded(folder: str, built: int) -> BenchmarkIndex:
    """Once for each process and index; one that was built again is loaded again."""
    return BenchmarkIndex(Path(folder))


def report(rows: Iterable[dict[str, Any]], counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """By benchmark: its items, those looked for (the others are too short), those found in a document, their share,
    and the ids of these documents. `rows`: the table of pairs; `counts`: `BenchmarkIndex.counts`."""
    hit: dict[str, set[str]] = {name: set() for name in counts}
    documents: dict[str, set[str]] = {name: set() for name in counts}
    for row in rows:
        if row["contaminated"]:
            hit[row["benchmark"]].add(row["item"])
            documents[row["benchmark"]].add(row["document_id"])
    return [
        {
            "benchmark": name,
            "items": items,
            "looked_for": looked_for,
            "items_hit": len(hit[name]),
            "share": len(hit[name]) / items,
            "documents": sorted(documents[name]),
        }
        for name, (items, looked_for) in sorted(counts.items())
    ]
