"""The order of a mixture: merging evenly, and the curricula."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.mixing.order import by_length, grow_p2, interleave, octaves


def test_sequences_are_merged_evenly_and_keep_their_own_order():
    twice_as_many = interleave([np.full(4, 10), np.full(2, 10)], [0.5, 0.5])  # at 1/8 3/8 5/8 7/8 and 1/4 3/4
    assert twice_as_many.tolist() == [0, 4, 1, 2, 5, 3]
    uneven = interleave([np.array([30, 10]), np.array([], np.int64), np.array([40])], [0.5, 0.5, 0.4])
    assert uneven.tolist() == [0, 2, 1]  # at 15/40 and 35/40; none; at 24/40


def test_single_documents_of_many_sequences_spread_by_their_phases():
    order = interleave([np.full(100, 10), np.array([999]), np.array([999])], [0.5, 0.9, 0.1])
    assert (np.flatnonzero(order == 100), np.flatnonzero(order == 101)) == ([10], [91])


def test_powers_of_two_are_exact_at_their_borders():
    assert octaves(np.array([1, 2, 3, 255, 256, 511, 512, 2**40 - 1, 2**40])).tolist() == [0, 1, 1, 7, 8, 8, 9, 39, 40]


def test_by_length_sorts_powers_of_two_and_keeps_the_order_inside_one():
    assert by_length(np.array([300, 5, 257, 4, 1000, 7])).tolist() == [1, 3, 5, 0, 2, 4]


def test_grow_p2_gives_each_cycle_the_same_share_of_every_power_of_two():
    """Six powers of two with 64 x 8,192 tokens each: a cycle has an eighth of each."""
    lengths = np.repeat(2 ** np.arange(8, 14), 64 * 8192 // 2 ** np.arange(8, 14))
    ordered = lengths[grow_p2(lengths)]
    per_cycle = ordered.sum() // 8
    cycle = (np.cumsum(ordered) - 1) // per_cycle
    for number in range(8):
        sizes, counts = np.unique(ordered[cycle == number], return_counts=True)
        assert (sizes * counts).tolist() == [8 * 8192] * 6


def test_grow_p2_draws_in_odds_of_32_16_8_4_2_1_until_a_power_of_two_is_used_up():
    """Equal tokens in six powers of two, one cycle: until the shortest is used up, tokens go 32 to 16 to ... 1; at the
    end come documents of 8,192 alone."""
    each = 64 * 8192
    sizes = 2 ** np.arange(8, 14)
    lengths = np.repeat(sizes, each // sizes)
    ordered = lengths[grow_p2(lengths, cycles=1)]
    first = ordered[: np.flatnonzero(ordered == 256)[-1] + 1]
    for size, odds in zip(sizes, (32, 16, 8, 4, 2, 1), strict=True):
        assert abs(first[first == size].sum() - each * odds / 32) <= size
    assert abs(first.sum() - each * 63 / 32) <= sizes.sum()
    assert (ordered[-32:] == 8192).all() and ordered[-40:].min() == 4096


@given(st.lists(st.integers(1, 5000), max_size=60))
def test_curricula_are_permutations_that_keep_the_order_inside_a_power_of_two(values):
    lengths = np.array(values, np.int64)
    for order in (by_length(lengths), grow_p2(lengths)):
        assert sorted(order.tolist()) == list(range(len(values)))
        for power in {*octaves(lengths).tolist()}:
            inside = order[octaves(lengths[order]) == power]
            assert (np.diff(inside) > 0).all()
