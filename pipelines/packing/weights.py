"""Loss weights, so that a plain trainer's sum(weights * cross entropy) of a row, averaged over the rows of a step, is
the mean that was asked for, however samples lie in rows.

The K rows of an optimiser step are K that follow each other (over all devices and micro-batches; the last step of an
epoch may have fewer). Read rows in their order: another order or batch size makes the weights wrong. A trainer that
averages equal micro-batches, and in the last step over those that there are, gets the mean over the K rows.

token:  w = K / T: T targets in the step; the mean over targets.
sample: w = K / (N M): N targets of the sample, M samples in the step; the mean over samples of their means (LongAlign,
arXiv:2401.18058, section 3.2). A sample that is cut counts in a step by the share of its targets there, so over all
steps as one sample; M is then the sum of these shares. Samples without a target are not counted.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from pipelines.packing.arrays import Array, offsets, sums
from pipelines.packing.rows import IGNORED, Rows


def piece_targets(labels: Array, piece_lengths: Array) -> Array:
    """The targets in each piece, int64 (pieces,). `labels` (tokens,): those of rows without padding."""
    return sums(labels != IGNORED, offsets(piece_lengths))


def piece_weights(
    targets: Array, samples: Array, row_offsets: Array, mode: Literal["token", "sample"], global_batch: int
) -> Array:
    """The weight of each target of a piece, float64 (pieces,); 0 where it has none. `targets` and `samples` (pieces,):
    in the order of the rows. May be called with some of the rows if these are whole steps and no sample of them is in
    others too."""
    numbers = np.unique(samples, return_inverse=True)[1]
    of_sample = np.bincount(numbers, weights=targets)[numbers]
    share = targets / np.maximum(of_sample, 1) if mode == "sample" else targets
    rows = len(row_offsets) - 1
    steps = np.append(np.arange(0, rows, global_batch), rows)
    pieces = np.diff(row_offsets[steps])
    whole = np.repeat(np.add.reduceat(share, row_offsets[steps[:-1]]) if rows else np.zeros(0), pieces)
    weights = np.zeros(len(targets))
    np.divide(np.repeat(np.diff(steps), pieces) * share, whole * targets, out=weights, where=targets > 0)
    return weights


def weighted(rows: Rows, weights: Array, piece_lengths: Array) -> Rows:
    """Rows without padding, with the weight of its piece at each target."""
    found = np.where(rows.labels != IGNORED, np.repeat(weights, piece_lengths), 0)
    return replace(rows, loss_weights=found.astype(np.float32))
