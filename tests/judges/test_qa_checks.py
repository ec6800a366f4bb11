"""QA checks against what their specification asks for (quality_and_decontamination.md, section 8 and test 7)."""

import json
from collections import Counter

import pytest

from filters.matching import token_f1
from filters.quotes import bullets, quotes, stands_in
from generators.engines.scripted import ScriptedEngine
from generators.judges.qa_checks import COLUMNS, without
from schemas.states import State
from tests.judges.support import (
    ANSWER,
    DOCUMENT,
    FACT,
    LINES,
    QUESTION,
    check,
    copies,
    knows_all,
    sample,
    says,
    step_of,
    values,
)
from tests.test_bad_replies import BAD

NOT_ASKED = ("random_window", "bm25_top1", "full", "no_evidence")


def test_a_reader_that_knows_everything_is_rejected_by_the_closed_book_and_asked_nothing_more(tmp_path):
    outcomes, calls = check(tmp_path, knows_all)
    found = values(outcomes)
    assert (found["verdict"], found["closed_book_acc"], found["closed_book_f1"]) == ("known", 1.0, [1.0] * 4)
    assert [step_of(call) for call in calls] == ["closed_book"] * 4
    assert all("wind" not in call.messages[0].content for call in calls)
    # What was not asked is None and never False.
    assert {found[name] for check in NOT_ASKED for name in (f"{check}_ok", f"{check}_f1")} == {None}
    assert found["label"] is None and found["agreement"] is None and found["citation_ok"] is None


def test_a_reader_that_copies_the_evidence_passes_with_all_of_it_and_fails_without(tmp_path):
    outcomes, calls = check(tmp_path, copies, window_tokens=5)
    found = values(outcomes)
    assert found["verdict"] == "pass" and found["label"] == "retrieval"
    assert (found["closed_book_acc"], found["full_ok"], found["agreement"]) == (0.0, True, 1.0)
    assert found["no_evidence_ok"] is False and found["random_window_ok"] is False and found["bm25_top1_ok"] is True
    assert [step_of(call) for call in calls] == [*["closed_book"] * 4, "part", "part", *["full"] * 3, "part"]
    last = calls[-1].messages[0].content
    assert FACT not in last and LINES[39] in last and LINES[40] in last


def test_closed_book_rejects_from_two_of_four_right_answers_on(tmp_path):
    for right, verdict in ((1, "pass"), (2, "known")):
        asked = iter([True] * right + [False] * 3)

        def reply(request, asked=asked):
            return says(ANSWER if next(asked) else "unknown") if step_of(request) == "closed_book" else copies(request)

        folder = tmp_path / str(right)
        folder.mkdir()
        found = values(check(folder, reply, window_tokens=5)[0])
        assert (found["closed_book_acc"], found["verdict"]) == (right / 4, verdict)


def test_the_full_text_must_give_two_of_three_right_answers(tmp_path):
    for right, verdict in ((1, "ambiguous"), (2, "pass")):
        asked = iter([True] * right + [False] * 2)

        def reply(request, asked=asked):
            if step_of(request) == "full":
                return says(ANSWER if next(asked) else "somebody else entirely")
            return says("unknown")

        folder = tmp_path / str(right)
        folder.mkdir()
        found = values(check(folder, reply)[0])
        assert (found["full_ok"], found["agreement"], found["verdict"]) == (right == 2, 2 / 3, verdict)


def test_three_different_answers_agree_with_themselves_only(tmp_path):
    asked = iter(["one", "two", "three"])
    outcomes, _ = check(tmp_path, lambda request: says(next(asked) if step_of(request) == "full" else "unknown"))
    found = values(outcomes)
    assert (found["agreement"], found["verdict"]) == (pytest.approx(1 / 3), "ambiguous")


def test_a_window_that_solves_it_is_a_reject_and_a_chunk_a_label(tmp_path):
    short = sample(document="\n".join([FACT, *[FACT] * 30]))
    found = values(check(tmp_path, copies, short)[0])
    assert (found["verdict"], found["random_window_ok"], found["bm25_top1_ok"]) == ("short_context", True, None)


def test_an_answer_without_the_evidence_means_that_the_evidence_is_wrong(tmp_path):
    found = values(check(tmp_path, copies, sample(evidence=(LINES[3],)), window_tokens=5)[0])
    assert (found["verdict"], found["no_evidence_ok"]) == ("bad_evidence", True)


