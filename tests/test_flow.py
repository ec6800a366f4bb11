"""The real Prefect flow: tasks, artifact, retries. Offline, in a PREFECT_HOME of its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from pipelines.catalog import query
from pipelines.workspace import Workspace
from tests.support import recipe

DRIVER = """
import asyncio, json, sys
from flows.build import run_flow
from flows.progress import Lines
from flows.report import Report
from generators.engines.base import EngineDied
from generators.engines.scripted import ScriptedEngine
from pathlib import Path
from pipelines import build
from pipelines.workspace import Workspace
from prefect.client.orchestration import get_client
from tests.support import answer

opened, deaths = build.opened, [3]

def dies_three_times(request):
    deaths[0] -= 1
    return EngineDied("out of memory") if deaths[0] >= 0 else answer(request)

engine = ScriptedEngine(dies_three_times)
build.opened = lambda *given: opened(*given[:4], make_engine=lambda *_: engine)

async def work(recipe, workspace, tasks):
    said, error, table = [], None, None
    try:
        report = Report(Workspace(Path(workspace)))
        table = await run_flow(Lines(said.append), report, recipe=recipe, workspace=workspace)
    except Exception as raised:
        error = [type(raised).__name__, str(raised)]
    async with get_client() as client:
        flow = max(await client.read_flow_runs(), key=lambda run: run.created)
        # A task run is stored from its events, which arrive a little later.
        for _ in range(600):
            runs = [run for run in await client.read_task_runs() if run.flow_run_id == flow.id]
            if len(runs) >= tasks and all(run.state and run.state.is_final() for run in runs):
                break
            await asyncio.sleep(0.1)
        artifacts = [one for one in await client.read_artifacts() if one.flow_run_id == flow.id and one.key]
    tasks = sorted([run.name, run.state.name, run.run_count, sorted(run.tags)] for run in runs)
    return {
        "table": table, "error": error, "said": said, "flow": [flow.name, flow.state.name], "tasks": tasks,
        "artifacts": [[one.key, one.type, one.description, one.data] for one in artifacts],
    }

async def main():
    return [await work(*run) for run in json.loads(sys.argv[1])]

