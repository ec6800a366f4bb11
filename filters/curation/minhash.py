"""MinHash signatures of word runs, whose bands find near-duplicates, and samples of word runs, which find parts.

One permutation: a run's hash says which place of the signature it belongs to and stands for its order there, so a text
is read once whatever the size of the signature (Li, Owen, Zhang 2012). A place that no run fell into is filled by
hashing all runs anew, a few times into random places, at last for that place alone (the rounds of Dahlgaard, Knudsen,
Thorup 2017). So every place holds the first run of the text in an order that the union of two texts would use as well:
two texts agree there with the probability of their Jaccard similarity, short or long, alike in length or not.

A signature's places are cut into bands; texts that agree in a whole band are candidates.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from filters.curation.text import Text
from filters.curation.words import Array, Words, mixed, words_of
from schemas.curation.duplicates import Duplicates

SAMPLE = 32  # one word run of so many is kept to find parts of documents: 31 of 1,000 words
MOST_BANDS = 40
MISSED, MISSED_BELOW = 1e-5, 0.01
_TURNS = 4
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FULL = 1 << 64
_LOW = np.uint64(0xFFFFFFFF)


@cache
def banding(threshold: float) -> tuple[int, int]:
    """Bands and rows: the most rows (fewest false candidates) with which at most 40 bands (what a document adds to the
    shuffle) miss 1 in 100,000 pairs at the threshold and 1 in 100 at .1 below. At .8: 38 x 6, which finds .9999906 of
    pairs at .8, .9914 at .7, .450 at .5, .027 at .3, and of unrelated books (.0004) none. Candidates are verified, so a
    soft curve costs time and not precision."""
    best = 0, 0
    for rows in range(1, 33):
        bands = max(
            math.ceil(math.log(missed) / math.log1p(-(similarity**rows)))
            for missed, similarity in ((MISSED, threshold), (MISSED_BELOW, threshold - 0.1))
        )
        if bands <= MOST_BANDS:
            best = bands, rows
    return best


def collision(similarity: float, bands: int, rows: int) -> float:
    """The chance that texts of this Jaccard similarity agree in a band."""
    return float(1 - (1 - similarity**rows) ** bands)


def exact(words: Words) -> np.uint64:
    """A hash of all words in their order: exact duplicates but for typography."""
    digest = hashlib.blake2b(words.hashes.tobytes(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def shingles(words: Words, size: int) -> Array:
    """The sorted set of hashes of a text's word runs. A text shorter than a run is one run: it is like no text but its
    copies. Without a word: empty, like nothing."""
    if len(words) >= size:
        return distinct(words.ngrams(size))
    return np.array([exact(words)][: len(words)], np.uint64)


def distinct(values: Array) -> Array:
    """As numpy.unique, which since 2.3 fills a hash table: here seven times slower than sorting and more."""
    values = np.sort(values)
    result: Array = values[np.append(np.ones(min(1, len(values)), bool), values[1:] != values[:-1])]
    return result


def signature(runs: Array, places: int) -> Array:
    """uint64 (places,) of the hashes of one or more word runs, repeated or not, in any order."""
    result, empty = np.zeros(places, np.uint64), np.ones(places, bool)
    if len(runs) > 32 * places:  # almost surely all places are filled by the small hashes
        _fill(result, empty, runs[runs < np.uint64(24 * places * _FULL // len(runs))])
        if empty.any():
            empty[:] = True
    for turn in range(_TURNS):
        if not empty.any():
            return result
        _fill(result, empty, mixed(runs + np.uint64(turn * int(_ODD) % _FULL)) if turn else runs)
    own = np.flatnonzero(empty)
    if len(own):
        seeds = (own.astype(np.uint64) + np.uint64(_TURNS)) * _ODD
        result[own] = mixed(runs + seeds[:, None]).min(axis=1)
    return result


def _fill(result: Array, empty: Array, hashes: Array) -> None:
    """The smallest hash of each place, where it is still empty. The place is drawn from the low half of a hash."""
    values = np.sort(hashes)[::-1]
    places = ((values & _LOW) * np.uint64(len(result))) >> np.uint64(32)
    smallest, drawn = np.zeros_like(result), np.zeros_like(empty)
    smallest[places] = values  # of several values for one place the last one stays
    drawn[places] = True
    drawn &= empty
    result[drawn] = smallest[drawn]
    empty[drawn] = False


def band_keys(signed: Array, bands: int, rows: int) -> Array:
    """uint64 (bands,): a hash of each band. The band's number goes into it, so keys of all bands are grouped as one."""
    places = signed.reshape(bands, rows)
    total = np.arange(bands, dtype=np.uint64)
    for row in range(rows):
        total = total * _ODD + places[:, row]
    return mixed(total)


@dataclass(frozen=True, slots=True)
class Columns:
    """What a batch of n documents sends into the shuffle. Documents are numbered through the corpus."""

    documents: Array  # int64 (n,)
    runs: Array  # int64 (n,): different word runs, which is how long a document is here
    exact: Array  # uint64 (n,)
    sampled: Array  # int32 (n,): rows in `samples`
    keys: tuple[Array, Array]  # int64 and uint64 (m,): document, key. Who shares a key may be alike
    samples: tuple[Array, Array]  # the same: document, hash of a word run. Who shares many may be part of the other


def sign(texts: Sequence[Text], first: int, config: Duplicates) -> Columns:
    """Columns of documents number `first`, `first` + 1, ... At a threshold of .8 a document has 39 keys, and a sample
    for every 32 words; a row of 16 bytes each, before compression."""
    keys, samples = [], []
    runs, hashes = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.uint64)
    for place, (text, words) in enumerate(zip(texts, words_of(text.text for text in texts), strict=True)):
        different, hashes[place] = shingles(words, config.shingle), exact(words)
        runs[place] = len(different)
        seed = _seed(text.source if config.scope == "source" else "")
        whole = hashes[place : place + 1][: len(words)]  # nothing is not a copy of nothing
        long = len(words) >= config.shingle
        some = different[: np.searchsorted(different, np.uint64(_FULL // SAMPLE)) if long else 0]
        keys.append(mixed(np.append(whole, _bands(different, config) if long else whole[:0]) ^ seed))
        samples.append(mixed(some ^ seed))
    documents = np.arange(first, first + len(texts), dtype=np.int64)
    sampled = np.array([len(one) for one in samples], np.int32)
    return Columns(
        documents,
        runs,
        hashes,
        sampled,
        (np.repeat(documents, [len(one) for one in keys]), np.concatenate([*keys, np.zeros(0, np.uint64)])),
        (np.repeat(documents, sampled), np.concatenate([*samples, np.zeros(0, np.uint64)])),
    )


def _bands(runs: Array, config: Duplicates) -> Array:
    bands, rows = banding(config.threshold)
    return band_keys(signature(runs, bands * rows), bands, rows)


@cache
def _seed(source: str) -> np.uint64:
    """Documents with different seeds share no key."""
    return np.uint64(int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "little"))
