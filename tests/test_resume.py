"""The same recipe again, or a changed one: what is done again, what is asked again, and what is told about it."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from generators.engines.base import BadRequest, ChatRequest
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build
from pipelines.catalog import query
from pipelines.manifest import UnitRecord
from pipelines.stages import Context, Silence, Stage, Unit, run_directly
from pipelines.workspace import Workspace
from schemas.errors import RunError, UserError
from tests.crash_driver import snapshot
from tests.support import answer, recipe, texts

UNITS = [
    "ingest/ingest.documents.texts", "ingest/ingest.instructions.tasks", "generate.long_qa/00000",
    "generate.long_qa/00001", "generate.agentwrite/00000", "generate.agentwrite/00001", "export.out/all",
]  # fmt: skip
CALLS = {"questions": 12, "answer": 12, "plan": 3, "write": 9}


def step(request: ChatRequest) -> str:
    prompt = request.messages[0].content
    if len(request.messages) == 2:  # the answer is begun with "1."
        return "questions"
    marks = {
        "plan": "Write the plan as one line per paragraph",
        "write": "Now write the next paragraph only",
    }
    return next((name for name, mark in marks.items() if mark in prompt), "answer")


@dataclass
class Ran:
    """What a run did: the units, the requests by step, the notes for the user."""

    units: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    starts: int = 0


class Told(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(
    recipe_path: Path,
    workspace: Path,
    ledger: Path | None = None,
    reply: Callable[[ChatRequest], Any] = answer,
    limit: int | None = None,
) -> Ran:
    ran, engine, told = Ran(), ScriptedEngine(reply), Told()

    async def run_unit(stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
        ran.units.append(f"{stage.name}/{unit.key}")
        return await stage.run(number, unit, context)

    place = Workspace(workspace, ledger)
    asyncio.run(build(recipe_path, place, None, limit, told, run_unit, lambda *_: engine))
    ran.calls, ran.notes, ran.starts = Counter(map(step, engine.calls)), told.notes, engine.starts
    return ran


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a recipe and the workspace it made."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(recipe(folder), folder / "w") == Ran(UNITS, Counter(CALLS), [], 1)
    return folder


@pytest.fixture
def home(finished, tmp_path) -> Path:
    """A copy of it to do something with."""
    shutil.copytree(finished, tmp_path / "home")
    return tmp_path / "home"


def changed(home: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The recipe with a change, as a user edits it."""
    path = home / "recipe.yaml"
    value = yaml.safe_load(path.read_text("utf-8"))
    change(value)
    path.write_text(yaml.safe_dump(value), "utf-8")
    return path


def test_nothing_changed_nothing_done(home):
    before = snapshot(home / "w")
    assert run(home / "recipe.yaml", home / "w") == Ran()
    assert snapshot(home / "w") == before


def test_another_temperature_asks_only_that_step_again(home, tmp_path):
    def warmer(value: dict[str, Any]) -> None:
        value["generate"][0]["sampling"] = {"answer": {"temperature": 1.0}}

    path = changed(home, warmer)
    ran = run(path, home / "w")
    assert ran.notes == ["generate.long_qa: sampling.answer.temperature: 0.0 -> 1.0"]
    assert ran.calls == {"answer": 12}
    assert ran.units == ["generate.long_qa/00000", "generate.long_qa/00001", "export.out/all"]
    # The new shards are those of a fresh workspace.
    run(path, tmp_path / "fresh")
    again, fresh = snapshot(home / "w"), snapshot(tmp_path / "fresh")
    names = [name for name in fresh if "generate.long_qa" in name]
    assert len(names) == 6 and [again[name] for name in names] == [fresh[name] for name in names]


def test_and_back_again_asks_nothing(home):
    before = snapshot(home / "w")
    original = (home / "recipe.yaml").read_text("utf-8")

    def warmer(value: dict[str, Any]) -> None:
        value["generate"][0]["sampling"] = {"questions": {"temperature": 1.0}}

    run(changed(home, warmer), home / "w")
    assert snapshot(home / "w") != before
    (home / "recipe.yaml").write_text(original, "utf-8")
    ran = run(home / "recipe.yaml", home / "w")
    assert ran.notes == ["generate.long_qa: sampling.questions.temperature: 1.0 -> 0.7"]
    assert ran.calls == {} and ran.starts == 0
    assert snapshot(home / "w") == before


def test_another_shard_size_exports_again_and_generates_nothing(home):
    ran = run(changed(home, lambda value: value.update(export=[{"name": "out", "shard_size": "1KB"}])), home / "w")
    assert ran == Ran(["export.out/all"], Counter(), ["export.out: shard_size: 500000000 -> 1000"], 0)
    files = sorted(path.name for path in (home / "w" / "exports" / "out" / "sft").iterdir())
    assert files == [f"train-{n:05d}-of-00004.parquet" for n in range(4)]


