"""An OpenAI-compatible server that goes wrong on demand, and counts what it has answered.

Answers are those of `tests.support.answer`: they depend on nothing but the request. `fault` names what happens to the
next `left` requests for a completion; after that all is well.
"""

import asyncio
import json
import threading
from contextlib import suppress
from typing import Any

from generators.engines.base import ChatRequest, Message, Sampling
from tests.support import answer

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 32768}]}
HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
ERRORS = {
    "500": (b"500 Internal Server Error", b""),
    "429": (b"429 Too Many Requests", b"Retry-After: 1\r\n"),
    "401 that repeats what it was sent": (b"401 Unauthorized", b""),
    "400 that repeats what it was sent": (b"400 Bad Request", b""),
    "500 that repeats what it was sent": (b"500 Internal Server Error", b""),
}
FAULTS = ("hangs", "500", "429", "half a body", "wrong JSON", "no completion", "endless bytes", "closes the connection")
FOR_EVER = 10**9


class FaultyServer:
    """Runs in a thread of its own from creation to `close`."""

    def __init__(self) -> None:
        self.fault, self.left = "", 0
        self.answered: list[str] = []  # the texts that were sent as a whole, in order
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def start() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()

        self._main = self._loop.create_task(start())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def engine(self, **changes: Any) -> dict[str, Any]:
        """A recipe's engine section for this server."""
        return {
            "type": "openai", "model": "m", "base_urls": [self.url], "server": "openai", "max_model_len": 32768,
            "tokenizer": "scripted", "timeout_seconds": 5, **changes,
        }  # fmt: skip

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                body = await reader.readexactly(int(fields.get(b"content-length", 0)))
                if b"/chat/completions" not in head:
                    writer.write(_response(MODELS))
                    continue
                if self.left > 0:
                    self.left -= 1
                    if not await self._go_wrong(head, writer):
                        break
                    continue
                text = answer(_request(json.loads(body)))
                text = f"1.{text}" if text.startswith(" ") else text  # nobody wrote the beginning for it
                writer.write(_response(_completion(text)))
                await writer.drain()
                self.answered.append(text)
        writer.close()

    async def _go_wrong(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Do what `fault` says; is the connection still good?"""
        whole = _response(_completion("It means nothing."))
        if self.fault == "hangs":
            await asyncio.sleep(3600)
        elif self.fault in ERRORS:
            status, more = ERRORS[self.fault]
            told = head.decode() if "repeats" in self.fault else "busy"
            body = json.dumps({"error": {"message": told}}).encode()
            writer.write(HEAD % status + more + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            return True
        elif self.fault == "half a body":
            writer.write(whole[:-40])
        elif self.fault == "wrong JSON":
            writer.write(HEAD % b"200 OK" + b"Content-Length: 9\r\n\r\n" + b'{"choices')
            return True
        elif self.fault == "no completion":
            writer.write(_response({"choices": []}))
            return True
        elif self.fault == "endless bytes":
            writer.write(HEAD % b"200 OK" + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                await writer.drain()
        return False  # "closes the connection", and what was broken off


def _request(body: dict[str, Any]) -> ChatRequest:
    messages = tuple(Message(one["role"], one["content"]) for one in body["messages"])
    return ChatRequest(messages, Sampling(max_tokens=body["max_tokens"], seed=body["seed"]))


def _completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 250, "completion_tokens": 9}}


def _response(value: object) -> bytes:
    body = json.dumps(value).encode()
    return HEAD % b"200 OK" + b"Content-Length: %d\r\n\r\n" % len(body) + body
