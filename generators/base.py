"""What a generator is: straight-line code that reads like the paper's algorithm and does no I/O but `llm.chat`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from schemas.rows import Record, Scores

RowT = TypeVar("RowT")
PROMPT_RESERVE = 512  # tokens for the task text and the chat template around a document
TEMPLATE_TOKENS = 150  # what task text and chat template usually take
TOKENS_PER_WORD = 1.4


class Tokenizer(Protocol):
    def count(self, text: str) -> int: ...

    def count_many(self, texts: list[str]) -> list[int]: ...

    def offsets(self, text: str) -> Sequence[tuple[int, int]]: ...


class Llm(Protocol):
    """A language model as one row sees it. Seeds, ledger, retries and admission are behind it."""

    row_id: str
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


@dataclass(frozen=True, slots=True)
class RowSize:
    """A row before it is run, for estimates: `origin` is its document's or instruction's id; only instructions come
    with their `text`."""

    origin: str
    tokens: int
    text: str = ""


@dataclass(slots=True)
class Cost:
    """An estimate. `cached_tokens` are prompt tokens that a prefix cache answers; `answer_tokens_max`: if every answer
    used its whole max_tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    answer_tokens_max: int = 0

    def add(self, prompt: int, answer: int, answer_max: int, cached: int = 0, times: int = 1) -> None:
        """One more request, or as many alike."""
        self.requests += times
        self.prompt_tokens += times * prompt
        self.cached_tokens += times * cached
        self.answer_tokens += times * min(answer, answer_max)
        self.answer_tokens_max += times * answer_max


class Generator(ABC, Generic[RowT]):
    """Built from the method's section of the recipe."""

    method: ClassVar[str]

    @abstractmethod
    async def generate(self, row: RowT, llm: Llm) -> Sequence[Record | Scores]:
        """The records made from one row. Raises Reject to end the row without any."""

    def cost(self, rows: Iterable[RowSize], window: int) -> Cost:
        """What the rows would cost if the ledger knew none of their calls. Methods that ask a model override it."""
        return Cost()
