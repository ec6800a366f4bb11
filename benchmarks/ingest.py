"""How fast JSON lines become the documents table, and in how much memory, beside two usual ways.

python -m benchmarks.ingest [--gb 1]

Each way runs in a fresh process over the same generated file. Seconds and CPU are of the whole process, imports
and fsync included; the peak is its resident set. MB are 10**6 bytes of input.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WAYS = {
    "longloom, language stated in the recipe": "stated",
    "longloom, language detected": "detected",
    "json.loads, a list, Dataset.from_list, to_parquet": "from_list",
    "datasets.load_dataset('json'), to_parquet": "load_dataset",
}
MEDIAN_CHARS, SIGMA, MIN_CHARS, MAX_CHARS = 20_000, 1.1, 2_000, 400_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the generated file in 10**9 bytes")
    parser.add_argument("--worker", nargs=3, metavar=("WAY", "FILE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        way, file, out = arguments.worker
        work(way, Path(file), Path(out))
        return
    with tempfile.TemporaryDirectory(prefix="longloom-ingest-") as folder:
        file = Path(folder, "documents.jsonl")
        count = generate(file, int(arguments.gb * 1e9))
        megabytes = file.stat().st_size / 1e6
        cpus = len(os.sched_getaffinity(0))
        print(f"{megabytes:.0f} MB, {count} documents, {cpus} cores, Python {platform.python_version()}\n")
        print("| way | seconds | MB/s | MB per CPU second | peak MB | output MB |")
        print("|---|---|---|---|---|---|")
        for name, way in WAYS.items():
            out = Path(folder, way)
            out.mkdir()
            seconds, cpu, peak = measure(way, file, out)
            written = sum(part.stat().st_size for part in out.rglob("*.parquet")) / 1e6
            speeds = f"{megabytes / seconds:.0f} | {megabytes / cpu:.0f}"
            print(f"| {name} | {seconds:.1f} | {speeds} | {peak:.0f} | {written:.0f} |", flush=True)


def generate(file: Path, size: int) -> int:
    """Documents of log-normal length, put together from the paragraphs of Python's own topics. Deterministic."""
    from pydoc_data.topics import topics

    paragraphs = [text for topic in sorted(topics) for text in topics[topic].split("\n\n") if len(text) > 80]
    draw = random.Random(0)
    written = count = 0
    with file.open("w", encoding="utf-8") as stream:
        while written < size:
            length = int(min(MAX_CHARS, max(MIN_CHARS, draw.lognormvariate(0, SIGMA) * MEDIAN_CHARS)))
            pieces, held = [f"Document {count}"], 0
            while held < length:
                pieces.append(draw.choice(paragraphs))
                held += len(pieces[-1]) + 2
            row = {"text": "\n\n".join(pieces)[:length], "title": f"Document {count}", "number": count}
            written += stream.write(json.dumps(row) + "\n")
            count += 1
    return count


def measure(way: str, file: Path, out: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak megabytes of one way in its own process."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--worker", way, str(file), str(out)]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu, peak


def work(way: str, file: Path, out: Path) -> None:
    ways: dict[str, Callable[[Path, Path], None]] = {"from_list": from_list, "load_dataset": load_dataset}
    if way in ways:
        ways[way](file, out)
    else:
        longloom(file, out, "en" if way == "stated" else None)
    times = os.times()
    status = Path("/proc/self/status").read_text()
    peak_kilobytes = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps([times.user + times.system, peak_kilobytes * 1024 / 1e6]))


def longloom(file: Path, out: Path, language: str | None) -> None:
    from pipelines.ingest import ingest_source
    from pipelines.seen import SeenIds
    from schemas.sources import Fields, JsonlSource

    fields = Fields(title="title", metadata=("number",))
    source = JsonlSource(name="made", type="jsonl", path=str(file), language=language, fields=fields)
    ingest_source(source, "documents", out, file.parent, SeenIds())


def from_list(file: Path, out: Path) -> None:
    import datasets

    with file.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    datasets.Dataset.from_list(rows).to_parquet(out / "documents.parquet")


def load_dataset(file: Path, out: Path) -> None:
    import datasets

    data = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(out / "cache"))
    data.to_parquet(out / "documents.parquet")


if __name__ == "__main__":
    main()
