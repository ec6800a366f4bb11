"""Messages between a flow and its engine process: frames of JSON on a socket pair, and the engine types as JSON.

A frame is its length (4 bytes, big-endian) and that many bytes of JSON. JSON with ASCII escapes carries every
Python string, lone surrogates of broken documents included, which binary formats refuse.
"""

import asyncio
import json
from dataclasses import asdict
from typing import Any

from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    EngineError,
    EngineInfo,
    Message,
    PromptTooLong,
    Sampling,
)
from schemas.errors import UserError

_MAX_FRAME = 2**31 - 1


class Evicted(Exception):
    """The engine process no longer holds the tokens of a handle; send the request itself."""


def pack_frame(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    assert len(body) <= _MAX_FRAME
    return len(body).to_bytes(4, "big") + body


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side is gone, be it between two frames or inside one."""
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        message: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


def request_to_json(request: ChatRequest) -> dict[str, Any]:
    messages = [[message.role, message.content] for message in request.messages]
    return {"messages": messages, "raw": request.raw, "sampling": request.sampling.to_dict()}


def request_from_json(value: dict[str, Any]) -> ChatRequest:
    messages = tuple(Message(role, content) for role, content in value["messages"])
    sampling = {**value["sampling"], "stop": tuple(value["sampling"]["stop"])}
    return ChatRequest(messages, Sampling(**sampling), raw=value["raw"])


def info_from_json(value: dict[str, Any]) -> EngineInfo:
    return EngineInfo(**value)


def completion_from_json(value: dict[str, Any]) -> Completion:
    return Completion(**value)


def result_to_json(result: EngineInfo | Completion | dict[str, Any] | None) -> dict[str, Any]:
    return result if isinstance(result, dict) else {} if result is None else asdict(result)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """Errors of the protocol keep their type; anything else is a transport error that names its own."""
    if isinstance(error, PromptTooLong):
        counts = [error.prompt_tokens, error.max_tokens, error.max_model_len]
        return {"type": "PromptTooLong", "args": counts}
    for known in (BadRequest, UserError, Evicted, EngineError):
        if isinstance(error, known):
            return {"type": known.__name__, "args": [str(error)]}
    return {"type": "EngineError", "args": [f"{type(error).__name__}: {error}"]}


def error_from_json(value: dict[str, Any]) -> Exception:
    kinds: dict[str, type[Exception]] = {
        kind.__name__: kind for kind in (PromptTooLong, BadRequest, UserError, Evicted, EngineError)
    }
    return kinds[value["type"]](*value["args"])
