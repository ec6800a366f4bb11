"""Answers after their evidence, and with citations: exact, checkable, and undone byte for byte."""

import re
from dataclasses import replace
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.citations import Statement, parse_citations, strip_citations, strip_numbers, write_citations
from generators.tasks import targets
from generators.tasks.base import Item
from generators.tasks.path_traversal import PathTraversal
from generators.tasks.registry import TASKS, create_task
from schemas.errors import UserError
from tests.tasks.support import WORDS, room

SEEDS = 100
QUOTED = [name for name in sorted(TASKS) if "evidence_first" in create_task(name).targets]
CITED = [name for name in sorted(TASKS) if "citations" in create_task(name).targets]
TOKENS = {"tom_tracking": 1000, "label_rounds": 1000}

quoted = pytest.mark.parametrize("name", QUOTED)
cited = pytest.mark.parametrize("name", CITED)


@cache
def plain(name):
    return [create_task(name).make(Random(seed), room(TOKENS.get(name, 600))) for seed in range(SEEDS)]


def written(name, target):
    task = create_task(name)
    return [(task, item, targets.write(task, item, target)) for item in plain(name)]


CONTEXT = "It rained. Ada went home at six. Bob stayed.\nHe slept in the red barn. The end came."
ITEM = Item(CONTEXT, "Where?", "the barn", {"answer": "the barn"}, ((11, 32), (45, 70)))


class Barn:
    name, needs_haystack, targets = "barn", True, ("answer", "evidence_first", "citations")

    def verify(self, check, answer):
        return answer.strip() == check["answer"]


def test_evidence_first_by_hand():
    made = targets.write(Barn(), ITEM, "evidence_first")
    assert made.answer == "- Ada went home at six.\n- He slept in the red barn.\n\nthe barn"
    assert made.context == CONTEXT and made.question == f"Where?\n\n{targets.QUOTE}"


def test_citations_by_hand():
    made = targets.write(Barn(), ITEM, "citations")
    assert made.context == (
        "<C1>It rained. <C2>Ada went home at six. <C3>Bob stayed.\n<C4>He slept in the red barn. <C5>The end came."
    )
    assert made.answer == "<statement>the barn<cite>[2-2][4-4]</cite></statement>"
    assert [made.context[a:b] for a, b in made.evidence] == ["Ada went home at six.", "He slept in the red barn."]


def test_passages_by_hand(monkeypatch):
    monkeypatch.setattr(targets, "PASSAGE", 30)
    made = targets.write(Barn(), ITEM, "passages")
    assert made.context == (
        "[Passage 1]\nIt rained. Ada went home at six. [Passage 2]\nBob stayed.\nHe slept in the red barn. "
        "[Passage 3]\nThe end came."
    )
    assert made.answer == "the barn [1][2]"
    assert [made.context[a:b] for a, b in made.evidence] == ["Ada went home at six.", "He slept in the red barn."]
    for answer, right in (
        ("the barn [1][2]", True),
        ("the barn[2][1]\n", True),
        ("the barn [1][2][3]", True),
        ("the barn [1]", False),
        ("the barn [1][2][4]", False),  # there is no passage 4
        ("the barn [1][2][0]", False),
        ("the house [1][2]", False),
        ("[1][2] the barn", False),
        ("the barn", False),
        ("", False),
    ):
        assert targets.accepts(Barn(), "passages", made.check, made.prompt, answer) is right
    with pytest.raises(ValueError, match=r"\[Passage 1\]"):
        targets.write(Barn(), replace(ITEM, context=made.context), "passages")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("- Ada went home at six.\n- He slept in the red barn.\n\nthe barn", True),
        ("- He slept in the red barn.\n- Ada went home at six. Bob stayed.\n\nthe barn\n", True),
        ("- Ada went home at six.\n- He slept in the red barn.\n\nthe house", False),
        ("- Ada went home at six.\n\nthe barn", False),  # half of it
        ("- Ada went home at six.\n- He slept in a red barn.\n\nthe barn", False),  # invented
        ("- Ada went home at six.\n- He slept in the red barn.\n- \n\nthe barn", False),
        ("- Ada went home at six.\nHe slept in the red barn.\n\nthe barn", False),
        ("the barn", False),
        ("", False),
    ],
)
def test_bullets_must_be_exact_and_hold_the_evidence(answer, right):
    made = targets.write(Barn(), ITEM, "evidence_first")
    assert targets.accepts(Barn(), "evidence_first", made.check, made.prompt, answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("<statement>the barn<cite>[2-2][4-4]</cite></statement>", True),
        ("<statement>the barn<cite>[2-4]</cite></statement>", True),
        ("<statement>the<cite>[4-4]</cite></statement> <statement>barn<cite>[2-2]</cite></statement>", True),
        ("<statement>the barn<cite>[1-5]</cite></statement>", False),  # everything
        ("<statement>the barn<cite>[2-2]</cite></statement>", False),
        ("<statement>the barn<cite>[2-2][4-9]</cite></statement>", False),  # there is no sentence 9
        ("<statement>the house<cite>[2-2][4-4]</cite></statement>", False),
        ("<statement>the barn<cite>[2-2][4-4]</statement>", False),
        ("the barn [2-2][4-4]", False),
        ("", False),
    ],
)
def test_citations_must_exist_and_name_the_evidence(answer, right):
    made = targets.write(Barn(), ITEM, "citations")
    assert targets.accepts(Barn(), "citations", made.check, made.prompt, answer) is right


