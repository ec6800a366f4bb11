"""How fast tasks with verifiable answers are made, and whether their verifiers tell right from wrong.

python -m benchmarks.verifiable [--samples 1000] [--tokens 32768] [--tokenizer tiktoken:cl100k_base]

The first table: the stage `generate` of a recipe with all tasks in equal parts, on one core, in a fresh process:
haystacks from 40 MB of documents, verified, written as Parquet. Beside it the tokenizer alone, counting the same
prompts once. The second: for every task 1,000 seeds of 600 words
(1,000 or 3,000 where a task cannot be so short).
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import yaml

from benchmarks.ingest import generate
from generators.models import load_tokenizer
from generators.tasks.base import Room
from generators.tasks.registry import TASKS, create_task
from generators.verifiable import Remembering

CORPUS = 0.04  # 10**9 bytes
SEEDS = 1000
WORDS = {"golden_thread": 3000, "tom_tracking": 1000}  # of a task in the second table, where 600 are too few
HERE = Path(__file__).parent


class Words:
    """Words as tokens, for the second table: what is measured there is no tokenizer."""

    def count(self, text: str) -> int:
        return len(text.split())

    def count_many(self, texts: list[str]) -> list[int]:
        return [self.count(text) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


class Lines:
    """A haystack of numbered sentences without end."""

    def text(self, rng: Random, tokens: int) -> str:
        return "\n".join(f"Sentence {rng.randrange(10**6)} of this says one thing." for _ in range(tokens // 7 + 2))

    def passage(self, rng: Random, tokens: int) -> str:
        return self.text(rng, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--tokenizer", default="tiktoken:cl100k_base")
    parser.add_argument("--tasks", nargs="*", default=sorted(TASKS), choices=sorted(TASKS), metavar="TASK")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.worker)))
        return
    rates = "samples/s | samples per CPU s | Mtokens per CPU s | MB per CPU s"
    print(f"| tasks | samples | {rates} | CPU ms a sample: counting once, of all | peak MB | states |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="longloom-verifiable-") as name:
        folder = Path(name)
        generate(folder / "documents.jsonl", int(CORPUS * 1e9))
        for tasks in [arguments.tasks, *([task] for task in arguments.tasks if len(arguments.tasks) > 1)]:
            each = max(1, arguments.samples // len(arguments.tasks))
            print(row(measure(folder, tasks, each, arguments.tokens, arguments.tokenizer), tasks), flush=True)
    print("\n| task | own answers accepted | corrupted ones refused | solved from the prompt alone | ms a task |")
    print("|---|---|---|---|---|")
    for task in arguments.tasks:
        print(judge(task), flush=True)


def measure(folder: Path, tasks: list[str], each: int, tokens: int, tokenizer: str) -> dict[str, object]:
    recipe = {
        "name": "bench",
        "tokenizer": tokenizer,
        "documents": [{"name": "made", "type": "jsonl", "path": "documents.jsonl", "language": "en"}],
        "generate": [{"method": "verifiable", "tasks": {task: {"count": each, "tokens": [tokens]} for task in tasks}}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = [sys.executable, "-m", "benchmarks.verifiable", "--worker", str(folder)]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(folder: Path) -> dict[str, object]:
    """Ingest once, then the stage on one core."""
    import duckdb

    from pipelines.build import build
    from pipelines.workspace import Workspace

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    path, workspace = folder / "recipe.yaml", Workspace(folder / "ws")
    asyncio.run(build(path, workspace, stage="ingest"))
    workspace.manifest("generate.verifiable").unlink(missing_ok=True)  # nothing stands from the last measurement
    tokenizer = load_tokenizer(yaml.safe_load(path.read_text())["tokenizer"], HERE)
    started, cpu = time.perf_counter(), time.process_time()
    asyncio.run(build(path, workspace, stage="generate"))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    parts = str(workspace.root / "tables" / "{}" / "part-generate.*.parquet")
    states = duckdb.sql(f"SELECT state, count(*) FROM '{parts.format('row_states')}' GROUP BY ALL").fetchall()
    query = f"SELECT messages[1].content, prompt_tokens FROM '{parts.format('samples')}'"
    counting = tokens = size = samples = 0.0
    rows = duckdb.connect().execute(query)
    while (row := rows.fetchone()) is not None:
        begun = time.process_time()
        tokenizer.count(row[0])
        counting += time.process_time() - begun
        tokens, size, samples = tokens + row[1], size + len(row[0].encode()), samples + 1
    return {
        "seconds": seconds, "cpu": cpu, "samples": samples, "tokens": tokens, "size": size, "counting": counting,
        "peak": peak, "states": ", ".join(f"{count} {state}" for state, count in sorted(states)),
    }  # fmt: skip


def row(found: dict[str, object], tasks: list[str]) -> str:
    seconds, cpu, samples, tokens, size, counting, peak = (
        float(str(found[name])) for name in ("seconds", "cpu", "samples", "tokens", "size", "counting", "peak")
    )
    name = tasks[0] if len(tasks) == 1 else f"all {len(tasks)}"
    return (
        f"| {name} | {samples:.0f} | {samples / seconds:.1f} | {samples / cpu:.1f} | {tokens / cpu / 1e6:.2f} "
        f"| {size / cpu / 1e6:.1f} | {1000 * counting / samples:.1f} of {1000 * cpu / samples:.1f} | {peak:.0f} "
        f"| {found['states']} |"
    )


def judge(name: str) -> str:
    task, room = create_task(name), Room(WORDS.get(name, 600), Remembering(Words()), Lines())
    accepted = refused = solved = 0
    started = time.perf_counter()
    items = [task.make(Random(seed), room) for seed in range(SEEDS)]
    seconds = time.perf_counter() - started
    for seed, item in enumerate(items):
        accepted += task.verify(item.check, item.answer)
        refused += not task.verify(item.check, task.corrupt(item, Random(seed)))
        solved += task.verify(item.check, task.solve(item))
    return f"| {name} | {accepted} | {refused} | {solved} | {1000 * seconds / SEEDS:.2f} |"


if __name__ == "__main__":
    main()
