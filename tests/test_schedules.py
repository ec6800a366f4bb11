"""Schedules, cancelled and killed runs: a real Prefect server, a real process worker, real engine processes.

Every test asks the server only what an operator sees in its pages. A run's model is random and tiny, in the engine
process that any local model has, or a server that answers at once and counts.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from pipelines.catalog import query
from pipelines.workspace import Workspace
from tests.engines.openai_server import Server, answer, chat
from tests.scorers.models import write
from tests.support import answer as says
from tests.support import recipe, texts
from tests.test_flow import ask, environment, free_port, server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    """The API's URL, and the environment of those who use it."""
    folder = tmp_path_factory.mktemp("prefect")
    with server(folder / "server") as url:
        yield url, environment(folder / "client", PREFECT_API_URL=url, PREFECT_LOGGING_LEVEL="INFO")


def wait(what, seconds=240.0):
    """What `what()` gives, once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError("waited in vain")


def runs(url, workspace):
    """Flow runs of a workspace that are more than planned, earliest first."""
    every = ask(f"{url}/flow_runs/filter", json.dumps({"sort": "EXPECTED_START_TIME_ASC"}).encode())
    return [
        run
        for run in every
        if run["parameters"].get("workspace") == str(workspace) and run["state_type"] != "SCHEDULED"
    ]


def journal(workspace):
    """The journals of a workspace's runs, earliest first."""
    return [
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted((workspace / "logs").glob("run-*.jsonl"))
    ]


def engines(workspace):
    """The engine processes that have their log in a workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(part == "generators.engines.worker" for part in process.cmdline()):
                found += [process for file in process.open_files() if Path(file.path).is_relative_to(workspace)]
        except psutil.Error:
            continue
    return found


# ---------------------------------------------------------------- a schedule


@contextmanager
def model():
    """A server with the stand-in for a model; yields what was asked of it."""
    served, loop = Server(window=32768, models=("scripted",)), asyncio.new_event_loop()

    async def reply(request):
        body = await request.json()
        turns = [(message["role"], message["content"]) for message in body["messages"]]
        return web.json_response(answer(says(chat(*turns, seed=body.get("seed")))))

    served.reply = reply
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(served.up(), loop).result(30)
    try:
        yield served
    finally:
        asyncio.run_coroutine_threadsafe(served.down(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def serve(command, env, log):
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *command], env=env, stdout=output, stderr=output, cwd=ROOT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def test_a_schedule_fires_by_itself_and_the_next_run_takes_only_what_is_new(prefect, tmp_path):
    url, env = prefect
    workspace = tmp_path / "w"
    (tmp_path / "books").mkdir()
    for name, text in zip("ab", texts(2), strict=True):
        (tmp_path / "books" / f"{name}.txt").write_text(text)
    with model() as served:
        engine = {"type": "openai", "model": "scripted", "base_urls": [served.url], "tokenizer": "./scripted"}
        path = recipe(
            tmp_path,
            documents=[{"name": "books", "type": "text", "path": "books"}],
            instructions=[],
            engines={"writer": engine},
            generate=[{"method": "long_qa", "engine": "writer", "per_document": 2, "shard_rows": 2,
                       "document_tokens": {"min": 10}}],
        )  # fmt: skip
        command = ["serve", str(path), "--workspace", str(workspace), "--cron", "* * * * * */15", "--name", "books"]
        process = serve(command, env, tmp_path / "serve.log")
        try:
            done = lambda: [run for run in runs(url, workspace) if run["state_type"] == "COMPLETED"]  # noqa: E731
            wait(lambda: len(done()) >= 1)
            first = len(served.generated())
            (tmp_path / "books" / "c.txt").write_text(texts(3)[2])
            wait(lambda: len(served.generated()) > first)
            before = len(done())
            wait(lambda: len(done()) > before)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)
        assert (first, len(served.generated())) == (8, 12)  # 2 documents x 2 rows x 2 steps, then one document more
    assert process.returncode == 0
    assert (tmp_path / "serve.log").read_text().startswith(f"longloom/books: * * * * * */15 (UTC), on {url}; ")
    lines = [line for lines in journal(workspace) for line in lines]
    todo = [one["rows"] for one in lines if one["event"] == "stage_begin" and one["stage"] == "generate.long_qa"]
    assert todo[0] == 4 and sum(todo[1:]) == 2
    assert [one["status"] for one in lines if one["event"] == "run_end"][:2] == ["done", "done"]
    assert (workspace / "report.html").is_file()
    # What was due while a run was at work was not started, and nothing is planned any more.
    assert {run["state_name"] for run in runs(url, workspace)} <= {"Completed", "Cancelled", "Submitting", "Pending"}
    (deployment,) = [one for one in ask(f"{url}/deployments/filter") if one["name"] == "books"]
    assert deployment["paused"]


def test_after_a_power_cut_the_schedule_goes_on(tmp_path, long_run):
    """`serve` with a server of its own, all killed amid a run, whose place in the deployment's limit stays taken."""
    workspace, port = tmp_path / "w", free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = environment(tmp_path / "prefect", PREFECT_SERVER_API_PORT=str(port))
    command = ["serve", str(long_run), "--workspace", str(workspace), "--cron", "* * * * * */15"]
    process = serve(command, env, tmp_path / "serve-1.log")
    try:
        some_calls(workspace)
    finally:
        process.kill()
        process.wait()
    os.kill(int((workspace / ".lock").read_text()), signal.SIGKILL)
    wait(lambda: not engines(workspace) and can_bind(port))
    process = serve([*command, "--limit", "1"], env, tmp_path / "serve-2.log")
    try:
        wait(lambda: can_bind(port) is False and (tmp_path / "serve-2.log").read_text())
        done = wait(lambda: [run for run in runs(url, workspace) if run["state_type"] == "COMPLETED"])
        killed = next(run for run in runs(url, workspace) if run["state_type"] == "CRASHED")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    message = "The process is gone; `longloom serve` has found the workspace unlocked."
    assert killed["state"]["message"] == message and killed["expected_start_time"] < done[0]["expected_start_time"]
    wait(lambda: can_bind(port))  # the server has ended with it