def test_quoting_everything_is_no_evidence():
    long = replace(ITEM, context=CONTEXT + " More of it follows here." * 10)
    made = targets.write(Barn(), long, "evidence_first")
    head, tail = long.context.split("\n")
    assert not targets.accepts(Barn(), "evidence_first", made.check, made.prompt, f"- {head}\n- {tail}\n\nthe barn")


@quoted
def test_every_bullet_is_an_exact_substring_of_the_context_and_the_answer_follows(name):
    """extras 2."""
    for task, item, made in written(name, "evidence_first"):
        head, _, answer = made.answer.partition("\n\n")
        bullets = head.split("\n")
        assert all(bullet.startswith("- ") and bullet[2:] in made.context for bullet in bullets)
        assert answer == item.answer and targets.accepts(task, "evidence_first", made.check, made.prompt, made.answer)
        assert made.context == item.context and made.prompt.startswith(item.prompt)


@cited
def test_stripping_the_tags_gives_the_answer_back_and_all_ids_exist(name):
    """extras 3."""
    for task, item, made in written(name, "citations"):
        assert strip_citations(made.answer) == item.answer
        assert strip_numbers(made.context) == item.context
        last = made.context.count("<C")
        (statement,) = parse_citations(made.answer, last)
        assert statement.spans and targets.accepts(task, "citations", made.check, made.prompt, made.answer)
        assert [strip_numbers(made.context[a:b]) for a, b in made.evidence] == [
            item.context[a:b] for a, b in item.evidence
        ]


@cited
def test_passages_hold_the_evidence_and_come_off_again(name):
    """extras 4."""
    for seed, (task, item, made) in enumerate(written(name, "passages")):
        assert re.sub(r"\[Passage \d+\]\n", "", made.context) == item.context
        answer, _, named = made.answer.rpartition(" ")
        assert answer == item.answer and targets.accepts(task, "passages", made.check, made.prompt, made.answer)
        bodies = re.split(r"\[Passage \d+\]\n", made.context)[1:]
        shown = "".join(bodies[int(n) - 1] for n in re.findall(r"\d+", named))
        for start, end in made.evidence:
            said = re.sub(r"\[Passage \d+\]\n", "", made.context[start:end])
            assert said in shown and said in item.context
        wrong = f"{task.corrupt(item, Random(seed))} {named}"
        assert not targets.accepts(task, "passages", made.check, made.prompt, wrong)
        fewer = named[: named.rindex("[")]
        assert not targets.accepts(task, "passages", made.check, made.prompt, f"{item.answer} {fewer}")


