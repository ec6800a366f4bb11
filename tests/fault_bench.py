"""Runs of the real command line on a workspace that something happens to, and what must hold afterwards."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from tests.crash_driver import in_ledger, snapshot
from tests.faulty_server import FaultyServer

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "flows"]
MEASURED = ("seconds", "cached_tokens")  # what the first answer measured


@dataclass(frozen=True)
class Ended:
    """How a command ended: `sentence` is all it wrote to stderr."""

    code: int
    sentence: str

    @property
    def is_clear(self) -> bool:
        """Nothing, or one line that is Longloom's own."""
        return not self.sentence or re.fullmatch(r"longloom: [^\n]+", self.sentence) is not None


@dataclass(frozen=True)
class Harm:
    """Against an uninterrupted run. `paid_twice`: answers that a ledger held at a fault and that were asked again."""

    lost: int
    twice: int
    paid_twice: int
    equal: bool

    @property
    def is_none(self) -> bool:
        return self == Harm(0, 0, 0, True)


class Bench:
    """One recipe, the workspace of an uninterrupted run, and others to harm."""

    def __init__(self, recipe: Path, server: FaultyServer | None = None) -> None:
        self.recipe, self.server = recipe, server
        self.whole = recipe.parent / "whole"
        self._recorded: set[str] = set()
        ended = self.run(self.whole)
        assert ended == Ended(0, ""), ended
        if server is not None:
            assert len(server.answered) == len(set(server.answered))
        self.files, self.rows, self.requests = without_requests(self.whole), rows(self.whole), requests(self.whole)

    def command(self, workspace: Path, limit: int | None = None) -> list[str]:
        return [
            *COMMAND, "run", str(self.recipe), "--no-prefect", "--workspace", str(workspace),
            *(["--limit", str(limit)] if limit is not None else []),
        ]  # fmt: skip

    def start(
        self, workspace: Path, environment: Mapping[str, str] | None = None, limit: int | None = None
    ) -> subprocess.Popen[str]:
        """A run as a process. What the ledger holds now must not be asked again."""
        self._answers_before = len(self.server.answered) if self.server is not None else 0
        self._recorded = responses(workspace / "ledger.sqlite")
        return subprocess.Popen(
            self.command(workspace, limit), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        _, told = process.communicate(timeout=300)
        return Ended(process.returncode, told.strip())

    def run(self, workspace: Path, environment: Mapping[str, str] | None = None) -> Ended:
        return self.ended(self.start(workspace, environment))

    def paid_twice(self) -> int:
        """By the run since `start`."""
        if self.server is None:
            return 0
        return sum(text in self._recorded for text in self.server.answered[self._answers_before :])

    def copy(self, workspace: Path, of: Path | None = None) -> Path:
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(of or self.whole, workspace)
        return workspace

    def finish(self, workspace: Path, paid_twice: int = 0) -> Harm:
        """The next run, which must end well, and what the workspace then holds."""
        ended = self.run(workspace)
        assert ended.code == 0, ended
        return self.harm(workspace, paid_twice + self.paid_twice())

    def harm(self, workspace: Path, paid_twice: int = 0) -> Harm:
        found = rows(workspace)
        equal = without_requests(workspace) == self.files and requests(workspace) == self.requests
        return Harm((self.rows - found).total(), (found - self.rows).total(), paid_twice, equal)


def until_well(run: Callable[[], Ended], tries: int = 4) -> list[Ended]:
    """The same command until it ends well, as a user would; what it said each time."""
    all_of_them: list[Ended] = []
    while len(all_of_them) < tries and not (all_of_them and all_of_them[-1].code == 0):
        all_of_them.append(run())
    return all_of_them


def rows(workspace: Path) -> Counter[tuple[str, str, str]]:
    """How often a row is accounted for in a stage (once)."""
    table = read(workspace, "row_states", ("stage", "row_id", "detail"))
    return Counter(table)


def requests(workspace: Path) -> list[tuple[object, ...]]:
    return sorted(read(workspace, "requests", without=MEASURED), key=repr)


def read(workspace: Path, table: str, columns: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[tuple]:
    """All rows of the parts that are there, named by a manifest or not."""
    found: list[tuple] = []
    for path in sorted((workspace / "tables" / table).glob("part-*.parquet")):
        part = pq.read_table(path, columns=list(columns) or None).drop_columns(list(without))
        found += [tuple(repr(value) for value in row.values()) for row in part.to_pylist()]
    return found


def without_requests(workspace: Path) -> dict[str, str]:
    """All files that tables and exports are made of, but requests and what was put aside as damaged."""
    return {
        path: digest
        for path, digest in snapshot(workspace).items()
        if not path.startswith("tables/requests/") and not path.endswith(".damaged")
    }


def responses(ledger: Path) -> set[str]:
    """The answers in a ledger; none where it cannot be read."""
    try:
        return in_ledger(ledger, "response")
    except sqlite3.DatabaseError:
        return set()