def can_bind(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# ---------------------------------------------------------------- a worker


@pytest.fixture(scope="module")
def worker(prefect, tmp_path_factory):
    """The deployment of prefect.yaml, and how to start a worker for it."""
    env = prefect[1]
    folder = tmp_path_factory.mktemp("worker")

    def call(*arguments):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    call("work-pool", "create", "longloom", "--type", "process")
    call("deploy", "--name", "nightly")

    @contextmanager
    def start():
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "longloom"]
        with (folder / "worker.log").open("a") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()

    return start


@pytest.fixture
def long_run(tmp_path):
    """A recipe that a tiny model is at for many minutes."""
    write(tmp_path / "model", max_position_embeddings=4096)
    engine = {"type": "transformers", "model": "./model", "device": "cpu", "batch_size": 1}
    generate = [{"method": "long_qa", "engine": "writer", "per_document": 400, "document_tokens": {"min": 10},
                 "sampling": {"questions": {"max_tokens": 300}, "answer": {"max_tokens": 300}}}]  # fmt: skip
    documents = [{"name": "texts", "type": "inline", "items": texts(20, words=10)}]
    return recipe(tmp_path, documents=documents, instructions=[], engines={"writer": engine}, generate=generate)


def begin(prefect, path, workspace):
    """Start a run of the deployment, as a click on its page does."""
    url, _ = prefect
    (deployment,) = [one for one in ask(f"{url}/deployments/filter") if one["name"] == "nightly"]
    body = {"parameters": {"recipe": str(path), "workspace": str(workspace)}, "state": {"type": "SCHEDULED"}}
    return ask(f"{url}/deployments/{deployment['id']}/create_flow_run", json.dumps(body).encode())["id"]


