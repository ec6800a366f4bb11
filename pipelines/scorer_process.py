"""The scorer's process as its parent sees it: its memory comes back, and its crash does not take the flow along.

One JSON line a message. To the process: its configuration, then jobs (a Parquet part and the ids of its rows; it reads
the texts itself). From it: `ready` once, a line for each row, `end` after each job, or `error`. Its log is stderr.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.errors import RunError, UserError

_ROOT = str(Path(__file__).resolve().parents[1])  # so that a checkout works from any folder
# Threads that spin while they wait for a core that someone else uses cost more than that core brings.
# The same sums in every run: as many threads each time, whatever the alignment of arrays.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE", "MKL_DYNAMIC": "FALSE", "MKL_CBWR": "AUTO,STRICT", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
_LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class ScorerConfig:
    """What a scorer's process loads: which scorer (a key of score_worker.SCORERS) with which options, a model folder
    and how. `name`: what people call the model. `tokenizer`: the folder whose tokenizer cuts the rows."""

    scorer: str
    options: dict[str, Any]
    tokenizer: str
    name: str
    folder: str
    adapter: str | None
    dtype: str
    window: int
    batch_tokens: int


class ScorerProcess:
    """Starts with the first job. Jobs go one after the other."""

    def __init__(self, config: ScorerConfig, log_dir: Path | None = None) -> None:
        self.config = config
        self._log_dir = log_dir or Path(tempfile.gettempdir())
        self._log: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()

    @property
    def alive(self) -> bool:
        """False once the process has ended by itself."""
        return self._process is None or self._process.returncode is None

    async def score(self, file: Path, ids: list[str]) -> AsyncIterator[dict[str, Any]]:
        """Rows of a part as they are done: {row, state, reason, detail, values}, the last
        being lines for the scorer's table. Raises UserError or RunError."""
        async with self._busy:
            try:
                if self._process is None:
                    await self._start()
                await self._send({"file": str(file), "ids": ids})
                while "end" not in (message := await self._receive()):
                    yield message
            except BaseException:
                await self.close()  # what was under way is not worth waiting for
                raise

    async def _start(self) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        names = (self._log_dir / f"scorer-{os.getpid()}-{n}.log" for n in itertools.count(1))
        self._log = next(path for path in names if not path.exists())
        paths = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "pipelines.score_worker", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # no Ctrl-C before we say so
            )
        await self._send(asdict(self.config))
        await self._receive()

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # the next reply says it with more detail
            await self._process.stdin.drain()

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RunError(f"the scoring process for {self.config.name!r} {await self._ending()}{self._log_end()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            if message["error"] == "user":
                raise UserError(message["text"])
            raise RunError(f"scoring with {self.config.name!r} failed: {message['text']} (log: {self._log})")
        return message

    async def _ending(self) -> str:
        assert self._process is not None
        code = await self._process.wait()
        hint = ", which the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"was killed by signal {-code}{hint}" if code < 0 else f"ended with exit code {code}"

    def _log_end(self) -> str:
        assert self._log is not None
        lines = self._log.read_text(errors="replace").rstrip().splitlines()
        return "\n".join([f"; the end of {self._log}:", *lines[-_LOG_LINES:]])

    async def close(self) -> None:
        """End the process; it holds nothing that needs saving."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
