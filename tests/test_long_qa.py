"""Long-document QA against the tests its specification asks for (longalign_longqa.md, section E, 1-4 and 8)."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.documents import lines_window
from generators.engines.base import ChatRequest, Completion
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.long_qa import LongQA
from generators.replies import parse_questions
from generators.runner import Outcome, Runner, Task
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.methods.long_qa import LongQA as Config
from schemas.rows import Document, Span
from schemas.states import Reject, State
from tests.bad_replies import BAD_REPLIES
from tests.support import WordTokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "long_qa.yaml"
QUESTIONS = " What is a?\n2. What is b?\n3. What is c?\n4. What is d?\n5. What is e?"
TEXT = "".join(f"Line {n} of the document has eight words.\n" for n in range(200))
DOCUMENT = Document("doc-1", TEXT, "texts", "en")


def is_questions(request: ChatRequest) -> bool:
    return "different questions that can be answered" in request.messages[0].content


def is_critique(request: ChatRequest) -> bool:
    return "Proposed answer:" in request.messages[0].content


def script(verdict: str = "correct", questions: str = QUESTIONS, answer: Any = "It is a thing.") -> Any:
    def reply(request: ChatRequest) -> Any:
        if is_questions(request):
            return questions
        if is_critique(request):
            return json.dumps({"analysis": "looked", "verdict": verdict})
        return answer

    return reply


def run(
    tmp_path: Path,
    reply: Callable[[ChatRequest], Any],
    rows: int = 1,
    window: int = 32768,
    document: Document = DOCUMENT,
    **changes: Any,
) -> tuple[list[Outcome], ScriptedEngine]:
    config = Config.model_validate({"method": "long_qa", "engine": "w", "document_tokens": {"min": 10}, **changes})
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    tasks = [Task(f"doc-1#{n}", document, group="doc-1") for n in range(rows)]
    outcomes = asyncio.run(runner.run(LongQA(config), tasks, dict(config.sampling)))
    ledger.close()
    return outcomes, engine


def test_document_first_one_question_kept_and_only_that_one_answered(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path, script())
    ask, answer = engine.calls
    assert ask.messages[0].content.startswith(TEXT) and ask.messages[1].content == "1."
    kept = outcome.samples[0].details["question"]
    assert kept in [f"What is {letter}?" for letter in "abcde"]
    assert answer.messages[0].content == f"{TEXT}\n\n{kept}"
    assert outcome.samples[0].messages == (("user", f"{TEXT}\n\n{kept}"), ("assistant", "It is a thing."))
    assert outcome.samples[0].document_ids == ("doc-1",) and outcome.samples[0].evidence == ()
    assert outcome.samples[0].details["excerpt"] is None


def test_task_types_are_drawn_evenly(tmp_path: Path) -> None:
    short = Document("doc-2", "Ten words stand in this text and no more today.", "texts", "en")
    outcomes, _ = run(tmp_path, script(), rows=4000, document=short)
    shares = Counter(outcome.samples[0].details["task_type"] for outcome in outcomes)
    assert set(shares) == {"general", "summary", "multi_hop", "extraction"}
    assert all(abs(count / 4000 - 0.25) <= 0.03 for count in shares.values())


@pytest.mark.parametrize(
    ("questions", "got"),
    [
        (" What is a?\n2. What is b?", "1, 2"),
        (" What?\n2. b?\n4. d?\n3. c?\n5. e?", "1, 2, 4, 3, 5"),
        (QUESTIONS + "\nI hope this helps!", "1, 2, 3, 4, 5, ?"),
        (QUESTIONS + "\n6. What is f?", "1, 2, 3, 4, 5, 6"),
    ],
)
def test_anything_but_five_numbered_questions_is_a_drop_with_a_reason(tmp_path: Path, questions: str, got: str) -> None:
    (outcome,), engine = run(tmp_path, script(questions=questions))
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "not_numbered_questions")
    assert outcome.detail == f"wanted items 1 to 5, got {got}"
    assert outcome.samples == [] and len(engine.calls) == 1


def test_the_engine_stops_before_a_question_too_many(tmp_path: Path) -> None:
    _, engine = run(tmp_path, script())
    assert engine.calls[0].sampling.stop == ("\n6.",)


def test_a_line_without_words_is_no_question(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script(questions=" 1.\n2. 2?\n3. 3?\n4. 4?\n5. What is five?"))
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "no_question")


def test_questions_may_be_numbered_in_the_ways_models_do() -> None:
    assert parse_questions("1) a?\n\n2、b?\n 3． c?", 3) == ["a?", "b?", "c?"]
    with pytest.raises(Reject):
        parse_questions("", 3)


def test_language_refusal_truncation_and_empty_answers(tmp_path: Path) -> None:
    def ended(number: int, **script_changes: Any) -> tuple[State, str]:
        (outcome,), _ = run(tmp_path / str(number), script(**script_changes))
        assert outcome.samples == []
        return outcome.state, outcome.reason

    chinese = " 什么是甲？\n2. 什么是乙？\n3. 什么是丙？\n4. 什么是丁？\n5. 什么是戊？"
    assert ended(1, questions=chinese) == (State.INVALID_OUTPUT, "wrong_language")
    assert ended(2, answer="这是一个东西。") == (State.INVALID_OUTPUT, "wrong_language")
    assert ended(3, answer="I'm sorry, I can't find that.") == (State.REFUSED, "refused_answer")
    assert ended(4, answer="  \n ") == (State.INVALID_OUTPUT, "empty_answer")
    assert ended(7, answer="The differences are:") == (State.INVALID_OUTPUT, "unfinished_answer")
    cut = Completion("It is a", "length", 9, 3, None, 0.0)
    assert ended(5, answer=cut) == (State.TRUNCATED, "truncated_answer")
    assert ended(6, answer="and so it goes on and on and " * 9) == (State.FILTERED, "repetition")


def test_a_number_is_an_answer_in_any_language(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script(answer="42"))
    assert outcome.state is State.OK


def test_short_documents_are_filtered_and_long_ones_excerpted_or_refused(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path / "a", script(), document_tokens={"min": 5000})
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FILTERED, "document_too_short", 0)
    assert outcome.detail == "1600 tokens, 5000 wanted"
    limits = {"document_tokens": {"min": 10, "max": 400}}
    (outcome,), engine = run(tmp_path / "b", script(), **limits, too_long="reject")
    assert (outcome.state, outcome.reason) == (State.OVER_BUDGET, "document_too_long")
    outcomes, engine = run(tmp_path / "c", script(), rows=3, **limits)
    excerpt = outcomes[0].samples[0].details["excerpt"]
    text = TEXT[excerpt["start"] : excerpt["end"]]
    assert text.startswith("Line ") and text.endswith("\n") and 300 <= len(text.split()) <= 400
    assert all(call.messages[0].content.startswith(text) for call in engine.calls)  # one excerpt for all its questions


def test_the_window_leaves_room_for_the_answer_and_never_cuts_the_question(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path, script(), window=3000)
    assert outcome.state is State.OK
    assert outcome.samples[0].details["document_tokens"] <= 3000 - 2048 - 512
    assert all(len(c.messages[0].content.split()) + c.sampling.max_tokens <= 3000 for c in engine.calls)
    (outcome,), engine = run(tmp_path / "b", script(), window=2560)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])


def test_verification_asks_about_a_chunk_and_records_the_whole_document(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path, script(), verify={"chunk_tokens": 80})
    (sample,) = outcome.samples
    (span,) = sample.evidence
    chunk = TEXT[span.start : span.end]
    assert isinstance(span, Span) and 0 < len(chunk.split()) <= 80 and chunk.startswith("Line ")
    ask, answer, critique = (call.messages[0].content for call in engine.calls)
    assert all(prompt.startswith(chunk) and TEXT not in prompt for prompt in (ask, answer, critique))
    assert sample.details["question"] in critique and "It is a thing." in critique
    assert sample.messages[0][1].startswith(TEXT) and chunk in sample.messages[0][1]
    assert sample.details["verify"] == {"verdict": "correct", "analysis": "looked"}


def test_a_failed_critique_leaves_no_record(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script("incorrect"), verify={"chunk_tokens": 80})
    assert (outcome.state, outcome.reason, outcome.samples) == (State.FILTERED, "critique_failed", [])


@given(
    st.lists(st.text(alphabet="ab cd", min_size=0, max_size=30), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(0, 1000),
)
def test_lines_window_is_a_bounded_run_of_the_text(lines: list[str], budget: int, seed: int) -> None:
    text, tokenizer = "\n".join(lines), WordTokenizer()
    start, end = lines_window(text, budget, tokenizer, Random(seed))
    assert 0 <= start <= end <= len(text)
    if tokenizer.count(text) <= budget:
        assert (start, end) == (0, len(text))
    else:
        assert 1 <= tokenizer.count(text[start:end]) <= budget


@pytest.mark.parametrize("name", [*BAD_REPLIES, "question_again", "first_lines"])
@pytest.mark.parametrize("step", ["questions", "answer", "critique"])
def test_a_bad_reply_ends_the_row_with_a_reason(tmp_path: Path, step: str, name: str) -> None:
    words = ["".join(chr(97 + int(digit)) for digit in str(7919 * n)) for n in range(300)]
    document = Document("doc-1", " ".join(words), "texts", "en")

    def reply(request: ChatRequest) -> Any:
        asked = "questions" if is_questions(request) else "critique" if is_critique(request) else "answer"
        if asked != step:
            return script()(request)
        if name == "first_lines":
            return " ".join(words[:60])
        if name == "question_again":
            return request.messages[0].content.rpartition("\n\n")[2]
        return BAD_REPLIES[name](request)

    (outcome,), _ = run(tmp_path, reply, document=document, verify={"chunk_tokens": 1000})
    assert outcome.state not in (State.OK, State.FAILED) and outcome.reason and outcome.records == []


def test_an_answer_may_quote_a_sentence_and_begin_with_the_question(tmp_path: Path) -> None:
    for number, answer in enumerate(("Line 0 of the document has eight words.", "What is a? It is a thing.")):
        (outcome,), _ = run(tmp_path / str(number), script(answer=answer))
        assert outcome.state is State.OK


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    def reply(request: ChatRequest) -> str:
        seed = "".join(chr(97 + int(digit)) for digit in str(request.sampling.seed))
        questions = f" What is {seed}?\n2. Where is {seed}?\n3. Who is {seed}?"
        return questions if is_questions(request) else f"It is {seed}."

    workspace, engine = Workspace(tmp_path / "workspace"), ScriptedEngine(reply, window=4096)
    manifests = asyncio.run(build(RECIPE, workspace, make_engine=lambda *_: engine))
    assert all(manifest.done for manifest in manifests)
    _, rows = query(workspace, "SELECT method, count(*) FROM samples GROUP BY method")
    assert list(map(tuple, rows)) == [("long_qa", 60)]
