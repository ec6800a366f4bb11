"""Minimum Tuning: which examples of an existing set are kept, and AgentWrite with the same two filters (agentwrite.md,
section 9)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.lengths import length_score, word_count
from generators.base import Llm
from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from generators.minimum_tuning import MinimumTuning
from pipelines.build import build
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.methods.minimum_tuning import MinimumTuning as Config
from schemas.rows import Instruction, Sample
from schemas.states import Reject, State
from tests.support import recipe, scripted

ROOT = Path(__file__).parent.parent
NO_MODEL: Any = None  # an `Llm` that cannot be asked


def text(words: int) -> str:
    return " ".join(f"w{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}" for n in range(words)) + "."


def curate(prompt: str, metadata: dict[str, Any], **changes: Any) -> Sample:
    config = Config.model_validate({"method": "minimum_tuning", **changes})
    llm: Llm = NO_MODEL
    row = Instruction("ins-1", prompt, "existing", "en", metadata)
    (sample,) = asyncio.run(MinimumTuning(config).generate(row, llm))
    return sample


def dropped(prompt: str, metadata: dict[str, Any], **changes: Any) -> tuple[State, str, str]:
    with pytest.raises(Reject) as raised:
        curate(prompt, metadata, **changes)
    return raised.value.state, raised.value.reason, raised.value.detail


def test_an_answer_of_the_demanded_length_is_kept_as_it_stands() -> None:
    answer = f"  {text(120)}\n"
    sample = curate("Write 100 words on tea.", {"answer": answer, "other": 1})
    assert sample.messages == (("user", "Write 100 words on tea."), ("assistant", answer))
    assert sample.details == {
        "instruction_id": "ins-1", "length": 100, "response_length": 120, "score_length": 93.33, "repetition": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(("words", "kept"), [(160, True), (161, False), (72, True), (71, False), (100, True)])
def test_the_bound_is_an_s_l_of_80(words: int, kept: bool) -> None:
    assert (length_score(100, words) >= 80) is kept
    if kept:
        assert curate("Write 100 words.", {"answer": text(words)}).details["response_length"] == words
    else:
        state, reason, detail = dropped("Write 100 words.", {"answer": text(words)})
        assert (state, reason) == (State.FILTERED, "length_score")
        assert detail.endswith(f"100 words demanded, {words} written")


@pytest.mark.parametrize(
    "prompt",
    ["Write about tea.", "Write 100-200 words.", "Write 100 words, or 200 words.", "三百字，不，四百字", "每篇400字"],
)
def test_prompts_without_exactly_one_length_are_filtered(prompt: str) -> None:
    assert dropped(prompt, {"answer": text(100)})[:2] == (State.FILTERED, "no_single_length")


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ("", State.INVALID_OUTPUT, "empty_answer"),
        (" \n\t", State.INVALID_OUTPUT, "empty_answer"),
        ("I'm sorry, I cannot write that.", State.REFUSED, "refused_answer"),
        ("这是一段中文，没有别的。", State.INVALID_OUTPUT, "wrong_language"),
        (text(95) + " and so:", State.INVALID_OUTPUT, "unfinished_answer"),
        ("the same eight words are said again always " * 12, State.FILTERED, "repetition"),
        ("Write 10 WORDS  on tea.", State.INVALID_OUTPUT, "prompt_echo"),
        ("a" * 200_000, State.FILTERED, "repetition"),
        (text(8) + ' {"half": ', State.INVALID_OUTPUT, "unfinished_answer"),
        (None, State.INVALID_OUTPUT, "answer_not_a_string"),
        (["a"], State.INVALID_OUTPUT, "answer_not_a_string"),
    ],
)
def test_bad_answers_are_dropped_with_their_reason(answer: Any, state: State, reason: str) -> None:
    assert dropped("Write 10 words on tea.", {"answer": answer})[:2] == (state, reason)


def test_a_missing_answer_says_where_it_should_have_been_named() -> None:
    state, reason, detail = dropped("Write 100 words.", {"answer": text(100)}, answer_field="response")
    assert (state, reason) == (State.INVALID_OUTPUT, "no_answer")
    assert detail == "no 'response' in the row; the source's fields.metadata must name it"
    assert curate("Write 100 words.", {"response": text(100)}, answer_field="response").details["length"] == 100


@given(st.integers(20, 3000), st.integers(1, 6000), st.integers(0, 100))
def test_kept_if_and_only_if_the_score_reaches_the_bound(demanded: int, written: int, bound: int) -> None:
    prompt, metadata, changes = (
        f"写{demanded}字",
        {"answer": "".join(chr(0x4E00 + n) for n in range(written))},
        {"min_length_score": bound},
    )
    try:
        details = curate(prompt, metadata, max_repetition=1, **changes).details
    except Reject as reject:
        assert reject.reason == "length_score" and length_score(demanded, written) < bound
    else:
        assert (details["length"], details["response_length"]) == (demanded, written)
        assert length_score(demanded, written) >= bound


def small(folder: Path, **changes: Any) -> Path:
    rows = [{"prompt": f"Write {n} words on tea.", "answer": text(n)} for n in (20, 30, 40)]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return recipe(folder, **{
        "documents": [],
        "instructions": [
            {"name": "set", "type": "jsonl", "path": "set.jsonl", "fields": {"text": "prompt", "metadata": ["answer"]}}
        ],
        "engines": {},
        "tokenizer": "scripted",
        "generate": [{"method": "minimum_tuning"}],
        "export": [{"name": "out", "configs": ["sft"]}],
        **changes,
    })  # fmt: skip


def test_a_whole_recipe_asks_no_model_and_counts_tokens_with_its_own_tokenizer(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    asyncio.run(build(small(tmp_path), workspace))  # with the real engines: none is named, none is started
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        rows = catalog.sql("SELECT prompt_tokens, response_tokens, model FROM samples ORDER BY 2").fetchall()
        requests = catalog.sql("SELECT count(*) FROM requests").fetchall()
    assert rows == [(5, 20, "none"), (5, 30, "none"), (5, 40, "none")] and requests == [(0,)]


def test_without_a_tokenizer_the_recipe_is_told_to_name_one(tmp_path: Path) -> None:
    path = small(tmp_path, tokenizer=None)
    with pytest.raises(UserError, match="tokenizer: methods without an engine measure texts in tokens, so the recipe"):
        asyncio.run(build(path, Workspace(tmp_path / "workspace")))


def test_naming_an_engine_is_a_mistake(tmp_path: Path) -> None:
    path = small(tmp_path, generate=[{"method": "minimum_tuning", "engine": "writer"}])
    with pytest.raises(UserError, match=r"generate\[0\]\.engine"):
        load_recipe(path)


def test_agentwrite_with_the_same_filters_asks_nothing_without_a_length(
    tmp_path: Path,
) -> None:
    items = ["Write 40 words on tea.", "Write 4000 words on tea.", "Write on tea.", "Write 40-50 words on tea."]
    path = recipe(
        tmp_path,
        documents=[],
        instructions=[{"name": "tasks", "type": "inline", "items": items}],
        generate=[{"method": "agentwrite", "engine": "writer", "require_length": True, "min_length_score": 80}],
    )
    engine, workspace = scripted(), Workspace(tmp_path / "workspace")
    asyncio.run(build(path, workspace, make_engine=lambda *_: engine))
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        states = catalog.sql(
            "SELECT state, reason, count(*) FROM row_states WHERE stage LIKE 'generate%' GROUP BY ALL ORDER BY 2"
        ).fetchall()
    # The scripted engine writes three parts of 12 words to any plan: 36 for 40.
    assert states == [("ok", "", 1), ("filtered", "length_score", 1), ("filtered", "no_single_length", 2)]
    assert len(engine.calls) == 2 * 4


def test_the_shipped_recipe_keeps_four_of_its_ten_rows_and_writes_the_rest(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "minimum_tuning.yaml"
    plan = json.dumps({"paragraphs": [{"main_point": f"part {n} of it", "words": 60} for n in range(3)]})
    calls = iter(range(10_000))

    def reply(request: ChatRequest) -> str:
        if "Another writer will follow your plan" in request.messages[0].content:
            return plan
        return " ".join(f"w{chr(97 + next(calls) % 26)}{chr(97 + next(calls) // 26 % 26)}" for _ in range(55)) + "."

    workspace = Workspace(tmp_path)
    asyncio.run(build(path, workspace, make_engine=lambda *_: ScriptedEngine(reply)))
    with duckdb.connect(str(workspace.root / "catalog.duckdb"), read_only=True) as catalog:
        states = catalog.sql(
            "SELECT stage, state, reason, count(*) FROM row_states WHERE stage LIKE 'generate%' GROUP BY ALL "
            "ORDER BY ALL"
        ).fetchall()
        kept = catalog.sql(
            "SELECT language, details, messages[2].content FROM samples WHERE method = 'minimum_tuning'"
        ).fetchall()
    assert states == [
        ("generate.curated", "filtered", "length_score", 1),
        ("generate.curated", "filtered", "no_single_length", 3),
        ("generate.curated", "invalid_output", "unfinished_answer", 1),
        ("generate.curated", "ok", "", 4),
        ("generate.curated", "refused", "refused_answer", 1),
        ("generate.written", "filtered", "no_single_length", 1),
        ("generate.written", "ok", "", 5),
    ]
    assert sorted(language for language, _, _ in kept) == ["en", "en", "zh", "zh"]
    for _, details, answer in kept:
        found = json.loads(details)
        assert found["response_length"] == word_count(answer) and found["score_length"] >= 80
    assert list((tmp_path / "exports" / "minimum_tuning").rglob("*.parquet"))
