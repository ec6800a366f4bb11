"""Confusing facts: one question at every length, near misses never answer it, names are replaced alike."""

import re
from random import Random

import pytest

from generators.tasks.base import Room
from generators.tasks.confusing_facts import ConfusingFacts, replace
from generators.tasks.story_pools import REAL_PEOPLE, REAL_PLACES, RELATIONS
from tests.tasks.support import WORDS, Prose, room


def facts(item):
    """(year, person, place) of the facts of the item's relation."""
    said = item.context[slice(*item.evidence[0])]
    (past,) = [
        re.fullmatch(r"In \{year\} \{person\} (.+) in \{place\}\.", template)[1]
        for template, _ in RELATIONS
        if re.fullmatch(r"In \{year\} \{person\} (.+) in \{place\}\.", template)[1] in said
    ]
    return re.findall(rf"In (\d+) (\w+ \w+) {past} in (\w+)\.", item.context)


@pytest.mark.parametrize("seed", range(60))
def test_the_same_question_at_every_length(seed):
    made = [ConfusingFacts().make(Random(seed), room(tokens)) for tokens in (300, 700, 3000, 8000)]
    assert len({(one.question, one.answer, str(one.check)) for one in made}) == 1
    assert len({one.context[slice(*one.evidence[0])] for one in made}) == 1
    assert len({tuple(sorted(facts(one))) for one in made}) == 1
    assert all(
        abs(WORDS.count(one.prompt) - n) <= 0.02 * n for one, n in zip(made, (300, 700, 3000, 8000), strict=True)
    )


@pytest.mark.parametrize("seed", range(100))
def test_every_confuser_misses_the_question_by_one_thing_and_has_another_answer(seed):
    item = ConfusingFacts(confusers=6).make(Random(seed), room(600))
    found = facts(item)
    (gold,) = [one for one in found if all(part in item.question or part == item.answer for part in one)]
    assert len(found) == 7 and item.answer in gold
    asked = gold.index(item.answer)
    for other in found:
        if other != gold:
            changed = [n for n in range(3) if other[n] != gold[n]]
            assert len(changed) == 2 and asked in changed
    assert len({one[asked] for one in found}) == 7
    assert item.context.count(item.context[slice(*item.evidence[0])]) == 1


class Towns(Prose):
    """A haystack that speaks of real towns and people."""

    def text(self, rng, tokens):
        return (
            super().text(rng, tokens).replace("one thing", f"of {rng.choice(REAL_PLACES)} to {rng.choice(REAL_PEOPLE)}")
        )


def test_names_are_replaced_in_text_facts_question_and_answer_alike():
    replaced_in_text = 0
    for seed in range(80):
        item = ConfusingFacts().make(Random(seed), Room(600, WORDS, Towns()))
        for old, new in item.details["replaced"].items():
            assert not re.search(rf"\b{old}\b", item.prompt + item.answer)
            replaced_in_text += f"of {new} to" in item.context or f"to {new} or" in item.context
        assert not any(name in item.question + item.answer for name in (*REAL_PLACES, *REAL_PEOPLE))
    assert replaced_in_text > 10


def test_whole_phrases_are_replaced_all_at_once():
    phrases = {"Bern": "Ulm", "Ulm": "Bern", "Bern Lake": "Sea"}
    assert replace("Bern, Ulm; Bern Lake, Berne, (Bern)", phrases) == "Ulm, Bern; Sea, Berne, (Ulm)"
    assert replace("as it is", {}) == "as it is"


CHECK = {
    "answer": "1791",
    "question": "In which year did Ada Berg open the first observatory in Ulm? Answer with the year only.",
}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1791", True),
        (" 1791.\n", True),
        ("In 1791.", True),
        ("It was in the year 1791", True),
        ("Ada Berg did open the first observatory in Ulm in 1791.", True),
        ("1792", False),
        ("17911", False),
        ("1791 or 1792", False),
        ("not 1791", False),
        ("1791 1791", False),
        ("", False),
        ("In which year?", False),
    ],
)
def test_all_keywords_and_nothing_but_them(answer, right):
    assert ConfusingFacts().verify(CHECK, answer) is right


def test_a_name_of_two_words_needs_both_in_their_order():
    check = {"answer": "Ada Berg", "question": "Who opened the first observatory in Ulm in 1791?"}
    for answer, right in (("ada berg", True), ("It was Ada Berg.", True), ("Ada", False), ("Berg, Ada", False)):
        assert ConfusingFacts().verify(check, answer) is right


def test_facts_stand_between_whole_sentences():
    for seed in range(60):
        item = ConfusingFacts().make(Random(seed), room(600))
        ((start, end),) = item.evidence
        assert start == 0 or re.search(r"[.\n]\s+$", item.context[:start])
        assert re.match(r"\s+[A-Z]|\s*$", item.context[end:])


def test_train_and_evaluation_names_have_nothing_in_common():
    names = {
        split: {
            new
            for seed in range(60)
            for new in ConfusingFacts(split=split).make(Random(seed), room(400)).details["replaced"].values()
        }
        for split in ("train", "eval")
    }
    assert len(names["train"]) > 200 and not names["train"] & names["eval"]
