"""The engine process: `python -m generators.engines.worker FD PARENT_PID MODULE:BACKEND` (see process.py).

It serves one parent over one socket and ends when the parent does. It leads a process group of its own, and its
last act is to kill that group. No child of the engine survives, whoever dies first: if the worker is killed, the
parent kills the group; if both are killed at once, a guard does (vLLM's own processes would stay for ever).
"""

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from array import array
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from generators.engines.backend import Backend
from generators.engines.base import BadRequest, ChatRequest, EngineDied, EngineInfo, PromptTooLong, Sampling
from generators.engines.wire import (
    Evicted,
    error_to_json,
    pack_frame,
    read_frame,
    request_from_json,
    result_to_json,
)
from schemas.errors import UserError

_KEPT_TOKENS = 16_000_000  # of prepared prompts, at 4 bytes each
_CLOSE_SECONDS = 20.0  # for a backend to give back what it holds, before everything is killed


class TokenStore:
    """Token ids of prepared prompts by handle; the least recently used go first."""

    def __init__(self, limit: int = _KEPT_TOKENS) -> None:
        self._limit = limit
        self._prompts: OrderedDict[str, array[int]] = OrderedDict()
        self._tokens = 0
        self._next = 0

    def put(self, ids: Sequence[int]) -> str:
        self._next += 1
        handle = f"{os.getpid()}-{self._next}"  # a new process knows none of the old one's handles
        self._prompts[handle] = array("I", ids)
        self._tokens += len(ids)
        while self._tokens > self._limit and len(self._prompts) > 1:
            self._tokens -= len(self._prompts.popitem(last=False)[1])
        return handle

    def get(self, handle: str) -> Sequence[int]:
        if handle not in self._prompts:
            raise Evicted(handle)
        self._prompts.move_to_end(handle)
        return self._prompts[handle]


class Worker:
    """Answers the parent's messages, each in a task of its own."""

    def __init__(self, backend: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._backend_path = backend
        self._backend: Backend | None = None
        self._reader = reader
        self._writer = writer
        self._info: EngineInfo | None = None
        self._store = TokenStore()
        self._tokenizing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize")
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the parent closes the connection."""
        while (message := await read_frame(self._reader)) is not None:
            request_id = message["id"]
            if message["op"] == "cancel":
                if request_id in self._tasks:
                    self._tasks[request_id].cancel()
                continue
            task = asyncio.create_task(self._answer(request_id, self._run(message)))
            self._tasks[request_id] = task
            task.add_done_callback(partial(self._forget, request_id))
        if self._backend is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._backend.close(), _CLOSE_SECONDS)

    def _forget(self, request_id: int, _: asyncio.Task[None]) -> None:
        self._tasks.pop(request_id, None)

    async def _answer(self, request_id: int, work: Coroutine[Any, Any, Any]) -> None:
        try:
            reply = {"id": request_id, "ok": result_to_json(await work)}
        except EngineDied as error:
            print(f"the engine died: {error}", file=sys.stderr, flush=True)
            return end_process()  # the parent sees it and tells everyone who waits
        except Exception as error:
            if not isinstance(error, BadRequest | UserError | Evicted):
                traceback.print_exc()  # into the log
            reply = {"id": request_id, "error": error_to_json(error)}
        self._writer.write(pack_frame(reply))
        await self._writer.drain()

    async def _run(self, message: dict[str, Any]) -> Any:
        if message["op"] == "start":
            return await self._start(message["config"])
        assert self._backend is not None, "start comes first"
        if message["op"] == "prepare":
            ids = await self._tokenize(request_from_json(message["request"]))
            return {"prompt_tokens": len(ids), "handle": self._store.put(ids)}
        assert message["op"] == "generate"
        if "request" in message:  # the handle was evicted, or belongs to a process before this one
            request = request_from_json(message["request"])
            return await self._backend.generate(await self._tokenize(request), request.sampling)
        sampling = Sampling(**{**message["sampling"], "stop": tuple(message["sampling"]["stop"])})
        return await self._backend.generate(self._store.get(message["handle"]), sampling)

    async def _start(self, config: dict[str, Any]) -> EngineInfo:
        module, _, name = self._backend_path.partition(":")
        self._backend = getattr(importlib.import_module(module), name)(config)
        assert self._backend is not None
        self._info = await self._backend.start()
        return self._info

    async def _tokenize(self, request: ChatRequest) -> Sequence[int]:
        assert self._backend is not None and self._info is not None
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, self._backend.tokenize, request)
        if len(ids) + request.sampling.max_tokens > self._info.max_model_len:
            raise PromptTooLong(len(ids), request.sampling.max_tokens, self._info.max_model_len)
        return ids


def end_process() -> None:
    """Leave at once, and take every process of the group along."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.killpg(0, signal.SIGKILL)


def _start_guard() -> None:
    """A shell in our group that waits for the end of standard input, whose other end only the parent holds."""
    subprocess.Popen(["/bin/sh", "-c", "read -r _; kill -KILL 0"])


def _watch_parent(parent: int) -> None:
    """Pipes of a dead parent may stay open in a process that it forked: so a thread looks at the parent itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    end_process()


async def _main(fd: int, backend: str) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    await Worker(backend, reader, writer).serve()
    end_process()


if __name__ == "__main__":
    assert os.getpgrp() == os.getpid(), "process.py starts this as the leader of a process group"
    _start_guard()
    threading.Thread(target=_watch_parent, args=(int(sys.argv[2]),), daemon=True).start()
    asyncio.run(_main(int(sys.argv[1]), sys.argv[3]))