def test_one_instruction_more_touches_one_shard(home):
    def more(value: dict[str, Any]) -> None:
        value["instructions"][0]["items"].append("Write about the number 3 at length.")

    ran = run(changed(home, more), home / "w")
    assert ran.units == ["ingest/ingest.instructions.tasks", "generate.agentwrite/00001", "export.out/all"]
    assert ran.calls == {"plan": 1, "write": 3}
    rows = query(Workspace(home / "w"), "SELECT method, count(*) FROM samples GROUP BY ALL ORDER BY ALL")[1]
    assert rows == [("agentwrite", 4), ("long_qa", 12)]


def test_a_removed_source_takes_its_rows_along(home):
    def fewer(value: dict[str, Any]) -> None:
        value["documents"][0]["items"] = value["documents"][0]["items"][:2]

    ran = run(changed(home, fewer), home / "w")
    assert ran.calls == {} and "generate.long_qa/00001" not in ran.units
    parts = {path.name for path in (home / "w" / "tables").rglob("part-*long_qa*")}
    assert parts == {"part-generate.long_qa-00000-00000.parquet"}
    rows = query(Workspace(home / "w"), "SELECT count(*) FROM samples WHERE method = 'long_qa'")[1]
    assert rows == [(6,)]


def test_a_limited_run_and_then_all_is_the_same_as_all(home, tmp_path):
    assert run(home / "recipe.yaml", tmp_path / "w", limit=2).calls == {
        "questions": 2, "answer": 2, "plan": 2, "write": 6,
    }  # fmt: skip
    ran = run(home / "recipe.yaml", tmp_path / "w")
    assert ran.calls == {"questions": 10, "answer": 10, "plan": 1, "write": 3}
    assert snapshot(tmp_path / "w") == snapshot(home / "w")


def test_a_second_workspace_on_the_same_ledger_asks_nothing(home):
    ran = run(home / "recipe.yaml", home / "other", ledger=home / "w" / "ledger.sqlite")
    assert ran == Ran(UNITS, Counter(), [], 0)
    assert snapshot(home / "other") == snapshot(home / "w")
    assert not (home / "other" / "ledger.sqlite").exists()


def test_every_part_that_is_gone_is_made_again_without_a_call(home):
    before = snapshot(home / "w")
    owner = {f"{unit.partition('/')[0]}-{unit.partition('/')[2]}": unit for unit in UNITS[2:]}
    owner.update((unit.partition("/")[2], unit) for unit in UNITS[:2])
    for name in [name for name in before if name.startswith("tables/")][::3]:
        (home / "w" / name).unlink()
        ran = run(home / "recipe.yaml", home / "w")
        assert ran == Ran([owner[Path(name).name[len("part-") : -len("-00000.parquet")]]], Counter(), [], 0)
        assert snapshot(home / "w") == before


@pytest.mark.parametrize("file", ["README.md", "sft/train-00000-of-00001.parquet"])
def test_an_export_that_lacks_a_file_is_made_again(home, file):
    before = snapshot(home / "w")
    (home / "w" / "exports" / "out" / file).unlink()
    assert run(home / "recipe.yaml", home / "w") == Ran(["export.out/all"])
    assert snapshot(home / "w") == before


def test_rows_that_failed_are_tried_again(home, tmp_path):
    asked: Counter[str] = Counter()

    def moody(request: ChatRequest) -> Any:
        asked[step(request)] += 1
        bad = (step(request) == "answer" and asked["answer"] in (3, 5)) or (
            step(request) == "plan" and asked["plan"] == 1
        )
        return BadRequest("not today") if bad else answer(request)

    first = run(home / "recipe.yaml", tmp_path / "w", reply=moody)
    assert first.calls == {"questions": 12, "answer": 12, "plan": 3, "write": 6}
    states = query(Workspace(tmp_path / "w"), "SELECT state, reason, count(*) FROM row_states WHERE stage LIKE 'gen%' "
                   "GROUP BY ALL ORDER BY ALL")[1]  # fmt: skip
    assert states == [("failed", "bad_request", 3), ("ok", "", 12)]
    second = run(home / "recipe.yaml", tmp_path / "w")
    assert second.calls == {"answer": 2, "plan": 1, "write": 3}
    assert "export.out/all" in second.units
    assert snapshot(tmp_path / "w") == snapshot(home / "w")
    assert run(home / "recipe.yaml", tmp_path / "w") == Ran()


