"""The quality judge: what it asks, what it reads, and what it does with replies that cannot be read."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import prompts
from generators.echo import is_echo
from generators.judges.quality import DIMENSIONS, SCHEMA, QualityScore, judge_quality, read_quality
from schemas.states import Reject, State


def reply(*ratings: Any, **changes: Any) -> str:
    return json.dumps({"analysis": "read it", **dict(zip(DIMENSIONS, ratings, strict=False)), **changes})


class Judge:
    """An `Llm` that answers from a list, one reply (or Reject) per call."""

    def __init__(self, *replies: str | Reject) -> None:
        self.replies, self.calls = list(replies), list[dict[str, Any]]()

    async def chat(
        self, step: str, /, *, json_schema: Mapping[str, Any] | None = None, stop: Sequence[str] = (), **fields: object
    ) -> str:
        self.calls.append({"step": step, "json_schema": json_schema, **fields})
        answer = self.replies[len(self.calls) - 1]
        if isinstance(answer, Reject):
            raise answer
        return answer


def judge(*replies: str | Reject, tries: int = 5) -> tuple[QualityScore, list[dict[str, Any]]]:
    llm: Any = Judge(*replies)
    return asyncio.run(judge_quality(llm, "quality", "Write a letter.", "Dear you.", tries)), llm.calls


def test_the_score_is_the_mean_of_six_ratings_from_0_to_100() -> None:
    assert read_quality(reply(1, 1, 1, 1, 1, 1)).reward == 0
    assert read_quality(reply(5, 5, 5, 5, 5, 5)).reward == 100
    assert read_quality(reply(3, 3, 3, 3, 3, 3)).reward == 50
    score = read_quality(reply(5, 4, 3, 2, 1, 4))  # 100 + 75 + 50 + 25 + 0 + 75
    assert score.reward == pytest.approx(325 / 6)
    assert score.ratings == dict(zip(DIMENSIONS, (5, 4, 3, 2, 1, 4), strict=True))


@given(st.tuples(*[st.integers(1, 5)] * 6))
def test_any_ratings_give_a_score_between_0_and_100_that_rises_with_each(ratings: tuple[int, ...]) -> None:
    reward = read_quality(reply(*ratings)).reward
    assert 0 <= reward <= 100
    for place, rating in enumerate(ratings):
        if rating < 5:
            better = [*ratings[:place], rating + 1, *ratings[place + 1 :]]
            assert read_quality(reply(*better)).reward == pytest.approx(reward + 25 / 6)


def test_the_judge_sees_task_and_text_once_first_and_is_told_not_to_reward_length() -> None:
    text = prompts.render("writing_dpo", "quality", {"instruction": "Write {{ x }}.", "answer": "Dear $TEXT$ {{ y }}."})
    assert text.index("Write {{ x }}.") < text.index("Dear $TEXT$ {{ y }}.") < text.index("never how long it is")
    positions = [text.index(f"{name}:") for name in DIMENSIONS]
    assert positions == sorted(positions) and text.index('"analysis"') > positions[-1]
    assert list(SCHEMA["properties"]) == ["analysis", *DIMENSIONS]  # the analysis is written before the ratings


def test_a_readable_reply_is_one_call_with_the_schema() -> None:
    score, calls = judge(reply(4, 4, 4, 4, 4, 4))
    assert score.reward == 75
    assert calls == [
        {"step": "quality", "json_schema": SCHEMA, "instruction": "Write a letter.", "answer": "Dear you."}
    ]


@pytest.mark.parametrize(
    "around",
    ["{}", "```json\n{}\n```", "```\n{}\n```", "Here is my judgement:\n\n{}\n\nI hope this helps.", "\n \ufeff{}\n\n"],
)
def test_fences_and_words_around_the_object_do_no_harm(around: str) -> None:
    assert read_quality(around.replace("{}", reply(3, 3, 3, 3, 3, 3))).reward == 50


GOOD = reply(3, 3, 3, 3, 3, 3)
UNREADABLE = {
    "nothing": "",
    "whitespace": " \n\t ",
    "prose": "The text is good, I give it a four.",
    "refusal": "I'm sorry, I cannot judge this.",
    "half": GOOD[: len(GOOD) // 2],
    "no closing brace": GOOD[:-1],
    "two objects": GOOD + GOOD,
    "a list": "[3, 3, 3, 3, 3, 3]",
    "a rating short": reply(3, 3, 3, 3, 3),
    "no analysis": json.dumps(dict.fromkeys(DIMENSIONS, 3)),
    "analysis is a list": reply(3, 3, 3, 3, 3, 3, analysis=["a"]),
    "zero": reply(3, 3, 0, 3, 3, 3),
    "six": reply(3, 3, 3, 3, 3, 6),
    "huge": reply(3, 3, 3, 3, 3, 10**400),
    "a float": reply(3, 3, 3, 3, 3, 4.5),
    "infinite": '{"analysis": "a", ' + ", ".join(f'"{name}": Infinity' for name in DIMENSIONS) + "}",
    "a word": reply(3, 3, 3, 3, 3, "4"),
    "true": reply(3, 3, 3, 3, 3, True),
    "null": reply(3, 3, 3, 3, 3, None),
    "nested": reply(3, 3, 3, 3, 3, {"score": 4}),
    "deep": "{" * 100_000 + "}" * 100_000,
    "very long": "good " * 40_000,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_judgement_is_asked_again_and_then_ends_the_row(name: str) -> None:
    bad = UNREADABLE[name]
    with pytest.raises(Reject) as raised:
        read_quality(bad)
    assert raised.value.state is State.INVALID_OUTPUT and raised.value.reason.startswith("quality_")
    score, calls = judge(bad, bad, bad, bad, GOOD)
    assert (score.reward, len(calls)) == (50, 5)
    with pytest.raises(Reject) as raised:
        judge(bad, bad, bad, bad, bad, GOOD)
    assert (raised.value.state, raised.value.reason) == (State.INVALID_OUTPUT, "not_judged")
    assert "5 tries" in raised.value.detail and len(raised.value.detail) <= 400


def test_cut_echoed_and_refused_calls_are_tried_again_but_not_what_fails_every_time() -> None:
    for state in (State.TRUNCATED, State.INVALID_OUTPUT, State.REFUSED, State.FILTERED):
        assert judge(Reject(state, "why"), GOOD)[0].reward == 50
    for state in (State.OVER_BUDGET, State.FAILED):
        with pytest.raises(Reject) as raised:
            judge(Reject(state, "why"), GOOD)
        assert (raised.value.state, raised.value.reason) == (state, "why")


@given(st.one_of(st.text(max_size=200), st.text(alphabet='{}[]",:15 \\nulltreanysi`', max_size=300)))
def test_any_text_is_a_judgement_or_a_reject(text: str) -> None:
    try:
        score = read_quality(text)
    except Reject as reject:
        assert (reject.state, bool(reject.reason)) == (State.INVALID_OUTPUT, True)
    else:
        assert set(score.ratings) == set(DIMENSIONS)


@given(st.integers(0, 400), st.integers(0, 400), st.text(max_size=3))
def test_a_damaged_judgement_never_gives_ratings_that_were_not_there(start: int, end: int, put: str) -> None:
    whole = reply(5, 4, 3, 2, 1, 5)
    damaged = whole[:start] + put + whole[max(start, end) :]
    try:
        ratings = read_quality(damaged).ratings
    except Reject:
        return
    assert all(1 <= rating <= 5 for rating in ratings.values()) and len(ratings) == 6


def test_methods_share_the_prompt_of_a_judge_and_its_version() -> None:
    assert prompts.template("writing_dpo", "quality") == "judges/quality"
    assert prompts.template("writing_dpo", "answer") == "writing_dpo/answer"
    assert prompts.source("writing_dpo", "quality") == prompts.source("judges", "quality")
    assert prompts.version("writing_dpo", "quality") == prompts.version("judges", "quality")


def test_an_honest_analysis_is_no_echo_of_the_prompt_and_a_copied_prompt_is() -> None:
    prompt = prompts.render("writing_dpo", "quality", {"instruction": "Write a letter.", "answer": "Dear you."})
    analysis = (
        "The whole task is fulfilled and nothing else is done. Its statements are correct and agree with one another. "
        "The order is sensible, and every part follows from the last. The wording is plain and exact, and nothing "
        "repeats itself. Enough sides of the subject are shown, and shown closely. It is lively, well formed and worth "
        "reading to the end."
    )
    assert not is_echo(reply(5, 4, 3, 2, 1, 5, analysis=analysis), "writing_dpo", "quality", prompt)
    for line in prompt.splitlines()[8:]:
        assert is_echo(line, "writing_dpo", "quality", prompt) == (len(re.findall(r"\w+", line)) >= 6)
