"""How much of the prompts vLLM really computes: 8 documents x 8 questions, grouped against step-major order.

python -m benchmarks.prefix

The KV cache is made small (room for some two documents), as it is on a GPU with long documents. Numbers are the
engine's own: prompt tokens minus tokens it reports as cached. Ideal: each document once, and each question's own
tokens; "in blocks" adds the part of a document beyond its last full cache block, which every question computes anew. A
last row runs the two-step program long_qa itself (questions, then answer) on the same documents.
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
from schemas.methods.long_qa import LongQA as Config
from schemas.rows import Document

DOCUMENTS, QUESTIONS, TOKENS, ANSWER = 8, 8, 1200, 16
TEMPLATE_HEAD, TEMPLATE_TAIL = 24, 5  # tokens of SmolLM2's chat template before and after the user's text
WINDOW, BLOCK, ROOM = 2048, 32, 3200  # tokens; ROOM: the KV cache, some two documents


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


def ideal(documents: list[str]) -> tuple[int, int]:
    """In tokens, and in whole blocks of the cache."""
    tokenizer = load_tokenizer(MODEL, HERE)
    question = tokenizer.count("\n\nQuestion 1: what does part 1 of the text say?") + TEMPLATE_TAIL
    heads = [tokenizer.count(text) + TEMPLATE_HEAD for text in documents]
    exact = sum(head + QUESTIONS * question for head in heads)
    return exact, exact + sum((QUESTIONS - 1) * (head % BLOCK) for head in heads)


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
    print("| order | prompt tokens | computed | ideal | of ideal | ideal in blocks | of that | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for n, order in enumerate(("grouped", "step-major")):
        documents = every[n * DOCUMENTS : (n + 1) * DOCUMENTS]
        asked, computed, seconds = await measure(runner, Ask(), tasks(documents, order), answers(ANSWER, 0.0))
        best, blocks = ideal(documents)
        ratios = f"{best} | {computed / best:.2f} | {blocks} | {computed / blocks:.2f}"
        print(f"| {order} | {asked} | {computed} | {ratios} | {seconds:.1f} |", flush=True)
    documents = every[2 * DOCUMENTS :]
    config = Config.model_validate(
        {
            "method": "long_qa", "engine": "w", "document_tokens": {"min": 1}, "questions": 3,
            "sampling": {"questions": {"max_tokens": 100}, "answer": {"max_tokens": 64}},
        }
    )  # fmt: skip
    rows = [
        Task(f"{d}#{q}", Document(f"d{d}", documents[d], "topics", "en"), f"d{d}")
        for d in range(DOCUMENTS)
        for q in range(QUESTIONS)
    ]
    calls = runner.stats.calls
    asked, computed, seconds = await measure(runner, LongQA(config), rows, dict(config.sampling))
    calls = runner.stats.calls - calls
    print(f"\nlong_qa, two steps, {calls} calls: {asked} prompt tokens, {computed} computed, {seconds:.1f} s")
    await engine.close()
    runner.ledger.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(work(Path(temporary)))
