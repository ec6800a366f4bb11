"""Ingest and curation of a large synthetic corpus: seconds, MB/s and the peak memory of all processes together.

python -m benchmarks.curate [--gb 10] [--folder /tmp/...] [--executor embedded|beam]

Words of Python's own topics in random order, by their frequency; documents of log-normal length (median 40 kB), one in
twenty a copy of an earlier one with one word in a hundred changed, one in fifty with a chapter of an earlier one in it.
The peak is the sum of the resident sets of the run's processes (shared pages counted once each), asked ten times a
second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

FILES = 50
MEDIAN_WORDS, SIGMA, MAX_WORDS = 6_000, 1.1, 400_000
COPY, CHAPTER, CHANGED = 0.05, 0.02, 0.01
KEPT = 64  # earlier documents that may be copied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gb", type=float, default=10.0, help="size of the corpus in 10**9 bytes of text")
    parser.add_argument("--folder", type=Path, help="keep corpus and workspace there")
    parser.add_argument("--executor", choices=("embedded", "beam"), default="embedded")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longloom-curate-") as temporary:
        folder = arguments.folder or Path(temporary)
        size, planted = corpus(folder / "corpus", int(arguments.gb * 1e9))
        path = recipe(folder, arguments.executor)
        print(f"{size / 1e6:.0f} MB in {FILES} files, {planted} planted copies, {os.cpu_count()} cores\n")
        print("| stage | seconds | MB/s | CPU seconds | peak MB, all processes |\n|---|---|---|---|---|")
        for stage in ("ingest", "curate.rules", "curate.corpus"):
            seconds, cpu, peak = measured(path, folder / "workspace", stage)
            print(
                f"| {stage} | {seconds:.0f} | {size / 1e6 / seconds:.0f} | {cpu:.0f} | {peak / 1e6:.0f} |", flush=True
            )
        show(folder / "workspace")


def corpus(folder: Path, size: int) -> tuple[int, int]:
    """JSON lines; a finished folder is used again. Bytes of text, and how many copies were planted."""
    done = folder / "done.json"
    if done.exists():
        known = json.loads(done.read_text())
        return known["size"], known["planted"]
    folder.mkdir(parents=True, exist_ok=True)
    written = planted = 0
    documents = _documents()
    for number in range(FILES):
        with (folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") as file:
            held = 0
            while held < size / FILES:
                text, copied = next(documents)
                planted += copied
                held += file.write(json.dumps({"text": text}) + "\n")
            written += held
    done.write_text(json.dumps({"size": written, "planted": planted}))
    return written, planted


def _documents() -> Iterator[tuple[str, bool]]:
    from pydoc_data.topics import topics

    found = " ".join(topics[name] for name in sorted(topics)).split()
    vocabulary, counts = np.unique(np.array(found, object).astype(str), return_counts=True)
    chances = np.cumsum(counts / counts.sum())
    rng = np.random.default_rng(7)
    earlier: list[np.ndarray] = []
    while True:
        kind = rng.random()
        if earlier and kind < COPY:
            words = earlier[rng.integers(len(earlier))].copy()
            places = rng.integers(len(words), size=max(1, int(CHANGED * len(words))))
            words[places] = _draw(rng, chances, len(places))
        else:
            words = _draw(rng, chances, min(MAX_WORDS, max(200, int(rng.lognormal(np.log(MEDIAN_WORDS), SIGMA)))))
            if earlier and kind < COPY + CHAPTER:
                words = np.concatenate([words, earlier[rng.integers(len(earlier))][:3000]])
            earlier = [*earlier, words][-KEPT:]
        strings = vocabulary[words].tolist()
        lines = (" ".join(strings[start : start + 90]) for start in range(0, len(strings), 90))
        yield ".\n".join(lines) + ".", bool(earlier and kind < COPY)


def _draw(rng: np.random.Generator, chances: np.ndarray, count: int) -> np.ndarray:
    return np.searchsorted(chances, rng.random(count)).clip(max=len(chances) - 1)


def recipe(folder: Path, executor: str) -> Path:
    rules = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "curate.yaml").read_text("utf-8"))["curate"][
        "rules"
    ]
    value = {
        "name": "curate_large",
        "documents": [{"name": "synthetic", "type": "jsonl", "path": str(folder / "corpus" / "*.jsonl"),
                       "licence": "PSF-2.0", "language": "en"}],
        "curate": {"executor": {"type": executor}, "rules": [{**rule, "sources": None} for rule in rules]},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(value), "utf-8")
    return path


def measured(path: Path, workspace: Path, stage: str) -> tuple[float, float, int]:
    """Seconds, CPU seconds (children included) and the largest sum of resident bytes."""
    command = [sys.executable, "-m", "flows", "run", str(path), "--workspace", str(workspace), "--no-prefect"]
    return watched([*command, "--stage", stage])


def watched(command: list[str]) -> tuple[float, float, int]:
    """The same for any command."""
    import psutil

    before, start = os.times(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        held = 0
        try:
            for one in (parent := psutil.Process(process.pid), *parent.children(recursive=True)):
                held += one.memory_info().rss
        except psutil.NoSuchProcess:
            pass
        peak = max(peak, held)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, cpu, peak


def show(workspace: Path) -> None:
    query = "SELECT stage, state, reason, count(*) AS documents FROM row_states GROUP BY ALL ORDER BY ALL"
    command = [sys.executable, "-m", "flows", "sql", query, "--workspace", str(workspace)]
    print("\n" + subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