print(json.dumps(asyncio.run(main())))
"""
STAGES = [
    {"stage": "ingest", "units": 1, "rows": 1, "ok": 1},
    {"stage": "generate.long_qa", "units": 1, "rows": 1, "ok": 1},
    {"stage": "export.out", "units": 1, "rows": 2, "ok": 2},
]
GENERATE = [{"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10}}]


def small(folder, **changes):
    """One document, one row, one export."""
    documents = [{"name": "texts", "type": "inline", "items": ["A text says a thing or two. " * 10]}]
    return recipe(folder, **{"documents": documents, "instructions": [], "generate": GENERATE, **changes})


def environment(home, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "CRITICAL", **more}


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """What three runs of the flow in one process left in Prefect: an engine that dies, a wrong input, a missing one."""
    folder = tmp_path_factory.mktemp("flow")
    recipes = {
        small(folder / "good"): 3,  # tasks
        small(folder / "tokenizer", tokenizer="./nowhere"): 1,
        small(folder / "missing", documents=[{"name": "books", "type": "text", "path": "boooks"}]): 0,
    }
    runs = json.dumps([[str(path), str(path.parent / "workspace"), tasks] for path, tasks in recipes.items()])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, runs], env=environment(folder / "prefect"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_units_are_tasks_and_what_came_out_stands_in_artifacts(flows):
    folder, (good, _, _) = flows
    assert (good["error"], good["table"]) == (None, STAGES)
    assert good["flow"] == [str(folder / "good" / "recipe.yaml"), "Completed"]
    assert [task[:2] for task in good["tasks"]] == [
        ["export.out/all", "Completed"],
        ["generate.long_qa/00000", "Completed"],
        ["ingest/ingest.documents.texts", "Completed"],
    ]
    assert [task[3] for task in good["tasks"]] == [
        ["longloom", "longloom:export.out"], ["longloom", "longloom:generate.long_qa"], ["longloom", "longloom:ingest"],
    ]  # fmt: skip
    description = f"Stages of {folder / 'good' / 'recipe.yaml'}"
    artifacts = {key: rest for key, *rest in good["artifacts"]}
    assert artifacts["longloom-progress"] == ["progress", "Progress of small", 100.0]
    assert artifacts["longloom-stages"][:2] == ["table", description]
    assert json.loads(artifacts["longloom-stages"][2]) == STAGES
    kind, _, text = artifacts["longloom-report"]
    workspace = folder / "good" / "workspace"
    assert (kind, len(artifacts)) == ("markdown", 3)
    report = workspace / "report.html"
    assert text == f"Workspace: `{workspace}`\n\nReport: [{report}]({report.as_uri()})\n" and report.exists()


def test_a_unit_whose_engine_died_is_tried_again(flows):
    folder, (good, _, _) = flows
    assert [task[2] for task in good["tasks"]] == [1, 2, 1]
    workspace = Workspace(folder / "good" / "workspace")
    assert query(workspace, "SELECT stage, state, count(*) FROM row_states GROUP BY ALL ORDER BY ALL")[1] == [
        ("export.out", "ok", 2), ("generate.long_qa", "ok", 1), ("ingest", "ok", 1),
    ]  # fmt: skip


def test_progress_names_the_unit_and_why_it_is_tried_again(flows):
    said = flows[1][0]["said"]
    assert [line for line in said if "rows" not in line] == [
        "ingest: started",
        "generate.long_qa: started",
        "generate.long_qa/00000: the engine died 3 times without one answer in between: out of memory; trying again",
        "export.out: started",
    ]


def test_wrong_input_in_a_unit_comes_out_as_it_is_and_is_not_tried_again(flows):
    _, (_, wrong, _) = flows
    assert wrong["error"][0] == "UserError" and "nowhere" in wrong["error"][1]
    assert [task[:3] for task in wrong["tasks"]] == [["ingest/ingest.documents.texts", "Failed", 1]]
    assert wrong["flow"][1] == "Failed"
    assert {key: rest for key, *rest in wrong["artifacts"]}["longloom-progress"][-1] == 0.0


def test_a_failed_run_leaves_a_report_that_says_why(flows):
    folder, (_, wrong, _) = flows
    assert sorted(key for key, *_ in wrong["artifacts"]) == ["longloom-progress", "longloom-report"]
    page = (folder / "tokenizer" / "workspace" / "report.html").read_text("utf-8")
    assert "The last run is not done: failed at ingest: " in page and "nowhere" in page


def test_wrong_input_before_the_units_comes_out_as_it_is(flows):
    folder, (_, _, missing) = flows
    looked = folder / "missing" / "boooks"
    sentence = f"source 'books': there is no file or folder 'boooks' (looked for '{looked}')"
    assert missing["error"] == ["UserError", sentence]
    assert (missing["tasks"], missing["flow"][1]) == ([], "Failed")


# ---------------------------------------------------------------- a server of one's own


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def server(home):
    """`prefect server start`; yields the URL of its API."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    off = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (home.parent / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment(home, **off), stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(1800):
            assert process.poll() is None, (home.parent / "server.log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(url, body=b"{}"):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def longloom(path, environment):
    command = [sys.executable, "-m", "flows", "run", str(path), "--workspace", str(path.parent / "w")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_longloom_run_speaks_to_the_server_that_is_configured(tmp_path):
    path = small(tmp_path, engines={}, generate=[])
    missing = small(tmp_path / "missing", documents=[{"name": "books", "type": "text", "path": "boooks"}])
    with server(tmp_path / "server") as url:
        client = environment(tmp_path / "client", PREFECT_API_URL=url)
        del client["PREFECT_LOGGING_LEVEL"]
        done = longloom(path, client)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(
            "ingest: started\ningest: 1 rows\nexport.out: started\nexport.out: 1 rows\nstage "
        )
        (run,) = ask(f"{url}/flow_runs/filter")
        assert (run["name"], run["state_type"]) == (str(path), "COMPLETED")
        (artifact,) = [one for one in ask(f"{url}/artifacts/filter") if one["key"] == "longloom-stages"]
        assert [row["stage"] for row in json.loads(artifact["data"])] == ["ingest", "export.out"]
        # One sentence, although Prefect has a log with a traceback.
        done = longloom(missing, client)
        looked = tmp_path / "missing" / "boooks"
        sentence = f"longloom: source 'books': there is no file or folder 'boooks' (looked for '{looked}')\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)
    assert not (tmp_path / "client" / "prefect.db").exists()  # no server of Prefect's own beside it


@pytest.mark.slow
def test_a_database_of_another_version_of_prefect_ends_the_run(tmp_path):
    """Prefect itself would start its server for ever."""
    home = tmp_path / "prefect"
    home.mkdir()
    with sqlite3.connect(home / "prefect.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    database.close()
    client = environment(home)
    del client["PREFECT_LOGGING_LEVEL"]
    done = longloom(small(tmp_path, engines={}, generate=[]), client)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"longloom: Prefect's own server does not start; its database in {home} may be that of another version: set "
        "PREFECT_HOME to another folder or PREFECT_API_URL to a server, or use --no-prefect\n"
    )
