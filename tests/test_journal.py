"""The journal of a run, `status --watch`, corpora that grow, and what `serve` says to wrong arguments. No server."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from flows import status
from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from pipelines import ingest_stage
from pipelines.build import build
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.stages import Silence
from pipelines.workspace import Workspace
from schemas.errors import RunError
from tests.conftest import run
from tests.support import recipe
from tests.test_cli import call, fault, real


def journal(workspace):
    (path,) = workspace.logs.glob("run-*.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---------------------------------------------------------------- the journal


def test_a_journal_tells_every_stage_and_unit_with_the_run_it_belongs_to(built):
    lines = journal(built)
    ((run_id,),) = query(built, "SELECT run_id FROM runs")[1]
    assert {line["run_id"] for line in lines} == {run_id}
    assert [(line["event"], line.get("stage"), line.get("unit")) for line in lines] == [
        ("run_begin", None, None),
        ("stage_begin", "ingest", None),
        ("unit", "ingest", "ingest.documents.texts"), ("unit", "ingest", "ingest.instructions.tasks"),
        ("stage_end", "ingest", None),
        ("stage_begin", "generate.long_qa", None),
        *[("unit", "generate.long_qa", f"0000{n}") for n in range(2)],
        ("stage_end", "generate.long_qa", None),
        ("stage_begin", "generate.agentwrite", None),
        *[("unit", "generate.agentwrite", f"0000{n}") for n in range(2)],
        ("stage_end", "generate.agentwrite", None),
        ("stage_begin", "export.out", None), ("unit", "export.out", "all"), ("stage_end", "export.out", None),
        ("run_end", None, None),
    ]  # fmt: skip
    ends = {line["stage"]: line["states"] for line in lines if line["event"] == "stage_end"}
    assert ends["generate.long_qa"] == {"ok": 12} and lines[-1]["status"] == "done"
    assert lines[0]["stages"] == ["ingest", "generate.long_qa", "generate.agentwrite", "export.out"]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_a_failure_stands_in_the_journal_with_its_stage(tmp_path):
    def broken(request: ChatRequest):
        return RunError("the disk is full")

    workspace = Workspace(tmp_path / "w")
    with pytest.raises(RunError, match="the disk is full"):
        asyncio.run(build(recipe(tmp_path), workspace, make_engine=lambda *_: ScriptedEngine(broken)))
    error, end = journal(workspace)[-2:]
    assert (error["event"], error["stage"], error["type"]) == ("error", "generate.long_qa", "RunError")
    assert error["text"] == "the disk is full" and end["status"] == "failed"


def test_a_second_run_has_its_own_journal_of_what_changed_and_what_was_up_to_date(tmp_path):
    workspace = Workspace(tmp_path / "w")
    run(recipe(tmp_path, generate=[{"method": "agentwrite", "engine": "writer"}]), workspace.root)
    (first,) = workspace.logs.glob("run-*.jsonl")
    run(recipe(tmp_path, generate=[{"method": "agentwrite", "engine": "writer", "count": 2}]), workspace.root)
    (second,) = set(workspace.logs.glob("run-*.jsonl")) - {first}
    lines = [json.loads(line) for line in second.read_text("utf-8").splitlines()]
    begins = [line for line in lines if line["event"] == "stage_begin"]
    assert [(line["stage"], line["rows"], line["rows_done_before"]) for line in begins] == [
        ("ingest", 0, 7), ("generate.agentwrite", 2, 0), ("export.out", None, 0),
    ]  # fmt: skip
    notes = [line["text"] for line in lines if line["event"] == "note" and line["stage"] == "generate.agentwrite"]
    assert notes == ["generate.agentwrite: count: null -> 2"]


# ---------------------------------------------------------------- status


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path, capsys):
    """Killed with kill -9 amid its first stage; nobody else has run since."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"Text number {n}."}) + "\n" for n in range(60_000))
    )
    path = real(tmp_path, documents=[{"name": "rows", "type": "jsonl", "path": "rows.jsonl"}])
    command = [sys.executable, "-m", "flows", "run", str(path), "--no-prefect", "--workspace", str(tmp_path / "w")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ingest: started\n"
    workspace = Workspace(tmp_path / "w")
    assert workspace.busy()
    while not workspace.manifest("ingest").exists() and process.poll() is None:  # written a moment later
        time.sleep(0.01)
    assert "last run running" in call(capsys, "status", "--workspace", workspace.root)[1]
    process.kill()
    process.communicate()
    assert not workspace.busy()
    assert "recipe docs: last run interrupted, started" in call(capsys, "status", "--workspace", workspace.root)[1]


def test_asking_whether_a_run_is_at_work_never_keeps_one_from_starting(tmp_path):
    workspace, ended = Workspace(tmp_path), threading.Event()
    with workspace.lock():
        pass

    def ask():
        while not ended.is_set():
            workspace.busy()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with workspace.lock():
                assert Workspace(tmp_path).busy()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_watch_without_a_run_is_status(built, capsys):
    plain = call(capsys, "status", "--workspace", built.root)
    assert call(capsys, "status", "--watch", "--workspace", built.root) == plain


def test_watch_tells_where_a_run_is_and_ends_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.01)
    workspace, reached, seen = Workspace(tmp_path / "w"), threading.Event(), threading.Event()

    class Slow(Silence):
        def stage(self, name, rows, skipped_rows):
            if name == "export.out":
                reached.set()
                assert seen.wait(60)

    worker = threading.Thread(target=run, args=(recipe(tmp_path), workspace.root), kwargs={"progress": Slow()})
    worker.start()
    assert reached.wait(60)
    monkeypatch.setattr(status, "print", lambda *given, **more: (print(*given, **more), seen.set()), raising=False)
    code, out, err = call(capsys, "status", "--watch", "--workspace", workspace.root)
    worker.join()
    assert (code, err) == (0, "")
    assert out.startswith("4/4 export.out: 0 of ? rows\nrecipe small: last run done, started")


