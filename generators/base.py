"""What a generator is: straight-line code that reads like the paper's algorithm and does no I/O but `llm.chat`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from schemas.rows import Document, Instruction, Sample

RowT = TypeVar("RowT", Document, Instruction)


class Tokenizer(Protocol):
    def count(self, text: str) -> int: ...

    def offsets(self, text: str) -> Sequence[tuple[int, int]]: ...


class Llm(Protocol):
    """A language model as one row sees it. Seeds, ledger, retries and admission are behind it."""

    window: int  # tokens of prompt and answer together
    rng: Random  # seeded by (run seed, row id): the row's own random choices
    tokenizer: Tokenizer

    async def chat(
        self,
        step: str,
        /,
        *,
        prefix: str = "",
        json_schema: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
        **fields: object,
    ) -> str:
        """Ask prompts/<method>/<step>.j2, rendered with `fields`; returns the answer, `prefix` included.

        `prefix` starts the assistant's turn; an engine that cannot continue a given start (`server: openai`) is asked
        without it. Raises Reject: truncated (the answer hit max_tokens), over_budget
        (the prompt does not fit the window), failed (the engine gave an error for this very request).
        """
        ...


class Generator(ABC, Generic[RowT]):
    """`steps` are the prompt files the method uses; their versions are recorded with every sample."""

    method: ClassVar[str]
    steps: ClassVar[tuple[str, ...]]

    @abstractmethod
    async def generate(self, row: RowT, llm: Llm) -> list[Sample]:
        """The records made from one row. Raises Reject to end the row without any."""
