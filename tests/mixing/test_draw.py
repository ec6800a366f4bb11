"""Drawing a mixture: shares, epochs, lengths and order, on hand cases and on random ones."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.mixing import report
from pipelines.mixing.budgets import length_weights
from pipelines.mixing.draw import draw
from schemas.errors import UserError
from schemas.mix import Mix

ROOT = Path(__file__).parents[2]


def mix(total, shares, **changes):
    """A mixture of sources by name; a share may be a number or all keys of a source."""
    sources = [
        {"name": name, "sources": [name], **(share if isinstance(share, dict) else {"share": share})}
        for name, share in shares.items()
    ]
    return Mix(name="m", total_tokens=total, sources=sources, **changes)


def log_normal(seed, rows, median, sigma, longest=500_000):
    lengths = np.random.default_rng(seed).lognormal(np.log(median), sigma, rows)
    return np.clip(lengths, 1, longest).astype(np.int64)


def lines(mixture, available):
    return {line["source"]: line for line in report.sources(mixture, available)}


def draws_of(mixture, number):
    mine = mixture.source == number
    return list(zip(mixture.row[mine].tolist(), mixture.epoch[mine].tolist(), strict=True))


PROLONG = {"code": 0.30, "books": 0.30, "fineweb_edu": 0.10, "fineweb": 0.10, "stackexchange": 0.04, "wikipedia": 0.04,
           "arxiv": 0.03, "openwebmath": 0.03, "tulu": 0.03, "textbooks": 0.03}  # fmt: skip


def test_real_token_share_is_within_half_a_percent_of_the_plan_for_10_000_documents():
    """Spec test 1: ProLong's shares over documents from a few tokens to 500,000, in all of 10,000 drawn ones."""
    available = {
        role: log_normal(number, 3000, 90_000 if role in ("code", "books") else 2000, 1.2)
        for number, role in enumerate(PROLONG)
    }
    roles = {role: [role] for role in PROLONG}
    plan = Mix(name="m", preset="prolong_64k", roles=roles, total_tokens="180M")
    mixture = draw(available, plan, 1)
    assert len(mixture.row) >= 10_000
    for role, line in lines(mixture, available).items():
        assert line["planned_share"] == PROLONG[role] and line["missing_tokens"] == 0
        assert line["real_share"] == pytest.approx(PROLONG[role], rel=0.005), role


def test_per_source_weights_are_2_333_and_0_4286_and_keep_the_sources_total():
    """Spec test 2: long share .3 -> .7."""
    short, long = length_weights([700, 300], [0.3, 0.7])
    assert (short, long) == (pytest.approx(0.4286, abs=5e-5), pytest.approx(7 / 3))
    assert short * 700 + long * 300 == pytest.approx(1000)


def test_per_source_upsampling_changes_lengths_inside_the_source_and_no_other_source():
    """Spec test 2: tokens of the source and the rows of the other stay; 70 % of its tokens come from long documents."""
    available = {"a": np.repeat([100, 6000], [4200, 30]), "b": np.full(5000, 100)}  # a: 420,000 + 180,000 tokens
    plain = draw(available, mix(400_000, {"a": 0.5, "b": 0.5}), 3)
    weighted = {"share": 0.5, "length_weights": {"edges": [4096], "targets": [0.3, 0.7]}}
    mixture = draw(available, mix(400_000, {"a": weighted, "b": 0.5}), 3)
    before, after = (lines(one, available) for one in (plain, mixture))
    assert before["a"]["tokens"] == pytest.approx(200_000, abs=3000)  # half of a long row
    assert after["a"]["tokens"] == 200_000  # what long rows leave over, short ones give
    assert before["b"]["tokens"] == after["b"]["tokens"] == 200_000 and draws_of(plain, 1) == draws_of(mixture, 1)
    long = sum(row >= 4200 for row, _ in draws_of(mixture, 0))
    assert long == 23  # 138,000 tokens, the nearest to 70 % of 200,000
    assert after["a"]["group_epochs"] == [62_000 / 420_000, 138_000 / 180_000]
    assert [group.weight for group in mixture.budgets[0].groups] == pytest.approx([0.3 / 0.7, 0.7 / 0.3])


