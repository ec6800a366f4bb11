"""Kill drills: runs of a small recipe that are killed with SIGKILL at any moment, and what must hold afterwards.

Run as a program it is a zygote: it imports everything once, forks a fresh process for each run that it reads from
stdin, prints the pid at once and the exit code at the end. Each run appends a line for each stage it begins (`stage`),
each request it hands to the engine (`call`) and each answer that a row got to see (`put`) to a log, with O_APPEND, so
that the lines of a killed run are there.
"""

import asyncio
import functools
import hashlib
import json
import os
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# ---------------------------------------------------------------- the program


def _serve() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # What takes time to import or to load is here once, so that no run has to. No thread may be started by it.
    from filters.language import detect_languages
    from generators import agentwrite, long_qa  # noqa: F401
    from generators.prompts import render
    from pipelines import build  # noqa: F401
    from pipelines.runs import versions
    from tests import support  # noqa: F401

    for name in ("duckdb", "pandas"):  # pandas: pyarrow asks for it when it meets a date
        import_module(name)
    versions()
    detect_languages(["Some English text."])
    render("long_qa", "answer", {"document": "", "question": ""})
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = _run(**json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(recipe: str, workspace: str, log: str, latency: float, save_seconds: float, die_at: int) -> int:
    """One run. `die_at`: kill this process right before that file operation in the workspace (0: never)."""
    from generators.engines.base import ChatRequest
    from generators.ledger import Entry, Ledger, request_key
    from pipelines import engine_pool, stages
    from pipelines.build import build
    from pipelines.workspace import Workspace
    from tests.support import answer, scripted

    lines = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(kind: str, what: str) -> None:
        os.write(lines, f"{kind} {what}\n".encode())

    class Noted(Ledger):
        async def put(self, entry: Entry) -> Entry:
            stored = await super().put(entry)
            note("put", stored.request_id)
            return stored

    class Told(stages.Silence):
        def stage(self, name: str, rows: int | None, skipped_rows: int) -> None:
            note("stage", name)

    engine = scripted(latency=latency)

    def reply(request: ChatRequest) -> str:
        note("call", request_key(engine.identity, request))
        return answer(request)

    engine._answer = reply
    engine_pool.Ledger = Noted  # type: ignore[misc]
    stages.SAVE_SECONDS = save_seconds
    operations = _count_operations(workspace, die_at)
    place = Workspace(Path(workspace))
    asyncio.run(build(Path(recipe), place, progress=Told(), make_engine=lambda *_: engine))
    note("operations", str(operations[0]))
    return 0


def _count_operations(workspace: str, die_at: int) -> list[int]:
    """Counts opening, renaming and removing below the workspace, as Python's audit hooks tell them."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"):
            if not str(arguments[0]).startswith(workspace):
                return
            count[0] += 1
            if count[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


# ---------------------------------------------------------------- the drill


@dataclass(frozen=True)
class Killed:
    """What became of a workspace that was killed and then resumed to the end."""

    stages: tuple[str, ...]  # for each kill: where it was
    recorded: int  # answers in the ledger at the last kill
    lost: tuple[str, ...]  # answers that a row had seen and the ledger did not have
    repeated: tuple[str, ...]  # requests that the ledger had at a kill and that were asked again
    differing: tuple[str, ...]  # files that are not byte for byte those of the uninterrupted run, and leftovers


class Driver:
    """A zygote, and runs in it one after the other."""

    def __init__(self, save_seconds: float, latency: float = 0.004) -> None:
        self.latency, self.save_seconds = latency, save_seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash_driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip

    def run(self, recipe: Path, workspace: Path, kill_after: float | None = None, die_at: int = 0) -> int:
        """The exit code of one run, which is killed after that many seconds or before that file operation."""
        order = {
            "recipe": str(recipe), "workspace": str(workspace), "log": str(log_of(workspace)),
            "latency": self.latency, "save_seconds": self.save_seconds, "die_at": die_at,
        }  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it may have ended
                os.kill(pid, signal.SIGKILL)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Drill:
    """An uninterrupted run in a folder, and killed ones to compare with it. Each driver runs in its own thread."""

    def __init__(self, folder: Path, recipe: Path, drivers: Sequence[Driver]) -> None:
        self.folder, self.recipe, self.drivers = folder, recipe, drivers
        self._free = queue.SimpleQueue[Driver]()
        for one in drivers:
            self._free.put(one)
        self._pool = ThreadPoolExecutor(len(drivers))
        for name in ("warm", "whole"):  # all at once, as the killed ones will be
            started = time.monotonic()
            self.together([functools.partial(self._uninterrupted, f"{name}-{n}") for n in range(len(drivers))])
            self.seconds = time.monotonic() - started
        whole = folder / "whole-0"
        self.files = snapshot(whole)
        self.calls = len(noted(whole, "call"))
        self.operations = int(noted(whole, "operations")[0])

    def together(self, jobs: Sequence[Callable[[Driver], T]]) -> list[T]:
        """The results of jobs that are each given a free driver."""

        def work(job: Callable[[Driver], T]) -> T:
            driver = self._free.get()
            try:
                return job(driver)
            finally:
                self._free.put(driver)

        return list(self._pool.map(work, jobs))

    def at_moments(self, name: str, rng: random.Random, kills: int = 1) -> Callable[[Driver], Killed]:
        """A workspace to be killed at that many random moments, one after the other, then resumed."""
        # The second kill finds a part of the work done: it comes earlier, so that it finds a process to kill.
        moments = [rng.uniform(0, self.seconds * 0.95 / (1 + 0.5 * number)) for number in range(kills)]
        return functools.partial(self._killed, name, [{"kill_after": moment} for moment in moments])

    def at_operation(self, name: str, number: int) -> Callable[[Driver], Killed]:
        """A workspace to be killed right before that file operation, then resumed."""
        return functools.partial(self._killed, name, [{"die_at": number}])

    def _uninterrupted(self, name: str, driver: Driver) -> None:
        assert driver.run(self.recipe, self.folder / name) == 0

    def _killed(self, name: str, ways: list[dict[str, Any]], driver: Driver) -> Killed:
        workspace = self.folder / name
        stages: list[str] = []
        recorded, lost, repeated, at_kill = set[str](), set[str](), set[str](), 0
        for way in [*ways, {}]:
            before = len(noted(workspace, "call"))
            code = driver.run(self.recipe, workspace, **way)
            assert code in ((0, -signal.SIGKILL) if way else (0,)), f"{workspace}: exit code {code}"
            repeated |= recorded & set(noted(workspace, "call")[before:])
            recorded = in_ledger(workspace / "ledger.sqlite")
            lost |= set(noted(workspace, "put")) - recorded
            if code:
                stages.append((noted(workspace, "stage") or ["start"])[-1])
                at_kill = len(recorded)
        found = snapshot(workspace)
        differing = [path for path in found.keys() | self.files.keys() if found.get(path) != self.files.get(path)]
        differing += [str(path.relative_to(workspace)) for path in workspace.rglob("*.tmp*")]
        shutil.rmtree(workspace)
        log_of(workspace).unlink()
        return Killed(tuple(stages), at_kill, *(tuple(sorted(names)) for names in (lost, repeated, differing)))


@contextmanager
def drill(folder: Path, recipe: Path) -> Iterator[Drill]:
    """Two runs at a time: one saves the manifest after each unit, one as the pipeline does, every two seconds."""
    drivers = [Driver(save_seconds=0.0), Driver(save_seconds=2.0)]
    try:
        yield Drill(folder, recipe, drivers)
    finally:
        for driver in drivers:
            driver.close()


def log_of(workspace: Path) -> Path:
    return workspace.with_name(f"{workspace.name}.log")


def noted(workspace: Path, kind: str) -> list[str]:
    """What the runs in a workspace have appended to its log under that word."""
    log = log_of(workspace)
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{kind} ")]


def in_ledger(path: Path, column: str = "request_id") -> set[str]:
    """The keys in a ledger, or another column, read from a copy: looking must not repair what a killed process has
    left."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copy(f"{path}{suffix}", Path(folder, f"copy{suffix}"))
        connection = sqlite3.connect(Path(folder, "copy"))
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone():
                return set()
            return {value for (value,) in connection.execute(f"SELECT {column} FROM requests")}
        finally:
            connection.close()


def snapshot(workspace: Path) -> dict[str, str]:
    """Hashes of all files below tables/ and exports/, hidden ones too; only the table `runs` tells of time."""
    return {
        path.relative_to(workspace).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("tables", "exports")
        for path in sorted((workspace / folder).rglob("*"))
        if path.is_file() and path.parent != workspace / "tables" / "runs"
    }


if __name__ == "__main__":
    _serve()
