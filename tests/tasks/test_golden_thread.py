"""Golden thread: demands never meet in a unit, the checker counts what is missing, the template meets everything."""

import re
from random import Random

import pytest

from generators.tasks.golden_thread import GoldenThread, check_text
from generators.tasks.scenarios import SCENARIOS
from tests.tasks.support import WORDS, room

CHECK = {
    "unit": "Week", "count": 4, "words": 3,
    "demands": [["once", "wedding", 2, 2, 1], ["range", "new oven", 3, 4, 1]],
}  # fmt: skip
TEXT = """=== Week 1 ===
Nothing much happened.

=== Week 2 ===
A Wedding, at last!

=== Week 3 ===
The new
oven came today.

=== Week 4 ===
My new oven works.
"""


def perfect(**changes):
    whole = {"completion": 1.0, "accuracy": 1.0, "long_enough": 1.0, "in_order": True, "extra": 0, "unmet": []}
    return whole | changes


def test_a_text_of_four_units_checked_by_hand():
    assert check_text(CHECK, TEXT) == perfect()
    assert GoldenThread().verify(CHECK, TEXT) and GoldenThread().verify(CHECK, f"Here it is.\n\n{TEXT}")


def test_a_missing_unit_fails_its_demands_too():
    """The published scorer leaves missing units out of the accuracy."""
    without = TEXT[: TEXT.index("=== Week 4")]
    found = check_text(CHECK, without)
    assert found == perfect(completion=0.75, accuracy=1 - 1 / 3, long_enough=0.75, unmet=[["new oven", 4]])
    assert not GoldenThread().verify(CHECK, without)
    nothing = check_text(CHECK, "")
    assert (nothing["completion"], nothing["accuracy"], nothing["long_enough"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (TEXT.replace("oven works", "stove works"), {"accuracy": 1 - 1 / 3, "unmet": [["new oven", 4]]}),
        (TEXT.replace("Wedding", "Weddings"), {"accuracy": 1 - 1 / 3, "unmet": [["wedding", 2]]}),
        (TEXT.replace("Nothing much happened.", "Nothing."), {"long_enough": 0.75}),
        (TEXT + "\n=== Week 5 ===\nOne week more.", {"extra": 1}),
        (TEXT.replace("Week 1", "Week 9"), {"completion": 0.75, "long_enough": 0.75, "in_order": False, "extra": 1}),
        (TEXT + TEXT, {"completion": 0, "accuracy": 0, "long_enough": 0, "in_order": False,
                       "unmet": [["wedding", 2], ["new oven", 3], ["new oven", 4]]}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_counted(text, changes):
    assert check_text(CHECK, text) == perfect(**changes)


def test_units_out_of_order_or_too_many_are_no_answer():
    one, two, three, four = (part for part in re.split(r"(?==== Week)", TEXT) if part)
    swapped = two + one + three + four
    assert check_text(CHECK, swapped) == perfect(in_order=False)
    assert not GoldenThread().verify(CHECK, swapped)
    assert not GoldenThread().verify(CHECK, TEXT + "\n=== Week 5 ===\nOne week more.")


@pytest.mark.parametrize("seed", range(200))
def test_no_unit_has_two_demands(seed):
    """Of the published floor ranges 47% had such a unit."""
    item = GoldenThread(unit_words=30).make(Random(seed), room(1500))
    units = [n for _, _, first, last, step in item.check["demands"] for n in range(first, last + 1, step)]
    assert len(units) == len(set(units)) and set(units) <= set(range(1, item.check["count"] + 1))
    kinds = [demand[0] for demand in item.check["demands"]]
    assert 2 <= kinds.count("once") <= 4 and kinds.count("range") in (1, 2) and kinds.count("periodic") in (1, 2)
    things = [demand[1] for demand in item.check["demands"]]
    assert len(set(things)) == len(things) and all(item.question.count(f"the {thing}.") == 1 for thing in things)


def test_the_template_has_the_length_asked_for_and_meets_all_demands():
    for tokens in (3000, 16000):
        for seed in range(8):
            item = GoldenThread().make(Random(seed), room(tokens))
            assert abs(WORDS.count(item.answer) - tokens) <= 0.02 * tokens
            assert check_text(item.check, item.answer) == perfect() and item.details["templated"] is True


def test_a_unit_left_out_or_a_demand_not_met_is_what_corrupts():
    lost, unmet = 0, 0
    for seed in range(60):
        item = GoldenThread(unit_words=30).make(Random(seed), room(1500))
        found = check_text(item.check, GoldenThread().corrupt(item, Random(seed)))
        lost += found["completion"] < 1
        unmet += found["completion"] == 1 and len(found["unmet"]) == 1
    assert lost > 15 and unmet > 15 and lost + unmet == 60


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_sentences_of_the_template_never_mention_a_thing_by_chance(scenario):
    rng = Random(1)
    text = " ".join(scenario.sentence(rng) for _ in range(3000)) + scenario.mention.format(thing="")
    assert not [thing for thing in scenario.things if thing.casefold() in text.casefold()]
    for one in scenario.things:  # nor does one thing hold another
        assert [other for other in scenario.things if one in other] == [one]


def test_too_few_tokens_for_the_demands_are_refused():
    with pytest.raises(ValueError, match="tokens hold only"):
        GoldenThread().make(Random(1), room(300))
