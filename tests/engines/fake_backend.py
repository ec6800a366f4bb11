"""A backend for engine processes that does what the prompt says. A token is a character."""

import asyncio
import os
import sys
from collections.abc import Sequence

from generators.engines.backend import Backend
from generators.engines.base import BadRequest, ChatRequest, Completion, EngineDied, EngineInfo, Sampling
from schemas.errors import UserError


class FakeBackend(Backend):
    async def start(self) -> EngineInfo:
        self.running = 0
        self.tokenized = 0
        print("fake backend starts", file=sys.stderr, flush=True)
        if self.config["dtype"] == "float16":
            raise RuntimeError("no such luck")
        if self.config["dtype"] == "bfloat16":
            raise UserError("the dtype is wrong")
        return EngineInfo("fake 1", "none", self.config["max_model_len"], 1000, 8, False)

    def tokenize(self, request: ChatRequest) -> Sequence[int]:
        self.tokenized += 1
        return [ord(character) for character in request.messages[0].content]

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> Completion:
        command, _, argument = "".join(map(chr, prompt)).partition(" ")
        self.running += 1
        try:
            text = await self._obey(command, argument)
        finally:
            self.running -= 1
        return Completion(text, "stop", len(prompt), len(text), None, 0.0)

    async def _obey(self, command: str, argument: str) -> str:
        match command:
            case "echo":
                return argument
            case "sleep":
                await asyncio.sleep(float(argument))
                return argument
            case "running":  # requests in progress, this one not counted
                return str(self.running - 1)
            case "tokenized":
                return str(self.tokenized)
            case "child":  # a process of the engine's own
                return str((await asyncio.create_subprocess_exec("sleep", "1000")).pid)
            case "pid":
                return str(os.getpid())
            case "bad":
                raise BadRequest("a bad request")
            case "crash":
                raise ZeroDivisionError("a bug")
            case "die":
                raise EngineDied("the engine is dead")
        raise AssertionError(command)