def test_a_document_of_exactly_the_edge_is_not_longer_than_it():
    available = {"a": np.array([4096, 4097])}
    mixture = draw(available, mix(8_193, {"a": {"share": 1, "length_weights": {}}}, max_epochs=1, on_shortage="cap"), 0)
    assert [group.lengths.tolist() for group in mixture.budgets[0].groups] == [[4096], [4097]]


def test_a_length_that_a_source_does_not_have_gives_its_target_to_the_others():
    available = {"a": np.full(100, 50)}
    mixture = draw(available, mix(2_000, {"a": {"share": 1, "length_weights": {}}}), 0)
    assert lines(mixture, available)["a"]["tokens"] == 2_000
    only_long = {"share": 1, "length_weights": {"targets": [0, 1]}}
    with pytest.raises(UserError, match=r"^mix 'm': source 'a' has no row of a length that it may take$"):
        draw(available, mix(2_000, {"a": only_long}), 0)
    capped = draw(available, mix(2_000, {"a": only_long}, on_shortage="cap"), 0)
    assert lines(capped, available)["a"]["missing_tokens"] == 2_000 and len(capped.row) == 0


def test_epochs_are_whole_permutations_and_then_the_beginning_of_one():
    available = {"a": np.full(10, 7)}
    mixture = draw(available, mix(7 * 23, {"a": 1}), 5)
    orders = np.split(mixture.row, [10, 20])
    assert mixture.epoch.tolist() == [0] * 10 + [1] * 10 + [2] * 3
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10)) and len({*orders[2].tolist()}) == 3
    assert orders[0].tolist() != orders[1].tolist() and orders[0].tolist() != list(range(10))
    assert lines(mixture, available)["a"]["epochs"] == 2.3


def test_the_last_row_is_the_one_that_comes_nearest_to_the_budget():
    available = {"a": np.array([1000, 1000, 1000, 1000, 60, 45])}
    for seed in range(20):
        assert lines(draw(available, mix(1046, {"a": 1}), seed), available)["a"]["tokens"] in (1045, 1060, 1105, 1000)
        assert lines(draw(available, mix(20, {"a": 1}), seed), available)["a"]["rows"] == 0
        assert lines(draw(available, mix(30, {"a": 1}), seed), available)["a"]["tokens"] == 45


def test_more_epochs_than_the_cap_are_an_error_that_names_the_total_that_can_be_had():
    available = {"books": np.full(10, 100), "web": np.full(1000, 100)}
    with pytest.raises(UserError) as refused:
        draw(available, mix(10_000, {"books": 0.5, "web": 0.5}), 0)
    assert str(refused.value) == (
        "mix 'm': source 'books' has 1,000 tokens in rows of 100 to 100 tokens, and 5,000 are wanted: 5 epochs, more "
        "than max_epochs (4); lower total_tokens to 8,000 or set on_shortage: cap"
    )
    assert lines(draw(available, mix(8_000, {"books": 0.5, "web": 0.5}), 0), available)["books"]["epochs"] == 4


def test_rounding_of_shares_is_no_shortage():
    weights = {"edges": [100], "targets": [0.4, 0.6]}
    available = {"a": np.array([77, 224]), "b": np.full(50, 100)}
    shares = {"a": {"share": 7 / 99, "length_weights": weights, "max_epochs": 1}, "b": 92 / 99}
    with pytest.raises(UserError, match="lower total_tokens to 2,738"):
        draw(available, mix(2845, shares), 0)
    assert draw(available, mix(2738, shares), 0).budgets[0].groups[0].wanted == 78  # a token more than there is


def test_a_cap_makes_the_mixture_smaller_and_says_by_how_much():
    available = {"books": np.full(10, 100), "web": np.full(1000, 100)}
    capped = draw(available, mix(10_000, {"books": 0.5, "web": 0.5}, on_shortage="cap"), 0)
    books, web = lines(capped, available).values()
    assert (books["tokens"], books["missing_tokens"], books["epochs"]) == (4_000, 1_000, 4)
    assert (web["tokens"], web["missing_tokens"]) == (5_000, 0)
    assert books["real_share"] == 4 / 9 and books["planned_share"] == 0.5
    own = mix(10_000, {"books": {"share": 0.5, "max_epochs": 2.5}, "web": 0.5}, on_shortage="cap")
    assert lines(draw(available, own, 0), available)["books"]["tokens"] == 2_500


