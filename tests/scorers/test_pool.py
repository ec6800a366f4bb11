"""Scores of a pool: HMG's normalisations, ranks, cosine, GATEAU's mixture."""

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.scorers.pool import clipped, cosine, hmg, mixture, percentile, ranks

SHORT, LONG = (12, 8, 20, 6), (4, 5, 3, 6)  # perplexities of the hand case
NORMS = ("paper_minmax_softmax", "minmax_diff", "logppl_diff", "rank")
NLLS = st.lists(st.tuples(st.floats(0, 12), st.floats(0, 12)), min_size=1, max_size=30)


def nlls(perplexities):
    return [math.log(one) for one in perplexities]


def test_hand_case_of_the_paper_form():
    """Specification, test 1."""
    differences = hmg(nlls(SHORT), nlls(LONG), "minmax_diff", 0)
    assert differences == pytest.approx([0.0952, -0.5238, 1, -1], abs=5e-5)
    scores = hmg(nlls(SHORT), nlls(LONG), "paper_minmax_softmax", 0)
    assert scores == pytest.approx([0.2302, 0.1239, 0.5689, 0.0770], abs=5e-5)
    assert sorted(range(4), key=scores.__getitem__, reverse=True) == [2, 0, 1, 3]
    assert hmg(nlls(SHORT), nlls(LONG), "logppl_diff", 0) == pytest.approx(
        [math.log(3), math.log(1.6), math.log(20 / 3), 0]
    )
    assert hmg(nlls(SHORT), nlls(LONG), "rank", 0) == pytest.approx([2 / 3, 1 / 3, 1, 0])


@pytest.mark.parametrize("clip", [0, 1])
def test_identical_models_score_zero_and_uniform(clip):
    """Specification, test 2."""
    same = [1.0, 2.5, 0.3, 4.0]
    assert hmg(same, same, "minmax_diff", clip) == hmg(same, same, "logppl_diff", clip) == [0, 0, 0, 0]
    assert hmg(same, same, "paper_minmax_softmax", clip) == [0.25] * 4
    assert hmg(same, same, "rank", clip) == [0.5] * 4


@pytest.mark.parametrize("norm", NORMS)
@given(pool=NLLS, seed=st.integers(0, 99))
def test_the_order_of_the_pool_changes_no_score(norm, pool, seed):
    """Specification, test 2."""
    order = list(range(len(pool)))
    random.Random(seed).shuffle(order)
    scores = hmg(*zip(*pool, strict=True), norm, 1.0)
    shuffled = hmg(*zip(*[pool[place] for place in order], strict=True), norm, 1.0)
    assert shuffled == [scores[place] for place in order]


@pytest.mark.parametrize("norm", NORMS)
def test_a_constant_pool_and_an_empty_one_divide_by_nothing(norm):
    """Specification, test 2."""
    constant = hmg([2.0] * 3, [1.0] * 3, norm, 1.0)
    assert len(set(constant)) == 1 and math.isfinite(constant[0])
    assert hmg([], [], norm, 1.0) == []
    assert len(hmg([3.0], [1.0], norm, 1.0)) == 1


def test_an_outlier_does_not_set_the_scale_when_clipped():
    short = nlls([2.0] * 100 + [4.0] * 100 + [9000.0])
    raw, kept = (hmg(short, [1.0] * 201, "minmax_diff", clip) for clip in (0, 1))
    assert raw[150] - raw[0] < 0.001 and kept[150] - kept[0] > 0.9
    assert all(math.isfinite(one) for one in hmg([5000.0, 1.0], [1.0, 1.0], "paper_minmax_softmax", 0))


def test_percentiles_are_those_of_statistics():
    values = [random.Random(0).random() for _ in range(101)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert [percentile(values, n) for n in (1, 50, 99)] == pytest.approx([cuts[0], cuts[49], cuts[98]])
    assert clipped([1.0, 2.0, 3.0], 0) == [1.0, 2.0, 3.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_ranks_follow_the_values_and_span_zero_to_one(values):
    found = ranks(values)
    for one, rank in zip(values, found, strict=True):
        below, same = sum(v < one for v in values), values.count(one)
        assert rank == pytest.approx((below + (same - 1) / 2) / (len(values) - 1))
    assert sum(found) == pytest.approx(len(values) / 2)


def test_cosine():
    """Specification, test 3, and the hand case of its section 4."""
    importance, attention = (2, 4, 8, 8), (0.4, 0.2, 0.1, 0.1)
    assert cosine(importance, attention) == pytest.approx(0.561, abs=5e-4)
    assert cosine([1 / one for one in importance], attention) == pytest.approx(1.0)
    assert cosine([2.0, 1.0], [4.0, 2.0]) == pytest.approx(1.0)
    assert cosine([3.0], [0.2]) == pytest.approx(1.0)
    assert cosine([30 * one for one in importance], [one / 7 for one in attention]) == pytest.approx(
        cosine(importance, attention)
    )
    assert cosine([0.0, 0.0], [1.0, 2.0]) == 0.0


@given(NLLS)
def test_alpha_one_is_the_order_of_hmg_and_alpha_zero_that_of_cam(pool):
    """Specification, test 7."""
    guidance, awareness = zip(*pool, strict=True)
    parts = ranks(guidance), ranks(awareness)
    assert mixture(*parts, 1.0) == parts[0] and mixture(*parts, 0.0) == parts[1]
    order = sorted(range(len(pool)), key=guidance.__getitem__)
    scores = mixture(*parts, 1.0)
    assert all(scores[a] <= scores[b] for a, b in itertools.pairwise(order))


def test_both_parts_of_the_mixture_have_comparable_spread():
    """Specification, test 7: raw HMG of the paper's form and a cosine differ by orders of magnitude."""
    dice = random.Random(1)
    guidance = hmg([dice.random() for _ in range(500)], [dice.random() for _ in range(500)], "paper_minmax_softmax", 0)
    awareness = [dice.uniform(-0.2, 0.9) for _ in range(500)]
    assert statistics.stdev(awareness) > 100 * statistics.stdev(guidance)
    ratio = statistics.stdev(ranks(guidance)) / statistics.stdev(ranks(awareness))
    assert 1 / 3 < ratio < 3