# ---------------------------------------------------------------- serve


def test_serve_wants_a_cron_line(tmp_path, capsys):
    path = real(tmp_path)
    missing = fault(capsys, "serve", path)
    assert missing == "longloom serve: the following arguments are required: --cron (see longloom serve --help)"
    for line in ("", "every night", "61 * * * *", "* * *", "H 2 * * *"):
        assert fault(capsys, "serve", path, "--cron", line) == (
            f"longloom: --cron {line!r}: is no cron line: minute hour day month weekday, such as '0 2 * * *' for every "
            "night at two"
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--timezone", "Europe/Atlantis"], "--timezone 'Europe/Atlantis': is no time zone, such as Europe/Berlin"),
        (["--stage", "pack"], "--stage 'pack': the recipe has the stages ingest, export.out"),
    ],
)
def test_serve_refuses_what_every_run_would_fail_with(tmp_path, capsys, arguments, sentence):
    assert fault(capsys, "serve", real(tmp_path), "--cron", "0 2 * * *", *arguments) == f"longloom: {sentence}"
    assert not (tmp_path / "workspace").exists()


def test_serve_refuses_a_recipe_that_is_none(tmp_path, capsys):
    found = fault(capsys, "serve", tmp_path / "none.yaml", "--cron", "0 2 * * *")
    assert found.startswith(f"longloom: {tmp_path}/none.yaml: ")


