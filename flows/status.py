"""`longloom status`: the last run, stages and states, tokens; `--watch` shows where a run is until it ends."""

import sys
import time
from argparse import Namespace
from typing import Any

from flows.tables import print_table, stage_table
from pipelines.catalog import query
from pipelines.damage import verify
from pipelines.journal import last_lines
from pipelines.manifest import load_manifest
from pipelines.workspace import Workspace

WATCH_SECONDS = 2.0
_ORDER = {"ingest": 0, "curate": 1, "generate": 2, "export": 9}
_CALLS = """
SELECT method, step, count(*) AS calls, sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(cached_tokens)::BIGINT AS cached_tokens, sum(completion_tokens)::BIGINT AS answer_tokens,
       round(sum(seconds), 1) AS seconds
FROM (SELECT DISTINCT ON (request_id) * FROM requests) GROUP BY ALL ORDER BY ALL"""
_LOSSES = """
SELECT stage, state, reason, count(*) AS rows FROM row_states WHERE state <> 'ok' GROUP BY ALL ORDER BY ALL"""


def status(arguments: Namespace) -> None:
    workspace = Workspace(arguments.workspace)
    if arguments.verify:
        with workspace.lock():
            print(f"{verify(workspace)} Parquet files of tables and exports read, none damaged\n")
    if arguments.watch:
        _watch(workspace)
    _last_run(workspace)
    _stages(workspace)
    for question in (_CALLS, _LOSSES):
        names, rows = query(workspace, question)
        if rows:
            print()
            print_table(names, rows)


def _last_run(workspace: Workspace) -> None:
    _, runs = query(workspace, "SELECT recipe, status, started, finished FROM runs ORDER BY started DESC LIMIT 1")
    for name, state, started, finished in runs:
        if state == "running" and not workspace.busy():
            state = "interrupted"  # its process is gone: nobody has written how it ended
        ended = f", ended {finished:%Y-%m-%d %H:%M:%S}" if finished else ""
        print(f"recipe {name}: last run {state}, started {started:%Y-%m-%d %H:%M:%S}{ended}\n")


def _stages(workspace: Workspace) -> None:
    paths = sorted(workspace.manifests.glob("*.json"), key=lambda path: (_ORDER.get(path.stem.split(".")[0], 5), path))
    manifests = [manifest for path in paths if (manifest := load_manifest(path)) is not None]
    table = stage_table(manifests)
    for row, manifest in zip(table, manifests, strict=True):
        row["stage"] += "" if manifest.done else " (unfinished)"
    if table:
        print_table(list(table[0]), [list(row.values()) for row in table])


def _watch(workspace: Workspace) -> None:
    """Lines of where the run is, until it ends: on a terminal one line that is drawn anew."""
    live, shown = sys.stdout.isatty(), ""
    while workspace.busy():
        text = _now(workspace)
        if text != shown:
            print(f"\r\033[K{text}" if live else text, end="" if live else "\n", flush=True)
            shown = text
        time.sleep(WATCH_SECONDS)
    if live and shown:
        print()


def _now(workspace: Workspace) -> str:
    """From the journal alone: a big catalog is not asked every two seconds."""
    newest = max(workspace.logs.glob("run-*.jsonl"), default=None)
    lines: dict[str, Any] = {} if newest is None else last_lines(newest)
    if "stage_begin" not in lines:
        return "starting"
    stages, begin = lines["run_begin"]["stages"], lines["stage_begin"]
    name, rows = begin["stage"], begin["rows"]
    place = f"{stages.index(name) + 1}/{len(stages)} {name}" if name in stages else name
    told = lines.get("progress")
    done = told["rows_done"] if told is not None and told["stage"] == name else 0
    text = f"{place}: {done} of {'?' if rows is None else rows} rows"
    return f"{text}, {begin['rows_done_before']} done before" if begin["rows_done_before"] else text
