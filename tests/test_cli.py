"""The command line: exit codes, one sentence on stderr, and what each command prints."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flows import progress
from flows.cli import main, parser
from generators.engines.base import EngineDied
from generators.engines.scripted import ScriptedEngine
from pipelines import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from tests.support import recipe, scripted

LONGLOOM = [sys.executable, "-m", "flows"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
TABLE = """\
stage       units  rows  ok
----------  -----  ----  --
ingest          1     2   2
export.out      1     2   2
"""


def real(folder, **changes):
    """A recipe that needs no model."""
    sources = [{"name": "texts", "type": "inline", "items": ["one text", "another text"]}]
    value = {"name": "docs", "documents": sources, "export": [{"name": "out", "configs": ["documents"]}], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(value), "utf-8")
    return folder / "recipe.yaml"


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command in this process."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse
        code = end.code
    return code, *capsys.readouterr()


def fault(capsys, *arguments, code=2):
    """The one sentence that a command ends with."""
    found, _, err = call(capsys, *arguments)
    assert found == code and err.endswith("\n") and err.count("\n") == 1, err
    return err.rstrip("\n")


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))} if folder.exists() else None


@pytest.fixture
def engine(monkeypatch):
    """The scripted engine in the place of every engine that a command makes."""
    one = scripted()
    put_in(monkeypatch, one)
    return one


def put_in(monkeypatch, engine):
    opened = build.opened
    monkeypatch.setattr(build, "opened", lambda *given: opened(*given[:4], make_engine=lambda *_: engine))


# ---------------------------------------------------------------- help


HELP = """
import contextlib, io, sys
from flows.cli import main
for arguments in {lines}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(arguments)
    assert "usage: longloom" in out.getvalue(), arguments
