"""LongAlpaca against the tests its specification asks for (longalign_longqa.md, section E, 1, 3, 4 and 9)."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.long_alpaca import QUESTION_KINDS, LongAlpaca, ShortAnswer
from generators.runner import Outcome, Runner, Task
from pipelines.build import build, opened
from pipelines.catalog import query
from pipelines.checking import check_recipe
from pipelines.planning import make_plan
from pipelines.stages import Silence
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.methods.long_alpaca import LongAlpaca as Config
from schemas.rows import Document, Instruction
from schemas.states import State
from tests.bad_replies import BAD_REPLIES
from tests.support import WordTokenizer, recipe, scripted, texts

RECIPE = Path(__file__).parent.parent / "recipes" / "long_alpaca.yaml"
BODY = "".join(f"Line {n} of the document has eight words.\n" for n in range(30))
TEXT = "".join(f"# Chapter {n}\n\n{BODY}\n" for n in range(1, 7))  # 6 x 243 tokens
DOCUMENT = Document("doc-1", TEXT, "texts", "en")
REVIEW = {"question": "What do reviewers say of it?", "answer": "They like it.", "url": "https://x.org/1"}


def is_question(request: ChatRequest) -> bool:
    return 'Return JSON with the one key "question"' in request.messages[0].content


def reply(request: ChatRequest) -> Any:
    prompt = request.messages[0].content
    if is_question(request):
        return json.dumps({"question": "What is said in line three?"})
    return "It has eight words." if "Line 3" in prompt else f"A short answer to {len(prompt)} characters."


def run(
    tmp_path: Path,
    answer: Callable[[ChatRequest], Any] = reply,
    rows: int = 1,
    document: Any = DOCUMENT,
    window: int = 32768,
    generator: Any = LongAlpaca,
    **changes: Any,
) -> tuple[list[Outcome], ScriptedEngine]:
    options = {"document_tokens": {"min": 10, "max": 5000}, "default_kind": "manual", **changes}
    config = Config.model_validate({"method": "long_alpaca", "engine": "w", **options})
    engine, ledger = ScriptedEngine(answer, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    tasks = [Task(f"doc-1#{n}", document, group="doc-1") for n in range(rows)]
    outcomes = asyncio.run(runner.run(generator(config), tasks, dict(config.sampling)))
    ledger.close()
    return outcomes, engine


# ------------------------------------------------------------ long records


def test_the_question_comes_first_then_its_answer_both_with_the_document(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path)
    ask, answer = engine.calls
    assert ask.messages[0].content.startswith(TEXT.rstrip("\n")) and is_question(ask)
    assert answer.messages[0].content == f"{TEXT}\n\nWhat is said in line three?"
    (sample,) = outcome.samples
    assert sample.messages == (
        ("user", f"{TEXT}\n\nWhat is said in line three?"),
        ("assistant", "It has eight words."),
    )
    details = sample.details
    assert (details["part"], details["doc_kind"], details["answer_source"]) == ("long", "manual", "teacher")
    assert details["excerpt"] is None and details["url"] is None and details["question_source"] == "teacher"
    assert details["task_type"] in QUESTION_KINDS["manual"]


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_every_kind_of_document_has_its_own_questions(tmp_path: Path, kind: str) -> None:
    outcomes, engine = run(tmp_path, rows=60, default_kind=kind)
    asked = {line for call in engine.calls for line in call.messages[0].content.split("\n") if line.startswith("- ")}
    names = {outcome.samples[0].details["task_type"] for outcome in outcomes if outcome.samples}
    assert names == set(QUESTION_KINDS[kind]) and len(asked) == len(names)
    assert {line[2:].split(":")[0].replace("-", "_") for line in asked} == names


def test_the_kind_comes_from_the_recipe_then_the_metadata_then_the_default(tmp_path: Path) -> None:
    def kind(number: int, metadata: dict[str, Any], **changes: Any) -> str:
        document = Document("doc-1", TEXT, "texts", "en", metadata)
        (outcome,), _ = run(tmp_path / str(number), document=document, **changes)
        return outcome.samples[0].details["doc_kind"] if outcome.samples else outcome.reason

    assert kind(1, {"kind": "paper"}, kinds={"texts": "book"}) == "book"
    assert kind(2, {"kind": "paper"}, kinds={"others": "book"}) == "paper"
    assert kind(3, {}) == "manual"
    assert kind(4, {"kind": "poem"}) == "unknown_kind"
    assert kind(5, {"kind": ["paper"]}) == "unknown_kind"


def test_the_answer_of_people_is_taken_with_its_source_and_no_call(tmp_path: Path) -> None:
    document = Document("doc-1", TEXT, "texts", "en", dict(REVIEW))
    outcomes, engine = run(tmp_path, rows=2, document=document, human={})
    first, second = (outcome.samples[0] for outcome in outcomes)
    assert first.messages == (("user", f"{TEXT}\n\n{REVIEW['question']}"), ("assistant", "They like it."))
    assert (first.details["answer_source"], first.details["question_source"]) == ("human", "human")
    assert first.details["url"] == "https://x.org/1" and outcomes[0].entries == []
    # The pair is used once; what follows is asked and answered by the model.
    assert second.details["answer_source"] == "teacher" and second.details["url"] is None and len(engine.calls) == 2


def test_a_question_of_people_without_an_answer_goes_to_the_model(tmp_path: Path) -> None:
    document = Document("doc-1", TEXT, "texts", "en", {"q": REVIEW["question"], "a": " ", "u": "https://x.org/2"})
    names = {"question": "q", "answer": "a", "url": "u"}
    (outcome,), engine = run(tmp_path, document=document, human=names)
    details = outcome.samples[0].details
    assert (details["question_source"], details["answer_source"]) == ("human", "teacher")
    assert details["question"] == REVIEW["question"] and len(engine.calls) == 1
    (outcome,), engine = run(tmp_path / "b", document=Document("doc-1", TEXT, "t", "en", {"a": "Yes."}), human=names)
    assert outcome.samples[0].details["answer_source"] == "teacher" and len(engine.calls) == 2


def test_a_question_of_people_is_not_asked_of_a_part(tmp_path: Path) -> None:
    document = Document("doc-1", TEXT, "texts", "en", {"question": REVIEW["question"]})
    (outcome,), engine = run(tmp_path, document=document, human={}, document_tokens={"min": 500, "max": 800})
    details = outcome.samples[0].details
    assert details["question_source"] == "teacher" and details["url"] is None and details["excerpt"] is not None
    assert len(engine.calls) == 2 and REVIEW["question"] not in outcome.samples[0].messages[0][1]


def test_an_answer_of_people_keeps_the_document_they_read(tmp_path: Path) -> None:
    document = Document("doc-1", TEXT, "texts", "en", dict(REVIEW))
    # The engine's window does not matter where no engine reads it.
    (outcome,), engine = run(tmp_path, document=document, human={}, window=3000)
    assert outcome.samples[0].messages[0][1].startswith(TEXT) and engine.calls == []
    (outcome,), _ = run(tmp_path / "b", document=document, human={}, document_tokens={"max": 500})
    assert (outcome.state, outcome.reason) == (State.OVER_BUDGET, "document_too_long")
    bad = Document("doc-1", TEXT, "texts", "en", {**REVIEW, "answer": ["a"]})
    (outcome,), _ = run(tmp_path / "c", document=bad, human={})
    assert (outcome.state, outcome.reason) == (State.FILTERED, "human_text_not_a_string")


def test_a_long_document_gives_whole_consecutive_chapters_within_the_range(tmp_path: Path) -> None:
    (outcome,), engine = run(tmp_path, document_tokens={"min": 500, "max": 800})
    details = outcome.samples[0].details
    titles = [chapter["title"] for chapter in details["chapters"]]
    assert len(titles) == 3 and titles == [f"Chapter {int(titles[0].split()[1]) + n}" for n in range(3)]
    start, end = details["excerpt"]["start"], details["excerpt"]["end"]
    assert TEXT[start:end].startswith(f"# {titles[0]}\n") and 500 <= details["document_tokens"] <= 800
    assert (details["chapters"][0]["start"], details["chapters"][-1]["end"]) == (start, end)
    assert all(call.messages[0].content.startswith(TEXT[start:end].rstrip("\n")) for call in engine.calls)


def test_finer_headings_are_used_where_coarse_parts_are_too_long(tmp_path: Path) -> None:
    text = "".join(f"# Part {p}\n\n" + "".join(f"## C{p}{n}\n\n{BODY}\n" for n in range(3)) for p in (1, 2))
    (outcome,), _ = run(
        tmp_path, document=Document("doc-1", text, "texts", "en"), document_tokens={"min": 200, "max": 300}
    )
    titles = [chapter["title"] for chapter in outcome.samples[0].details["chapters"]]
    assert titles in (["C11"], ["C12"], ["C21"], ["C22"], ["Part 1", "C10"], ["Part 2", "C20"], ["C10"], ["C20"])


def test_without_chapters_that_fit_whole_lines_or_nothing(tmp_path: Path) -> None:
    limits = {"min": 100, "max": 200}
    (outcome,), _ = run(tmp_path / "a", document_tokens=limits)
    details = outcome.samples[0].details
    assert details["chapters"] == [] and 100 <= details["document_tokens"] <= 200
    (outcome,), engine = run(tmp_path / "b", document_tokens=limits, too_long="reject")
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "document_too_long", [])
    (outcome,), engine = run(tmp_path / "c", document_tokens={"min": 5000})
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "document_too_short", [])
    (outcome,), engine = run(tmp_path / "d", window=2500)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])


@pytest.mark.parametrize(
    "said",
    [
        '{"question": "What is', "What is it about?", '["What is it?"]', '{"question": 5}', '{"answer": "x"}',
        '{"question": "What does \\ud83d mean in it?"}',
    ],
)  # fmt: skip
def test_anything_but_one_json_question_is_a_drop_with_a_reason(tmp_path: Path, said: str) -> None:
    (outcome,), engine = run(tmp_path, lambda r: said if is_question(r) else reply(r))
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "question_not_json")
    assert outcome.records == [] and len(engine.calls) == 1


@pytest.mark.parametrize("name", [*BAD_REPLIES, "question_again", "in_json"])
@pytest.mark.parametrize("step", ["question", "answer", "short"])
def test_a_bad_reply_ends_the_row_with_a_reason(tmp_path: Path, step: str, name: str) -> None:
    def bad(request: ChatRequest) -> Any:
        if name == "question_again":
            return request.messages[0].content.rpartition("\n")[2]
        if name == "in_json":
            return json.dumps({"question": "so it goes and so it goes on " * 50}) if step == "question" else "?"
        return BAD_REPLIES[name](request)

    def answer(request: ChatRequest) -> Any:
        return bad(request) if is_question(request) == (step == "question") else reply(request)

    if step == "short":
        row = Instruction("ins-1", "Name three things that a plant needs.", "tasks", "en")
        (outcome,), _ = run(tmp_path, answer, document=row, generator=ShortAnswer, short={"source": "tasks"})
    else:
        (outcome,), _ = run(tmp_path, answer)
    assert outcome.state not in (State.OK, State.FAILED) and outcome.reason and outcome.records == []


# ------------------------------------------------------------ short records


def mixed(folder: Path, long: int, short: int | list[dict[str, Any]], **short_options: Any) -> Path:
    """A recipe of `long` documents and `short` instructions (a number, or rows of a JSONL file)."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(short, int):
        short = [{"instruction": f"Say what number {n} is good for."} for n in range(short)]
    (folder / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short), "utf-8")
    fields = {"text": "instruction", "metadata": ["output"]}
    return recipe(
        folder,
        documents=[{"name": "texts", "type": "inline", "language": "en", "items": texts(long)}],
        instructions=[
            {"name": "other", "type": "inline", "language": "en", "items": ["Never take this one, please."]},
            {"name": "alpaca", "type": "jsonl", "path": "short.jsonl", "language": "en", "fields": fields},
        ],
        generate=[
            {
                "method": "long_alpaca", "engine": "writer", "document_tokens": {"min": 10}, "kinds": {"texts": "book"},
                "short": {"source": "alpaca", **short_options},
            }
        ],
    )  # fmt: skip


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def go(
    path: Path, answer: Callable[[ChatRequest], Any] = reply, **options: Any
) -> tuple[Workspace, ScriptedEngine, list[str]]:
    workspace, engine, progress = Workspace(path.parent / "workspace"), ScriptedEngine(answer), Notes()
    asyncio.run(build(path, workspace, make_engine=lambda *_: engine, progress=progress, **options))
    return workspace, engine, progress.notes