def test_what_one_length_of_a_capped_source_lacks_comes_from_its_others():
    available = {"a": np.repeat([10, 200, 5000], [1000, 100, 1])}  # 10,000 and 20,000 and 5,000 tokens
    weights = {"edges": [100, 1000], "targets": [0.2, 0.2, 0.6]}
    plan = mix(40_000, {"a": {"share": 1, "length_weights": weights}}, on_shortage="cap", max_epochs=1)
    line = lines(draw(available, plan, 0), available)["a"]
    assert line["tokens"] == 35_000 and line["missing_tokens"] == 5_000
    assert line["group_epochs"] == [1, 1, 1]
    plan = mix(20_000, {"a": {"share": 1, "length_weights": weights}}, on_shortage="cap", max_epochs=1)
    line = lines(draw(available, plan, 0), available)["a"]
    assert line["tokens"] == 20_000 and line["missing_tokens"] == 0
    assert line["group_epochs"] == [0.76, 0.37, 1]  # 4,000 and 4,000 wanted, 3,500 more from each: 7,600 and 7,400


def test_length_limits_leave_rows_out_and_report_what_they_took():
    available = {"a": np.array([0, 9, 10, 20, 21, 500])}
    mixture = draw(available, mix(30, {"a": {"share": 1, "min_length": 10, "max_length": 20}}), 0)
    assert sorted(mixture.row.tolist()) == [2, 3]
    line = lines(mixture, available)["a"]
    assert (line["too_short_rows"], line["too_short_tokens"]) == (2, 9)
    assert (line["too_long_rows"], line["too_long_tokens"]) == (2, 521)
    assert (line["available_rows"], line["available_tokens"]) == (2, 30)
    names = ("tokens_from", "available_rows", "available_tokens", "rows", "tokens")
    histogram = [tuple(line[name] for name in names) for line in report.histogram(mixture, available)]
    assert histogram == [(0, 1, 0, 0, 0), (8, 2, 19, 1, 10), (16, 2, 41, 1, 20), (256, 1, 500, 0, 0)]


def test_a_new_source_does_not_reorder_the_draws_of_the_others():
    available = {"a": log_normal(1, 300, 500, 1), "b": log_normal(2, 300, 500, 1), "c": log_normal(3, 300, 500, 1)}
    before = draw(available, mix(100_000, {"a": 0.5, "b": 0.5}), 9)
    after = draw(available, mix(200_000, {"c": 0.5, "a": 0.25, "b": 0.25}), 9)
    others = after.source > 0
    assert (after.row[others] == before.row).all() and (after.source[others] - 1 == before.source).all()
    smaller = draw(available, mix(100_000, {"c": 0.5, "a": 0.25, "b": 0.25}), 9)
    kept = draws_of(smaller, 1)[:-1]  # the last row is the one that fits
    assert kept == draws_of(before, 0)[: len(kept)]


def test_sources_of_a_single_document_are_spread_over_the_mixture():
    available = {"web": np.full(1000, 10), **{f"book{number}": np.array([500]) for number in range(20)}}
    mixture = draw(available, mix(20_000, {"web": 0.5, **dict.fromkeys(list(available)[1:], 0.025)}), 4)
    places = np.flatnonzero(mixture.source) / len(mixture.source)
    assert len(places) == 20 and places.min() < 0.2 and places.max() > 0.8


CODE = """
import sys
import numpy as np
from tests.mixing.test_draw import draw, log_normal, mix
available = {"a": log_normal(1, 400, 500, 1.5), "b": log_normal(2, 400, 3000, 1.5)}
given = dict(reversed(available.items())) if sys.argv[1] == "reversed" else available
one = draw(given, mix(2_000_000, {"a": 0.2, "b": 0.8}, length_weights={}, on_shortage="cap"), 11)
sys.stdout.write(repr([*zip(one.source.tolist(), one.row.tolist(), one.epoch.tolist())][int(sys.argv[2]):]))
"""


