"""A vLLM server in miniature, and ways to ask it through our client."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from generators.engines.base import (
    ChatRequest,
    Completion,
    Message,
    Sampling,
)
from generators.engines.openai import OpenAIClient
from schemas.engines import OpenAIEngine


def chat(*turns: tuple[str, str], raw: bool = False, group: str | None = None, **sampling) -> ChatRequest:
    messages = tuple(Message(role, text) for role, text in turns or (("user", "hi"),))
    return ChatRequest(messages, Sampling(**{"max_tokens": 10, **sampling}), raw=raw, group=group)


def answer(text: str | None = "hello", reason: str | None = "stop", raw: bool = False, **usage) -> dict:
    choice = {"text": text} if raw else {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, **usage}
    return {"choices": [{"index": 0, **choice, "finish_reason": reason}], "usage": usage}


class Server:
    """A vLLM server in miniature; `reply` (a coroutine) replaces its answers to generation requests."""

    def __init__(self, window: int | None = 1000, models: tuple[str, ...] = ("m",)) -> None:
        self.window, self.models = window, models
        self.seen: list[tuple[str, dict]] = []
        self.headers: list[dict] = []
        self.reply: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def generated(self) -> list[dict]:
        return [body for path, body in self.seen if path.endswith("completions")]

    async def up(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.method == "POST" else {}
        self.seen.append((request.path, body))
        self.headers.append(dict(request.headers))
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": m, "max_model_len": self.window} for m in self.models]})
        if request.path == "/version":
            return web.json_response({"version": "0.32.0"})
        if request.path == "/tokenize":
            text = body.get("prompt") or "".join(message["content"] for message in body["messages"])
            return web.json_response({"count": len(text), "max_model_len": self.window, "tokens": [1] * len(text)})
        if self.reply is not None:
            return await self.reply(request)
        return web.json_response(answer(raw=request.path == "/v1/completions"))


@asynccontextmanager
async def running(*servers: Server, start: bool = True, **config):
    """The servers, and a client of all of them."""
    for server in servers:
        await server.up()
    urls = tuple(server.url for server in servers)
    client = OpenAIClient(
        OpenAIEngine(**{"type": "openai", "model": "m", "base_urls": urls, "timeout_seconds": 5, **config}), Path()
    )
    try:
        if start:
            await client.start()
        yield client
    finally:
        await client.close()
        for server in servers:
            await server.down()


def ask(server: Server, request: ChatRequest | None = None, /, **config) -> Completion:
    async def main() -> Completion:
        async with running(server, **config) as client:
            return await client.generate(await client.prepare(request or chat()))

    return asyncio.run(main())


def replies(status: int = 200, body: object = None, headers: dict | None = None):
    async def reply(request: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers)

    return reply


def serve(status: int = 200, body: object = None, headers: dict | None = None) -> Server:
    server = Server()
    server.reply = replies(status, body, headers)
    return server