def rows(workspace: Workspace, sql: str) -> list[Any]:
    return [tuple(row) for row in query(workspace, sql)[1]]


COUNTS = "SELECT details->>'part', count(*) FROM samples GROUP BY ALL ORDER BY ALL"


@pytest.mark.parametrize(("long", "per_long", "short"), [(300, 3, 100), (301, 3, 100), (50, 5, 10), (4, 3, 1)])
def test_long_and_short_records_stand_three_to_one(tmp_path: Path, long: int, per_long: int, short: int) -> None:
    workspace, _, _ = go(mixed(tmp_path, long, short + 20, per_long=per_long))
    assert rows(workspace, COUNTS) == [("long", long), ("short", short)]
    assert long < 50 or abs(long / short / per_long - 1) <= 0.01
    named = "SELECT DISTINCT details->>'doc_kind', details->>'answer_source' FROM samples ORDER BY ALL"
    assert rows(workspace, named) == [("book", "teacher"), (None, "teacher")]
    exported = "SELECT count(*) FROM row_states WHERE stage = 'export.out' AND detail = 'sft'"
    assert rows(workspace, exported) == [(long + short,)]


def test_short_records_follow_the_long_ones_that_were_kept_not_those_that_were_tried(tmp_path: Path) -> None:
    def half(request: ChatRequest) -> Any:
        bad = is_question(request) and int(request.messages[0].content.split()[4]) % 2
        return "no JSON" if bad else reply(request)

    workspace, _, _ = go(mixed(tmp_path, 60, 40), half)
    assert rows(workspace, COUNTS) == [("long", 30), ("short", 10)]


