"""How much of the prompts vLLM really computes: 8 documents x 8 questions, grouped against step-major order.

python -m benchmarks.prefix

The KV cache is made small (room for some two documents), as it is on a GPU with long documents. Numbers are the
engine's own: prompt tokens minus tokens it reports as cached. Ideal: each document once, and each question's own
tokens. A last row runs the two-step program long_qa itself (questions, then answer) on the same documents.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.vllm_workload import HERE, MODEL, Ask, answers, make_runner, texts, vllm_engine
from generators.long_qa import LongQA
from generators.models import load_tokenizer
from generators.runner import Runner, Task
from schemas.recipe import LongQA as Config
from schemas.rows import Document

DOCUMENTS, QUESTIONS, TOKENS, ANSWER = 8, 8, 2000, 16
WINDOW, BLOCK, ROOM = 4096, 128, 5000  # tokens; ROOM: the KV cache, some two documents


def tasks(documents: list[str], order: str) -> list[Task]:
    pairs = [(d, q) for d in range(DOCUMENTS) for q in range(QUESTIONS)]
    if order == "step-major":
        pairs.sort(key=lambda pair: pair[1])
    return [
        Task(
            f"{order}-{d}#{q}",
            (Document(f"{d}", documents[d], "topics", "en"), f"Question {q}: what does part {q} of the text say?"),
            f"{order}-{d}" if order == "grouped" else None,
        )
        for d, q in pairs
    ]


def ideal(documents: list[str]) -> int:
    tokenizer = load_tokenizer(MODEL, HERE)
    question = tokenizer.count("\n\nQuestion 1: what does part 1 of the text say?") + 30  # and the chat template
    return sum(tokenizer.count(text) + QUESTIONS * question for text in documents)


async def measure(runner: Runner, generator: Any, rows: list[Task], sampling: Any) -> tuple[int, int, float]:
    stats, started = runner.stats, time.perf_counter()
    prompt, cached = stats.prompt_tokens, stats.cached_tokens
    await runner.run(generator, rows, sampling)
    asked = stats.prompt_tokens - prompt
    return asked, asked - (stats.cached_tokens - cached), time.perf_counter() - started


async def work(folder: Path) -> None:
    engine = vllm_engine(WINDOW, num_gpu_blocks_override=ROOM // BLOCK, block_size=BLOCK)
    runner = make_runner(engine, folder, WINDOW)
    every = texts(3 * DOCUMENTS, TOKENS)
    warm = texts(3 * DOCUMENTS + 1, TOKENS)[-1]
    await runner.run(Ask(), [Task("warm#0", (Document("w", warm, "topics", "en"), "Why?"))], answers(ANSWER, 0.0))
    info = await engine.start()
    print(f"KV cache {info.kv_tokens} tokens, {DOCUMENTS} documents of {TOKENS} tokens, {QUESTIONS} questions each\n")
    print("| order | prompt tokens | computed | ideal | computed / ideal | seconds |\n|---|---|---|---|---|---|")
    for n, order in enumerate(("grouped", "step-major")):
        documents = every[n * DOCUMENTS : (n + 1) * DOCUMENTS]
        asked, computed, seconds = await measure(runner, Ask(), tasks(documents, order), answers(ANSWER, 0.0))
        best = ideal(documents)
        print(f"| {order} | {asked} | {computed} | {best} | {computed / best:.2f} | {seconds:.1f} |", flush=True)
    documents = every[2 * DOCUMENTS :]
    config = Config.model_validate(
        {
            "method": "long_qa", "engine": "w", "document_tokens": {"min": 1},
            "sampling": {"questions": {"max_tokens": 200}, "answer": {"max_tokens": 64}},
        }
    )  # fmt: skip
    rows = [
        Task(f"{d}#{q}", Document(f"d{d}", documents[d], "topics", "en"), f"d{d}")
        for d in range(DOCUMENTS)
        for q in range(QUESTIONS)
    ]
    asked, computed, seconds = await measure(runner, LongQA(config), rows, dict(config.sampling))
    best = sum(map(load_tokenizer(MODEL, HERE).count, documents))
    print(
        f"| long_qa, two steps (ideal: documents only) | {asked} | {computed} | {best} "
        f"| {computed / best:.2f} | {seconds:.1f} |"
    )
    await engine.close()
    runner.ledger.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(work(Path(temporary)))