def test_a_loader_that_restarts_at_a_step_gets_the_same_rows():
    """Spec test 6: another process, another hash seed, sources handed over in another order."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", CODE, order, step], cwd=ROOT, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for order, step, seed in (("given", "0", "1"), ("reversed", "137", "2"))
    ]  # fmt: skip
    whole, rest = (eval(output) for output in outputs)
    assert len(rest) == len(whole) - 137 > 300 and rest == whole[137:]


sources_of_lengths = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=40), min_size=1, max_size=4)


@given(sources_of_lengths, st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(1, 40_000),
       st.sampled_from(["none", "by_length", "grow_p2"]), st.booleans(), st.integers(0, 3))  # fmt: skip
def test_any_mixture(lists, parts, total, curriculum, weighted, seed):
    available = {f"s{number}": np.array(lengths) for number, lengths in enumerate(lists)}
    shares = {name: part / sum(parts[: len(lists)]) for name, part in zip(available, parts, strict=False)}
    weights = {"edges": [20, 100], "targets": [0.2, 0.3, 0.5]} if weighted else None
    plan = mix(total, shares, length_weights=weights, curriculum=curriculum, on_shortage="cap", max_epochs=3)
    mixture = draw(available, plan, seed)
    again = draw(available, plan, seed)
    for number, (name, lengths) in enumerate(available.items()):
        pairs = draws_of(mixture, number)
        assert len({*pairs}) == len(pairs), "a document twice within an epoch"
        assert draws_of(again, number) == pairs
        for row in {row for row, _ in pairs}:
            epochs = [epoch for other, epoch in pairs if other == row]
            assert epochs == [*range(len(epochs))] and len(epochs) <= 3, "an epoch left out, or one too many"
        line = lines(mixture, available)[name]
        off = line["tokens"] - (line["planned_tokens"] - line["missing_tokens"])
        assert abs(off) <= lengths.max() / 2 + 3, "farther from the budget than half a document and rounding"
        assert line["tokens"] == sum(int(lengths[row]) for row, _ in pairs)
    assert (again.source == mixture.source).all()


@given(sources_of_lengths, st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(1000, 10**6))
def test_the_total_that_an_error_names_can_be_had(lists, parts, total):
    available = {f"s{number}": np.array(lengths) for number, lengths in enumerate(lists)}
    shares = {name: part / sum(parts[: len(lists)]) for name, part in zip(available, parts, strict=False)}
    weights = {"edges": [100], "targets": [0.4, 0.6]}
    try:
        draw(available, mix(total, shares, length_weights=weights), 1)
    except UserError as error:
        possible = int(str(error).split("lower total_tokens to ")[1].split(" or ")[0].replace(",", ""))
        draw(available, mix(possible, shares, length_weights=weights), 1)


@given(sources_of_lengths, st.lists(st.integers(1, 9), min_size=4, max_size=4), st.booleans())
def test_any_prefix_has_about_the_shares_of_the_whole(lists, parts, weighted):
    available = {f"s{number}": np.array(lengths) for number, lengths in enumerate(lists)}
    shares = {name: part / sum(parts[: len(lists)]) for name, part in zip(available, parts, strict=False)}
    weights = {"edges": [100], "targets": [0.5, 0.5]} if weighted else None
    mixture = draw(available, mix(20_000, shares, length_weights=weights, on_shortage="cap"), 1)
    lengths = np.array([available[f"s{s}"][row] for s, row in zip(mixture.source, mixture.row, strict=True)])
    sofar = np.cumsum(lengths)
    slack = 2 * sum(group.lengths.max() for one in mixture.budgets for group in one.groups if len(group.rows))
    for number in range(len(lists)):
        mine = np.cumsum(np.where(mixture.source == number, lengths, 0))
        assert (np.abs(mine - sofar * (mine[-1] / sofar[-1])) <= slack).all()