def test_serve_beside_something_at_its_port_says_what_to_set(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment.update(PREFECT_HOME=str(tmp_path / "home"), PREFECT_SERVER_API_PORT=str(port))
        command = [sys.executable, "-m", "flows", "serve", str(real(tmp_path)), "--cron", "0 2 * * *"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"longloom: port {port} is in use: if that is a Prefect server, set "
        f"PREFECT_API_URL=http://127.0.0.1:{port}/api, else PREFECT_SERVER_API_PORT to a free port\n"
    )


# ---------------------------------------------------------------- a corpus that grows


def grown(tmp_path, monkeypatch, *names):
    """A folder with a file for each name (its text is the name's), ingested; the units that this run did."""
    monkeypatch.setattr(ingest_stage, "GROUP_BYTES", 40)  # two files of 21 bytes
    (tmp_path / "books").mkdir(exist_ok=True)
    for name in names:
        (tmp_path / "books" / f"{name}.txt").write_text(f"The text of book {name[0]}.\n")
    workspace = Workspace(tmp_path / "w")
    before = set(workspace.logs.glob("run-*.jsonl"))
    run(real(tmp_path, documents=[{"name": "books", "type": "text", "path": "books"}]), workspace.root)
    (path,) = set(workspace.logs.glob("run-*.jsonl")) - before
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return workspace, [line["unit"] for line in lines if line["event"] == "unit" and line["stage"] == "ingest"]


def tables(workspace):
    """The bytes of all tables but the runs, and what documents a reader sees."""
    parts = (workspace.root / "tables").glob("*/part-*.parquet")
    return {str(one.relative_to(workspace.root)): one.read_bytes() for one in parts if one.parent.name != "runs"}


def test_a_new_file_costs_the_reading_of_its_group_and_a_fresh_run_writes_the_same(tmp_path, monkeypatch):
    workspace, units = grown(tmp_path, monkeypatch, "a", "b", "c", "d", "e")
    name = "ingest.documents.books"
    assert units == [name, f"{name}.00001", f"{name}.00002"]
    assert grown(tmp_path, monkeypatch)[1] == []
    assert grown(tmp_path, monkeypatch, "f", "g")[1] == [f"{name}.00002", f"{name}.00003"]
    assert list(load_manifest(workspace.manifest("ingest")).units) == [name, *(f"{name}.0000{n}" for n in (1, 2, 3))]
    assert query(workspace, "SELECT count(*) FROM documents")[1] == [(7,)]
    grown_tables = tables(workspace)
    fresh = Workspace(tmp_path / "fresh")
    run(tmp_path / "recipe.yaml", fresh.root)
    assert tables(fresh) == grown_tables


def test_duplicates_are_found_over_the_groups_of_a_source_and_over_runs(tmp_path, monkeypatch):
    workspace, _ = grown(tmp_path, monkeypatch, "a", "b", "c", "d")
    assert grown(tmp_path, monkeypatch, "a-copy", "b-copy-2")[1][0] == "ingest.documents.books"  # they sort first
    states = "SELECT state, reason, count(*) FROM row_states WHERE stage = 'ingest' GROUP BY ALL ORDER BY ALL"
    assert query(workspace, states)[1] == [("filtered", "duplicate_text", 2), ("ok", "", 4)]
    assert grown(tmp_path, monkeypatch, "z")[1] == ["ingest.documents.books.00003"]
    (tmp_path / "books" / "zz.txt").write_text("The text of book z.\n")
    (tmp_path / "books" / "zzz.txt").write_text("The text of book a.\n")
    assert len(grown(tmp_path, monkeypatch)[1]) == 2
    assert query(workspace, states)[1] == [("filtered", "duplicate_text", 4), ("ok", "", 5)]


def test_a_limit_goes_over_all_files_of_a_source(tmp_path, monkeypatch):
    workspace, _ = grown(tmp_path, monkeypatch, "a", "b", "c", "d", "e")
    run(tmp_path / "recipe.yaml", workspace.root, limit=3)
    assert query(workspace, "SELECT count(*) FROM documents")[1] == [(3,)]


def test_a_file_that_is_taken_away_takes_its_documents_with_it(tmp_path, monkeypatch):
    workspace, _ = grown(tmp_path, monkeypatch, "a", "b", "c", "d", "e")
    (tmp_path / "books" / "e.txt").unlink()
    assert grown(tmp_path, monkeypatch)[1] == []
    assert query(workspace, "SELECT count(*) FROM documents")[1] == [(4,)]
    assert len(list((workspace.root / "tables" / "documents").glob("*.parquet"))) == 2


# ---------------------------------------------------------------- costs


def test_costs_count_every_call_once_and_lost_rows_too(built):
    from tests.test_queries import QUERIES

    names, rows = query(built, QUERIES["cost-per-step"])
    steps = {(row[0], row[1]): dict(zip(names, row, strict=True)) for row in rows}
    assert {key: (one["calls"], one["answer_tokens"]) for key, one in steps.items()} == {
        ("agentwrite", "plan"): (3, 135), ("agentwrite", "write"): (9, 135),
        ("long_qa", "answer"): (12, 84), ("long_qa", "questions"): (12, 468),
    }  # fmt: skip
    plan = steps["agentwrite", "plan"]
    assert plan["cost"] == pytest.approx((plan["prompt_tokens"] * 0.1 + 135 * 0.4) / 1e6, abs=1e-4)
    names, rows = query(built, QUERIES["cost-per-sample"])
    each = {row[0]: dict(zip(names, row, strict=True)) for row in rows}
    assert {method: (one["records"], one["calls_each"], one["answer_tokens_each"]) for method, one in each.items()} == {
        "agentwrite": (3, 4, 90), "long_qa": (12, 2, 46),
    }  # fmt: skip
