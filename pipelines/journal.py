"""The journal of a run: `logs/<run_id>.jsonl`, a JSON object a line, for log collectors and `longloom status --watch`.

Every line has `time` (UTC), `run_id` and `event`: run_begin, stage_begin, progress, unit, note, stage_end, error or
run_end.
"""

import json
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pipelines.files import named
from pipelines.manifest import Manifest, UnitRecord
from pipelines.stages import Context, Progress, RunUnit, Stage, Unit

PROGRESS_SECONDS = 10.0  # between two lines that say how many rows are done


class Journal:
    """Writes down what happens and passes it on to the progress that the caller shows. Close it with `with`."""

    def __init__(self, context: Context, stages: list[Stage]) -> None:
        self._shown: Progress = context.progress
        self._stages = [stage.name for stage in stages]
        self._run_id = context.run_id
        self._rows: int | None = None
        self._name, self._done = "", 0
        self._began = self._told = time.monotonic()
        path = context.workspace.logs / f"{context.run_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, path.open("a", buffering=1, encoding="utf-8")  # a line at a time
        self.write("run_begin", recipe=context.recipe.name, recipe_hash=context.recipe_hash, stages=self._stages)

    def write(self, event: str, **fields: Any) -> None:
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "run_id": self._run_id, "event": event}
        with named(self._path):
            self._file.write(json.dumps({**head, **fields}, ensure_ascii=False) + "\n")

    @property
    def percent(self) -> float:
        """Of the run: every stage counts the same, for nobody knows yet how long the later ones take."""
        if self._name not in self._stages:
            return 0.0
        part = min(1.0, self._done / self._rows) if self._rows else 0.0
        return 100 * (self._stages.index(self._name) + part) / len(self._stages)

    # ---------------------------------------------------------------- what a Progress is told

    def stage(self, name: str, rows: int | None, skipped_rows: int) -> None:
        self._name, self._rows, self._done = name, rows, 0
        self._began = self._told = time.monotonic()
        self.write("stage_begin", stage=name, rows=rows, rows_done_before=skipped_rows)
        self._shown.stage(name, rows, skipped_rows)

    def advance(self, rows: int) -> None:
        self._done += rows
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.write("progress", stage=self._name, rows_done=self._done, rows=self._rows)
        self._shown.advance(rows)

    def note(self, text: str) -> None:
        self.write("note", stage=self._name, text=text)
        self._shown.note(text)

    def watch(self, stats: Any) -> None:
        self._shown.watch(stats)

    # ---------------------------------------------------------------- what else happens

    def noting(self, run_unit: RunUnit) -> RunUnit:
        """`run_unit`, with a line for each unit that ends well."""

        async def noted(stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
            began = time.monotonic()
            record = await run_unit(stage, number, unit, context)
            seconds = round(time.monotonic() - began, 3)
            self.write("unit", stage=stage.name, unit=unit.key, states=record.states, seconds=seconds)
            return record

        return noted

    def stage_end(self, manifest: Manifest) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        self.write("stage_end", stage=manifest.stage, rows=manifest.rows_in, states=manifest.states, seconds=seconds)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError) if error is not None else nullcontext(), self._file:  # a full disk is told already
            if error is not None:
                self.write("error", stage=self._name, type=type(error).__name__, text=str(error))
            self.write("run_end", status=ending(error))


def ending(error: BaseException | None) -> str:
    """The status of a run that ended so: stopped from outside (Ctrl-C, cancelled) is no failure."""
    if error is None:
        return "done"
    return "failed" if isinstance(error, Exception) else "interrupted"


def last_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Of a journal the last line of each event. A line that is just being written is left out."""
    found: dict[str, dict[str, Any]] = {}
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[line["event"]] = line
    return found