def test_short_rows_that_end_badly_are_replaced_by_others(tmp_path: Path) -> None:
    def some(request: ChatRequest) -> Any:
        number = re.search(r"what number (\d+)", request.messages[0].content)
        return "" if number and int(number[1]) % 2 else reply(request)

    workspace, _, notes = go(mixed(tmp_path, 60, 60), some)
    assert rows(workspace, COUNTS) == [("long", 60), ("short", 20)]
    states = dict(rows(workspace, "SELECT state, count(*) FROM row_states WHERE stage LIKE '%.short' GROUP BY state"))
    assert states["ok"] == 20 and states["invalid_output"] > 5 and notes == []
    again, engine, _ = go(tmp_path / "recipe.yaml", some)
    assert engine.calls == [] and rows(again, COUNTS) == [("long", 60), ("short", 20)]


def test_a_shortfall_is_told(tmp_path: Path) -> None:
    def none(request: ChatRequest) -> Any:
        return "" if "what number" in request.messages[0].content else reply(request)

    workspace, _, notes = go(mixed(tmp_path, 60, 25), none)
    assert rows(workspace, COUNTS) == [("long", 60)]
    assert notes == ["generate.long_alpaca.short: 0 of 20 short records; the source has no more rows"]


def test_too_few_short_rows_are_one_sentence_and_the_long_ones_stay(tmp_path: Path) -> None:
    sentence = (
        "generate 'long_alpaca': 60 long records ask for 20 short ones, and source 'alpaca' has 19 rows; "
        "add rows or raise short.per_long"
    )
    path = mixed(tmp_path, 60, 19)
    with pytest.raises(UserError, match=re.escape(sentence)):
        go(path)
    path = mixed(tmp_path, 60, 20)
    workspace, engine, _ = go(path)
    assert len(engine.calls) == 20 and rows(workspace, COUNTS) == [("long", 60), ("short", 20)]


