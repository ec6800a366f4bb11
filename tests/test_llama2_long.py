"""Llama-2-Long self-instruct against the tests its specification asks for (longalign_longqa.md, section E, 2-4, 8)."""

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

from generators.documents import lines_window, window_around
from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.llama2_long import Llama2Long
from generators.replies import read_tags
from generators.runner import Outcome, Runner, Task
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.methods.llama2_long import Llama2Long as Config
from schemas.rows import Document, Span
from schemas.states import Reject, State
from tests.bad_replies import BAD_REPLIES
from tests.support import WordTokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "llama2_long.yaml"
TEXT = "".join(f"Line {n} of the document has eight words.\n" for n in range(1000))
DOCUMENT = Document("doc-1", TEXT, "texts", "en")
PAIR = "<question>What does the line say?</question>\n<answer>It says eight words.</answer>"


def is_critique(request: ChatRequest) -> bool:
    return "Proposed answer:" in request.messages[0].content


def script(pair: Any = PAIR, verdict: str = "correct") -> Callable[[ChatRequest], Any]:
    def reply(request: ChatRequest) -> Any:
        if is_critique(request):
            return json.dumps({"analysis": "looked", "verdict": verdict})
        # The prompt's prefix is the assistant's own beginning.
        return pair.removeprefix("<question>") if isinstance(pair, str) else pair

    return reply


def run(
    tmp_path: Path,
    reply: Callable[[ChatRequest], Any],
    rows: int = 1,
    window: int = 32768,
    document: Document = DOCUMENT,
    **changes: Any,
) -> tuple[list[Outcome], ScriptedEngine]:
    options = {"chunk_tokens": 80, "document_tokens": {"min": 10, "max": 800}, **changes}
    config = Config.model_validate({"method": "llama2_long", "engine": "w", **options})
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    tasks = [Task(f"doc-1#{n}", document, group="doc-1") for n in range(rows)]
    outcomes = asyncio.run(runner.run(Llama2Long(config), tasks, dict(config.sampling)))
    ledger.close()
    return outcomes, engine


def test_the_pair_call_sees_the_chunk_only_and_the_critique_chunk_question_and_answer(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path, script())
    (sample,) = outcome.samples
    (span,) = sample.evidence
    chunk = TEXT[span.start : span.end]
    assert isinstance(span, Span) and 60 <= len(chunk.split()) <= 80 and chunk.startswith("Line ")
    pair, critique = (call.messages[0].content for call in engine.calls)
    assert pair.startswith(chunk)
    assert pair.count("of the document has eight words.") == chunk.count("of the document has eight words.")
    assert critique.startswith(chunk) and critique.count("has eight words.") == chunk.count("has eight words.")
    assert "Question: What does the line say?" in critique and "Proposed answer: It says eight words." in critique
    assert engine.calls[0].messages[1].content == "<question>"


def test_the_record_is_the_document_cut_around_the_chunk(tmp_path: Path) -> None:
    outcomes, _ = run(tmp_path, script(), rows=200)
    for outcome in outcomes:
        (sample,) = outcome.samples
        (span,), excerpt = sample.evidence, sample.details["excerpt"]
        document = TEXT[excerpt["start"] : excerpt["end"]]
        assert excerpt["start"] <= span.start < span.end <= excerpt["end"]
        assert sample.messages[0] == ("user", f"{document}\n\nWhat does the line say?")
        assert sample.messages[1] == ("assistant", "It says eight words.")
        assert TEXT[span.start : span.end] in sample.messages[0][1]
        assert document.startswith("Line ") and document.endswith("\n") and 700 <= len(document.split()) <= 800
        assert sample.details["document_tokens"] == len(document.split())
        assert sample.details["chunk_tokens"] == len(TEXT[span.start : span.end].split())
    # The chunk stands anywhere in the record, not always in its middle or at its start.
    places = [
        (o.samples[0].evidence[0].start - o.samples[0].details["excerpt"]["start"]) / len(o.samples[0].messages[0][1])
        for o in outcomes
    ]
    assert min(places) < 0.15 and max(places) > 0.7


def test_a_document_that_fits_is_kept_whole(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script(), document_tokens={"min": 10, "max": 16_384})
    assert outcome.samples[0].messages[0][1].startswith(TEXT) and outcome.samples[0].details["excerpt"] is None


