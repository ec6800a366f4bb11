"""An engine in a process of its own: its memory comes back when it ends, and its crash does not take the flow along.

The parent talks to `worker.py` over a socket pair, many requests at once. The engine's output goes to a log
file. When the process dies, every waiting request raises EngineDied, and the next `start()` starts a new one.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from generators.engines.base import (
    ChatRequest,
    Completion,
    Engine,
    EngineDied,
    EngineError,
    EngineInfo,
    Identity,
    Prepared,
)
from generators.engines.wire import (
    Evicted,
    completion_from_json,
    error_from_json,
    info_from_json,
    pack_frame,
    read_frame,
    request_to_json,
)
from generators.models import (
    ResolvedModel,
    fingerprint,
    model_window,
    resolve_adapter,
    resolve_model,
    template_hash,
)
from schemas.engines import TransformersEngine, VllmEngine
from schemas.errors import RunError
from schemas.ids import canonical_json

_CLOSE_SECONDS = 30.0  # for a process to end by itself
_LOG_LINES = 20  # of the log, quoted when a start fails

# Options of vLLM that decide when and where a request is computed, not what comes out: no part of the ledger key.
_SCHEDULING = {
    "block_size", "cpu_offload_gb", "data_parallel_size", "disable_log_stats", "enable_chunked_prefill",
    "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes",
    "max_num_batched_tokens", "max_num_seqs", "num_gpu_blocks_override", "pipeline_parallel_size", "swap_space",
    "tensor_parallel_size",
}  # fmt: skip
# OpenMP threads that spin while they wait for a core that someone else uses cost far more than that core brings
# (measured on 2 busy cores: 83 tokens/s with one thread, 13 with two that spin).
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_ROOT = str(Path(__file__).resolve().parents[2])  # so that a checkout works from any folder
BACKENDS = {
    "vllm": "generators.engines.vllm:VllmBackend",
    "transformers": "generators.engines.transformers:TransformersBackend",
}


class ProcessEngine(Engine):
    """`backend`: `module:class` of a Backend, for tests; by default the one of the config's type."""

    def __init__(
        self,
        config: VllmEngine | TransformersEngine,
        base_dir: Path,
        log_dir: Path | None = None,
        backend: str | None = None,
    ) -> None:
        self._config = config
        self._base_dir = base_dir
        self._log_dir = log_dir
        self._backend = backend or BACKENDS[config.type]
        self._resolved: ResolvedModel | None = None
        self._process: _Connection | None = None
        self._info: EngineInfo | None = None
        self._starting = asyncio.Lock()

    @cached_property
    def identity(self) -> Identity:  # computed once: it reads the whole folder
        model, adapter = self._model(), self._adapter()
        settings = {} if self._config.dtype == "auto" else {"dtype": self._config.dtype}
        options = getattr(self._config, "options", {})
        settings.update({name: options[name] for name in sorted(options.keys() - _SCHEDULING)})
        adapted = None if adapter is None else fingerprint(adapter)
        return Identity(
            model=model.name if adapted is None else f"{model.name}+{adapted[:8]}",
            revision=model.revision if adapted is None else f"{model.revision}+{adapted}",
            template=template_hash(model.path),
            settings=canonical_json(settings) if settings else None,
        )

    def _model(self) -> ResolvedModel:
        if self._resolved is None:
            self._resolved = resolve_model(self._config.model, self._base_dir, self._config.revision)
        return self._resolved

    def _adapter(self) -> Path | None:
        return None if self._config.adapter is None else resolve_adapter(self._config.adapter, self._base_dir)

    async def start(self) -> EngineInfo:
        """Start the process and load the model. Raises UserError, RunError (with the end of the log)."""
        async with self._starting:
            if self._info is not None and self._process is not None and self._process.alive:
                return self._info
            await self._stop()
            config = await asyncio.to_thread(self._worker_config)
            self._process = await _Connection.open(self._backend, self._log_path())
            try:
                self._info = info_from_json(await self._process.call("start", config=config))
            except EngineError as error:
                what = f"the engine for {self._config.model!r} did not start: {error}"
                raise RunError(f"{what}\n{self._process.log_end()}") from error
            finally:
                if self._info is None:
                    await self._stop()
            return self._info

    def _worker_config(self) -> dict[str, Any]:
        model = self._model()
        window = model_window(model.path) if self._config.max_model_len is None else self._config.max_model_len
        adapter = self._adapter()
        found = {"model": str(model.path), "adapter": str(adapter) if adapter else None, "max_model_len": window}
        return {**self._config.model_dump(mode="json"), **found}

    def _log_path(self) -> Path:
        folder = self._log_dir or Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        name = f"engine-{self._config.type}-{os.getpid()}"
        return next(p for n in itertools.count(1) if not (p := folder / f"{name}-{n}.log").exists())

    async def prepare(self, request: ChatRequest) -> Prepared:
        reply = await self._up().call("prepare", request=request_to_json(request))
        return Prepared(request, reply["prompt_tokens"], reply["handle"])

    async def generate(self, prepared: Prepared) -> Completion:
        process = self._up()
        sampling = prepared.request.sampling.to_dict()
        try:
            reply = await process.call("generate", handle=prepared.handle, sampling=sampling)
        except Evicted:
            reply = await process.call("generate", request=request_to_json(prepared.request))
        return completion_from_json(reply)

    def _up(self) -> "_Connection":
        if self._process is None or self._info is None or not self._process.alive:
            raise EngineDied("the engine's process is not running")
        return self._process

    async def close(self) -> None:
        async with self._starting:
            await self._stop()

    async def _stop(self) -> None:
        process, self._process, self._info = self._process, None, None
        if process is not None:
            await process.close()


