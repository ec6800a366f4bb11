"""The workspace: the folder that holds everything a recipe produced, and the lock that keeps two runs apart."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipelines.files import named, remove_leftovers
from schemas.errors import UserError


class Workspace:
    """Paths inside a workspace folder. Creating the object touches nothing on disk."""

    def __init__(self, root: Path, ledger: Path | None = None) -> None:
        self.root = root.absolute()
        self.catalog = self.root / "catalog.duckdb"
        self.ledger = ledger.absolute() if ledger is not None else self.root / "ledger.sqlite"
        self.manifests = self.root / "manifests"
        self.exports = self.root / "exports"
        self.logs = self.root / "logs"
        self.scratch = self.root / ".scratch"  # of a running stage

    def manifest(self, stage: str) -> Path:
        return self.manifests / f"{stage}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for one run. The lock belongs to the process: it is gone when that is killed.
        Raises UserError when another run holds it, or when the folder cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"{self.root}: cannot be used as a workspace: {error.strerror or error}") from error
        with handle:
            if not _locked(handle):
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise UserError(f"{self.root}: another run (process {owner}) is using this workspace")
            with named(self.root):
                handle.truncate(0)
                handle.write(str(os.getpid()))
                handle.flush()
            remove_leftovers(self.root)
            shutil.rmtree(self.scratch, ignore_errors=True)
            yield

    def busy(self) -> bool:
        """Does a run hold the lock? Asked by taking it for a moment, which `lock` waits out."""
        try:
            with (self.root / ".lock").open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no run has ever been here
            return False
        return False


def _locked(handle: IO[str]) -> bool:
    """Take the lock of one run; False when another has it, and not only for the moment that `busy` takes."""
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False