def test_prompt_types_are_drawn_evenly_and_asked_for(tmp_path: Path) -> None:
    document = Document("doc-1", TEXT[:4000], "texts", "en")
    outcomes, _ = run(tmp_path, script(), rows=4000, document=document)
    shares = Counter(outcome.samples[0].details["prompt_type"] for outcome in outcomes)
    assert set(shares) == {"normal", "short"}
    assert all(abs(count / 4000 - 0.5) <= 0.03 for count in shares.values())
    (outcome,), engine = run(tmp_path / "one", script())
    asked_short = "the shortest answer" in engine.calls[0].messages[0].content
    assert asked_short == (outcome.samples[0].details["prompt_type"] == "short")


def test_a_failed_critique_leaves_no_record(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script(verdict="incorrect"))
    assert (outcome.state, outcome.reason, outcome.samples) == (State.FILTERED, "critique_failed", [])


def test_half_a_character_is_no_critique(tmp_path: Path) -> None:
    broken = '{"analysis": "\\ud83d", "verdict": "correct"}'
    (outcome,), _ = run(tmp_path, lambda request: broken if is_critique(request) else script()(request))
    assert (outcome.state, outcome.reason, outcome.samples) == (State.INVALID_OUTPUT, "critique_not_json", [])


def test_the_loss_is_taken_on_the_prompt_unless_the_recipe_says_no(tmp_path: Path) -> None:
    (outcome,), _ = run(tmp_path, script())
    assert outcome.samples[0].loss_on_prompt is True
    (outcome,), _ = run(tmp_path / "off", script(), loss_on_prompt=False)
    assert outcome.samples[0].loss_on_prompt is False


def test_the_record_fits_the_window_unless_the_model_may_read_less_than_it_teaches(tmp_path: Path) -> None:
    limits = {"min": 1000, "max": 6000}
    (outcome,), engine = run(tmp_path / "a", script(), window=3000, document_tokens=limits)
    assert 1000 <= outcome.samples[0].details["document_tokens"] <= 3000 - 1024 - 512
    (outcome,), engine = run(tmp_path / "b", script(), window=3000, document_tokens=limits, cut_to_window=False)
    assert 5000 <= outcome.samples[0].details["document_tokens"] <= 6000
    assert all(len(call.messages[0].content.split()) + call.sampling.max_tokens <= 3000 for call in engine.calls)
    (outcome,), engine = run(tmp_path / "c", script(), window=2400, document_tokens=limits)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])
    (outcome,), engine = run(tmp_path / "d", script(), window=2000, document_tokens=limits, cut_to_window=False)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])
    (outcome,), engine = run(tmp_path / "e", script(), document_tokens={"min": 9000, "max": 10_000})
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "document_too_short", [])


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("<question>What is it?</question><answer>A thing", "not_question_and_answer"),
        ("<question>What is it?<answer>A thing</answer>", "not_question_and_answer"),
        ("<question>What is it?</question>", "not_question_and_answer"),
        ("<question>What is <answer>it</answer>?</question><answer>A thing.</answer>", "not_question_and_answer"),
        ("<question>What is <question>it?</question><answer>A thing.</answer>", "not_question_and_answer"),
        (PAIR + "\nI hope this helps!", "not_question_and_answer"),
        (PAIR + PAIR, "not_question_and_answer"),
        ("<question>What?\n<answer>A</answer><question>B</question>", "not_question_and_answer"),
        ("<question> \n</question><answer>A thing.</answer>", "empty_question"),
        ("<question>What is it like?</question><answer> \n </answer>", "empty_answer"),
        ("<question>What is it like?</question><answer>?!</answer>", "empty_answer"),
        ("<question>What?</question><answer>A thing.</answer>", "no_question"),
        ("<question>What is it like?</question><answer>what is it like</answer>", "answer_is_question"),
        ("<question>What is it like?</question><answer>这是一个东西。</answer>", "wrong_language"),
        ("<question>这是一个什么东西？</question><answer>A thing.</answer>", "wrong_language"),
    ],
)
def test_half_nested_and_empty_tags_are_no_pair(tmp_path: Path, pair: str, reason: str) -> None:
    (outcome,), engine = run(tmp_path, script(pair))
    assert (outcome.state, outcome.reason, outcome.samples) == (State.INVALID_OUTPUT, reason, [])
    assert len(engine.calls) == 1


def test_white_space_around_tags_and_text_is_no_fault(tmp_path: Path) -> None:
    spaced = "<question>\n  What does the line say? \n</question> \n\n <answer>\nIt says eight words.\n</answer>\n"
    (outcome,), _ = run(tmp_path, script(spaced))
    assert outcome.samples[0].details["question"] == "What does the line say?"
    assert outcome.samples[0].messages[1] == ("assistant", "It says eight words.")


