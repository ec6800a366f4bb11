"""Progress as one small interface with three forms: a live terminal line, plain lines, silence."""

import sys
import time
from collections.abc import Callable
from typing import Any

from flows.cli import drop_unwritable
from pipelines.stages import Progress, Silence

LINE_SECONDS = 10.0  # between two plain lines


class _Counts:
    """What both forms show: rows of the stage that runs, and the runner's tokens."""

    def __init__(self) -> None:
        self.name, self.done, self.started = "", 0, time.monotonic()
        self.total: int | None = None
        self.runner: Any = None
        self._base: dict[str, int] = {}

    def stage(self, name: str, rows: int | None) -> None:
        self.name, self.total, self.done, self.started = name, rows, 0, time.monotonic()
        self.runner, self._base = None, {}

    def watch(self, runner: Any) -> None:
        if self.runner is not runner:
            self.runner = runner
            names = ("calls", "ledger_hits", "prompt_tokens", "cached_tokens", "completion_tokens")
            self._base = {name: getattr(runner.stats, name) for name in names}

    def _of(self, name: str) -> int:
        return int(getattr(self.runner.stats, name)) - self._base[name]

    def model(self) -> str:
        """Tokens a second since the engine is up, prefix-cache share, calls answered by the ledger."""
        if self.runner is None:
            return ""
        stats = self.runner.stats
        if self._of("calls") == self._of("ledger_hits"):
            return f"{self._of('ledger_hits')} calls from the ledger" if self._of("calls") else ""
        if stats.engine_started is None:
            return "starting the engine"
        seconds = max(1e-9, time.monotonic() - max(self.started, stats.engine_started))
        made, prompt = self._of("completion_tokens"), self._of("prompt_tokens")
        text = f"{made / seconds:.0f} tokens/s"
        if prompt:
            text += f", {100 * self._of('cached_tokens') / prompt:.0f}% of prompts cached"
        return text + (f", {self._of('ledger_hits')} calls from the ledger" if self._of("ledger_hits") else "")

    def left(self) -> str:
        if self.total is None or not self.done or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        return f"{_clock(seconds)} left"

    def line(self) -> str:
        rows = f"{self.done}/{self.total} rows" if self.total is not None else f"{self.done} rows"
        return ", ".join(filter(None, (f"{self.name}: {rows}", self.model(), self.left())))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _print(text: str) -> None:
    """A run goes on where nobody reads its lines any more, as behind `| head`, or their disk is full."""
    try:
        print(text, flush=True)
    except OSError:
        drop_unwritable()


class Lines:
    """A line when a stage starts, every ten seconds while it runs, and for each note. For logs and pipes."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write if write is not None else _print
        self._counts = _Counts()
        self._last = 0.0

    def stage(self, name: str, rows: int | None, skipped_rows: int) -> None:
        self._end()
        self._counts.stage(name, rows)
        self._last = time.monotonic()
        if rows == 0:
            self._write(f"{name}: up to date ({skipped_rows} rows)")
        else:
            self._write(f"{name}: started" + (f", {skipped_rows} rows are done already" if skipped_rows else ""))

    def advance(self, rows: int) -> None:
        self._counts.done += rows
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self._write(self._counts.line())

    def note(self, text: str) -> None:
        self._write(text)

    def watch(self, stats: Any) -> None:
        self._counts.watch(stats)

    def _end(self) -> None:
        if self._counts.name and self._counts.done:
            self._write(self._counts.line())

    def close(self) -> None:
        self._end()


class Terminal:
    """One live line with a bar, drawn by rich."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        self._counts = _Counts()
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[model]}"),
            TextColumn("{task.fields[left]}"),
        )
        self._bar.start()
        self._task: Any = None

    def stage(self, name: str, rows: int | None, skipped_rows: int) -> None:
        self._end()
        self._counts.stage(name, rows)
        done = f"{name}: up to date ({skipped_rows} rows)" if rows == 0 else name
        self._task = self._bar.add_task(done, total=rows, model="", left="")

    def advance(self, rows: int) -> None:
        self._counts.done += rows
        self._draw()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def watch(self, stats: Any) -> None:
        self._counts.watch(stats)
        self._draw()

    def _draw(self) -> None:
        counts = self._counts
        self._bar.update(self._task, completed=counts.done, model=counts.model(), left=counts.left())

    def _end(self) -> None:
        if self._task is not None:
            self._bar.update(self._task, total=self._counts.done, completed=self._counts.done, left="")

    def close(self) -> None:
        self._end()
        self._bar.stop()


def for_stdout() -> Terminal | Lines:
    """What suits it: a live line on a terminal, plain lines elsewhere."""
    return Terminal() if sys.stdout.isatty() else Lines()


__all__ = ["Lines", "Progress", "Silence", "Terminal", "for_stdout"]