@quoted
def test_quotes_do_not_save_a_wrong_answer(name):
    for seed, (task, item, made) in enumerate(written(name, "evidence_first")):
        head, wrong = made.answer.partition("\n\n")[0], task.corrupt(item, Random(seed))
        assert not targets.accepts(task, "evidence_first", made.check, made.prompt, f"{head}\n\n{wrong}")


@cited
def test_citations_do_not_save_a_wrong_answer(name):
    for seed, (task, item, made) in enumerate(written(name, "citations")):
        (statement,) = parse_citations(made.answer, 10**6)
        wrong = write_citations([Statement(task.corrupt(item, Random(seed)), statement.spans)])
        assert not targets.accepts(task, "citations", made.check, made.prompt, wrong)


@quoted
def test_the_right_answer_does_not_save_wrong_quotes(name):
    for task, item, made in written(name, "evidence_first"):
        bullets = made.answer.partition("\n\n")[0].split("\n")
        for wrong in (bullets[1:], [f"{bullets[0]} indeed", *bullets[1:]], []):
            answer = "\n".join(wrong) + f"\n\n{item.answer}"
            assert not targets.accepts(task, "evidence_first", made.check, made.prompt, answer.lstrip())


@cited
def test_the_right_answer_does_not_save_wrong_citations(name):
    for task, item, made in written(name, "citations"):
        (statement,) = parse_citations(made.answer, 10**6)
        first, last = statement.spans[0]
        less = statement.spans[1:] if first == last else ((first + 1, last), *statement.spans[1:])
        assert not targets.accepts(
            task, "citations", made.check, made.prompt, write_citations([Statement(item.answer, less)])
        )
        assert not targets.accepts(task, "citations", made.check, made.prompt, item.answer)


@pytest.mark.parametrize(("name", "target"), [(n, t) for n in CITED for t in create_task(n).targets])
def test_the_prompt_with_all_that_the_target_adds_has_the_length_asked_for(name, target):
    task = create_task(name)
    for seed in range(4):
        item = targets.make(task, seed, room(4000), target)
        assert abs(WORDS.count(item.prompt) - 4000) <= 80
        assert item == targets.make(task, seed, room(4000), target)


@settings(max_examples=200)
@given(
    st.text(max_size=120)
    | st.lists(st.sampled_from(["- ", "<statement>", "<cite>", "</cite>", "[1-2]", "\n\n", "Ada"])).map("".join)
)
def test_any_text_can_be_judged(answer):
    for target in ("answer", "evidence_first", "citations", "passages"):
        made = targets.write(Barn(), ITEM, target)
        assert targets.accepts(Barn(), target, made.check, made.prompt, answer) is False


def test_lines_are_numbered_where_the_context_is_no_prose():
    made = targets.make(PathTraversal(steps=(4, 4)), 1, room(500), "citations")
    lines = made.context.splitlines()
    assert [line.partition(">")[0] for line in lines] == [f"<C{n}" for n in range(1, len(lines) + 1)]


def test_a_context_that_holds_the_marks_itself_is_refused():
    with pytest.raises(ValueError, match="<C7>"):
        targets.write(Barn(), replace(ITEM, context=CONTEXT + " See <C7>."), "citations")


def test_a_task_without_evidence_is_refused_before_anything_is_made():
    for name in ("ordering", "countdown", "golden_thread"):
        for target in ("evidence_first", "citations"):
            with pytest.raises(UserError, match=f"task '{name}' has no target '{target}', only answer"):
                targets.check(create_task(name), target)
    with pytest.raises(ValueError, match="no evidence"):
        targets.write(Barn(), replace(ITEM, evidence=()), "citations")
    with pytest.raises(ValueError, match="several lines"):
        targets.write(Barn(), replace(ITEM, evidence=((30, 60),)), "evidence_first")