def test_an_answer_that_reads_on_from_the_chunk_is_none(tmp_path: Path) -> None:
    words = ["".join(chr(97 + int(digit)) for digit in str(7919 * n)) for n in range(300)]
    document = Document("doc-1", " ".join(words), "texts", "en")
    copied = f"<question>What does the line say?</question><answer>{' '.join(words[:40])}</answer>"
    (outcome,), _ = run(tmp_path, script(copied), document=document, chunk_tokens=400)
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "answer_is_document")


@pytest.mark.parametrize("name", BAD_REPLIES)
@pytest.mark.parametrize("step", ["pair", "critique"])
def test_a_bad_reply_ends_the_row_with_a_reason(tmp_path: Path, step: str, name: str) -> None:
    def reply(request: ChatRequest) -> Any:
        return (BAD_REPLIES[name] if is_critique(request) == (step == "critique") else script())(request)

    (outcome,), engine = run(tmp_path, reply)
    assert outcome.state not in (State.OK, State.FAILED) and outcome.reason
    assert outcome.records == [] and len(engine.calls) == (1 if step == "pair" else 2)


@given(st.text("<>/ab ", max_size=30), st.text("<>/ab ", max_size=30))
def test_tags_are_read_back_or_refused(a: str, b: str) -> None:
    reply = f"<a>{a}</a> <b>{b}</b>"
    whole = all(reply.count(mark) == 1 for mark in ("<a>", "</a>", "<b>", "</b>")) and a.strip() and b.strip()
    if whole:
        assert read_tags(reply, ["a", "b"], "wrong") == [a.strip(), b.strip()]
    else:
        with pytest.raises(Reject):
            read_tags(reply, ["a", "b"], "wrong")


@given(
    st.lists(st.text(alphabet="ab cd", max_size=30), min_size=1, max_size=30),
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 1000),
)
def test_the_window_around_a_chunk_holds_it_and_keeps_to_its_budget(
    lines: list[str], chunk: int, more: int, seed: int
) -> None:
    text, tokenizer, rng = "\n".join(lines), WordTokenizer(), Random(seed)
    start, end = lines_window(text, chunk, tokenizer, rng)
    low, high = window_around(text, start, end, chunk + more, tokenizer, rng)
    assert 0 <= low <= start <= end <= high <= len(text)
    if tokenizer.count(text) <= chunk + more:
        assert (low, high) == (0, len(text))
    else:
        assert tokenizer.count(text[low:high]) <= chunk + more


def test_a_chunk_larger_than_the_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk_tokens 900 is larger than document_tokens\.max 800"):
        Config.model_validate(
            {"method": "llama2_long", "engine": "w", "chunk_tokens": 900, "document_tokens": {"max": 800}}
        )


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    pair = json.dumps({"question": "What does the line say?", "answer": "It says eight words."})
    engine = ScriptedEngine(script(pair), window=8192)
    manifests = asyncio.run(build(RECIPE, workspace, limit=12, make_engine=lambda *_: engine))
    assert all(manifest.done for manifest in manifests)
    _, rows = query(
        workspace, "SELECT method, loss_on_prompt, details->>'prompt_type', prompt_tokens, evidence FROM samples"
    )
    assert len(rows) > 5 and {row[:2] for row in rows} == {("llama2_long", True)}
    assert {row[2] for row in rows} == {"normal", "short"} and all(len(row[4]) == 1 for row in rows)


def test_a_pair_as_json_is_asked_for_with_a_schema_and_read_strictly(tmp_path: Path) -> None:
    good = json.dumps({"question": " What does the line say?", "answer": "It says eight words.\n"})
    (outcome,), engine = run(tmp_path / "good", script(good), pair_format="json")
    assert outcome.samples[0].details["question"] == "What does the line say?"
    assert outcome.samples[0].messages[1] == ("assistant", "It says eight words.")
    assert engine.calls[0].sampling.json_schema is not None and len(engine.calls[0].messages) == 1
    assert "<question>" not in engine.calls[0].messages[0].content
    for number, (bad, reason) in enumerate(
        [
            ('{"question": "What does it say?"}', "not_question_and_answer"),
            ('{"question": "What does it say?", "answer": 3}', "not_question_and_answer"),
            ('["What does it say?", "words"]', "not_question_and_answer"),
            ('{"question": "What does it say?", "answer": " "}', "empty_answer"),
            ('{"question": "What does', "not_question_and_answer"),
        ]
    ):
        (outcome,), _ = run(tmp_path / str(number), script(bad), pair_format="json")
        assert (outcome.state, outcome.reason, outcome.records) == (State.INVALID_OUTPUT, reason, [])
