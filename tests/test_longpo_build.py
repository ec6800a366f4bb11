"""LongPO from recipe to exports: the recipe people start from, both export forms, reference scores, card, commands."""

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from generators.engines.base import ChatRequest, Identity
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build, opened
from pipelines.catalog import query
from pipelines.export import ExportStage
from pipelines.manifest import Manifest, UnitRecord, load_manifest
from pipelines.shards import write_rows
from pipelines.stages import execute
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.ids import content_id
from schemas.loading import load_recipe
from tests.support import recipe, texts
from tests.test_cli import call, put_in
from tests.test_export import front_matter, load

ROOT = Path(__file__).parent.parent
PAIRS = {
    "method": "longpo", "engine": "writer", "turns": 3, "chunk_tokens": 80, "document_tokens": {"min": 100},
    "target_tokens": 2000, "sampling": {step: {"max_tokens": 60} for step in ("chosen", "rejected")},
}  # fmt: skip
EXPORT = [{"name": "out", "configs": ["preference", "longpo"]}]


def answer(request: ChatRequest) -> str:
    """Knows its prompts by their ends; some answers are cut, and where the chunk has line 33 it refuses."""
    text = request.messages[0].content
    if "different questions on it" in text:
        count = int(re.findall(r"numbered 1\. to (\d)\.", text)[0])
        line = re.findall(r"\w+", text)[1]
        return "\n".join(f"{n}. Why is {n} said at {line}?" for n in range(1, count + 1)).removeprefix("1.")
    chunk, _, question = text.rpartition("\n\n")
    if len(chunk.split()) < 100 and "Line 33 of" in chunk:
        return "I cannot say that."
    if len(chunk.split()) > 100:
        return f"Nobody has found out in {len(chunk)} letters."
    return f"A text of {len(chunk)} letters tells that in answer to: {question.lower()}"


def make(path: Path, root: Path, model: str = "scripted", reply: Any = answer, **options: Any) -> list[Manifest]:
    engine = ScriptedEngine(reply, identity=Identity(model, "1", None))
    return asyncio.run(build(path, Workspace(root), make_engine=lambda *_: engine, **options))


def small(folder: Path, **changes: Any) -> Path:
    items = [*texts(3, 400), "too short"]
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": items}]
    return recipe(
        folder, **{"documents": documents, "instructions": [], "generate": [PAIRS], "export": EXPORT, **changes}
    )


def rows(workspace: Workspace, sql: str) -> list[dict[str, Any]]:
    names, found = query(workspace, sql)
    return [dict(zip(names, row, strict=True)) for row in found]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished workspace of `small`, which no test changes."""
    folder = tmp_path_factory.mktemp("longpo")
    make(small(folder), folder / "w")
    return Workspace(folder / "w")


def score(workspace: Workspace, stage: str, scores: dict[str, tuple[float, float]]) -> None:
    """What a score stage leaves behind."""
    lines = [
        {"row_id": row_id, "stage": stage, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        for row_id, (chosen, rejected) in scores.items()
    ]
    unit = UnitRecord(repr(scores), write_rows(workspace.root, "scores_ref_logps", stage, lines), 0, {})
    Manifest(stage, "small", {}, None, True, "run", {"all": unit}).save(workspace.manifest(stage))


# ---------------------------------------------------------------- recipe


def test_the_recipe_people_start_from_makes_pairs_and_both_exports(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "longpo.yaml"
    manifests = make(path, tmp_path / "w")
    (method,) = load_recipe(path).generate
    assert method.method == "longpo" and method.document_tokens.min > method.chunk_tokens
    states = next(m.states for m in manifests if m.stage == "generate.pairs")
    assert states == {"ok": method.count}
    workspace = Workspace(tmp_path / "w")
    pairs = rows(workspace, "SELECT row_id, details FROM preferences")
    assert Counter(Counter(pair["row_id"] for pair in pairs).values()) == {3: method.count}
    assert len(load(workspace.exports / "pairs", tmp_path, "preference")["preference"]) == len(pairs)
    assert len(load(workspace.exports / "conversations", tmp_path, "longpo")["longpo"]) == method.count


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"generate": [], "export": EXPORT},
            "export 'out': the config 'longpo' needs the method 'longpo' under 'generate'",
        ),
        (
            {
                "generate": [PAIRS, {"method": "long_qa", "engine": "writer"}],
                "export": [{"name": "out", "configs": ["longpo"], "methods": ["long_qa"]}],
            },
            "export 'out': the config 'longpo' needs the method 'longpo' under its 'methods'",
        ),
        (
            {"generate": [{**PAIRS, "chunk_tokens": 40_000}]},
            "generate[0].chunk_tokens: input should be less than or equal to 32768, not 40000",
        ),
    ],
)
def test_a_recipe_that_asks_for_what_it_cannot_have(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    path = small(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: {sentence}"


# ---------------------------------------------------------------- rows and turns


DROPPED = """
WITH told AS (
  SELECT unnest(from_json(details->'$.dropped_turns', '["JSON"]'))->>'$.reason' AS reason
  FROM (SELECT DISTINCT ON (stage, row_id) details FROM preferences WHERE method = 'longpo')
  UNION ALL
  SELECT unnest(string_split(regexp_extract(detail, '^turns dropped: ([^;]*);', 1), ', '))
  FROM row_states WHERE starts_with(detail, 'turns dropped: '))
