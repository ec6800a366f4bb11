"""Which pairs of documents to read beside each other, from columns of (document, key), and what the reading tells.

Pure functions on numpy arrays. Any part of the keys may be grouped apart, and `merged` puts the pairs together.
A bucket (the documents of one key) of n copies is asked for n - 1 pairs: each with the bucket's first. What is alike
falls, and what still stands is paired with the bucket's next ones (clusters.settle). So no candidate pair of documents
that both stay goes unread, and a bucket costs its size times the number of different documents in it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from filters.curation.minhash import distinct
from filters.curation.words import Array, mixed
from schemas.curation.duplicates import Duplicates

DEVIATIONS = 2.5  # by which a sample may show less of a document than the threshold of containment


def linked(
    documents: Array, keys: Array, rank: Array, standing: Array, width: int, asking: Array | None = None
) -> tuple[Array, bool]:
    """Pairs (earlier, later by rank) of documents that stand, int64 (pairs, 2): every document of a bucket with the
    first `width` of it. And whether that is all pairs. `rank`, `standing`: by document. `asking`: bool by row, the
    rows that ask for their pair with an earlier one; default all."""
    stands = standing[documents]
    documents, keys = documents[stands], keys[stands]
    asking = np.ones(len(keys), bool) if asking is None else asking[stands]
    if not len(keys):
        return np.zeros((0, 2), np.int64), True
    order = np.lexsort((rank[documents], keys))
    documents, keys, asking = documents[order], keys[order], asking[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    start = np.repeat(starts, np.diff(np.append(starts, len(keys))))
    place = np.arange(len(keys)) - start
    rows = np.flatnonzero(asking & (place > 0))
    most = int(place[rows].max(initial=0))
    found = []
    for step in range(min(width, most)):
        rows = rows[place[rows] > step]
        found.append(np.stack([documents[start[rows] + step], documents[rows]], axis=1))
    return merged(found), most <= width


def merged(pairs: list[Array]) -> Array:
    """All pairs once, sorted."""
    if not pairs:
        return np.zeros((0, 2), np.int64)
    codes = distinct(_codes(np.concatenate(pairs)))
    return np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)


def without(pairs: Array, known: Array) -> Array:
    return pairs[~np.isin(_codes(pairs), _codes(known))]


def _codes(pairs: Array) -> Array:
    return (pairs[:, 0].astype(np.int64) << 32) | pairs[:, 1].astype(np.int64)  # documents < 2^31


@dataclass(frozen=True, slots=True)
class Shared:
    """Sampled word runs (or keys) that several documents have: a row for each document and run. `many`: in how many."""

    documents: Array
    hashes: Array
    many: Array


def shared(documents: Array, hashes: Array) -> Shared:
    """Of one part of the hashes: most runs of most corpora stand in one document only and end here. Serves keys too. In
    SQL: SELECT document, hash, many FROM (SELECT *, count(*) OVER (PARTITION BY hash) AS many FROM t) WHERE many > 1"""
    _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    many = counts[place]
    keep = many > 1
    return Shared(documents[keep], hashes[keep], many[keep])


def probes(rows: Shared, sampled: Array, containment: float) -> Array:
    """Bool by row: the runs by which a document is looked for in others. `sampled`: runs sampled, by document.

    If n of a document's s runs are in another document, then at least one of any s - n + 1 of them is. So its rarest
    ones are enough, and a text of its own under a licence that thousands carry asks for nothing.
    A document of a hundred words or two may have no sample: it is found in another only if the bands show it."""
    alone = sampled - np.bincount(rows.documents, minlength=len(sampled))
    enough = sampled - least(sampled, containment) + 1 - alone
    order = np.lexsort((rows.hashes, rows.many, rows.documents))
    ordered = rows.documents[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    result = np.zeros(len(order), bool)
    result[order] = place < enough[ordered]
    return result


def least(sampled: Array, containment: float) -> Array:
    """How many of a document's sampled runs another one must have to be read beside it: the share expected at the
    threshold less 2.5 standard deviations. Of documents of 1,000 words one in 79 is missed that is known to exactly
    .8, one in 900 at .85, one in 44,000 at .9; none that is known wholly."""
    share = containment * sampled - DEVIATIONS * np.sqrt(containment * (1 - containment) * sampled)
    result: Array = np.maximum(1, np.ceil(share - 1e-9)).astype(np.int64)
    return result


def contained(
    rows: Shared, asking: Array, sampled: Array, rank: Array, standing: Array, width: int, containment: float
) -> tuple[Array, bool]:
    """As `linked`, of documents whose runs are in an earlier one by the share that their samples can show."""
    pairs, all_ = linked(rows.documents, rows.hashes, rank, standing, width, asking)
    needed = least(sampled, containment)
    have = np.sort(_owned(rows.documents, rows.hashes))
    order = np.argsort(rows.documents, kind="stable")
    hashes = rows.hashes[order]
    first = np.searchsorted(rows.documents[order], np.arange(len(sampled) + 1))
    sizes = np.diff(first)
    found = []
    for part in np.split(pairs, np.flatnonzero(np.diff(np.cumsum(sizes[pairs[:, 1]]) >> 20)) + 1):
        count = sizes[part[:, 1]]
        pair = np.repeat(np.arange(len(part)), count)
        row = np.arange(len(pair)) + (first[part[:, 1]] - np.cumsum(count) + count)[pair]
        wanted = _owned(part[:, 0][pair], hashes[row])
        place = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        hits = np.bincount(pair[have[place] == wanted], minlength=len(part))
        found.append(part[hits >= needed[part[:, 1]]])
    return merged(found), all_


def _owned(documents: Array, hashes: Array) -> Array:
    return mixed(hashes ^ mixed(documents.astype(np.uint64)))


def finder(
    parts: Callable[[], Iterable[tuple[Array, Array]]], rows: Shared, sampled: Array, rank: Array, config: Duplicates
) -> Callable[[Array, int], tuple[Array, bool]]:
    """What clusters.settle asks. `parts`: gives (documents, keys) of one part of the keys after the other, each time it
    is called; best without the keys of one document only (`shared`). `rows`: the shared samples, in memory.

    In memory: about 30 bytes and the id of each document, 24 for each shared sample, some 120 for each row of one part:
    6 million of 10 million documents' 390 million, in 64 parts, took 420 MB and 3 CPU seconds."""
    asking = probes(rows, sampled, config.containment)

    def find(standing: Array, width: int) -> tuple[Array, bool]:
        found = [linked(*part, rank, standing, width) for part in parts()]
        found.append(contained(rows, asking, sampled, rank, standing, width, config.containment))
        return merged([pairs for pairs, _ in found]), all(complete for _, complete in found)

    return find


def compare(one: Array, other: Array) -> tuple[float, float, float]:
    """True Jaccard similarity of two sets of word runs (minhash.shingles), the share of the first that is in the
    second, and of the second in the first."""
    few, many = sorted((one, other), key=len)
    both = int((many[np.minimum(np.searchsorted(many, few), len(many) - 1)] == few).sum())
    if not both:
        return 0.0, 0.0, 0.0
    return both / (len(one) + len(other) - both), both / len(one), both / len(other)