class _Connection:
    """One engine process and the requests that wait for its replies."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        life: int,
        log: Path,
    ) -> None:
        self.log = log
        self._life = life  # our end of a pipe that the worker's guard reads: it closes when we die
        self.alive = True
        self._process = process
        self._writer = writer
        self._ids: Iterator[int] = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read(reader))
        # The exit is watched beside the socket: a forked child of the engine may hold the socket open.
        self._exit = asyncio.create_task(self._wait_for_exit())

    @classmethod
    async def open(cls, backend: str, log: Path) -> "_Connection":
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        arguments = [str(theirs.fileno()), str(os.getpid()), backend]
        guard_end, life = os.pipe()
        try:
            with theirs, log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "generators.engines.worker", *arguments),
                    stdin=guard_end,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                    env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
                    start_new_session=True,  # a process group to kill, and no Ctrl-C before we say so
                )
        finally:
            os.close(guard_end)
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, life, log)

    async def call(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a message and wait for its reply. If the caller is cancelled, so is the work."""
        if not self.alive:
            raise EngineDied("the engine's process is gone")
        request_id = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            self._writer.write(pack_frame({"id": request_id, "op": op, **fields}))
            # A lost connection shows in the reader too, which then fails the future with EngineDied.
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()
            return await future
        except asyncio.CancelledError:
            if self.alive:
                self._writer.write(pack_frame({"id": request_id, "op": "cancel"}))
            raise
        finally:
            self._waiting.pop(request_id, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (message := await read_frame(reader)) is not None:
            future = self._waiting.get(message["id"])
            if future is None or future.done():
                continue  # cancelled meanwhile
            if "error" in message:
                future.set_exception(error_from_json(message["error"]))
            else:
                future.set_result(message["ok"])
        self._died()

    async def _wait_for_exit(self) -> None:
        await self._process.wait()
        # Replies that were sent before the end are still in the socket.
        await asyncio.wait([self._reading], timeout=1.0)
        self._died()

    def _died(self) -> None:
        if not self.alive:
            return
        self.alive = False
        self._kill_group()
        os.close(self._life)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineDied(f"the engine's process died (log: {self.log})"))

    def _kill_group(self) -> None:
        """The worker leads its group, so this reaches its children even when it is dead itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Ask the process to end by closing our half of the socket, wait, then kill."""
        try:
            if self.alive:
                self._writer.write_eof()
                await asyncio.wait([self._exit], timeout=_CLOSE_SECONDS)
        finally:
            self._died()
            self._writer.close()
            await self._process.wait()

    def log_end(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").rstrip().splitlines()
            return "\n".join([f"the end of {self.log}:", *lines[-_LOG_LINES:]])
        return f"(no log at {self.log})"
