"""A server that answers every OpenAI-compatible request at once with canned JSON: what is left is the client's cost.

python -m benchmarks.instant_server PORT
"""

import asyncio
import json
import sys

_USAGE = {"prompt_tokens": 250, "completion_tokens": 60, "total_tokens": 310, "prompt_tokens_details": None}
_ANSWERS = {
    b"/v1/models": {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 131072}]},
    b"/version": {"version": "0.0"},
    b"/tokenize": {"count": 250, "max_model_len": 131072, "tokens": list(range(250)), "token_strs": None},
    b"/v1/chat/completions": {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "All happy families are alike. " * 10},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    },
}


def _canned(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


_REPLIES = {path: _canned(answer) for path, answer in _ANSWERS.items()}


class Instant(asyncio.Protocol):
    """Reads requests by their Content-Length; no framework, so that it keeps ahead of any client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(_REPLIES[head.split(b" ", 2)[1]])


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
