"""Plans: hand cases, every token once, best fit as it is defined, dataset decomposition, groups."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.packing.best_fit import best_fit
from pipelines.packing.plan import plan
from pipelines.packing.report import report
from schemas.packing import Packing
from tests.packing.packs import naive_best_fit, pieces, row_lengths

STRATEGIES = ["none", "bfd", "bfd_split", "next_fit", "wrapped", "length_group"]
some_lengths = st.lists(st.integers(0, 40), max_size=60).map(lambda found: np.array(found, np.int64))


def covered(made):
    """(sample, place) of every token that is in a row."""
    return Counter(
        (sample, start + place) for row in pieces(made) for sample, start, size in row for place in range(size)
    )


def test_hand_cases_of_trl():
    five = [5, 2, 3, 1]
    assert row_lengths(five, "bfd", row_length=4, overlong="truncate") == [[4], [3, 1], [2]]
    assert row_lengths(five, "bfd_split", row_length=4) == [[4], [3, 1], [2, 1]]
    assert sorted(map(sum, row_lengths(five, "wrapped", row_length=4))) == [3, 4, 4]
    longer = [14, 7, 5, 2, 3]
    assert row_lengths(longer, "bfd_split", row_length=8) == [[8], [7], [6, 2], [5, 3]]
    assert row_lengths(longer, "bfd", row_length=8, overlong="truncate") == [[8], [7], [5, 3], [2]]


def test_overlong_and_empty_samples_are_lost_with_a_reason_and_nothing_else_is():
    lengths = np.array([5, 0, 4, 9])
    made = plan(lengths, Packing(row_length=4), 0)
    assert {reason: found.tolist() for reason, found in made.lost.items()} == {"empty": [1], "too_long": [0, 3]}
    assert pieces(made) == [[(2, 0, 4)]]
    found = report(made, lengths, Packing(row_length=4))
    assert (found.tokens_in, found.tokens_out, found.tokens_dropped) == (18, 4, 14)
    assert (found.samples_in, found.samples_dropped, found.samples_cut) == (4, 3, 0)


@given(some_lengths, st.sampled_from(STRATEGIES), st.integers(1, 40), st.integers(0, 5))
def test_every_token_of_a_kept_sample_is_in_one_row(lengths, strategy, capacity, seed):
    made = plan(lengths, Packing(strategy=strategy, row_length=capacity), seed)
    lost = {sample for found in made.lost.values() for sample in found.tolist()}
    kept = [sample for sample in range(len(lengths)) if sample not in lost]
    assert covered(made) == Counter((sample, place) for sample in kept for place in range(lengths[sample]))
    assert all(0 < sum(size for *_, size in row) <= capacity for row in pieces(made))
    if strategy in ("bfd_split", "wrapped"):
        assert lost == set(np.flatnonzero(lengths == 0).tolist())
    else:
        assert lost == set(np.flatnonzero((lengths == 0) | (lengths > capacity)).tolist())


@given(st.lists(st.integers(1, 300), max_size=200), st.integers(300, 700))
def test_best_fit_in_bulk_leaves_the_spaces_of_best_fit_a_piece_at_a_time(lengths, capacity):
    row = best_fit(np.array(lengths, np.int64), capacity)
    used = np.bincount(row, weights=lengths).astype(int)
    assert (len(used), sorted((capacity - used).tolist())) == naive_best_fit(lengths, capacity)


def test_best_fit_in_bulk_at_the_size_of_real_windows():
    lengths = np.random.default_rng(0).lognormal(7, 1.5, 20_000).astype(np.int64).clip(1, 65_536)
    row = best_fit(lengths, 65_536)
    used = np.bincount(row, weights=lengths).astype(int)
    assert (len(used), sorted((65_536 - used).tolist())) == naive_best_fit(lengths.tolist(), 65_536)


def fewest(lengths, capacity):
    """The least number of rows, by trying everything but what is the same."""
    best = len(lengths)

    def place(left, spaces):
        nonlocal best
        if len(spaces) >= best:
            return
        if not left:
            best = len(spaces)
            return
        first, *rest = left
        for number in {space: number for number, space in enumerate(spaces) if space >= first}.values():
            place(rest, [space - first if at == number else space for at, space in enumerate(spaces)])
        place(rest, [*spaces, capacity - first])

    place(sorted(lengths, reverse=True), [])
    return best


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(12, 20))
def test_rows_are_between_the_lower_bound_and_eleven_ninths_of_the_fewest(lengths, capacity):
    config = Packing(row_length=capacity)
    found = report(plan(np.array(lengths), config, 0), np.array(lengths), config)
    optimum = fewest(lengths, capacity)
    assert -(-sum(lengths) // capacity) <= found.lower_bound <= optimum <= found.rows
    assert found.rows <= 11 / 9 * optimum + 1


def same(one, other):
    parts = ("piece_sample", "piece_start", "piece_length", "row_offsets")
    return all(getattr(one, part).tobytes() == getattr(other, part).tobytes() for part in parts)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "dd_buckets"])
def test_same_seed_same_bytes_and_another_seed_shuffles(strategy):
    keys = {"randomize": True, "min_exponent": 2, "max_exponent": 4} if strategy == "dd_buckets" else {"row_length": 99}
    lengths, config = np.random.default_rng(1).integers(1, 99, 500), Packing(strategy=strategy, **keys)
    assert same(plan(lengths, config, 3), plan(lengths, config, 3))
    assert not same(plan(lengths, config, 3), plan(lengths, config, 4))


@pytest.mark.parametrize(("strategy", "tolerance"), [("bfd", 0), ("bfd_split", 0), ("wrapped", 0), ("next_fit", 0.01)])
def test_the_order_of_samples_changes_the_rows_by_no_more_than_a_hundredth(strategy, tolerance):
    rng, config = np.random.default_rng(2), Packing(strategy=strategy, row_length=4096)
    lengths = rng.lognormal(5, 1.2, 20_000).astype(np.int64).clip(1, 4096)
    counts = [len(plan(rng.permutation(lengths), config, 0).row_offsets) - 1 for _ in range(3)]
    assert max(counts) - min(counts) <= tolerance * min(counts)


def test_rows_are_not_in_the_order_of_their_lengths():
    lengths = np.arange(1, 1001)
    made = plan(lengths, Packing(strategy="bfd", row_length=1000), 0)
    longest = np.maximum.reduceat(made.piece_length, made.row_offsets[:-1])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.15
    assert sum((np.diff(row) < 0).any() for row in np.split(made.piece_sample, made.row_offsets[1:-1])) == 0


@given(some_lengths, st.sampled_from(STRATEGIES), st.data())
def test_a_row_holds_one_group(lengths, strategy, data):
    size = len(lengths)
    groups = np.array(
        data.draw(st.lists(st.sampled_from(["books", "chat", "eval"]), min_size=size, max_size=size)), str
    )
    config = Packing(strategy=strategy, row_length=17)
    made = plan(lengths, config, 0, groups)
    assert all(len({groups[sample] for sample, *_ in row}) == 1 for row in pieces(made))
    apart = [plan(np.where(groups == group, lengths, 0), config, 0) for group in np.unique(groups)]
    assert len(made.row_offsets) - 1 == sum(len(one.row_offsets) - 1 for one in apart)
    assert covered(made) == sum((covered(one) for one in apart), Counter())


def test_next_fit_follows_the_order_of_the_samples_and_keeps_the_last_row():
    made = plan(np.array([5, 4, 2, 7, 1, 1]), Packing(strategy="next_fit", row_length=8, shuffle=False), 0)
    assert [[size for *_, size in row] for row in pieces(made)] == [[5], [4, 2], [7, 1], [1]]


def test_wrapped_cuts_one_stream_and_starts_a_new_row_for_a_group():
    config = Packing(strategy="wrapped", row_length=4, shuffle=False)
    made = plan(np.array([3, 2, 6, 1]), config, 0, np.array([1, 1, 0, 1]))
    assert pieces(made) == [[(2, 0, 4)], [(2, 4, 2)], [(0, 0, 3), (1, 0, 1)], [(1, 1, 1), (3, 0, 1)]]


def test_length_groups_are_shuffled_whole_and_the_incomplete_one_is_last():
    lengths = np.random.default_rng(0).permutation(np.arange(1, 103))
    made = plan(lengths, Packing(strategy="length_group", row_length=200, group_size=8), 0)
    groups = np.split(made.piece_length, range(8, 102, 8))
    assert [np.ptp(group) for group in groups] == [7] * 12 + [5]
    firsts = [int(group.max()) for group in groups[:-1]]
    assert firsts != sorted(firsts, reverse=True) and sorted(firsts, reverse=True) == list(range(102, 6, -8))


def test_pieces_that_are_padded_still_fit_their_row():
    lengths = np.array([5, 5, 3, 3, 1])
    made = plan(lengths, Packing(row_length=16, multiple_of=8, pad="piece"), 0)
    assert sorted(len(row) for row in pieces(made)) == [1, 2, 2]
    assert sorted(len(row) for row in pieces(plan(lengths, Packing(row_length=16, multiple_of=8), 0))) == [1, 4]


@pytest.mark.parametrize(
    ("length", "sizes", "dropped"),
    [
        (1000, [513, 257], 230), (257, [257], 0), (256, [], 256), (5000, [4097, 513, 257], 133),
        (20000, [8193, 8193, 2049, 1025, 513], 27),
    ],
)  # fmt: skip
def test_dataset_decomposition_by_hand(length, sizes, dropped):
    config = Packing(strategy="dd_buckets", shuffle=False)
    made = plan(np.array([300, length]), config, 0)
    rows = [row for row in pieces(made) if row[0][0] == 1]
    assert [row[0][2] for row in rows] == sizes and all(len(row) == 1 for row in rows)
    assert [row[0][1] for row in rows] == np.cumsum([0, *sizes])[:-1].tolist()[: len(sizes)]
    found = report(made, np.array([300, length]), config)
    assert found.tokens_dropped == dropped + 43
    assert [sample.tolist() for sample in made.lost.values()] == ([] if sizes else [[1]])


def test_random_sizes_of_dataset_decomposition_have_equal_tokens_a_bucket():
    made = plan(np.full(300, 10**6), Packing(strategy="dd_buckets", randomize=True), 0)
    long = made.piece_start < 10**6 - 2**14  # drawn, not what is left at the end
    counts = Counter(made.piece_length[long].tolist())
    shares = [counts[2**k + 1] / long.sum() for k in range(13, 7, -1)]
    assert shares == pytest.approx([0.016, 0.032, 0.063, 0.127, 0.254, 0.508], abs=0.003)
    assert max(Counter(made.piece_sample.tolist()).values()) > 1000 and covers_from_the_front(made)


def test_a_size_is_drawn_only_where_the_largest_is_not_the_natural_one():
    config = Packing(strategy="dd_buckets", randomize=True)
    for length, sizes in ((2**14, {2**13 + 1}), (2**14 + 1, {2**k + 1 for k in range(8, 14)})):
        made = plan(np.full(1000, length), config, 0)
        assert set(made.piece_length[made.piece_start == 0].tolist()) == sizes


def covers_from_the_front(made):
    order = np.lexsort((made.piece_start, made.piece_sample))
    sample, start, size = made.piece_sample[order], made.piece_start[order], made.piece_length[order]
    follows = (start[1:] == (start + size)[:-1]) | ((sample[1:] != sample[:-1]) & (start[1:] == 0))
    return start[0] == 0 and bool(follows.all())


def test_the_report_by_hand():
    lengths, config = np.array([14, 7, 5, 2, 3, 0]), Packing(strategy="bfd_split", row_length=8)
    found = report(plan(lengths, config, 0), lengths, config)
    assert (found.rows, found.lower_bound, found.tokens_out, found.efficiency) == (4, 4, 31, 31 / 32)
    assert (found.samples_cut, found.samples_dropped, found.samples_per_row, found.packing_factor) == (1, 1, 1.5, 1.25)
    assert (found.sq_cost_max, found.sq_cost_median) == (64, (40 + 49) / 2)
    alone = Packing(strategy="length_group", row_length=14, group_size=2)
    assert report(plan(lengths, alone, 0), lengths, alone).efficiency == 31 / (14 * 2 + 5 * 2 + 2)
    none = np.zeros(0, np.int64)
    assert report(plan(none, config, 0), none, config).rows == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "needs 'row_length'"),
        ({"row_length": 9, "strategy": "dd_buckets"}, "'row_length' is for .* not for dd_buckets"),
        ({"row_length": 9, "randomize": True}, "'randomize' is for dd_buckets, not for bfd"),
        ({"row_length": 9, "strategy": "bfd_split", "overlong": "reject"}, "'overlong' is for"),
        ({"strategy": "dd_buckets", "min_exponent": 9, "max_exponent": 8}, "min_exponent 9 is larger"),
        ({"row_length": 9, "multiple_of": 4}, "row_length 9 is no multiple of multiple_of 4"),
        ({"row_length": 8, "strategy": "wrapped", "pad": "piece"}, "needs borders"),
        ({"row_length": 8, "loss_weights": "sample"}, "need each other"),
        ({"row_length": 8, "global_batch": 8}, "need each other"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        Packing(**keys)
