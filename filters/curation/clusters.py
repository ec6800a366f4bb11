"""Which of the documents that are alike stay. A pure function of the pairs that were read, whatever their order.

In a stated order (most different word runs first, then by id) a document stays unless it is like one that stays
already. So every document that goes has its like among those that stay, and those that stay are not alike: no chain of
likenesses joins what has nothing in common. `settle` finds the same result without knowing all pairs that are alike:
once all candidate pairs among those that stay were read, the pairs not read cannot change it (each that goes has an
earlier one that stays, each that stays has no like among those that stay; only one set has both properties).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.curation.candidates import without
from filters.curation.words import Array
from schemas.curation.duplicates import Duplicates

_FEW = 10  # documents: a smaller cluster is no alarm, however small its source
_WIDER = 4

Find = Callable[[Array, int], tuple[Array, bool]]  # (standing, width) -> pairs and whether these are all
Read = Callable[[Array], Array]  # sorted pairs (m, 2) -> float64 (m, 3): candidates.compare of each


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that were read: int64 (m, 2), earlier and later by rank, and float64 (m, 3) of candidates.compare."""

    documents: Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    numbers: Array = field(default_factory=lambda: np.zeros((0, 3)))


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is implausible in a source. `kept`: the id of the cluster's kept copy; empty where all clusters count."""

    source: str
    documents: int
    share: float
    kept: str = ""

    def __str__(self) -> str:
        what = f"one cluster, kept copy {self.kept!r}, has" if self.kept else "near-duplicates would take"
        return f"source {self.source!r}: {what} {self.documents} documents, {self.share:.1%}"


def ranked(runs: Array, ids: pa.Array) -> Array:
    """int64 by document: 0 for the one with most word runs; of equal ones the least id comes first. So of two documents
    the later one is held by the earlier one to the larger share."""
    table = pa.table({"runs": runs, "id": ids})
    order = pc.sort_indices(table, sort_keys=[("runs", "descending"), ("id", "ascending")]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def settle(find: Find, read: Read, rank: Array, config: Duplicates) -> Pairs:
    """All pairs that matter, read. `find`: candidates.linked and .contained over all parts of the columns. Rounds go
    on until no two documents that stay are an unread candidate pair."""
    pairs, width = Pairs(), 1
    while True:
        standing = kept(pairs, rank, config)
        candidates, complete = find(standing, width)
        new = without(candidates, pairs.documents)
        if len(new):
            pairs = Pairs(np.concatenate([pairs.documents, new]), np.concatenate([pairs.numbers, read(new)]))
        elif complete:
            return pairs
        width *= _WIDER


def kept(pairs: Pairs, rank: Array, config: Duplicates) -> Array:
    """Bool by document."""
    alike = pairs.documents[_alike(pairs.numbers, config)]
    keep = np.ones(len(rank), bool)
    alike = alike[np.argsort(rank[alike[:, 1]], kind="stable")]
    for earlier, later in alike.tolist():
        if keep[earlier]:
            keep[later] = False
    return keep


def _alike(numbers: Array, config: Duplicates) -> Array:
    result: Array = (numbers[:, 0] >= config.threshold) | (numbers[:, 2] >= config.containment)
    return result


def resolve(pairs: Pairs, rank: Array, ids: pa.Array, exact: Array, config: Duplicates) -> pa.Table:
    """A row for each document: `id`, `keep`, `reason` (exact_duplicate, near_duplicate, contained, or empty),
    `kept_copy_id` (of those that stay the one that holds most of it; its own id where it stays itself), `cluster_size`
    (the kept copy and all that went for it; `kept_copy_id` names the cluster), `jaccard` with the kept copy, and
    `known_share`: how much of it the kept copy holds; of one that stays, the most that an earlier one holds, as far as
    was read."""
    keep = kept(pairs, rank, config)
    counts = keep[pairs.documents[:, 0]]
    (earlier, later), numbers = pairs.documents[counts].T, pairs.numbers[counts]
    alike = _alike(numbers, config)
    order = np.lexsort((-rank[earlier], numbers[:, 0], numbers[:, 2], alike))  # of each document the last one stands
    copy, jaccard, known = np.arange(len(rank)), np.zeros(len(rank)), np.zeros(len(rank))
    copy[later[order]] = earlier[order]
    jaccard[later[order]] = numbers[order, 0]
    known[later[order]] = numbers[order, 2]
    copy[keep] = np.flatnonzero(keep)
    reason = np.where(jaccard >= config.threshold, "near_duplicate", "contained").astype(object)
    reason[exact == exact[copy]] = "exact_duplicate"
    reason[keep] = ""
    return pa.table(
        {
            "id": ids,
            "keep": keep,
            "reason": pa.array(reason, pa.string()),
            "kept_copy_id": ids.take(pa.array(copy)),
            "cluster_size": np.bincount(copy, minlength=len(rank))[copy],
            "jaccard": jaccard,
            "known_share": known,
        }
    )


def alarms(resolved: pa.Table, sources: pa.Array, config: Duplicates) -> list[Alarm]:
    """Sources that lose an implausible share, and clusters that hold one (of at least 10 documents)."""
    table = resolved.append_column("source", sources)
    gone = pc.cast(pc.invert(table["keep"]), pa.int64())
    sizes = table.append_column("gone", gone).group_by("source").aggregate([("gone", "sum"), ("gone", "count")])
    of_source = {row["source"]: (row["gone_sum"], row["gone_count"]) for row in sizes.to_pylist()}
    result = [
        Alarm(source, lost, lost / count)
        for source, (lost, count) in of_source.items()
        if lost > config.alarm_gone * count
    ]
    clusters = table.group_by(["source", "kept_copy_id"]).aggregate([("id", "count")])
    for row in clusters.filter(pc.greater_equal(clusters["id_count"], _FEW)).to_pylist():
        share = row["id_count"] / of_source[row["source"]][1]
        if share > config.alarm_cluster:
            result.append(Alarm(row["source"], row["id_count"], share, row["kept_copy_id"]))
    return sorted(result, key=lambda alarm: (alarm.source, alarm.kept))