def state(prefect, run):
    (found,) = ask(f"{prefect[0]}/flow_runs/filter", json.dumps({"flow_runs": {"id": {"any_": [run]}}}).encode())
    return found["state_type"], found["state"]["message"] or ""


def some_calls(workspace):
    """Wait until the engine of a run has answered."""
    ledger = Workspace(workspace).ledger
    wait(lambda: ledger.exists() and engines(workspace) and rows_in(ledger))
    return engines(workspace)


def rows_in(ledger):
    import sqlite3

    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'requests'").fetchone()
            return database.execute("SELECT count(*) FROM requests").fetchone()[0] if tables else 0
    except sqlite3.OperationalError:
        return 0


def status(workspace, env):
    command = [sys.executable, "-m", "flows", "status", "--workspace", str(workspace)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True).stdout


def test_one_of_two_runs_fails_with_one_sentence_and_a_cancelled_one_leaves_nothing_behind(prefect, worker, long_run):
    workspace = long_run.parent / "w"
    with worker():
        run = begin(prefect, long_run, workspace)
        processes = some_calls(workspace)
        owner = (workspace / ".lock").read_text()
        assert "last run running" in status(workspace, prefect[1])
        # Not through the deployment, whose own limit would stop it: a colleague at a terminal.
        command = [sys.executable, "-m", "flows", "run", str(long_run), "--workspace", str(workspace)]
        second = subprocess.run(command, env=prefect[1], cwd=ROOT, capture_output=True, text=True)
        sentence = f"longloom: {workspace}: another run (process {owner}) is using this workspace"
        assert (second.returncode, second.stderr.splitlines()[-1]) == (2, sentence)
        assert state(prefect, run)[0] == "RUNNING"
        assert state(prefect, runs(prefect[0], workspace)[-1]["id"])[0] == "FAILED"

        cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        ask(f"{prefect[0]}/flow_runs/{run}/set_state", json.dumps(cancelling).encode())
        wait(lambda: state(prefect, run)[0] == "CANCELLED")
        wait(lambda: not any(process.is_running() for process in processes), 60)
        assert not Workspace(workspace).busy() and not psutil.pid_exists(int(owner))
    assert "last run interrupted" in status(workspace, prefect[1])
    goes_on(long_run, workspace)


def goes_on(path, workspace):
    """The next run finishes, and no recorded call is lost."""
    known = rows_in(Workspace(workspace).ledger)
    command = [sys.executable, "-m", "flows", "run", str(path), "--no-prefect", "--workspace", str(workspace)]
    done = subprocess.run([*command, "--limit", "3"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows_in(Workspace(workspace).ledger) >= known > 0
    statuses = query(Workspace(workspace), "SELECT status FROM runs ORDER BY started")[1]
    assert statuses == [("interrupted",), ("done",)]


def test_a_run_that_was_killed_with_its_worker_is_told_to_prefect_by_the_next_one(prefect, worker, long_run):
    workspace = long_run.parent / "w"
    with worker():
        run = begin(prefect, long_run, workspace)
        processes = some_calls(workspace)
    wait(lambda: not any(process.is_running() for process in processes), 60)
    assert state(prefect, run)[0] == "RUNNING"  # nobody is left to say otherwise
    assert "last run interrupted" in status(workspace, prefect[1])
    command = [sys.executable, "-m", "flows", "run", str(long_run), "--workspace", str(workspace), "--limit", "3"]
    done = subprocess.run(command, env=prefect[1], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, message = state(prefect, run)
    assert found == "CRASHED" and message.startswith("The process is gone; flow run ")
    body = {"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}, "flow_runs": {"id": {"any_": [run]}}}
    assert ask(f"{prefect[0]}/task_runs/filter", json.dumps(body).encode()) == []
    statuses = query(Workspace(workspace), "SELECT status FROM runs ORDER BY started")[1]
    assert statuses == [("interrupted",), ("done",)]