def test_answers_in_the_metadata_need_no_call_and_name_no_model(tmp_path: Path) -> None:
    short = [
        {"instruction": f"Say what number {n} is good for.", "output": f"For {n}." if n % 2 else ""} for n in range(20)
    ]
    workspace, engine, _ = go(mixed(tmp_path, 60, short, answer_field="output"))
    assert len(engine.calls) == 120 + 10
    found = rows(
        workspace,
        "SELECT details->>'answer_source', model, len(request_ids), starts_with(messages[2].content, 'For '), count(*) "
        "FROM samples WHERE details->>'part' = 'short' GROUP BY ALL ORDER BY ALL",
    )
    assert found == [("metadata", "none", 0, True, 10), ("teacher", "scripted", 1, False, 10)]


def test_two_runs_in_new_workspaces_choose_the_same_short_rows(tmp_path: Path) -> None:
    chosen = "SELECT row_id FROM samples WHERE details->>'part' = 'short' ORDER BY 1"
    first, _, _ = go(mixed(tmp_path / "a", 30, 100))
    second, _, _ = go(mixed(tmp_path / "b", 30, 100))
    grown, _, _ = go(mixed(tmp_path / "c", 30, 110))
    assert rows(first, chosen) == rows(second, chosen)
    made, again = (
        {path.name: path.read_bytes() for path in (workspace.root / "tables" / "samples").glob("*.parquet")}
        for workspace in (first, second)
    )
    assert len(made) == 2 and made == again
    assert len(set(rows(first, chosen)) & set(rows(grown, chosen))) >= 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"human": {}},
            "human.question: no source under 'documents' keeps 'question'; add it to the source's fields.metadata",
        ),
        ({"kinds": {"text": "book"}}, "kinds: no source 'text' under 'documents', did you mean 'texts'?"),
        (
            {"short": {"source": "alpacas"}},
            "short.source: no source 'alpacas' under 'instructions', did you mean 'alpaca'?",
        ),
        (
            {"short": {"source": "alpaca", "answer_field": "answer"}},
            "short.answer_field: source 'alpaca' does not keep 'answer'; add it to the source's fields.metadata",
        ),
    ],
)  # fmt: skip
def test_wrong_names_are_one_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    path = mixed(tmp_path, 3, 3)
    value = yaml.safe_load(path.read_text("utf-8"))
    value["generate"][0].update(options)
    path.write_text(yaml.safe_dump(value), "utf-8")
    with pytest.raises(UserError, match=re.escape(f"generate 'long_alpaca': {sentence}")):
        load_recipe(path)


