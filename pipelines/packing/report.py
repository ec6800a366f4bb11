"""What a plan comes to: rows, tokens, padding, attention."""

from dataclasses import dataclass

import numpy as np

from pipelines.packing.arrays import Array, sums
from pipelines.packing.plan import Plan, padded
from schemas.packing import Packing


@dataclass(frozen=True, slots=True)
class Report:
    """Numbers for a person and for the manifest."""

    rows: int
    lower_bound: int  # no plan with these pieces has fewer rows
    tokens_in: int
    tokens_out: int
    tokens_dropped: int
    samples_in: int
    samples_dropped: int
    samples_cut: int  # in a row, but not whole, or not in one piece
    efficiency: float  # tokens out by tokens that a trainer computes
    samples_per_row: float
    packing_factor: float  # samples by rows: divide a global batch in samples by it
    sq_cost_max: int  # of a row: sum of squares of the lengths that attend to themselves, as attention costs
    sq_cost_median: float


def report(plan: Plan, lengths: Array, config: Packing) -> Report:
    """`lengths` and `config`: what the plan was made of."""
    rows = len(plan.row_offsets) - 1
    tokens = sums(plan.piece_length, plan.row_offsets)
    squares = tokens**2 if config.strategy == "wrapped" else sums(plan.piece_length**2, plan.row_offsets)
    pieces = np.bincount(plan.piece_sample, minlength=len(lengths))
    kept = np.zeros(len(lengths), np.int64)
    np.add.at(kept, plan.piece_sample, plan.piece_length)
    computed = _computed(tokens, config)
    out = int(tokens.sum())
    return Report(
        rows=rows,
        lower_bound=_lower_bound(plan, config),
        tokens_in=int(np.sum(lengths)),
        tokens_out=out,
        tokens_dropped=int(np.sum(lengths)) - out,
        samples_in=len(lengths),
        samples_dropped=sum(len(samples) for samples in plan.lost.values()),
        samples_cut=int(((pieces > 1) | ((pieces == 1) & (kept < lengths))).sum()),
        efficiency=out / computed if computed else 1.0,
        samples_per_row=len(plan.piece_sample) / rows if rows else 0.0,
        packing_factor=int((pieces > 0).sum()) / rows if rows else 0.0,
        sq_cost_max=int(squares.max(initial=0)),
        sq_cost_median=float(np.median(squares)) if rows else 0.0,
    )


def _computed(tokens: Array, config: Packing) -> int:
    """Tokens and padding: a sample a row is padded to the longest of its batch, all others to the longest row."""
    if config.strategy == "dd_buckets":  # a batch holds one size
        return int(tokens.sum())
    if config.strategy not in ("none", "length_group"):
        return len(tokens) * config.capacity
    size = config.group_size
    return sum(
        int(batch.max()) * len(batch) for batch in np.split(tokens, range(size, len(tokens), size)) if len(batch)
    )


def _lower_bound(plan: Plan, config: Packing) -> int:
    if config.strategy in ("none", "length_group", "dd_buckets"):
        return len(plan.row_offsets) - 1
    lengths = padded(plan.piece_length, config)
    alone = 0 if config.strategy == "wrapped" else int((2 * lengths > config.capacity).sum())
    return max(-(-int(lengths.sum()) // config.capacity), alone)
