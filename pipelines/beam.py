"""Work on an Apache Beam runner. Elements are names of files and columns of numbers; no text goes through a shuffle.

The runner's workers read and write the workspace's files, so its folder must have the same path for all of them, and
this project must be installed there. Beam is imported when a pipeline is made: that takes five seconds.
"""

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.duplicates import columns_of, write_shared
from pipelines.files import write_json
from schemas.errors import RunError

_GATHER_SECONDS = 0.2  # calls made within that time go as one pipeline


class BeamExecutor:
    """Like `processes.Processes`: many calls at once. `folder`: where results wait, inside the workspace."""

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        self._options, self._folder = list(options), folder
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]]] = []
        self._pipelines = itertools.count()
        self._sending: set[asyncio.Task[None]] = set()

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """`work(*arguments)`, which gives a JSON value. RunError when the pipeline fails."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, arguments, result))
        if len(self._waiting) == 1:
            task = asyncio.create_task(self._send())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return await result

    async def _send(self) -> None:
        await asyncio.sleep(_GATHER_SECONDS)
        calls, self._waiting = self._waiting, []
        folder = self._folder / str(next(self._pipelines))
        shutil.rmtree(folder, ignore_errors=True)
        jobs = [(number, work, arguments) for number, (work, arguments, _) in enumerate(calls)]
        try:
            await asyncio.to_thread(_run, self._options, jobs, folder)
            results = [json.loads((folder / f"{number}.json").read_text("utf-8")) for number, _, _ in jobs]
        except Exception as error:
            for _, _, result in calls:
                if not result.done():
                    result.set_exception(RunError(f"the Beam pipeline failed: {type(error).__name__}: {error}"[:2000]))
            return
        for (_, _, result), value in zip(calls, results, strict=True):
            if not result.done():
                result.set_result(value)

    async def grouped(self, files: list[tuple[str, int]], column: str, to: list[str]) -> None:
        """duplicates.write_shared of each part: hashes of all files, grouped by part."""
        try:
            await asyncio.to_thread(_run_grouped, self._options, files, column, to)
        except Exception as error:
            raise RunError(f"the Beam pipeline failed: {type(error).__name__}: {error}"[:2000]) from error

    def close(self) -> None:
        for task in self._sending:
            task.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)


def _run(options: list[str], jobs: list[tuple[int, Callable[..., Any], tuple[Any, ...]]], folder: Path) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(_do, str(folder))


def _do(job: tuple[int, Callable[..., Any], tuple[Any, ...]], folder: str) -> None:
    number, work, arguments = job
    write_json(Path(folder) / f"{number}.json", work(*arguments))


def _run_grouped(options: list[str], files: list[tuple[str, int]], column: str, to: list[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        columns = pipeline | beam.Create(files) | beam.Reshuffle() | beam.FlatMap(_columns, column, len(to))
        _ = columns | beam.GroupByKey() | beam.Map(_write, to)


def _columns(file: tuple[str, int], column: str, parts: int) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """What one file has for each part: documents and hashes, as bytes."""
    for part in range(parts):
        documents, hashes = columns_of(*file, column, part, parts)
        yield part, (documents.astype(np.int64).tobytes(), hashes.tobytes())


def _write(group: tuple[int, Iterable[tuple[bytes, bytes]]], to: list[str]) -> None:
    part, found = group
    arrays = ((np.frombuffer(documents, np.int64), np.frombuffer(hashes, np.uint64)) for documents, hashes in found)
    write_shared(arrays, to[part])