heavy = "torch vllm transformers prefect duckdb datasets apache_beam pyarrow pandas numpy pydantic".split()
print([name for name in heavy if name in sys.modules])
"""
COMMANDS = ["run", "plan", "preview", "check", "status", "sql", "report", "recover", "export"]


def test_help_of_every_command_imports_nothing_heavy():
    lines = [["--help"], *([command, "--help"] for command in COMMANDS)]
    done = subprocess.run([sys.executable, "-c", HELP.format(lines=lines)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_every_command_of_the_contract_that_is_built_takes_a_workspace():
    required = {"sql": ["SELECT 1"], "export": ["r/n", "--to", "d"], "status": [], "report": [], "recover": []}
    for command in COMMANDS:
        arguments = parser().parse_args([command, *required.get(command, ["recipe.yaml"]), "--workspace", "w"])
        assert arguments.workspace == Path("w")


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "longloom: the following arguments are required: COMMAND (see longloom --help)"),
        (["run"], "longloom run: the following arguments are required: RECIPE (see longloom run --help)"),
        (
            ["run", "r", "--limit", "0"],
            "longloom run: argument --limit: '0' is not a positive number (see longloom run --help)",
        ),
        (
            ["preview", "r", "-n", "x"],
            "longloom preview: argument -n: 'x' is not a positive number (see longloom preview --help)",
        ),
        (
            ["sql", "q", "--format", "xml"],
            "longloom sql: argument --format: invalid choice: 'xml' (choose from 'table', 'json', 'csv') "
            "(see longloom sql --help)",
        ),
        (["status", "now"], "longloom: unrecognized arguments: now (see longloom --help)"),
    ],
)
def test_wrong_arguments(capsys, arguments, sentence):
    assert fault(capsys, *arguments) == sentence


@pytest.mark.parametrize("command", [["run", "--no-prefect"], ["run"], ["plan"], ["preview"], ["check"]])
def test_a_recipe_that_cannot_be_read(tmp_path, capsys, command):
    """Before Prefect or an engine is started, and without a workspace."""
    workspace = ["--workspace", tmp_path / "w"]
    assert fault(capsys, *command, tmp_path, *workspace) == f"longloom: {tmp_path}: cannot be read: Is a directory"
    path = tmp_path / "no.yaml"
    assert fault(capsys, *command, path, *workspace) == f"longloom: {path}: cannot be read: No such file or directory"
    path.write_text("name: x\nnam: y\n")
    assert fault(capsys, *command, path, *workspace) == (f"longloom: {path}: nam: unknown key, did you mean 'name'?")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", [["run", "--no-prefect"], ["plan"], ["preview"], ["check"]])
def test_a_missing_source_is_told_before_an_engine_is_started(tmp_path, capsys, engine, command):
    path = recipe(tmp_path, documents=[{"name": "books", "type": "text", "path": "boooks"}])
    found = fault(capsys, *command, path, "--workspace", tmp_path / "w")
    assert found == f"longloom: source 'books': there is no file or folder 'boooks' (looked for '{tmp_path}/boooks')"
    assert engine.starts == 0 and engine.calls == []


def test_an_unknown_stage(tmp_path, capsys):
    found = fault(capsys, "run", real(tmp_path), "--no-prefect", "--stage", "curate", "--workspace", tmp_path / "w")
    assert found == "longloom: --stage 'curate': the recipe has the stages ingest, export.out"
    assert not (tmp_path / "w").exists()


def test_a_stage_before_its_time(tmp_path, capsys):
    found = fault(capsys, "run", real(tmp_path), "--no-prefect", "--stage", "export", "--workspace", tmp_path / "w")
    assert found == f"longloom: stage ingest has not finished in {tmp_path}/w: run it first"


@pytest.mark.parametrize("workspace", ["file", "file/below"])
def test_a_workspace_that_cannot_be_made(tmp_path, capsys, workspace):
    path = real(tmp_path)
    (tmp_path / "file").write_text("mine")
    found = fault(capsys, "run", path, "--no-prefect", "--workspace", tmp_path / workspace)
    why = {"file": "File exists", "file/below": "Not a directory"}[workspace]
    assert found == f"longloom: {tmp_path / workspace}: cannot be used as a workspace: {why}"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace(tmp_path, capsys):
    path = real(tmp_path / "recipe")
    tmp_path.chmod(0o555)
    found = fault(capsys, "run", path, "--no-prefect", "--workspace", tmp_path / "w")
    assert found == f"longloom: {tmp_path}/w: cannot be used as a workspace: Permission denied"


@pytest.mark.parametrize("command", [["status"], ["sql", "SELECT 1"]])
@pytest.mark.parametrize("workspace", ["none", "file/below"])
def test_a_workspace_that_is_none(tmp_path, capsys, command, workspace):
    (tmp_path / "file").touch()
    found = fault(capsys, *command, "--workspace", tmp_path / workspace)
    assert found == (f"longloom: {tmp_path / workspace}: holds no manifests; run a recipe with this --workspace first")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_workspace_of_another_recipe(tmp_path, capsys):
    workspace = ["--workspace", tmp_path / "w"]
    assert call(capsys, "run", real(tmp_path), "--no-prefect", *workspace)[0] == 0
    found = fault(capsys, "run", real(tmp_path, name="other"), "--no-prefect", *workspace)
    assert found == f"longloom: {tmp_path}/w: holds recipe 'docs', not 'other'; name another --workspace"


def test_a_workspace_in_use(tmp_path, capsys):
    workspace = Workspace(tmp_path / "w")
    with workspace.lock():
        found = fault(capsys, "run", real(tmp_path), "--no-prefect", "--workspace", workspace.root)
    assert found == f"longloom: {workspace.root}: another run (process {os.getpid()}) is using this workspace"


def test_a_damaged_manifest(tmp_path, capsys):
    path, workspace = real(tmp_path), tmp_path / "w"
    call(capsys, "run", path, "--no-prefect", "--workspace", workspace)
    (workspace / "manifests" / "ingest.json").write_text('{"layout": 1}')
    sentence = (
        f"longloom: {workspace}/manifests/ingest.json: damaged manifest ('units'); delete it and run again, "
        "the ledger keeps all calls"
    )
    for command in (["run", path, "--no-prefect"], ["status"], ["sql", "SELECT 1"], ["plan", path]):
        assert fault(capsys, *command, "--workspace", workspace) == sentence


def test_a_ledger_that_is_none(tmp_path, capsys, engine):
    path = recipe(tmp_path)
    arguments = ["run", path, "--no-prefect", "--workspace", tmp_path / "w", "--ledger", path]
    advice = "move it away or name another with --ledger"
    said = f"longloom: {path}: cannot be used as a ledger: file is not a database; {advice}; if it was a ledger, "
    assert fault(capsys, *arguments).startswith(said)
    assert path.read_text().startswith("name: small")


# ---------------------------------------------------------------- the run fails


def test_an_engine_that_stays_dead(tmp_path, capsys, monkeypatch):
    put_in(monkeypatch, ScriptedEngine(lambda _: EngineDied("out of memory")))
    path, workspace = recipe(tmp_path), ["--workspace", tmp_path / "w"]
    found = fault(capsys, "run", path, "--no-prefect", *workspace, code=1)
    assert found == "longloom: the engine died 3 times without one answer in between: out of memory"
    _, out, _ = call(capsys, "status", *workspace)
    assert out.startswith("recipe small: last run failed, started ")
    assert re.search(r"^generate.long_qa \(unfinished\) +0 +0 +0$", out, re.M)


def test_a_full_disk(built):
    with Path("/dev/full").open("w") as full:
        command = [*LONGLOOM, "sql", "SELECT 1", "--workspace", str(built.root)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    told = "standard output: No space left on device; make room and run the same command again, which continues"
    assert (done.returncode, done.stderr) == (1, f"longloom: {told}\n")


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_reader_that_goes_away_is_no_fault(built, rows):
    """`longloom sql ... | head`, with answers that fit the pipe and that do not."""
    command = [*LONGLOOM, "sql", f"FROM range({rows})", "--workspace", str(built.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, "")


# ---------------------------------------------------------------- run


def test_run_from_end_to_end_and_again(tmp_path, capsys):
    path, workspace = real(tmp_path), tmp_path / "w"
    next_steps = (
        f"\nreport: {workspace}/report.html\n"
        "\nTry next:\n"
        f"  longloom status --workspace {workspace}\n"
        f'  longloom sql --workspace {workspace} "SELECT method, count(*), avg(response_tokens) FROM samples '
        'GROUP BY method"\n'
        f"  python -c \"import datasets; print(datasets.load_dataset('{workspace}/exports/out', "
        "'documents')['train'][0])\"\n"
    )
    code, out, err = call(capsys, "run", path, "--no-prefect", "--workspace", workspace)
    lines = "ingest: started\ningest: 2 rows\nexport.out: started\nexport.out: 2 rows\n"
    assert (code, out, err) == (0, lines + TABLE + next_steps, "")
    before = listing(workspace / "tables" / "documents")
    code, out, err = call(capsys, "run", path, "--no-prefect", "--workspace", workspace)
    lines = "ingest: up to date (2 rows)\nexport.out: up to date (2 rows)\n"
    assert (code, out, err) == (0, lines + TABLE + next_steps, "")
    assert listing(workspace / "tables" / "documents") == before


def test_what_has_changed_is_named(tmp_path, capsys):
    workspace = ["--workspace", tmp_path / "w"]
    call(capsys, "run", real(tmp_path), "--no-prefect", *workspace)
    changed = [{"name": "texts", "type": "inline", "items": ["one text"], "licence": "CC0-1.0"}]
    _, out, _ = call(capsys, "run", real(tmp_path, documents=changed), "--no-prefect", *workspace)
    assert out.splitlines()[:4] == [
        "ingest: started",
        'ingest: documents.texts.items: ["one text", "another text"] -> ["one text"]',
        'ingest: documents.texts.licence: null -> "CC0-1.0"',
        "ingest: 1 rows",
    ]


def test_one_stage_and_a_limit(tmp_path, capsys):
    path, workspace = real(tmp_path), Workspace(tmp_path / "w")
    arguments = ["run", path, "--no-prefect", "--stage", "ingest", "--limit", "1", "--workspace", workspace.root]
    code, out, err = call(capsys, *arguments)
    table = "stage   units  rows  ok\n------  -----  ----  --\ningest      1     1   1\n"
    assert (code, out, err) == (
        0,
        f"ingest: started\ningest: 1 rows\n{table}\nreport: {workspace.root}/report.html\n",
        "",
    )
    assert not workspace.exports.exists()
    assert query(workspace, "SELECT text FROM documents")[1] == [("one text",)]


def test_the_installed_command_and_the_module_are_one(tmp_path):
    path = real(tmp_path)
    for number, command in enumerate(([str(Path(sys.executable).with_name("longloom"))], LONGLOOM)):
        arguments = ["run", str(path), "--no-prefect", "--workspace", f"w{number}"]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and TABLE in done.stdout
        assert sorted(path.name for path in (tmp_path / f"w{number}").iterdir()) == [
            ".lock", "catalog.duckdb", "exports", "logs", "manifests", "report.html", "tables",
        ]  # fmt: skip


def test_ctrl_c_ends_with_130_and_the_same_command_continues(tmp_path):
    rows = "".join(
        json.dumps({"text": f"Text number {n} of a source that takes a while."}) + "\n" for n in range(40_000)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    path = real(tmp_path, documents=[{"name": "rows", "type": "jsonl", "path": "rows.jsonl"}])
    command = [*LONGLOOM, "run", str(path), "--no-prefect", "--workspace", str(tmp_path / "w")]
    # Where the tests run in the background, SIGINT is ignored, and children inherit that.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline() == "ingest: started\n"
    time.sleep(0.5)  # until it is at the rows: they take some seconds
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "longloom: stopped; the same command continues where it was\n")
    assert "export.out" not in out
    workspace = Workspace(tmp_path / "w")
    assert query(workspace, "SELECT status FROM runs")[1] == [("interrupted",)]
    # It did not go on to the end of the source, and left nothing half-made.
    assert [
        path
        for path in workspace.root.rglob("*")
        if (path.suffix == ".parquet" and "rows" in path.name) or path.suffix == ".tmp"
    ] == []

    (tmp_path / "rows.jsonl").write_text('{"text": "now it is short"}\n')
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert query(workspace, "SELECT count(*) FROM documents")[1] == [(1,)]


# ---------------------------------------------------------------- progress


class Stats:
    calls, ledger_hits, prompt_tokens, cached_tokens, completion_tokens, engine_started = 0, 0, 0, 0, 0, None


class Watched:
    stats = Stats()


def test_plain_lines(monkeypatch):
    said = []
    lines = progress.Lines(said.append)
    lines.stage("ingest", None, 0)
    lines.advance(2)
    lines.stage("generate.qa", 10, 4)
    lines.watch(Watched())
    lines.note("temperature: 0.0 -> 1.0")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines.advance(10)
    lines.stage("export.out", 0, 14)
    lines.close()
    assert said == [
        "ingest: started",
        "ingest: 2 rows",
        "generate.qa: started, 4 rows are done already",
        "temperature: 0.0 -> 1.0",
        "generate.qa: 10/10 rows",
        "generate.qa: 10/10 rows",
        "export.out: up to date (14 rows)",
    ]


def test_a_stage_that_the_ledger_answers_says_so():
    watched = Watched()
    lines = progress.Lines(lambda _: None)
    lines.stage("generate.qa", 3, 0)
    lines.watch(watched)
    watched.stats.calls = watched.stats.ledger_hits = 6
    lines.advance(3)
    assert lines._counts.line() == "generate.qa: 3/3 rows, 6 calls from the ledger"


def test_a_terminal_sees_a_bar(tmp_path):
    master, slave = pty.openpty()
    command = [*LONGLOOM, "run", str(real(tmp_path)), "--no-prefect", "--workspace", str(tmp_path / "w")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait() == 0
    text = seen.decode()
    assert "━━━" in text and "\x1b[" in text and "2/2" in text and "ingest: started" not in text
    assert TABLE in text.replace("\r\n", "\n")


# ---------------------------------------------------------------- sql, status


def test_sql_formats(built, capsys):
    question = (
        "SELECT 1 AS a, 'x,\"y\"\n<ü>' AS b, NULL AS c, 'NaN'::DOUBLE AS d, [1, 2] AS e, DATE '2026-01-02' AS f, "
        "{'k': 'v'} AS g"
    )
    found = {
        form: call(capsys, "sql", question, "--format", form, "--workspace", built.root)[1]
        for form in ("json", "csv", "table")
    }
    row = {"a": 1, "b": 'x,"y"\n<ü>', "c": None, "d": None, "e": [1, 2], "f": "2026-01-02", "g": {"k": "v"}}
    assert json.loads(found["json"], parse_constant=pytest.fail) == [row]
    assert found["csv"] == 'a,b,c,d,e,f,g\r\n1,"x,""y""\n<ü>",,nan,"[1, 2]",2026-01-02,{\'k\': \'v\'}\r\n'
    assert found["table"] == (
        "a  b          c    d  e       f           g\n"
        "-  ---------  -  ---  ------  ----------  ----------\n"
        "1  x,\"y\" <ü>     nan  [1, 2]  2026-01-02  {'k': 'v'}\n"
    )


def test_sql_without_rows(built, capsys):
    found = [
        call(capsys, "sql", "SELECT row_id, rank FROM selected", "--format", form, "--workspace", built.root)
        for form in ("json", "csv", "table")
    ]
    assert found == [(0, "[]\n", ""), (0, "row_id,rank\r\n", ""), (0, "row_id  rank\n------  ----\n", "")]


def test_a_wrong_query(built, capsys):
    assert fault(capsys, "sql", "SELECT * FROM sampels", "--workspace", built.root) == (
        'longloom: the query failed: Catalog Error: Table with name sampels does not exist! Did you mean "samples"?'
    )


def test_status(built, capsys):
    code, out, err = call(capsys, "status", "--workspace", built.root)
    first, rest = out.split("\n", 1)
    assert re.fullmatch(r"recipe small: last run done, started [-\d]{10} [:\d]{8}, ended [-\d]{10} [:\d]{8}", first)
    stages, calls = rest.strip().split("\n\n")
    assert (code, err) == (0, "")
    assert (
        stages
        == """\
