"""The engine protocol: what a generator may ask of a language model, and what comes back.

An engine lives in two phases. Before `start()` it knows only its `identity` (which model, which revision,
which chat template): enough to ask the ledger. `start()` loads the model or contacts the server; it is called
on the first request that the ledger cannot answer.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters after all defaults are applied: nothing is left to the engine.

    temperature 0 is greedy decoding. top_k 0 and top_p 1.0 mean off. `seed` makes a sampled answer repeatable as far
    as the engine allows. `json_schema` constrains the answer to a JSON document of that schema. `stop` strings
    end the answer and are not part of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    json_schema: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        # Written out: dataclasses.asdict copies deeply, which costs more than the rest of a ledger lookup.
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "stop": list(self.stop),
            "seed": self.seed,
            "json_schema": self.json_schema,
        }


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call. If the last message is the assistant's, the model continues it: its text is a prefix of the
    answer, and `Completion.text` holds only what comes after it.

    With `raw` set, the text of the single user message is the prompt itself, without chat template.
    `group` names requests that share a prompt prefix (one document); engines with several replicas keep a group
    together.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    raw: bool = False
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """`cached_tokens` are prompt tokens the engine took from its prefix cache (None: it does not say)."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Identity:
    """What changes the answer besides the request: part of every ledger key. `template` hashes the chat template
    (None where only the server knows it). `settings` are the engine's own that change answers (number format,
    quantisation, ...) as canonical JSON, None where all are at their defaults."""

    model: str
    revision: str | None
    template: str | None
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Known once the engine has started. `kv_tokens`: how many tokens fit its KV cache, over all replicas."""

    version: str
    device: str
    max_model_len: int
    kv_tokens: int
    max_batch: int
    prefix_cache: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its exact prompt length in tokens; `handle` is the engine's own."""

    request: ChatRequest
    prompt_tokens: int
    handle: Any = field(default=None, compare=False)


class EngineError(Exception):
    """A transport error (server busy, connection lost, engine died): the same request may work later.

    `retry_after` is the wait in seconds that the server asked for, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineDied(EngineError):
    """The engine's process or connection is gone; `start()` must be called again before the next request."""


class BadRequest(Exception):
    """The engine refuses this very request (e.g. an unsupported schema): never retried."""


class Refused(BadRequest):
    """The model or its server declines to answer this request."""


class PromptTooLong(BadRequest):
    """Prompt plus max_tokens does not fit the window. Carries both counts."""

    def __init__(self, prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"{prompt_tokens} prompt tokens + {max_tokens} answer tokens do not fit a window of {max_model_len} tokens"
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.max_model_len = max_model_len


class Engine(ABC):
    """One language model somewhere. All methods but `identity` are coroutines of one event loop."""

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """Known without starting the engine."""

    @property
    def continues(self) -> bool:
        """Can it continue an answer that the request begins (a last message of the assistant)?"""
        return True

    @abstractmethod
    async def start(self) -> EngineInfo:
        """Load the model or contact the server; does nothing if that has happened. After EngineDied: start anew."""

    @abstractmethod
    async def prepare(self, request: ChatRequest) -> Prepared:
        """Count the prompt's tokens (chat template included). Raises PromptTooLong, EngineError."""

    @abstractmethod
    async def generate(self, prepared: Prepared) -> Completion:
        """Answer. Cancelling the coroutine frees the engine's place. Raises EngineError, EngineDied, BadRequest."""

    @abstractmethod
    async def close(self) -> None:
        """Give back memory, processes and connections. May be called twice."""
