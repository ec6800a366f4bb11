"""Work on files in processes of their own: as many at once as there are cores."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from pipelines.duplicates import shared_part
from schemas.errors import RunError

T = TypeVar("T")


def die_with(parent: int) -> None:
    """End this process when its parent has: a killed parent tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    return len(os.sched_getaffinity(0))


class Processes:
    """Starts with the first call. With one process the work is done in a thread of this one: nothing is started."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)`, all of which must be picklable. RunError when its process was killed."""
        if self.count == 1:
            return await asyncio.to_thread(work, *arguments)
        if self._pool is None:
            # Not forked: this process has threads, of Arrow's and Prefect's, whose locks a fork would inherit.
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=die_with, initargs=(os.getpid(),))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        except BrokenProcessPool as error:
            self.close()
            raise RunError(
                f"a process that ran {work.__name__} was killed, which the system does when memory runs out"
            ) from error

    async def grouped(self, files: list[tuple[str, int]], column: str, to: list[str]) -> None:
        """duplicates.shared_part of each part, a file each. Every part reads all files: columns are small."""
        parts = len(to)
        await asyncio.gather(*(self.call(shared_part, files, column, n, parts, file) for n, file in enumerate(to)))

    def close(self) -> None:
        """End all processes; what they were at is not worth waiting for."""
        pool, self._pool = self._pool, None
        if pool is not None:
            running = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()
