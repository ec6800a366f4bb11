"""Exports: how fast they are written and loaded, beside `datasets` alone; MDS shards beside those of its library.

`python -m benchmarks.export --documents DIR` writes samples made from the JSONL files with `text` in DIR, as every
format; each writing and each loading in a process of its own. `--mds PYTHON`: an environment with mosaicml-streaming
(numpy < 2.2 and transformers < 5, so not this one) reads MDS back and writes the same rows for comparison.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.export_configs import BATCH_ROWS, SFT
from pipelines.writers import writer_for
from schemas.export import Export

WAYS = {
    "parquet": {}, "jsonl": {"format": "jsonl"}, "jsonl.zst": {"format": "jsonl", "compression": "zstd"},
    "jsonl.gz": {"format": "jsonl", "compression": "gzip"}, "mds": {"format": "mds"},
}  # fmt: skip
THEIRS = """
import json, sys
from streaming import MDSWriter, StreamingDataset
folder, other = sys.argv[1:]
shard = json.load(open(folder + "/index.json"))["shards"][0]
columns = dict(zip(shard["column_names"], shard["column_encodings"]))
import streaming.base.format.mds.encodings as encodings
spelled = lambda self, value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
encodings.JSON.encode = spelled  # JSON without blanks, as ours
rows = StreamingDataset(local=folder, shuffle=False, batch_size=1)
with MDSWriter(columns=columns, out=other, size_limit=shard["size_limit"]) as writer:
    for number in range(len(rows)):
        writer.write(rows[number])
print(len(rows))
"""


def samples(documents: Path, count: int) -> pa.Table:
    texts = []
    for path in sorted(documents.glob("*.jsonl")):
        with path.open() as file:
            texts += [text for text in (json.loads(line).get("text") for line in file) if isinstance(text, str)]
    rows = []
    for number in range(count):
        text = texts[number % len(texts)][:200_000]
        said = [{"role": "user", "content": f"{text}\n\n{number}"}, {"role": "assistant", "content": text[:2000]}]
        rows.append({
            "id": f"s{number}", "messages": said, "method": "long_qa", "source": "s", "language": None,
            "prompt_tokens": len(text), "response_tokens": 500, "document_ids": ["d"], "evidence": [],
            "details": "{}", "loss_on_prompt": False, "model": "m",
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SFT)


def write(way: str, table: Path, folder: Path) -> None:
    """The export's own path: batches of a table's part, as the stage reads them."""
    batches = pq.ParquetFile(table).iter_batches(BATCH_ROWS)
    if way == "datasets":
        import datasets

        datasets.disable_progress_bars()
        folder.mkdir(parents=True)
        loaded = datasets.load_dataset("parquet", data_files=str(table), split="train", cache_dir=str(folder / "cache"))
        loaded.to_parquet(folder / "train-00000-of-00001.parquet")
        return
    writer = writer_for(Export(name="x", configs=("sft",), **WAYS[way]), folder, SFT)
    for batch in batches:
        writer.write(pa.Table.from_batches([batch]))
    writer.close()


def read(way: str, _: Path, folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    kind = "parquet" if way in ("parquet", "datasets") else "json"
    features = {"features": datasets.Features.from_arrow_schema(SFT)} if kind == "json" else {}
    files = [str(path) for path in sorted(folder.glob("train-*"))]
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=cache, **features)
        assert len(rows) and rows[-1]["id"]


def measured(what: str, way: str, table: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.export", "--do", what, way, str(table), str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def do(what: str, way: str, table: str, folder: str) -> None:
    before = time.process_time()
    {"write": write, "read": read}[what](way, Path(table), Path(folder))
    # Not ru_maxrss, which a process has from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"cpu": time.process_time() - before, "peak": int(peak[1]) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mds", type=Path, metavar="PYTHON")
    parser.add_argument("--do", nargs=4, metavar=("WHAT", "WAY", "TABLE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        do(*arguments.do)
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        table = root / "samples.parquet"
        rows = samples(arguments.documents, arguments.samples)
        print(f"{rows.num_rows} samples, {rows.nbytes / 1e6:.0f} MB in memory")
        pq.write_table(rows, table, row_group_size=BATCH_ROWS, compression="zstd")
        del rows
        print("| format | MB | write, CPU s | peak MB | load, CPU s | peak MB |\n|---|---|---|---|---|---|")
        for way in (*WAYS, "datasets"):
            writes, reads = [], []
            for _ in range(arguments.rounds):
                shutil.rmtree(root / way, ignore_errors=True)
                writes.append(measured("write", way, table, root / way))
                reads += [measured("read", way, table, root / way)] if way != "mds" else []
            size = sum(path.stat().st_size for path in (root / way).glob("*") if path.is_file()) / 1e6
            numbers = [f"{statistics.median(one[key] for one in some):.{1 if key == 'cpu' else 0}f}" if some else ""
                       for some in (writes, reads) for key in ("cpu", "peak")]  # fmt: skip
            print(f"| {way} | {size:.0f} | {' | '.join(numbers)} |", flush=True)
        if arguments.mds:
            command = [arguments.mds, "-c", THEIRS, root / "mds", root / "theirs"]
            count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
            ours, theirs = (
                {path.name: path.read_bytes() for path in (root / one).glob("*.mds")} for one in ("mds", "theirs")
            )
            print(f"mosaicml-streaming read {count} rows; its own shards of them are the same bytes: {ours == theirs}")


if __name__ == "__main__":
    main()