def test_a_check_that_does_not_apply_is_null(tmp_path):
    short = sample(document=f"{LINES[0]}\n{FACT}", evidence=())  # the window and the only chunk are all of it
    outcomes, calls = check(tmp_path, copies, short)
    found = values(outcomes)
    assert found["verdict"] == "pass" and found["unread"] == []
    assert {found[f"{one}_ok"] for one in ("random_window", "bm25_top1", "no_evidence")} == {None}
    assert Counter(map(step_of, calls)) == {"closed_book": 4, "full": 3}
    lost = values(check(tmp_path, copies, sample(evidence=("It stands nowhere.",)), window_tokens=5)[0])
    assert (lost["verdict"], lost["no_evidence_ok"]) == ("pass", None)


def test_one_changed_character_breaks_a_citation_and_white_space_does_not(tmp_path):
    good = f'It is Maria Bondar: "{FACT[:17]}\u00a0 {FACT[18:]}"'
    wrong = good.replace("keeper", "keeqer")
    assert quotes(good) and stands_in(quotes(good)[0], DOCUMENT) and not stands_in(quotes(wrong)[0], DOCUMENT)
    found = values(check(tmp_path, copies, sample(good), min_f1=0.2)[0])
    assert found["citation_ok"] is True
    (tmp_path / "wrong").mkdir()
    outcomes, calls = check(tmp_path / "wrong", copies, sample(wrong))
    found = values(outcomes)
    assert (found["citation_ok"], found["verdict"], calls) == (False, "bad_citation", [])
    assert found["closed_book_acc"] is None


def test_quotes_and_bullets_by_hand():
    assert quotes('He said "no" and “a sentence of some length.”') == ["a sentence of some length"]
    assert quotes('"an open one that nothing ends\n') == []
    assert bullets("- one\n- two\n\nIt is so.\n- three") == ["one", "two"]
    assert stands_in("a  b", "x a\nb y") and not stands_in(" ", "x") and not stands_in("ab", "a b")


def test_evidence_first_answers_are_checked_by_their_bullets(tmp_path):
    details = {"question": QUESTION, "target": "evidence_first"}
    good = sample(f"- {FACT}\n\nMaria Bondar", details=details)
    bad = sample(f"- {FACT.replace('B', 'P')}\n\nMaria Bondar", details=details)
    assert values(check(tmp_path, copies, good)[0])["citation_ok"] is True
    assert values(check(tmp_path, copies, bad)[0])["citation_ok"] is False


@pytest.mark.parametrize(
    "answer", ["I'm sorry, but I cannot help.", "The tower is called the", "x", "word " * 2049 + "end."]
)
def test_answers_that_are_none_cost_no_call(tmp_path, answer):
    outcomes, calls = check(tmp_path, copies, sample(answer))
    assert (values(outcomes)["verdict"], calls) == ("bad_answer", [])


def test_the_text_comes_first_and_calls_on_it_stand_in_a_row(tmp_path):
    _, calls = check(tmp_path, copies, window_tokens=5)
    full = [call for call in calls if step_of(call) == "full"]
    assert all(call.messages[0].content.startswith(DOCUMENT) for call in full)
    assert len({call.sampling.seed for call in full}) == 3  # three answers, not one answer three times
    assert len({call.sampling.seed for call in calls if step_of(call) == "closed_book"}) == 4


def test_without_takes_away_every_place_and_overlapping_spans():
    assert without("a bcd e bcd f", ["bcd"]) == "a  e  f"
    assert without("abcdef", ["abc", "cde"]) == "f"
    assert without("abc", []) == without("abc", ["x"]) == without("abc", [" "]) == ""


def test_token_f1_by_hand():
    assert token_f1("The Maria Bondar", "maria bondar!") == pytest.approx(0.8)
    assert token_f1("a a", "a") == pytest.approx(2 / 3)
    assert token_f1("", "a") == token_f1("...", "a") == token_f1("b", "a") == 0.0
    assert token_f1("灯塔", "灯 塔") == 1.0


def test_the_judge_is_asked_only_below_the_threshold(tmp_path):
    def reply(request):
        if step_of(request) == "same":
            return json.dumps({"same": "Bondar, Mary" in request.messages[0].content})
        return says("Bondar, Mary as the text has it, or so it seems" if step_of(request) == "full" else "unknown")

    plain = values(check(tmp_path, reply)[0])
    assert plain["verdict"] == "ambiguous" and max(plain["full_f1"]) < 0.5
    (tmp_path / "judge").mkdir()
    outcomes, calls = check(tmp_path / "judge", reply, judge="r")
    found = values(outcomes)
    assert found["verdict"] == "pass" and found["full_f1"] == plain["full_f1"]
    (tmp_path / "equal").mkdir()
    _, calls = check(tmp_path / "equal", knows_all, judge="r")
    assert Counter(map(step_of, calls)) == {"closed_book": 4}


