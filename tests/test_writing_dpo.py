"""Preference pairs for long writing against the test its specification asks for (agentwrite.md, section 13, 8)."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filters.lengths import word_count
from generators.base import RowSize
from generators.engines.base import BadRequest, ChatRequest, Completion, Identity
from generators.engines.scripted import ScriptedEngine
from generators.judges.quality import DIMENSIONS
from generators.ledger import Ledger
from generators.runner import Outcome, Runner, Task
from generators.writing_dpo import WritingDPO
from pipelines.build import build
from pipelines.workspace import Workspace
from schemas.engines import EngineConfig
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.methods.writing_dpo import WritingDPO as Config
from schemas.rows import Instruction
from schemas.states import State
from tests.support import WordTokenizer, recipe

ROOT = Path(__file__).parent.parent
ROW = Instruction("ins-1", "Write 20 words about {{ the }} harbour and $STEP$.", "tasks", "en")
FREE = Instruction("ins-2", "Write about the harbour.", "tasks", "en")


def is_judge(request: ChatRequest) -> bool:
    return "A writer was given this task" in request.messages[0].content


def judged(request: ChatRequest) -> str:
    """The text that a judge was shown."""
    return request.messages[0].content.split("<text>\n")[1].split("\n</text>")[0]


def rating(*ratings: int) -> str:
    return json.dumps({"analysis": "read it", **dict(zip(DIMENSIONS, ratings * (6 // len(ratings)), strict=True))})


def text(mark: str, words: int) -> str:
    """`words` words that end with a full stop and hold no repetition."""
    return " ".join([mark, *(f"{mark}{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(words - 1))]) + "."


def script(answers: list[Any], quality: dict[str, Any] | None = None) -> Callable[[ChatRequest], Any]:
    """The answers in turn; a judge that gives the text that begins with a mark its rating (else all threes)."""
    waiting = iter(answers)

    def reply(request: ChatRequest) -> Any:
        if not is_judge(request):
            return next(waiting)
        given = (quality or {}).get(judged(request).split()[0].rstrip("."), rating(3))
        return given(request) if callable(given) else given

    return reply


def run(
    tmp_path: Path, reply: Callable[[ChatRequest], Any], row: Instruction = ROW, window: int = 32768, **changes: Any
) -> tuple[Outcome, ScriptedEngine]:
    sampling = {"answer": {"max_tokens": 400}, "quality": {"max_tokens": 200}}
    config = Config.model_validate({"method": "writing_dpo", "engine": "w", "sampling": sampling, **changes})
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    outcomes = asyncio.run(
        runner.run(WritingDPO(config), [Task(f"{row.instruction_id}#0", row)], dict(config.sampling))
    )
    ledger.close()
    return outcomes[0], engine


def test_four_answers_with_seeds_of_their_own_are_each_judged_and_the_best_is_chosen(tmp_path: Path) -> None:
    answers = [text("a", 20), text("b", 40), text("c", 20), text("d", 10)]
    outcome, engine = run(tmp_path, script(answers, {"a": rating(2), "b": rating(5), "c": rating(4), "d": rating(3)}))
    asked, judges = engine.calls[:4], engine.calls[4:]
    assert [call.messages[0].content for call in asked] == [ROW.text] * 4  # the bare instruction, filled in literally
    assert len({call.sampling.seed for call in asked}) == 4 and {call.sampling.temperature for call in asked} == {1.0}
    assert [judged(call) for call in judges] == answers
    assert all(ROW.text in call.messages[0].content for call in judges)
    assert {call.sampling.temperature for call in judges} == {0.5}
    (pair,) = outcome.preferences
    # S_q: 25, 100, 75, 50; S_l of 20, 40, 20, 10 words where 20 are demanded: 100, 66.67, 100, 50
    details = pair.details
    assert [one["score"] for one in details["candidates"]] == [125.0, 166.67, 175.0, 100.0]
    assert [one["words"] for one in details["candidates"]] == [20, 40, 20, 10]
    assert (pair.prompt, pair.chosen, pair.language) == ((("user", ROW.text),), answers[2], "en")
    assert details["chosen_number"] == 2 and details["chosen_score"] == {"reward": 75.0, "s_l": 100.0}
    lost = details["candidates"][details["rejected_number"]]
    assert pair.rejected == answers[details["rejected_number"]]
    assert details["rejected_score"] == {"reward": lost["reward"], "s_l": lost["s_l"]}
    assert details["required_words"] == 20 and details["dropped"] == {} and details["instruction_id"] == "ins-1"
    assert details["candidates"][0]["ratings"] == dict.fromkeys(DIMENSIONS, 2)


def test_without_a_demanded_length_only_quality_counts(tmp_path: Path) -> None:
    answers = [text("a", 200), text("b", 3), text("c", 20), text("d", 10)]
    outcome, _ = run(tmp_path, script(answers, {"b": rating(4)}), row=FREE)
    (pair,) = outcome.preferences
    assert pair.chosen == answers[1]
    assert pair.details["chosen_score"] == {"reward": 75.0, "s_l": None}
    assert pair.details["required_words"] is None and pair.details["candidates"][0]["score"] == 50.0


def test_of_equal_scores_the_first_sampled_is_chosen_and_another_rejected(tmp_path: Path) -> None:
    answers = [text(mark, 20) for mark in "abcd"]
    outcome, _ = run(tmp_path, script(answers))
    (pair,) = outcome.preferences
    assert pair.chosen == answers[0] and pair.rejected in answers[1:]


def test_every_other_answer_is_rejected_now_and_then_and_a_rerun_rejects_the_same(tmp_path: Path) -> None:
    answers, numbers = [text(mark, 20) for mark in "abcd"], []
    for number in range(24):
        row = Instruction(f"ins-{number}", ROW.text, "tasks", "en")
        outcome, _ = run(tmp_path / str(number), script(answers), row=row)
        again, engine = run(tmp_path / str(number), script([]), row=row)
        assert again.preferences == outcome.preferences and engine.calls == []
        numbers.append(outcome.preferences[0].details["rejected_number"])
    assert set(numbers) == {1, 2, 3}


def test_only_answers_that_are_worse_by_the_gap_are_rejected(tmp_path: Path) -> None:
    answers = [text(mark, 20) for mark in "abcd"]
    quality = {"a": rating(5), "b": rating(5, 4), "c": rating(4), "d": rating(5, 5, 4)}
    outcome, _ = run(tmp_path / "a", script(answers, quality), min_gap=25)
    assert outcome.preferences[0].rejected == answers[2]
    outcome, _ = run(tmp_path / "b", script(answers, quality), min_gap=25.01)
    assert (outcome.state, outcome.reason, outcome.records) == (State.FILTERED, "gap_too_small", [])
    assert outcome.detail == "scores 200.0, 187.5, 175.0, 191.67, a gap of 25.01 wanted"


def test_bad_answers_are_no_candidates_and_are_counted_by_reason(tmp_path: Path) -> None:
    good = [text("a", 20), text("b", 20)]
    bad = [
        "", "I'm sorry, I can't write that.", "这是一段中文。", "It has three parts:", "on and on and on it goes " * 12,
        Completion("cut off", "length", 9, 400, None, 0.0), ROW.text, f"  {good[0]}\n",
    ]  # fmt: skip
    outcome, engine = run(tmp_path, script([good[0], *bad, good[1]]), answers=10)
    (pair,) = outcome.preferences
    assert {pair.chosen, pair.rejected} == set(good)
    assert pair.details["dropped"] == {
        "empty_answer": 1, "prompt_echo": 1, "refused_answer": 1, "repetition": 1, "same_answer": 1,
        "truncated_answer": 1, "unfinished_answer": 1, "wrong_language": 1,
    }  # fmt: skip
    assert sum(map(is_judge, engine.calls)) == 2  # no call is spent on judging what is no candidate
    assert [one["number"] for one in pair.details["candidates"]] == [0, 9]


def test_fewer_than_two_different_answers_end_the_row_before_anything_is_judged(tmp_path: Path) -> None:
    same = text("a", 20)
    outcome, engine = run(tmp_path, script([same, same.replace(" ", "\n"), "", same]))
    assert (outcome.state, outcome.reason, outcome.records) == (State.FILTERED, "too_few_answers", [])
    assert outcome.detail == "1 of 4 answers are good and different: empty_answer 1, same_answer 2"
    assert len(engine.calls) == 4


def test_a_judge_that_cannot_be_read_is_asked_five_times_with_new_seeds(tmp_path: Path) -> None:
    answers = [text(mark, 20) for mark in "abcd"]
    outcome, engine = run(tmp_path, script(answers, {"c": "four stars"}))
    assert (outcome.state, outcome.reason, outcome.records) == (State.INVALID_OUTPUT, "not_judged", [])
    tries = [call for call in engine.calls if is_judge(call) and judged(call) == answers[2]]
    assert len(tries) == 5 and len({call.sampling.seed for call in tries}) == 5
    replies = iter(["{", rating(3)])
    outcome, _ = run(tmp_path / "b", script(answers, {"c": lambda _: next(replies)}))
    assert outcome.state is State.OK


def test_errors_and_a_full_window_end_the_row_as_what_they_are(tmp_path: Path) -> None:
    answers = [text("a", 20), BadRequest("no")]
    outcome, engine = run(tmp_path / "a", script(answers))
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FAILED, "bad_request", 2)
    long = [text("a", 300), text("b", 300)]
    outcome, _ = run(tmp_path / "b", script(long), answers=2, window=500)  # what the judge must read does not fit
    assert (outcome.state, outcome.reason, outcome.records) == (State.OVER_BUDGET, "prompt_too_long", [])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 6), st.integers(1, 5)), min_size=2, max_size=6),
    st.sampled_from([ROW, FREE]),
    st.sampled_from([0.0, 1.0, 30.0]),
)
def test_chosen_scores_at_least_as_high_and_is_never_the_rejected_text(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, int]], row: Instruction, gap: float
) -> None:
    answers = [text("abcdefg"[mark], words) for words, mark, _ in drawn]
    quality = {"abcdefg"[mark]: rating(stars) for _, mark, stars in drawn}
    folder = tmp_path_factory.mktemp("dpo")
    outcome, _ = run(folder, script(answers, quality), row=row, answers=len(answers), min_gap=gap)
    if outcome.state is not State.OK:
        assert outcome.reason in ("too_few_answers", "gap_too_small") and outcome.records == []
        return
    (pair,) = outcome.preferences
    chosen, rejected = pair.details["chosen_score"], pair.details["rejected_score"]
    total = [sum(value or 0 for value in score.values()) for score in (chosen, rejected)]
    assert round(total[0] - total[1], 2) >= gap >= 0
    assert pair.chosen != pair.rejected and {pair.chosen, pair.rejected} <= set(answers)
    assert pair.prompt == (("user", row.text),)
    assert total[0] == pytest.approx(max(one["score"] for one in pair.details["candidates"]))


BAD = {
    "nothing": "",
    "whitespace": " \n\t \n",
    "another language": "这是完全用中文写的一段话，没有别的。",
    "a refusal": "I'm sorry, but I can't help with that.",
    "half JSON": '{"analysis": "the text is',
    "a loop": "again and again and again it said " * 50,
    "the instruction": ROW.text,
    "the judge's prompt": "You are a strict and fair judge of writing. Judge only how good the text is.",
    "200k characters": "a" * 200_000,
    "200k characters of words": "word " * 40_000,
    "two ratings of six": '{"analysis": "good", "relevance": 4, "accuracy": 4}',
    "a list of ratings": "[4, 4, 4, 4, 4, 4]",
    "an unfinished list": "The points are these:",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_replies_at_either_step_leave_no_record_and_a_reason(tmp_path: Path, name: str) -> None:
    answers = [text(mark, 20) for mark in "abcd"]
    always, _ = run(tmp_path / "always", lambda _: BAD[name])
    judging, _ = run(tmp_path / "judge", script(answers, dict.fromkeys("abcd", BAD[name])))
    answering, _ = run(tmp_path / "answer", script([BAD[name]] * 4))
    for outcome in (always, judging, answering):
        assert outcome.state is not State.OK and outcome.reason and outcome.records == []
    assert (judging.state, judging.reason) == (State.INVALID_OUTPUT, "not_judged")
    assert (answering.state, answering.reason) == (State.FILTERED, "too_few_answers")


def test_the_estimate_counts_every_answer_and_every_rating_of_it() -> None:
    config = Config.model_validate({"method": "writing_dpo", "engine": "w", "answers": 3})
    size = RowSize("ins-1", 7, "Write 1,000 words about the harbour.")
    cost = WritingDPO(config).cost([size, size], window=32768)
    assert cost.requests == 2 * (3 + 3)
    assert cost.answer_tokens == 2 * 3 * (1400 + 250)  # 1.4 tokens a word
    assert cost.answer_tokens_max == 2 * 3 * (32_768 + 1024)
    assert cost.prompt_tokens == 2 * 3 * (7 + 7 + 1400 + 300) and cost.cached_tokens == 2 * 2 * 7


# ------------------------------------------------------------ in a recipe


JUDGE_WINDOW = 8192


def two_engines(folder: Path, **method: Any) -> Path:
    steps = {"answer": {"max_tokens": 400}, "quality": {"max_tokens": 200}}
    return recipe(
        folder,
        documents=[],
        engines={
            "student": {"type": "auto", "model": "scripted", "max_model_len": 4096},
            "judge": {"type": "auto", "model": "scripted", "max_model_len": JUDGE_WINDOW},
        },
        generate=[{"method": "writing_dpo", "engine": "student", "judge": "judge", "sampling": steps, **method}],
        export=[{"name": "out", "configs": ["preference"]}],
    )


def finish(path: Path, root: Path, student: ScriptedEngine, judge: ScriptedEngine) -> Workspace:
    """Build a recipe of `two_engines`."""

    def make(config: EngineConfig, *_: object) -> ScriptedEngine:
        return judge if config.max_model_len == JUDGE_WINDOW else student

    asyncio.run(build(path, Workspace(root), make_engine=make))
    return Workspace(root)


def named(name: str, reply: Callable[[ChatRequest], Any]) -> ScriptedEngine:
    return ScriptedEngine(reply, identity=Identity(model=name, revision="1", template=None))


def test_the_judge_is_asked_on_its_own_engine_and_tables_name_the_right_model(tmp_path: Path) -> None:
    marks = iter("abcdefghijklmnop")
    student = named("the-student", lambda request: text(next(marks), 30))
    judge = named("the-judge", lambda request: rating(1 + len(judged(request)) % 5))
    workspace = finish(two_engines(tmp_path), tmp_path / "workspace", student, judge)
    assert len(student.calls) == 12 and not any(map(is_judge, student.calls))
    assert len(judge.calls) == 12 and all(map(is_judge, judge.calls))
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        requests = catalog.sql("SELECT step, model, count(*) FROM requests GROUP BY ALL ORDER BY ALL").fetchall()
        assert requests == [("answer", "the-student", 12), ("quality", "the-judge", 12)]
        rows = catalog.sql("SELECT model, prompt_version, len(request_ids) FROM preferences").fetchall()
        assert rows == [("the-student", "answer:1 quality:1", 8)] * 3
        templates = catalog.sql("SELECT DISTINCT step, prompt->>'template' FROM requests ORDER BY ALL").fetchall()
        assert templates == [("answer", "writing_dpo/answer"), ("quality", "judges/quality")]


def test_another_judge_makes_the_pairs_anew_and_asks_the_student_nothing(tmp_path: Path) -> None:
    path, root, marks = two_engines(tmp_path), tmp_path / "workspace", iter("abcdefghijklmnop")
    student, judge = named("student", lambda _: text(next(marks), 30)), named("judge", lambda _: rating(3))
    finish(path, root, student, judge)
    assert (len(student.calls), len(judge.calls)) == (12, 12)
    again, same = named("student", lambda _: ""), named("judge", lambda _: "")
    finish(path, root, again, same)
    assert (again.calls, same.calls) == ([], [])
    other = named("other-judge", lambda _: rating(4))
    workspace = finish(path, root, again, other)
    assert (len(again.calls), len(other.calls)) == (0, 12)
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        rewards = catalog.sql("SELECT DISTINCT details->>'$.chosen_score.reward' FROM preferences").fetchall()
    assert rewards == [("75.0",)]


def test_a_judge_that_the_recipe_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'writing_dpo': no engine 'juge' under 'engines', did you mean 'judge'"):
        load_recipe(two_engines(tmp_path, judge="juge"))


def test_greedy_answers_are_refused_since_they_are_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sampling\.answer\.temperature: 0 gives the same answer every time"):
        load_recipe(two_engines(tmp_path, sampling={"answer": {"max_tokens": 400, "temperature": 0}}))


def test_the_shipped_recipe_runs_and_exports_pairs(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "writing_dpo.yaml"
    config = load_recipe(path).generate[0]
    assert isinstance(config, Config)
    calls = iter(range(10_000))

    def reply(request: ChatRequest) -> str:
        if is_judge(request):
            return rating(1 + word_count(judged(request)) % 5)
        number = next(calls)
        return text("abcdefghijklmnop"[number % 16] + "x", 40 + number % 40)

    workspace = Workspace(tmp_path)
    manifests = asyncio.run(build(path, workspace, make_engine=lambda *_: ScriptedEngine(reply)))
    assert all(manifest.done for manifest in manifests)
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        states = catalog.sql("SELECT state, reason, count(*) FROM row_states GROUP BY ALL ORDER BY ALL").fetchall()
        made = catalog.sql("SELECT count(*), min(len(chosen)), max(len(rejected)) FROM preferences").fetchall()
    assert made == [(8, 1, 1)], states
    assert list((workspace.root / "exports" / "writing_dpo").rglob("*.parquet"))
