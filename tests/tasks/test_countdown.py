"""Countdown: the search, any valid equation, the trace."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.tasks.countdown import Countdown, search, valid_equation
from tests.tasks.support import WORDS, room

# 6, 3, 2 -> 12 by hand: the pairs are (6, 3), (6, 2), (3, 2). 9 = 6 + 3 comes first: with 2 it gives 11, 7, 18 and no
# whole quotient; 6 - 3 = 3 gives 5, 1, 6; 6 * 3 = 18 gives 20, 16, 36, 9; 6 / 3 = 2 gives 4, 0, 4, 1; 6 + 2 = 8 gives
# 11, 5, 24; 6 - 2 = 4 gives 7, 1 and then 4 * 3 = 12.
BY_HAND = """6 + 3 = 9 | 9 2
  9 + 2 = 11 | 11
  9 - 2 = 7 | 7
  9 * 2 = 18 | 18
6 - 3 = 3 | 3 2
  3 + 2 = 5 | 5
  3 - 2 = 1 | 1
  3 * 2 = 6 | 6
6 * 3 = 18 | 18 2
  18 + 2 = 20 | 20
  18 - 2 = 16 | 16
  18 * 2 = 36 | 36
  18 / 2 = 9 | 9
6 / 3 = 2 | 2 2
  2 + 2 = 4 | 4
  2 - 2 = 0 | 0
  2 * 2 = 4 | 4
  2 / 2 = 1 | 1
6 + 2 = 8 | 8 3
  8 + 3 = 11 | 11
  8 - 3 = 5 | 5
  8 * 3 = 24 | 24
6 - 2 = 4 | 4 3
  4 + 3 = 7 | 7
  4 - 3 = 1 | 1
  4 * 3 = 12 | 12"""


def test_the_search_of_three_numbers_worked_out_by_hand():
    tries = list(search([3, 2, 6], 12))
    assert "\n".join(one.line for one in tries) == BY_HAND
    assert tries[-1].solved == "(6 - 2) * 3 = 12" and [one.solved for one in tries[:-1]] == [None] * 25


def test_a_puzzle_without_solution_is_searched_to_the_end():
    assert all(one.solved is None for one in search([1, 1, 1], 50))


def test_no_result_is_2000_or_more_negative_or_broken():
    results = [int(one.text.split(" = ")[1].split()[0]) for one in search([49, 48, 47, 0], 1999)]
    assert len(results) > 400 and min(results) >= 0 and max(results) < 2000


@pytest.mark.parametrize(
    ("equation", "valid"),
    [
        ("(6 - 2) * 3 = 12", True),
        ("3*(6-2)=12", True),
        ("6 * (3 - 2) + 6 = 12", False),  # 6 twice
        ("6 * 2 = 12", False),  # 3 not used
        ("(6 - 2) * 3 = 13", False),
        ("(6 - 2) * 3", False),
        ("12 = (6 - 2) * 3", False),
        ("3 * (2 - 6) + 24 = 12", False),
        ("6 ** 2 / 3 = 12", False),
        ("6 * 3 - 2 - 4 = 12", False),
        ("__import__('os') = 12", False),
        ("(" * 150 + "6" + ")" * 40 + " = 12", False),
        ("3 * -(2 - 6) = 12", False),  # a sign is no calculation
        ("", False),
    ],
)
def test_equations_of_the_stated_form(equation, valid):
    assert valid_equation(equation, [6, 3, 2], 12) is valid


def test_steps_must_be_whole_and_not_negative_even_where_the_end_is():
    assert not valid_equation("3 - 5 + 14 = 12", [3, 5, 14], 12)
    assert valid_equation("14 - 5 + 3 = 12", [3, 5, 14], 12)
    assert not valid_equation("5 / 2 * 4 = 10", [5, 2, 4], 10)
    assert valid_equation("5 * 4 / 2 = 10", [5, 2, 4], 10)
    assert not valid_equation("49 * 48 - 47 * 49 + 1 = 50", [49, 48, 47, 49, 1], 50)
    assert not valid_equation("7 / 0 + 12 = 12", [7, 0, 12], 12)


@given(st.text(alphabet="0123456789+-*/()= ", max_size=60))
def test_any_equation_can_be_judged(text):
    assert valid_equation(text, [1, 2, 3, 4], 10) in (True, False)


def test_every_solution_of_a_search_is_a_valid_equation():
    rng = Random(5)
    for _ in range(60):
        numbers, target = [rng.randint(1, 49) for _ in range(4)], rng.randint(10, 50)
        last = list(search(numbers, target))[-1]
        assert last.solved is None or valid_equation(last.solved, numbers, target)


def test_another_valid_equation_is_accepted_and_another_trace_is_not():
    task = Countdown()
    check = {"numbers": [3, 2, 6], "target": 12, "trace": True}
    for equation in ("(6 - 2) * 3 = 12", "3 * (6 - 2) = 12"):
        assert task.verify(check, f"<search>\n{BY_HAND}\n</search>\n<equation>{equation}</equation>")
        assert task.verify(check | {"trace": False}, f"Easy: <equation>{equation}</equation>")
        assert not task.verify(check, f"<equation>{equation}</equation>")  # no trace
    for changed in (
        BY_HAND.replace("  9 - 2 = 7 | 7\n", ""),
        BY_HAND.replace("8 * 3 = 24", "8 * 3 = 25"),
        BY_HAND.replace("  8 + 3", "8 + 3"),
        f"{BY_HAND}\n6 * 2 = 12 | 12 3",
    ):
        assert not task.verify(check, f"<search>\n{changed}\n</search>\n<equation>(6 - 2) * 3 = 12</equation>")


def test_numbers_target_and_trace_keep_their_bounds():
    task = Countdown(trace_tokens=(100, 400))
    for seed in range(100):
        item = task.make(Random(seed), room(800))
        trace = re.search(r"<search>\n(.*)\n</search>", item.answer, re.S)[1]
        assert 100 <= WORDS.count(trace) <= 400 and len(trace.splitlines()) == item.details["tries"]
        assert len(item.check["numbers"]) == 4 and all(1 <= n <= 49 for n in item.check["numbers"])
        assert 10 <= item.check["target"] <= 50


def test_worked_puzzles_in_the_prompt_are_right_and_none_is_the_one_asked():
    item = Countdown(trace_tokens=(50, 300)).make(Random(1), room(3000))
    shown = re.findall(r"Puzzle: get (\d+) from ([\d, ]+)\.\n(.*?)<equation>(.*?)</equation>", item.context, re.S)
    assert len(shown) == item.details["examples"] and sum(bool(search_) for _, _, search_, _ in shown) >= 5
    for target, numbers, _, equation in shown:
        given = [int(n) for n in numbers.split(", ")]
        assert valid_equation(equation, given, int(target))
        assert (sorted(given), int(target)) != (sorted(item.check["numbers"]), item.check["target"])


def test_train_and_evaluation_puzzles_have_nothing_in_common():
    def puzzles(split):
        task = Countdown(trace_tokens=(50, 300), split=split)
        items = [task.make(Random(seed), room(800)) for seed in range(20)]
        asked = {(str(sorted(item.check["numbers"])), item.check["target"]) for item in items}
        shown = {
            (str(sorted(int(n) for n in numbers.split(", "))), int(target))
            for item in items
            for target, numbers in re.findall(r"Puzzle: get (\d+) from ([\d, ]+)\.", item.context)
        }
        return asked | shown

    assert not puzzles("train") & puzzles("eval")