def test_a_plan_before_and_after_the_run(tmp_path: Path) -> None:
    path, workspace = mixed(tmp_path, 9, 9), Workspace(tmp_path / "workspace")

    def plan() -> list[tuple[str, int, int]]:
        async def work() -> list[tuple[str, int, int]]:
            async with opened(path, workspace, make_engine=lambda *_: ScriptedEngine(reply)) as (context, engines):
                found = await make_plan(context, engines)
            return [(p.name, p.todo, p.estimate.cost.requests if p.estimate else 0) for p in found]

        return asyncio.run(work())

    names = ["ingest", "generate.long_alpaca", "generate.long_alpaca.short", "export.out"]
    before = plan()
    assert [name for name, _, _ in before] == names and before[1][1:] == (1, 18) and before[2][1:] == (1, 0)
    go(path)
    assert [todo for _, todo, _ in plan()] == [0, 0, 0, 0]


def test_check_knows_what_must_fit_the_window(tmp_path: Path) -> None:
    path = mixed(tmp_path, 3, 3)

    def check() -> list[str]:
        async def work() -> list[str]:
            workspace = Workspace(tmp_path / "workspace")
            async with opened(path, workspace, make_engine=lambda *_: ScriptedEngine(reply)) as (context, engines):
                return [line async for line in check_recipe(context, engines)]

        return asyncio.run(work())

    assert "generate 'long_alpaca': answers of up to 2048 tokens fit the window" in check()
    value = yaml.safe_load(path.read_text("utf-8"))
    value["generate"][0]["document_tokens"] = {"min": 31_000}
    path.write_text(yaml.safe_dump(value), "utf-8")
    with pytest.raises(UserError, match="31512 tokens of prompt do not fit the window of 32768 tokens"):
        check()


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    workspace, engine = Workspace(tmp_path / "workspace"), scripted(window=4096)
    manifests = asyncio.run(build(RECIPE, workspace, make_engine=lambda *_: engine))
    assert all(manifest.done for manifest in manifests)
    assert rows(workspace, COUNTS) == [("long", 30), ("short", 10)]
    kinds = "SELECT DISTINCT details->>'doc_kind' FROM samples WHERE details->>'part' = 'long' ORDER BY 1"
    assert rows(workspace, kinds) == [("manual",), ("repository",)]


def test_people_s_answers_come_from_a_source_s_columns(tmp_path: Path) -> None:
    path = mixed(tmp_path, 3, 3)
    papers = [{"body": text, **(REVIEW if n % 2 else {})} for n, text in enumerate(texts(6))]
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in papers), "utf-8")
    value = yaml.safe_load(path.read_text("utf-8"))
    fields = {"text": "body", "metadata": ["question", "answer", "url"]}
    value["documents"] = [
        {"name": "papers", "type": "jsonl", "path": "papers.jsonl", "language": "en", "fields": fields}
    ]
    value["generate"][0].update(kinds={"papers": "paper"}, human={})
    path.write_text(yaml.safe_dump(value), "utf-8")
    workspace, engine, _ = go(path)
    found = rows(
        workspace,
        "SELECT details->>'answer_source', details->>'url', details->>'doc_kind', model, count(*) FROM samples "
        "WHERE details->>'part' = 'long' GROUP BY ALL ORDER BY ALL",
    )
    assert found == [("human", REVIEW["url"], "paper", "none", 3), ("teacher", None, "paper", "scripted", 3)]
    assert len(engine.calls) == 3 * 2 + 2