def test_rows_that_fail_again_keep_their_state(home, tmp_path):
    def refuses_plans(request: ChatRequest) -> Any:
        return BadRequest("never") if step(request) == "plan" else answer(request)

    first = run(home / "recipe.yaml", tmp_path / "w", reply=refuses_plans)
    before = snapshot(tmp_path / "w")
    second = run(home / "recipe.yaml", tmp_path / "w", reply=refuses_plans)
    assert first.calls["plan"] == 3 and second.calls == {"plan": 3}
    assert second.units[:2] == ["generate.agentwrite/00000", "generate.agentwrite/00001"]
    assert snapshot(tmp_path / "w") == before


def test_a_unit_that_is_tried_twice_in_one_run_gives_the_same(tmp_path):
    """As Prefect does after an error. What ingest saw the first time must not turn the second time into duplicates."""
    sources = [{"name": name, "type": "inline", "items": texts(count)} for name, count in (("a", 2), ("b", 3))]
    path = recipe(tmp_path, documents=sources)

    async def twice(stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
        await stage.run(number, unit, context)
        return await stage.run(number, unit, context)

    engine = ScriptedEngine(answer)
    for name, run_unit in (("once", run_directly), ("twice", twice)):
        place = Workspace(tmp_path / name)
        asyncio.run(build(path, place, run_unit=run_unit, make_engine=lambda *_: engine))
    assert snapshot(tmp_path / "twice") == snapshot(tmp_path / "once")
    states = query(
        place, "SELECT state, reason, count(*) FROM row_states WHERE stage = 'ingest' GROUP BY ALL ORDER BY 1"
    )
    assert states[1] == [("filtered", "duplicate_text", 2), ("ok", "", 6)]


def test_a_run_that_fails_keeps_the_units_it_has_finished(home, tmp_path):
    asked: Counter[str] = Counter()

    def breaks(request: ChatRequest) -> Any:
        asked[step(request)] += 1
        return RunError("the disk is full") if asked["write"] == 9 else answer(request)

    with pytest.raises(RunError, match="the disk is full"):
        run(home / "recipe.yaml", tmp_path / "w", reply=breaks)
    assert query(Workspace(tmp_path / "w"), "SELECT status FROM runs")[1] == [("failed",)]
    ran = run(home / "recipe.yaml", tmp_path / "w")
    assert not [unit for unit in ran.units if unit.startswith(("ingest", "generate.long_qa"))]
    assert 1 <= ran.calls.total() <= 9 and set(ran.calls) <= {"plan", "write"}
    assert snapshot(tmp_path / "w") == snapshot(home / "w")


def test_a_killed_run_is_called_interrupted_by_the_next_one(home):
    (part,) = (home / "w" / "tables" / "runs").iterdir()
    table = pq.read_table(part).to_pylist()
    import pyarrow as pa

    from schemas.tables import TABLES

    pq.write_table(pa.Table.from_pylist([{**table[0], "status": "running"}], schema=TABLES["runs"]), part)
    run(home / "recipe.yaml", home / "w")
    assert query(Workspace(home / "w"), "SELECT status FROM runs ORDER BY started")[1] == [("interrupted",), ("done",)]


# ---------------------------------------------------------------- whose workspace it is

HOLD = """
import sys, time
from pathlib import Path
from pipelines.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_workspace_in_use_names_the_process(home):
    before = snapshot(home / "w")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, home / "w"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another run \(process {holder.pid}\) is using this workspace"):
            run(home / "recipe.yaml", home / "w")
        assert snapshot(home / "w") == before
    finally:
        holder.kill()
        holder.communicate()
    assert run(home / "recipe.yaml", home / "w") == Ran()  # the lock went with its process


def test_another_recipe_needs_another_workspace(home):
    before = snapshot(home / "w")
    path = changed(home, lambda value: value.update(name="other"))
    with pytest.raises(UserError, match="holds recipe 'small', not 'other'; name another --workspace"):
        run(path, home / "w")
    assert snapshot(home / "w") == before


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"layout": 1, "units": {"a": {}}})])
def test_a_damaged_manifest_is_named(home, content):
    manifest = home / "w" / "manifests" / "generate.long_qa.json"
    manifest.write_text(content)
    with pytest.raises(UserError, match=r"generate\.long_qa\.json: damaged manifest .*delete it and run again"):
        run(home / "recipe.yaml", home / "w")
    before = snapshot(home / "w")
    manifest.unlink()
    ran = run(home / "recipe.yaml", home / "w")
    assert ran.calls == {} and ran.starts == 0 and snapshot(home / "w") == before
