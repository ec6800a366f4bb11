"""Our runner and ledger over vLLM beside vLLM's own offline `LLM.chat`, on the same requests.

python -m benchmarks.runner [--requests 64] [--rounds 2] [--repeats 3]

Each way runs in its own process (two engines would share the cores), in turns; a repeat asks about new texts, so that
no prefix is cached. The number is answer tokens a second of wall time, after a warm-up; the median over all repeats.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.vllm_workload import HERE, MODEL, Ask, answers, make_runner, texts, vllm_engine
from generators.models import resolve_model
from generators.prompts import render
from generators.runner import Task
from schemas.ids import derive_seed
from schemas.rows import Document

WINDOW, PROMPT_TOKENS, ANSWER_TOKENS = 2048, 256, 128
QUESTION = "Explain this to a beginner, with an example."


def offline(requests: int, repeats: int) -> list[tuple[int, float]]:
    import os

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # and below: the settings of our own engine on a CPU
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(resolve_model(MODEL, HERE).path), max_model_len=WINDOW, enable_prefix_caching=True, enforce_eager=True,
        generation_config="vllm", max_num_seqs=256, enable_chunked_prefill=False, max_num_batched_tokens=4096,
    )  # fmt: skip
    found = []
    for repeat, batch in enumerate(_batches(requests, repeats)):
        chats = [
            [{"role": "user", "content": render("long_qa", "answer", {"document": text, "question": QUESTION})}]
            for text in batch
        ]
        sampling = [
            SamplingParams(
                max_tokens=ANSWER_TOKENS, temperature=1.0, seed=derive_seed(0, f"{repeat}-{n}#0", "answer", 0)
            )
            for n in range(len(batch))
        ]
        started = time.perf_counter()
        outputs = llm.chat(chats, sampling, use_tqdm=False)
        found.append((sum(len(o.outputs[0].token_ids) for o in outputs), time.perf_counter() - started))
    return found[1:]


def ours(requests: int, repeats: int) -> list[tuple[int, float]]:
    async def work(folder: Path) -> list[tuple[int, float]]:
        engine = vllm_engine(WINDOW)
        runner = make_runner(engine, folder, WINDOW)
        found = []
        for repeat, batch in enumerate(_batches(requests, repeats)):
            tasks = [
                Task(f"{repeat}-{n}#0", (Document(f"{n}", text, "topics", "en"), QUESTION), f"{repeat}-{n}")
                for n, text in enumerate(batch)
            ]
            before, started = runner.stats.completion_tokens, time.perf_counter()
            await runner.run(Ask(), tasks, answers(ANSWER_TOKENS, 1.0))
            found.append((runner.stats.completion_tokens - before, time.perf_counter() - started))
        await engine.close()
        runner.ledger.close()
        return found[1:]

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(work(Path(folder)))


def _batches(requests: int, repeats: int) -> list[list[str]]:
    """The first batch warms up."""
    every = texts(requests * (repeats + 1), PROMPT_TOKENS)
    return [every[n * requests : (n + 1) * requests] for n in range(repeats + 1)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=("offline", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(globals()[arguments.way](arguments.requests, arguments.repeats)))
        return
    found: dict[str, list[tuple[int, float]]] = {"offline": [], "ours": []}
    for _ in range(arguments.rounds):
        for way, results in found.items():
            command = [sys.executable, "-m", "benchmarks.runner", "--way", way]
            command += ["--requests", str(arguments.requests), "--repeats", str(arguments.repeats)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            # vLLM prints on the same stream.
            results += json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    speed = {way: median(tokens / seconds for tokens, seconds in results) for way, results in found.items()}
    names = {"offline": "vLLM's own LLM.chat", "ours": "Longloom: runner, ledger, engine process"}
    print("| way | answer tokens/s, median | least | most | of LLM.chat |\n|---|---|---|---|---|")
    for way, results in found.items():
        each = sorted(tokens / seconds for tokens, seconds in results)
        share = speed[way] / speed["offline"]
        print(f"| {names[way]} | {speed[way]:.1f} | {each[0]:.1f} | {each[-1]:.1f} | {share:.3f} |")


if __name__ == "__main__":
    main()
