"""Which tokens of which sample go into which row: decided on lengths alone, over all samples at once."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.packing.arrays import Array, in_order, offsets, sums
from pipelines.packing.best_fit import best_fit
from pipelines.packing.cuts import Pieces, cut_every, decompose
from schemas.packing import Packing


@dataclass(frozen=True, slots=True)
class Plan:
    """Pieces of samples, int64 (pieces,), in the order of the rows. Row r has those from row_offsets[r] to before
    row_offsets[r + 1], each of one sample: piece_length tokens from piece_start on."""

    piece_sample: Array
    piece_start: Array
    piece_length: Array
    row_offsets: Array  # int64 (rows + 1,)
    lost: dict[str, Array]  # samples with no token in any row, by reason: empty, too_long, too_short


def plan(lengths: Array, config: Packing, seed: int, groups: Array | None = None) -> Plan:
    """`lengths`: tokens of each sample, whole numbers (n,). `groups`: any value of each sample, array (n,); a row holds
    samples of one group, and the rows of all groups are shuffled together (training and evaluation need a plan each).

    Same arguments, same plan. Wrapped and next-fit rows follow the order of the samples; how many rows best fit makes
    does not depend on it.
    """
    lengths = np.asarray(lengths, np.int64)
    rng = np.random.default_rng(seed)
    lost, kept = _lost(lengths, config)
    group = np.zeros(len(kept), np.int64)
    if groups is not None:
        group = np.unique(groups[kept], return_inverse=True)[1]
        by_group = in_order(group)
        kept, group = kept[by_group], group[by_group]
    lengths = lengths[kept]
    if config.strategy == "wrapped":
        pieces, row = _wrapped(lengths, group, config.capacity)
        units = np.arange(row.max(initial=-1) + 1)
    else:
        pieces = _cut(lengths, config, rng)
        row, units = _rows(padded(pieces.length, config), group[pieces.sample], config)
    if config.shuffle:
        row = _shuffled(units, config, rng)[row]
    order = in_order(row)
    samples, starts, sizes = (part[order] for part in pieces)
    return Plan(kept[samples], starts, sizes, offsets(np.bincount(row)), lost)


def padded(lengths: Array, config: Packing) -> Array:
    """What pieces take up in a row."""
    multiple = config.multiple_of if config.pad == "piece" else 1
    return -(-lengths // multiple) * multiple


def _lost(lengths: Array, config: Packing) -> tuple[dict[str, Array], Array]:
    """Samples that go into no row, by reason, and the others."""
    reasons = {"empty": lengths == 0}
    if config.strategy == "dd_buckets":
        reasons["too_short"] = (lengths > 0) & (lengths < 2**config.min_exponent + 1)
    elif config.strategy not in ("bfd_split", "wrapped") and config.overlong == "reject":
        reasons["too_long"] = lengths > config.capacity
    lost = {reason: np.flatnonzero(hit) for reason, hit in reasons.items() if hit.any()}
    return lost, np.flatnonzero(~np.any(list(reasons.values()), axis=0))


def _cut(lengths: Array, config: Packing, rng: np.random.Generator) -> Pieces:
    if config.strategy == "dd_buckets":
        return decompose(lengths, config, rng)
    nothing = np.zeros_like(lengths)
    if config.strategy == "bfd_split":
        return cut_every(config.capacity, nothing, lengths)[0]
    return Pieces(np.arange(len(lengths)), nothing, np.minimum(lengths, config.capacity))


def _borders(group: Array) -> Array:
    """Where the groups of a sorted array begin, and its end."""
    return np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1], [True]])) if len(group) else np.zeros(1, int)


def _wrapped(lengths: Array, group: Array, capacity: int) -> tuple[Pieces, Array]:
    """Pieces and the row of each. A group's stream begins with a new row."""
    borders = _borders(group)
    begins = offsets(-(-sums(lengths, borders) // capacity))[:-1] * capacity
    place = offsets(lengths)[:-1]
    shift = np.repeat(begins - place[borders[:-1]], np.diff(borders))
    return cut_every(capacity, place + shift, lengths)


def _rows(lengths: Array, group: Array, config: Packing) -> tuple[Array, Array]:
    """The row of each piece, and the unit of each row: rows that stay together when units are shuffled."""
    rows, units = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    borders, first_row, first_unit = _borders(group), 0, 0
    for begin, end in pairwise(borders.tolist()):
        row = _one_group(lengths[begin:end], config)
        unit = np.arange(row.max() + 1) // _unit(config)
        rows.append(row + first_row)
        units.append(unit + first_unit)
        first_row, first_unit = first_row + len(unit), first_unit + int(unit[-1]) + 1
    return np.concatenate(rows), np.concatenate(units)


def _unit(config: Packing) -> int:
    return config.group_size if config.strategy == "length_group" else 1


def _one_group(lengths: Array, config: Packing) -> Array:
    """The row of each piece, numbered from 0, none empty."""
    if config.strategy in ("bfd", "bfd_split"):
        return best_fit(lengths, config.capacity)
    if config.strategy == "next_fit":
        return _next_fit(lengths, config.capacity)
    row = np.arange(len(lengths))
    if config.strategy == "length_group":
        row[in_order(config.capacity - lengths)] = np.arange(len(lengths))
    return row


def _next_fit(lengths: Array, capacity: int) -> Array:
    """A row is closed as soon as a piece does not fit. The last one is kept."""
    ends = offsets(lengths)
    closes = (np.searchsorted(ends, ends[:-1] + capacity, "right") - 1).tolist()  # a row from piece i ends before it
    opens = np.zeros(len(lengths), np.int64)
    piece = 0
    while piece < len(closes):
        opens[piece] = 1
        piece = closes[piece]
    return np.cumsum(opens) - 1


def _shuffled(units: Array, config: Packing, rng: np.random.Generator) -> Array:
    """The new number of each row: units in random order, incomplete ones at the end, where they shift no other."""
    count = int(units.max(initial=-1)) + 1
    order = rng.permutation(count)
    incomplete = np.bincount(units, minlength=count)[order] < _unit(config)
    place = np.empty(count, np.int64)
    place[order[np.argsort(incomplete, kind="stable")]] = np.arange(count)
    row = np.empty(len(units), np.int64)
    row[in_order(place[units])] = np.arange(len(units))
    return row
