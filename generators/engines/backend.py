"""What runs inside an engine process: a backend, told token ids, answering with text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from generators.engines.base import ChatRequest, Completion, EngineInfo, Sampling


class Backend(ABC):
    """One loaded model. Built from the engine's section of the recipe as a dict, where `model` is a local folder and
    `max_model_len` is set."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    @abstractmethod
    async def start(self) -> EngineInfo:
        """Load the model."""

    @abstractmethod
    def tokenize(self, request: ChatRequest) -> Sequence[int]:
        """The token ids of a prompt, chat template applied. Runs in a thread of its own, one call at a time."""

    @abstractmethod
    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """Answer. Cancelling the coroutine frees the request's place. Raises BadRequest, EngineError, EngineDied."""

    async def close(self) -> None:
        """Give everything back; the process ends right after."""
        return None