SELECT reason, count(*) AS turns FROM told GROUP BY reason ORDER BY turns DESC, reason"""


def test_every_turn_is_a_pair_or_a_counted_drop(made: Workspace) -> None:
    states = rows(
        made, "SELECT state, reason, count(*) AS n FROM row_states WHERE stage = 'generate.longpo' GROUP BY ALL"
    )
    assert {(row["state"], row["reason"]): row["n"] for row in states} == {
        ("ok", ""): 3, ("filtered", "document_too_short"): 1,
    }  # fmt: skip
    ((pairs,),) = query(made, "SELECT count(*) FROM preferences")[1]
    dropped = query(made, DROPPED)[1]
    assert dropped == [("refused_chosen", 9 - pairs)] and 0 < pairs < 9


def test_turns_of_rows_that_lost_all_of_them_are_counted_too(tmp_path: Path) -> None:
    def mute(request: ChatRequest) -> str:
        text = request.messages[0].content
        return answer(request) if "different questions on it" in text else "" if "Line 1 of" in text else "I cannot."

    make(small(tmp_path, export=[]), tmp_path / "w", reply=mute)
    workspace = Workspace(tmp_path / "w")
    counted = dict(query(workspace, DROPPED)[1])
    assert set(counted) == {"empty_chosen", "refused_chosen"} and sum(counted.values()) == 9
    assert query(workspace, "SELECT count(*) FROM preferences")[1] == [(0,)]


def test_the_documentation_counts_dropped_turns_with_the_query_tested_here() -> None:
    page = (ROOT / "docs" / "methods" / "longpo.md").read_text("utf-8")
    assert DROPPED.strip() in page


def test_one_model_makes_everything_of_an_iteration_and_the_next_one_another(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    first, second = Workspace(tmp_path / "w1"), Workspace(tmp_path / "w2")
    make(small(tmp_path), first.root, "scripted")
    make(small(tmp_path / "two"), second.root, "scripted-128k")
    for workspace, model in ((first, "scripted"), (second, "scripted-128k")):
        assert query(workspace, "SELECT DISTINCT model FROM requests")[1] == [(model,)]
        assert query(workspace, "SELECT DISTINCT model FROM preferences")[1] == [(model,)]
        assert query(workspace, "SELECT list_sort(list(DISTINCT step)) FROM requests")[1] == [
            (["chosen", "questions", "rejected"],)
        ]


# ---------------------------------------------------------------- exports


def test_the_preference_config_holds_the_rows_of_the_table(made: Workspace, tmp_path: Path) -> None:
    found = load(made.exports / "out", tmp_path, "preference")["preference"]
    expected = rows(
        made,
        "SELECT preference_id AS id, prompt, chosen, rejected, short_prompt, ref_chosen_logps, ref_rejected_logps, "
        "method, source, language, document_ids, model, details FROM preferences",
    )
    assert found == expected and found
    assert all(row["ref_chosen_logps"] is row["ref_rejected_logps"] is None for row in found)
    assert all(row["short_prompt"][0]["content"].endswith(json.loads(row["details"])["instruction"]) for row in found)


def test_the_longpo_config_holds_a_document_with_all_its_turns(made: Workspace, tmp_path: Path) -> None:
    found = load(made.exports / "out", tmp_path, "longpo")["longpo"]
    pairs = rows(made, "SELECT * FROM preferences")
    assert len(found) == len({pair["row_id"] for pair in pairs}) == 3
    whole = dict(query(made, "SELECT document_id, text FROM documents")[1])
    for row in found:
        (document_id,) = row["document_ids"]
        mine = [pair for pair in pairs if pair["document_ids"] == [document_id]]
        mine.sort(key=lambda pair: len(pair["prompt"]))
        assert row["id"] == content_id("lpo", row["preference_ids"])
        assert row["preference_ids"] == [pair["preference_id"] for pair in mine]
        assert row["short_prompts"] == [pair["short_prompt"] for pair in mine]
        for side in ("chosen", "rejected"):
            assert row[side] == [pair[side][0]["content"] for pair in mine]
            messages = row[f"messages_{side}"]
            text = "".join(message["content"] for message in messages)
            assert text.count(whole[document_id]) == 1 and messages[0]["content"].startswith(whole[document_id])
            assert [message["role"] for message in messages] == ["user", "assistant"] * len(mine)
            assert [message["content"] for message in messages[1::2]] == row[side]
            assert row[f"ref_{side}_logps"] == [None] * len(mine)
        assert row["messages_chosen"][:-1] == mine[-1]["prompt"]  # the history holds chosen answers
        assert row["messages_rejected"][0::2] == row["messages_chosen"][0::2]
        assert [json.loads(details)["turn"] for details in row["details"]] == list(range(len(mine)))
    assert {len(row["chosen"]) for row in found} == {2, 3}  # a turn was dropped


def test_a_document_whose_pairs_stand_in_two_parts_stays_one_row(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipelines.shards.ROW_GROUP_BYTES", 1)
    monkeypatch.setattr("pipelines.shards.TableWriter.__init__.__defaults__", (1,))
    monkeypatch.setattr("pipelines.export_configs.BATCH_ROWS", 2)
    make(small(tmp_path), tmp_path / "w")
    manifest = load_manifest(tmp_path / "w" / "manifests" / "generate.longpo.json")
    assert manifest is not None and len(manifest.parts("preferences")) > 3
    found = load(tmp_path / "w" / "exports" / "out", tmp_path, "longpo")["longpo"]
    assert sorted(len(row["chosen"]) for row in found) == [2, 3, 3]


def test_reference_scores_come_into_the_exports_and_new_ones_again(tmp_path: Path) -> None:
    path, workspace = small(tmp_path), Workspace(tmp_path / "w")
    make(path, workspace.root)
    (ids,) = query(workspace, "SELECT list(preference_id ORDER BY preference_id) FROM preferences")[1]
    scored = {row_id: (-float(n), -10.0 - n) for n, row_id in enumerate(ids[0])}
    for shift in (0.0, 0.5):
        values = {row_id: (chosen - shift, rejected) for row_id, (chosen, rejected) in scored.items()}
        left_out = ids[0][1]
        del values[left_out]
        score(workspace, "score.reference", values)
        make(path, workspace.root, stage="export")
        found = load(workspace.exports / "out", tmp_path, "preference", "longpo")
        values[left_out] = (None, None)  # type: ignore[assignment]
        assert {
            row["id"]: (row["ref_chosen_logps"], row["ref_rejected_logps"]) for row in found["preference"]
        } == values
        for row in found["longpo"]:
            pairs = list(zip(row["ref_chosen_logps"], row["ref_rejected_logps"], strict=True))
            assert pairs == [values[row_id] for row_id in row["preference_ids"]]
    before = (workspace.exports / "out").stat().st_ino
    make(path, workspace.root, stage="export")
    assert (workspace.exports / "out").stat().st_ino == before  # the same scores: nothing to do


def test_a_score_stage_among_the_makers_must_have_run_and_brings_no_rows(tmp_path: Path) -> None:
    path, workspace = small(tmp_path), Workspace(tmp_path / "w")
    make(path, workspace.root)

    async def export() -> Manifest:
        async with opened(path, workspace) as (context, _):
            return await execute(ExportStage(context.recipe.export[0], ["generate.longpo", "score.it"]), context)

    with pytest.raises(UserError, match=r"stage score\.it has not finished"):
        asyncio.run(export())
    ids = [row_id for (row_id,) in query(workspace, "SELECT preference_id FROM preferences")[1]]
    score(workspace, "score.it", dict.fromkeys(ids, (-1.0, -2.0)))
    assert asyncio.run(export()).rows_in == len(ids) + 3
    found = load(workspace.exports / "out", tmp_path, "preference")["preference"]
    assert [(row["id"], row["ref_chosen_logps"], row["ref_rejected_logps"]) for row in found] == [
        (row_id, -1.0, -2.0) for row_id in ids
    ]
    card = (workspace.exports / "out" / "README.md").read_text("utf-8")
    assert f"| longpo | texts | en | {len(ids)} | 3 | {len(ids)} |" in card


def test_scores_of_two_stages_for_one_pair_are_refused(tmp_path: Path) -> None:
    path, workspace = small(tmp_path), Workspace(tmp_path / "w")
    make(path, workspace.root)
    ((row_id,), *_) = query(workspace, "SELECT preference_id FROM preferences")[1]
    for stage in ("score.one", "score.two"):
        score(workspace, stage, {row_id: (-1.0, -2.0)})
    with pytest.raises(UserError, match=f"pair {row_id} has reference log-probabilities of two stages, score.one and"):
        make(path, workspace.root, stage="export")


def test_two_entries_give_their_conversations_one_after_the_other(tmp_path: Path) -> None:
    generate = [{**PAIRS, "name": "one"}, {**PAIRS, "name": "two", "turns": 1}]
    make(small(tmp_path, generate=generate), tmp_path / "w")
    found = load(tmp_path / "w" / "exports" / "out", tmp_path, "longpo")["longpo"]
    assert len(found) == len({row["id"] for row in found}) == 6


def test_the_card_tells_of_preferences(made: Workspace) -> None:
    lines = (made.exports / "out" / "README.md").read_text("utf-8").splitlines()
    ((pairs, low, high),) = query(
        made,
        "SELECT count(*), min(length(chosen[1].content)), max(length(chosen[1].content)) FROM preferences",
    )[1]
    assert f"| longpo | texts | en | {pairs} | 3 | 0 |" in lines
    assert "| longpo | 3 |" in lines and f"| preference | {pairs} |" in lines
    lengths = [line for line in lines if re.match(r"\| longpo \| (prompt|short prompt|chosen|rejected) \|", line)]
    assert [line.split(" | ")[1] for line in lengths] == ["chosen", "prompt", "rejected", "short prompt"]
    assert lengths[0].split(" | ")[2] == str(low) and lengths[0].endswith(f" | {high} |")
    assert [config["config_name"] for config in front_matter(made.exports / "out")["configs"]] == [
        "preference",
        "longpo",
    ]


# ---------------------------------------------------------------- commands


def test_preview_shows_pairs_shortened_and_a_run_names_what_it_has(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(monkeypatch, ScriptedEngine(answer))
    path, workspace = small(tmp_path), tmp_path / "w"
    code, out, _ = call(capsys, "preview", path, "-n", "3", "--workspace", workspace)
    assert code == 0 and out.count("--- short_prompt: user\n") == out.count("--- rejected: assistant\n") == 8
    assert out.count("--- prompt: user\n") == (1 + 2) + 2 * (1 + 2 + 3) and out.count("=== generate.longpo") == 8
    assert re.search(r"--- prompt: user\nLine 0 of text 0[^-]{600,700}\n\[\.\.\. \d+ characters \.\.\.\]", out)
    assert "rows without a record" not in out
    code, out, _ = call(capsys, "run", path, "--no-prefect", "--workspace", workspace)
    assert code == 0 and "FROM preferences GROUP BY method" in out
    assert f"load_dataset('{workspace}/exports/out', 'preference')" in out


def test_a_run_suggests_a_config_that_has_rows(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, ScriptedEngine(answer))
    path = small(tmp_path, export=[{"name": "out", "configs": ["sft", "longpo", "documents"]}])
    code, out, _ = call(capsys, "run", path, "--no-prefect", "--workspace", tmp_path / "w")
    assert code == 0 and "exports/out', 'longpo')['train'][0])" in out