def test_samples_without_document_or_question_and_long_conversations_are_filtered(tmp_path):
    rows = [
        sample(sample_id="a", document_ids=()),
        sample(sample_id="b", messages=(("user", "One line only."), ("assistant", "Yes, so it is."))),
        sample(sample_id="c", messages=(*sample().messages, ("user", "And?"), ("assistant", "No."))),
        sample(sample_id="d", messages=(("assistant", "A text of its own."),)),
    ]
    outcomes, calls = check(tmp_path, copies, *rows)
    assert [(o.state, o.reason) for o in outcomes] == [
        (State.FILTERED, "no_question"), (State.FILTERED, "no_question"), (State.FILTERED, "several_turns"),
        (State.FILTERED, "no_question"),
    ]  # fmt: skip
    assert calls == []


def test_a_document_that_does_not_fit_costs_no_call(tmp_path):
    outcomes, calls = check(tmp_path, copies, window=1200)
    assert (outcomes[0].state, outcomes[0].reason, calls) == (State.OVER_BUDGET, "document_too_long", [])


@pytest.mark.parametrize("name", BAD)
def test_bad_replies_end_the_row_with_a_reason(tmp_path, name):
    bad = BAD[name]
    outcomes, calls = check(tmp_path, lambda request: bad(request) if callable(bad) else bad)
    (outcome,) = outcomes
    assert outcome.state in (State.INVALID_OUTPUT, State.TRUNCATED) and outcome.reason and outcome.records == []
    assert len(calls) == 4


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("step", ["part", "full"])
def test_a_bad_reply_is_never_read_as_a_wrong_answer(tmp_path, name, step):
    bad = BAD[name]

    def reply(request):
        return (bad(request) if callable(bad) else bad) if step_of(request) == step else copies(request)

    (outcome,), _ = check(tmp_path, reply, window_tokens=5)
    if step == "full":
        assert outcome.state in (State.INVALID_OUTPUT, State.TRUNCATED) and outcome.reason
        return
    found = values([outcome])
    assert found["verdict"] == "unread" and found["unread"] == ["random_window", "bm25_top1", "no_evidence"]
    assert {found[f"{one}_{what}"] for one in found["unread"] for what in ("ok", "f1")} == {None}


@pytest.mark.parametrize(
    ("replies", "acc", "verdict"),
    [
        ([ANSWER, ANSWER, None, None], 1.0, "known"),
        ([ANSWER, None, None, "no"], 0.5, "unread"),  # the two that are lost would decide it
        (["no", "no", "no", None], 0.0, "pass"),
    ],
)
def test_answers_that_cannot_be_read_count_neither_way_in_the_closed_book(tmp_path, replies, acc, verdict):
    asked = iter(["{" if one is None else says(one) for one in replies])
    outcomes, _ = check(tmp_path, lambda r: next(asked) if step_of(r) == "closed_book" else copies(r), window_tokens=5)
    found = values(outcomes)
    assert (found["closed_book_acc"], found["verdict"]) == (acc, verdict)
    assert found["unread"] == (["closed_book"] if verdict == "unread" else [])


@pytest.mark.parametrize(
    ("replies", "ok", "verdict"),
    [
        ([ANSWER, ANSWER, None], True, "pass"),
        ([ANSWER, None, None], None, "unread"),
        (["no such thing", None, None], None, "unread"),
        (["no such thing", "no such thing", None], False, "ambiguous"),
    ],
)
def test_one_readable_answer_is_no_two_of_three(tmp_path, replies, ok, verdict):
    asked = iter(["{" if one is None else says(one) for one in replies])
    found = values(check(tmp_path, lambda r: next(asked) if step_of(r) == "full" else copies(r), window_tokens=5)[0])
    assert (found["full_ok"], found["verdict"]) == (ok, verdict)
    assert (found["agreement"] is None) == (replies.count(None) == 2)


def test_an_unread_label_does_not_stop_a_pass(tmp_path):
    parts = iter([says("no"), "{", says("no")])  # window, chunk, without evidence
    found = values(check(tmp_path, lambda r: next(parts) if step_of(r) == "part" else copies(r), window_tokens=5)[0])
    assert (found["verdict"], found["label"], found["bm25_top1_ok"]) == ("pass", None, None)
    assert found["unread"] == ["bm25_top1"]


def test_every_column_is_there_whatever_the_verdict(tmp_path):
    found = values(check(tmp_path, knows_all)[0])
    assert set(found) == {*COLUMNS, "unread", "split", "verdict"}


def test_a_second_run_over_the_same_ledger_asks_the_engine_nothing(tmp_path):
    first, calls = check(tmp_path, copies)
    engine = ScriptedEngine(lambda request: AssertionError("asked again"))
    second, none = check(tmp_path, copies, engine=engine)
    assert calls and none == [] and engine.starts == 0
    assert values(first) == values(second)
