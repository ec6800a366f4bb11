"""What the tests of packing share: packing tokens from end to end, and rows as lists."""

import bisect
from itertools import pairwise

import numpy as np

from pipelines.packing.arrays import offsets, ranges
from pipelines.packing.plan import plan
from pipelines.packing.rows import make_rows
from pipelines.packing.weights import piece_targets, piece_weights, weighted
from schemas.packing import Packing


def pieces(made):
    """By row: (sample, start, length) of its pieces."""
    found = zip(made.piece_sample.tolist(), made.piece_start.tolist(), made.piece_length.tolist(), strict=True)
    return split(list(found), made.row_offsets)


def split(values, borders):
    return [values[begin:end] for begin, end in pairwise(borders)]


def row_lengths(lengths, strategy, **keys):
    """Lengths of the pieces of each row, longest first, rows likewise."""
    made = plan(np.array(lengths), Packing(strategy=strategy, **keys), 0)
    return sorted((sorted((length for *_, length in row), reverse=True) for row in pieces(made)), reverse=True)


def pack(tokens, masks, config, seed=0, groups=None):
    """The plan and the rows of samples that are lists of tokens, with weights where the config wants them."""
    lengths = np.array([len(one) for one in tokens], np.int64)
    made = plan(lengths, config, seed, groups)
    index = ranges(offsets(lengths)[made.piece_sample] + made.piece_start, made.piece_length)  # of the rows' tokens
    ids, mask = np.concatenate([[], *tokens]).astype(np.int32), np.concatenate([[], *masks]).astype(bool)
    rows = make_rows(ids[index], mask[index], made.piece_length, made.row_offsets, borders=config.strategy != "wrapped")
    if config.loss_weights != "none":
        targets = piece_targets(rows.labels, made.piece_length)
        weights = piece_weights(targets, made.piece_sample, made.row_offsets, config.loss_weights, config.global_batch)
        rows = weighted(rows, weights, made.piece_length)
    return made, rows


def naive_best_fit(lengths, capacity):
    """Rows of best fit decreasing, a piece at a time."""
    spaces = []  # sorted
    rows = 0
    for length in sorted(lengths, reverse=True):
        place = bisect.bisect_left(spaces, length)
        if place == len(spaces):
            rows, space = rows + 1, capacity
        else:
            space = spaces.pop(place)
        bisect.insort(spaces, space - length)
    return rows, spaces