stage                units  rows  ok
-------------------  -----  ----  --
ingest                   2     7   7
generate.agentwrite      2     3   3
generate.long_qa         2    12  12
export.out               1    19  19"""
    )
    # All columns but prompt_tokens, which depend on the wording of the prompts; cached_tokens are not known here.
    assert [[*line.split()[:3], *line.split()[4:]] for line in calls.splitlines()] == [
        ["method", "step", "calls", "cached_tokens", "answer_tokens", "seconds"],
        ["----------", "---------", "-----", "-------------", "-------------", "-------"],
        ["agentwrite", "plan", "3", "135", "0.0"],
        ["agentwrite", "write", "9", "135", "0.0"],
        ["long_qa", "answer", "12", "84", "0.0"],
        ["long_qa", "questions", "12", "468", "0.0"],
    ]


# ---------------------------------------------------------------- plan, preview, check


@pytest.mark.parametrize("finished", [False, True])
def test_plan_shows_every_default_and_touches_nothing(built, tmp_path, capsys, engine, finished):
    workspace = tmp_path / "w"
    if finished:
        shutil.copytree(built.root, workspace)
    before = listing(workspace)
    path = recipe(tmp_path)
    files = listing(tmp_path)
    code, out, err = call(capsys, "plan", path, "--workspace", workspace)
    assert (code, err) == (0, "") and engine.starts == 0 and engine.calls == []
    assert (listing(workspace), listing(tmp_path)) == (before, files)
    shown, _, table = out.partition("\nstage  ")
    assert yaml.safe_load(shown)["generate"][0]["sampling"]["critique"] == {
        "max_tokens": 512, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "stop": [],
    }  # fmt: skip
    assert yaml.safe_load(shown)["export"][0]["shard_size"] == 500_000_000
    todo = {line.split()[0]: re.split(r"  +", line)[1:4] for line in table.partition("\n\n")[0].splitlines()[2:]}
    assert todo == {
        "ingest": ["0 of 2"] if finished else ["2 of 2"],
        "generate.long_qa": ["0 of 2", "0 of 12", "~0"] if finished else ["2 of 2", "12 of 12", "~24"],
        "generate.agentwrite": ["0 of 2", "0 of 3", "~0"] if finished else ["2 of 2", "3 of 3", "~21"],
        "export.out": ["0 of 1"] if finished else ["1 of 1"],
    }


def test_preview_shows_rows_and_a_run_does_not_pay_for_them_again(tmp_path, capsys, engine):
    path, workspace = recipe(tmp_path), tmp_path / "w"
    code, out, err = call(capsys, "preview", path, "-n", "1", "--workspace", workspace)
    assert (code, err) == (0, "")
    titles = [line.split()[1] for line in out.splitlines() if line.startswith("=== ")]
    assert titles == ["generate.agentwrite", "generate.long_qa"]
    assert out.count("--- user\n") == out.count("--- assistant\n") == out.count("--- details\n") == 2
    assert "rows without a record" not in out
    assert [path.name for path in workspace.iterdir()] == ["ledger.sqlite"]
    paid = len(engine.calls)
    assert paid == 6  # a question and its answer; a plan and its three paragraphs
    assert call(capsys, "run", path, "--no-prefect", "--workspace", workspace)[0] == 0
    assert len(engine.calls) == 36


def test_preview_needs_something_to_make(tmp_path, capsys):
    path = real(tmp_path)
    found = fault(capsys, "preview", path, "--workspace", tmp_path / "w")
    assert found == f"longloom: {path}: has nothing under 'generate' to preview"


def test_check_of_the_machine_alone(tmp_path, capsys):
    code, out, err = call(capsys, "check", "--workspace", tmp_path / "w")
    assert (code, err) == (0, "") and all(line.startswith("ok  ") for line in out.splitlines())
    assert re.search(rf"^ok  [\d.]+ GB of disk free for {tmp_path}/w$", out, re.M)
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_recipe(tmp_path, capsys, engine):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("x" * 200_000)
    documents = [{"name": "books", "type": "text", "path": "books"}]
    code, out, err = call(capsys, "check", recipe(tmp_path, documents=documents), "--workspace", tmp_path / "w")
    assert (code, err) == (0, "")
    assert out.splitlines()[-5:] == [
        "ok  documents 'books': 1 inputs, 0.2 MB",
        "ok  instructions 'tasks': 0 inputs, 0.0 MB",
        "ok  engine 'writer': model scripted, window 32768 tokens",
        "ok  generate 'long_qa': answers of up to 2048 tokens fit the window",
        "ok  generate 'agentwrite': answers of up to 4096 tokens fit the window",
    ]
    assert not (tmp_path / "w").exists() and engine.calls == []


def test_check_finds_answers_that_do_not_fit(tmp_path, capsys, engine):
    engines = {"writer": {"type": "auto", "model": "scripted", "max_model_len": 4096}}
    found = fault(capsys, "check", recipe(tmp_path, engines=engines), "--workspace", tmp_path / "w")
    assert re.fullmatch(
        r"longloom: generate 'agentwrite': answers of up to 4096 tokens and \d+ tokens of prompt do not fit the window "
        r"of 4096 tokens of engine 'writer'; lower sampling\.\*\.max_tokens",
        found,
    )
