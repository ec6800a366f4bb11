"""What GATEAU costs with and without CAM's cascade, and what the cascade does to its ranking.

python -m benchmarks.gateau [--lengths 2000 4000 6000] [--each 3] [--ranks 40] [--dtype bfloat16]

SmolLM2-135M on one thread of the CPU. Documents are Python's own topics; the question asks for the sentence with given
first words. In every other sample the answer is that sentence; else it is one of another document, which nothing in
its own helps with. First table: each way in a process of its own, asked in turns; "whole" is two passes of HMG (the
short one sees the document's last 1,024 tokens) and CAM with segments of 128 tokens. Second: documents of 1,600 tokens
in segments of 64, all of them read; a cascade's number is made from the same readings, so that only the choice of
segments differs.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

from benchmarks.scorer_core import ask, serve, start
from benchmarks.vllm_workload import MODEL, texts
from filters.scorers.cam import Cam, chosen_segments, importance
from filters.scorers.core import ScorerCore
from filters.scorers.pool import cosine, mixture, ranks
from filters.scorers.response_nll import ResponseNll
from generators.models import resolve_model
from schemas.ids import derive_seed

SHORT, SEGMENT, ALPHA, RANKED = 1024, 128, 0.8, 1600
LONG_NLL, SHORT_NLL, ALL, SOME = "hmg, long pass", "hmg, short pass", "cam, all segments", "cam, cascade 8 + 8"
FINE = "cam, all segments of 64"
WAYS = (LONG_NLL, SHORT_NLL, ALL, SOME)
CASCADES = ({"top": 8, "random": 8}, {"top": 16, "random": 0}, {"top": 4, "random": 4})


def samples(count: int, tokens: int) -> list[dict[str, Any]]:
    made = []
    documents = texts(count, tokens)
    for number, document in enumerate(documents):
        dice = Random(number)
        own, other = (_sentence(text, dice) for text in (document, documents[number - 1]))
        question = f'Which sentence of the text begins with "{" ".join(own.split()[:4])}"? Copy it.'
        messages = [
            {"role": "user", "content": f"{document}\n\n{question}"},
            {"role": "assistant", "content": other if number % 2 else own},
        ]
        details = json.dumps({"question": question})
        made.append(
            {"sample_id": f"s{number}", "messages": messages, "document_ids": ["d"], "details": details}
        )  # fmt: skip
    return made


def _sentence(text: str, dice: Random) -> str:
    found = [" ".join(one.split()) for one in re.split(r"(?<=[.:])\s+", text)]
    return dice.choice([one for one in found if 20 <= len(one.split()) <= 60])


def make_scorer(way: str, dtype: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from transformers import AutoTokenizer

    folder = resolve_model(MODEL, Path.cwd()).path
    tokenizer, cam = AutoTokenizer.from_pretrained(folder), way.startswith("cam")
    core = ScorerCore(folder, dtype, "cpu", attention=cam)
    scorer: Cam | ResponseNll
    if cam:
        options = {
            "segment_tokens": 64 if way == FINE else SEGMENT, "layers": None, "importance": "softmax_neg_nll",
            "direction": "one_minus_cosine", "cascade": CASCADES[0] if way == SOME else None, "min_response_tokens": 16,
        }  # fmt: skip
        scorer = Cam(tokenizer, core, "", options)
    else:
        window = SHORT if way == SHORT_NLL else None
        scorer = ResponseNll(tokenizer, core, "", {"window": window, "min_response_tokens": 16})

    def read(row: dict[str, Any]) -> dict[str, Any]:
        ((_, lines),) = scorer.score([row])
        assert isinstance(lines, list), lines
        return lines[0]

    return read


def work(way: str, dtype: str) -> Callable[[int], Any]:
    """Numbers below 1000 are samples of the second table; else length + number of a sample of that length."""
    read, known = make_scorer(way, dtype), {}
    read(samples(1, 300)[0])

    def one(number: int) -> Any:
        tokens, place = (RANKED, number) if number < 1000 else (number // 1000 * 1000, number % 1000)
        if tokens not in known:
            known[tokens] = samples(40 if tokens == RANKED else 8, tokens)
        return read(known[tokens][place])

    return one


def costs(lengths: list[int], each: int, dtype: str) -> None:
    processes = {way: start("benchmarks.gateau", dtype, way) for way in WAYS}
    print(
        "| document tokens | way | CPU s for 1,000 tokens, median | least | most | of the long pass | wall | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for tokens in sorted(lengths):
        runs = [{way: ask(processes[way], tokens + number) for way in WAYS} for number in range(each)]
        for run in runs:
            for name, last in (("whole, all segments", ALL), ("whole, cascade 8 + 8", SOME)):
                parts = [run[way] for way in (LONG_NLL, SHORT_NLL, last)]
                run[name] = {key: sum(part[key] for part in parts) for key in ("cpu", "seconds")}
                run[name]["megabytes"] = max(part["megabytes"] for part in parts)
        plain = median(run[LONG_NLL]["cpu"] for run in runs)
        for way in runs[0]:
            cpu, wall = ([run[way][key] * 1000 / tokens for run in runs] for key in ("cpu", "seconds"))
            print(
                f"| {tokens} | {way} | {median(cpu):.2f} | {min(cpu):.2f} | {max(cpu):.2f} "
                f"| {median(run[way]['cpu'] for run in runs) / plain:.2f} | {median(wall):.2f} "
                f"| {median(run[way]['megabytes'] for run in runs):.0f} |",
                flush=True,
            )
    for process in processes.values():
        process.terminate()


def rankings(count: int, dtype: str) -> None:
    processes = {way: start("benchmarks.gateau", dtype, way) for way in (LONG_NLL, SHORT_NLL, FINE)}
    found = [{way: ask(process, n)["result"] for way, process in processes.items()} for n in range(count)]
    for process in processes.values():
        process.terminate()
    hmg = [one[SHORT_NLL]["nll"] - one[LONG_NLL]["nll"] for one in found]
    lines = [one[FINE] for one in found]
    cam = [line["cam"] for line in lines]
    segments = [line["n_seg"] for line in lines]
    print(f"\n{count} samples, {min(segments)} to {max(segments)} segments; mean cam where the answer is a sentence")
    print(f"of the document {mean(cam[::2]):.3f}, of another one {mean(cam[1::2]):.3f}\n")
    print("| cascade | segments read, mean | Spearman of cam with that of all segments | of gateau, alpha 0.8 |")
    print("|---|---|---|---|")
    for cascade in CASCADES:
        chosen = [
            chosen_segments(line["seg_attn"], cascade, derive_seed(f"s{n}", "cam")) for n, line in enumerate(lines)
        ]
        some = [with_only(line, numbers) for line, numbers in zip(lines, chosen, strict=True)]
        whole, cut = (mixture(ranks(hmg), ranks(one), ALPHA) for one in (cam, some))
        name, read = f"{cascade['top']} + {cascade['random']}", mean([len(numbers) for numbers in chosen])
        print(f"| {name} | {read:.1f} | {spearman(cam, some):.3f} | {spearman(whole, cut):.3f} |")


def with_only(line: dict[str, Any], chosen: list[int]) -> float:
    weights = importance([line["seg_nll"][number] for number in chosen], line["importance"])
    return 1 - cosine(weights, [line["seg_attn"][number] for number in chosen])


def spearman(first: list[float], second: list[float]) -> float:
    one, other = ([rank - 0.5 for rank in ranks(values)] for values in (first, second))
    return cosine(one, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[2000, 4000, 6000])
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=40)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(lambda: work(arguments.worker, arguments.dtype))
        return
    if arguments.lengths:
        costs(arguments.lengths, arguments.each, arguments.dtype)
    if arguments.ranks:
        rankings(arguments.ranks, arguments.dtype)


if __name__ == "__main__":
    main()
