"""Loss weights: by hand, and against the means they stand for, however samples lie in rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.packing.rows import pad_rows
from pipelines.packing.weights import piece_weights
from schemas.packing import Packing
from tests.packing.packs import pack

TARGETS, LOSSES = np.array([10, 2, 4, 4]), np.array([5.0, 4.0, 2.0, 8.0])


def test_the_hand_case_of_two_packs():
    packs = np.array([0, 2, 4])
    samples = np.arange(4)
    means = {mode: (piece_weights(TARGETS, samples, packs, mode, 2) * LOSSES).sum() / 2 for mode in ("sample", "token")}
    assert means == {"sample": pytest.approx(1.25), "token": pytest.approx(0.95)}
    assert (LOSSES / TARGETS).mean() == pytest.approx(1.25)
    packs_alone = (5 + 4) / (10 + 2) + (2 + 8) / (4 + 4)
    assert packs_alone / 2 == pytest.approx(1.0)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from(["sample", "token"]),
)
def test_every_step_is_the_mean_that_was_asked_for_also_an_incomplete_last_one(rows, batch, mode):
    """`rows`: targets of the samples of each row."""
    targets = np.array([n for row in rows for n in row])
    losses = np.random.default_rng(0).uniform(0, 5, len(targets)) * targets  # summed over the targets
    borders = np.cumsum([0, *map(len, rows)])
    weights = piece_weights(targets, np.arange(len(targets)), borders, mode, batch)
    for first in range(0, len(rows), batch):
        step = slice(borders[first], borders[min(first + batch, len(rows))])
        n, loss = targets[step], losses[step] / np.maximum(targets[step], 1)
        has = n > 0
        wanted = 0 if not has.any() else loss[has].mean() if mode == "sample" else (loss * n).sum() / n.sum()
        own = np.repeat(weights[step], n) @ np.repeat(loss, n)  # over single targets
        rows_here = min(batch, len(rows) - first)
        assert own / rows_here == pytest.approx(wanted)
        assert weights[step][~has].tolist() == [0] * int((~has).sum())


def test_accumulated_micro_batches_of_equal_size_give_the_same_as_one_batch():
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, 9, n).tolist() for n in rng.integers(2, 30, 60)]
    config = Packing(row_length=64, loss_weights="sample", global_batch=4)
    made, rows = pack(tokens, [[True] * len(one) for one in tokens], config)
    loss = rng.uniform(0, 5, len(rows.labels))
    of_row = np.add.reduceat(loss * rows.loss_weights, rows.row_tokens[:-1])
    whole, accumulated = of_row[:4].mean(), (of_row[:2].mean() + of_row[2:4].mean()) / 2
    ends = np.cumsum(made.piece_length)
    pieces = range(made.row_offsets[4])
    wanted = np.mean([loss[ends[p] - made.piece_length[p] + 1 : ends[p]].mean() for p in pieces])
    assert whole == pytest.approx(wanted, rel=1e-5) and accumulated == pytest.approx(wanted, rel=1e-5)


def test_targets_that_the_start_of_a_sample_takes_do_not_count():
    config = Packing(row_length=8, loss_weights="sample", global_batch=1, shuffle=False)
    _, rows = pack([[1, 2, 3], [4, 5, 6, 7, 8]], [[True, True, True], [False, False, False, True, True]], config)
    assert rows.loss_weights.tolist() == [0, 0.25, 0.25, 0, 0, 0, 0.25, 0.25]
    assert rows.loss_weights.dtype == np.float32
    padded = pad_rows(rows, 5, 0, each_piece=True).loss_weights.tolist()
    assert padded == [0, 0.25, 0.25, 0, 0, 0, 0, 0, 0.25, 0.25]


def test_samples_without_a_target_do_not_count():
    weights = piece_weights(np.array([2, 0, 2]), np.arange(3), np.array([0, 3]), "sample", 1)
    assert weights.tolist() == [0.25, 0, 0.25]
    assert piece_weights(np.array([0]), np.array([0]), np.array([0, 1]), "sample", 1).tolist() == [0]


def test_a_sample_that_is_cut_counts_once_over_all_steps():
    """Sample 7 has three of its four targets in the first step, one in the second."""
    targets, samples, borders = np.array([3, 4, 1, 2]), np.array([7, 1, 7, 2]), np.array([0, 2, 4])
    weights = piece_weights(targets, samples, borders, "sample", 1)
    assert weights.tolist() == pytest.approx([1 / (4 * 1.75), 1 / (4 * 1.75), 1 / (4 * 1.25), 1 / (2 * 1.25)])
    together = piece_weights(targets, samples, borders, "sample", 2)  # in one step: as if it were not cut
    assert together.tolist() == pytest.approx([2 / (4 * 3), 2 / (4 * 3), 2 / (4 * 3), 2 / (2 * 3)])
