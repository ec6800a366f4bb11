"""What goes into which packed row: the items to pack, of tokenised rows or a mixture, and the plan over all of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.augment.utk import overhead
from pipelines.mixing.order import CURRICULA
from pipelines.packing.arrays import offsets, ranges, sums
from pipelines.packing.cuts import cut_every
from pipelines.packing.plan import Plan, plan
from pipelines.packing.report import Report, report
from pipelines.tokens import Ints, TokenRows
from schemas.augment import Cip, Utk
from schemas.ids import derive_seed
from schemas.mix import Mix
from schemas.pack import Pack


@dataclass(frozen=True, slots=True)
class Items:
    """What is packed, in order; arrays of one shape. A row that a mixture uses twice is two items."""

    row: Ints  # place among the tokenised rows
    domain: Ints  # place in `domains`: its source, or its source in the mixture
    row_length: Ints  # of the packed rows that it goes into
    epoch: Ints  # how often a mixture has drawn the row before
    domains: list[str]


@dataclass(frozen=True, slots=True)
class PackPlan:
    """A `Plan` over all items. `lost`: tokenised rows that are in no packed row, by reason. `reports`: for each row
    length. `domain` (rows,): place in the items' `domains`, -1 where a row holds several."""

    plan: Plan
    domain: Ints
    lost: dict[str, Ints]
    reports: list[tuple[int, Report]]

    @property
    def longest(self) -> int:
        """Tokens of the longest row that may occur: sources of a mixture have row lengths of their own."""
        return max(row_length for row_length, _ in self.reports)


def all_rows(rows: TokenRows, config: Pack) -> Items:
    """Every tokenised row once."""
    taken = np.setdiff1d(np.arange(len(rows.table)), rows.again)
    # Samples may have no source.
    domain = pc.fill_null(rows.table["source"], "").take(pa.array(taken)).combine_chunks().dictionary_encode()
    row_length = np.full(len(taken), config.capacity)
    codes = domain.indices.to_numpy().astype(np.int64)
    return Items(taken, codes, row_length, np.zeros_like(taken), domain.dictionary.to_pylist())


def mixed_rows(rows: TokenRows, mixture: pa.Table, mix: Mix, config: Pack) -> Items:
    """`mixture`: row_id, source and epoch, in order."""
    place = pc.index_in(mixture["row_id"], rows.table["row_id"]).to_numpy().astype(np.int64)
    sources = {one.name: one.row_length or config.capacity for one in mix.plan}
    domain = pc.index_in(mixture["source"], pa.array(sources)).to_numpy().astype(np.int64)
    lengths = np.array(list(sources.values()))
    if config.strategy == "dd_buckets":
        lengths[:] = config.capacity
    return Items(place, domain, lengths[domain], mixture["epoch"].to_numpy(), list(sources))


def pack_plan(rows: TokenRows, items: Items, config: Pack, mix: Mix | None, seed: int) -> PackPlan:
    """The rows of each row length are packed by themselves, then shuffled together."""
    lengths = rows.lengths[items.row]
    plans: list[Plan] = []
    lost: dict[str, Ints] = {}
    reports = []
    for row_length in np.unique(items.row_length).tolist():
        here = np.flatnonzero(items.row_length == row_length)
        one = config if row_length == config.capacity else config.model_copy(update={"row_length": row_length})
        groups = items.domain[here] if config.separate else np.zeros_like(here)
        if config.strategy in ("bfd", "bfd_split"):
            # Copies of a row are of one length, and best fit would put them side by side for a model to copy.
            groups = groups * (1 + items.epoch.max(initial=0)) + items.epoch[here]
        found = _plan(lengths[here], one, derive_seed("pack", seed, row_length), groups)
        reports.append((row_length, report(found, lengths[here], one)))
        plans.append(replace(found, piece_sample=here[found.piece_sample]))
        for reason, places in found.lost.items():
            lost[reason] = np.concatenate([lost.get(reason, here[:0]), here[places]])
    whole = _joined(plans)
    if len(plans) > 1 and config.shuffle:
        rng = np.random.default_rng(derive_seed("rows", seed))
        whole = _in_order(whole, rng.permutation(len(whole.row_offsets) - 1))
    if mix is not None and mix.curriculum != "none":
        whole = _in_order(whole, CURRICULA[mix.curriculum](sums(whole.piece_length, whole.row_offsets)))
    return PackPlan(whole, _domains(whole, items), _lost_rows(rows, items, whole, lost, mix), reports)


def _plan(lengths: Ints, config: Pack, seed: int, groups: Ints | None) -> Plan:
    """As `plan`, with room for what an augmentation adds to each document."""
    extra = overhead(config.augment) if isinstance(config.augment, Utk) else 0
    if config.augment is not None and not isinstance(config.augment, Utk | Cip):
        config = config.model_copy(update={"overlong": "truncate"})  # of longer documents a row takes what fits
    if not extra:
        return plan(lengths, config, seed, groups)
    if config.strategy != "bfd_split":
        found = plan(lengths + extra, config, seed, groups)
        return replace(found, piece_length=found.piece_length - extra)
    cut, _ = cut_every(config.capacity - extra, np.zeros_like(lengths), lengths)
    of_group = None if groups is None else groups[cut.sample]
    found = plan(cut.length + extra, config, seed, of_group)
    return replace(
        found,
        piece_sample=cut.sample[found.piece_sample],
        piece_start=cut.start[found.piece_sample],
        piece_length=found.piece_length - extra,
    )


def _joined(plans: list[Plan]) -> Plan:
    if not plans:
        nothing = np.zeros(0, np.int64)
        return Plan(nothing, nothing, nothing, np.zeros(1, np.int64), {})
    counts = np.concatenate([np.diff(one.row_offsets) for one in plans])
    samples, starts, lengths = (
        np.concatenate([getattr(one, name) for one in plans])
        for name in ("piece_sample", "piece_start", "piece_length")
    )
    return Plan(samples, starts, lengths, offsets(counts), {})


def _in_order(whole: Plan, order: Ints) -> Plan:
    counts = np.diff(whole.row_offsets)[order]
    pieces = ranges(whole.row_offsets[:-1][order], counts)
    return Plan(
        whole.piece_sample[pieces], whole.piece_start[pieces], whole.piece_length[pieces], offsets(counts), whole.lost
    )


def _domains(whole: Plan, items: Items) -> Ints:
    domain = items.domain[whole.piece_sample]
    if not len(domain):
        return domain
    least, most = (ufunc.reduceat(domain, whole.row_offsets[:-1]) for ufunc in (np.minimum, np.maximum))
    return np.where(least == most, least, -1)


def _lost_rows(rows: TokenRows, items: Items, whole: Plan, lost: dict[str, Ints], mix: Mix | None) -> dict[str, Ints]:
    reason = np.full(len(rows.table), "" if mix is None else "not_in_mix", object)
    reason[rows.again] = "made_twice"
    for why, places in lost.items():
        reason[items.row[places]] = why
    reason[items.row[whole.piece_sample]] = ""  # in a row at least once
    return {why: np.flatnonzero(reason == why) for why in sorted(set(reason.tolist())) if why}


def row_runs(whole: Plan, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Runs of rows (first, end) of about so many tokens."""
    ends = np.cumsum(sums(whole.piece_length, whole.row_offsets))
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + most_tokens, "right")))
        yield first, end
        first = end
