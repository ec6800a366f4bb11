"""An engine that answers from a Python function: for tests, dry runs and crash drills. No model, no randomness."""

import asyncio
from collections.abc import Callable

from generators.engines.base import (
    ChatRequest,
    Completion,
    Engine,
    EngineDied,
    EngineInfo,
    Identity,
    Prepared,
    PromptTooLong,
)

Answer = str | Completion | Exception


class ScriptedEngine(Engine):
    """`answer` maps each request to a text, to a whole Completion, or to an exception that `generate` raises.

    Tokens are words split at whitespace. A text longer than `max_tokens` words is cut there and ends with
    `length`, as a model's would. After an EngineDied, `start()` must be called again before the next request.
    `latency` (seconds) is slept in each call. What happened can be read from `calls` (requests in the order they
    arrived), `starts` and `max_concurrency` (most calls in flight at once).
    """

    def __init__(
        self,
        answer: Callable[[ChatRequest], Answer],
        *,
        window: int = 32_768,
        kv_tokens: int = 1_000_000,
        max_batch: int = 256,
        latency: float = 0.0,
        identity: Identity | None = None,
    ) -> None:
        self._answer = answer
        self._window = window
        self._kv_tokens = kv_tokens
        self._max_batch = max_batch
        self._latency = latency
        self._identity = identity or Identity(model="scripted", revision="1", template=None)
        self._up = False
        self._running = 0
        self.calls: list[ChatRequest] = []
        self.starts = 0
        self.max_concurrency = 0

    @property
    def identity(self) -> Identity:
        return self._identity

    async def start(self) -> EngineInfo:
        if not self._up:
            self.starts += 1
        self._up = True
        return EngineInfo(
            version="scripted 1",
            device="none",
            max_model_len=self._window,
            kv_tokens=self._kv_tokens,
            max_batch=self._max_batch,
            prefix_cache=False,
        )

    async def prepare(self, request: ChatRequest) -> Prepared:
        self._must_be_up()
        prompt_tokens = sum(len(message.content.split()) for message in request.messages)
        if prompt_tokens + request.sampling.max_tokens > self._window:
            raise PromptTooLong(prompt_tokens, request.sampling.max_tokens, self._window)
        return Prepared(request, prompt_tokens)

    async def generate(self, prepared: Prepared) -> Completion:
        self._must_be_up()
        self.calls.append(prepared.request)
        self._running += 1
        self.max_concurrency = max(self.max_concurrency, self._running)
        try:
            # Even without latency other coroutines get their turn, as with a real engine.
            await asyncio.sleep(self._latency)
            answer = self._answer(prepared.request)
        finally:
            self._running -= 1
        if isinstance(answer, EngineDied):
            self._up = False
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completion) else _complete(answer, prepared)

    async def close(self) -> None:
        self._up = False

    def _must_be_up(self) -> None:
        if not self._up:
            raise EngineDied("the scripted engine is not running; start() must be called first")


def _complete(text: str, prepared: Prepared) -> Completion:
    words = text.split()
    limit = prepared.request.sampling.max_tokens
    cut = len(words) > limit
    return Completion(
        text=" ".join(words[:limit]) if cut else text,
        finish_reason="length" if cut else "stop",
        prompt_tokens=prepared.prompt_tokens,
        completion_tokens=min(len(words), limit),
        cached_tokens=None,
        seconds=0.0,
    )
