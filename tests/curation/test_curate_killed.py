"""kill -9 of a run whose documents are judged in processes of their own: nothing lost, nothing left running."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.curation.test_curate_stage import curated, page, tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
KILLS = 6


def command(recipe: Path, workspace: Path) -> list[str]:
    return [sys.executable, "-m", "flows", "run", str(recipe), "--no-prefect", "--workspace", str(workspace)]


def two_workers(folder: Path, texts: list[str]) -> Path:
    """A recipe whose documents are judged by two processes, a shard each at a time."""
    for name, some in (("one", texts[::2]), ("two", texts[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some), "utf-8")
    path = curated(folder, others={"generate": [], "engines": {}, "export": []})
    value = yaml.safe_load(path.read_text("utf-8"))
    common = {"type": "jsonl", "licence": "CC0-1.0", "language": "en"}
    value["documents"] = [{"name": name, "path": f"{name}.jsonl", **common} for name in ("one", "two")]
    value["curate"] |= {"executor": {"type": "embedded", "processes": 2}, "shard_bytes": 1}
    path.write_text(yaml.safe_dump(value), "utf-8")
    return path


def test_killed_at_random_moments_the_next_run_writes_the_same(tmp_path):
    texts = [page(number, 400) for number in range(400)]
    texts += [text.replace("stone", "rock", 3) for text in texts[::7]]
    path = two_workers(tmp_path, texts)
    start = time.monotonic()
    subprocess.run(command(path, tmp_path / "whole"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    rng = random.Random(5)
    killed = 0
    for number in range(KILLS):
        process = subprocess.Popen(command(path, tmp_path / "killed"), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, 9)  # the parent alone
            killed += 1
            _, alive = psutil.wait_procs(children, timeout=10)
            assert not alive, f"kill {number}"
        process.wait()
    assert killed
    subprocess.run(command(path, tmp_path / "killed"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole") != {}
    assert not (tmp_path / "killed" / ".curate").exists()
