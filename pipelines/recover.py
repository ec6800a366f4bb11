"""`longloom recover`: a sound ledger in the place of a damaged one, which is kept."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from generators.ledger import Entry, Ledger, is_sound
from generators.salvage import salvage
from pipelines.files import sync
from pipelines.shards import open_part
from pipelines.workspace import Workspace
from schemas.errors import UserError

_BATCH = 1000  # rows inserted together


def recover(workspace: Workspace) -> str:
    """Make the ledger anew from what can be read of it and from the answers in the workspace's table `requests`. Says
    what came of it. Other workspaces must not be using the ledger."""
    path = workspace.ledger
    if not path.is_file():
        raise UserError(f"{path}: is no file, so there is nothing to recover")
    with workspace.lock():
        if is_sound(path):
            return f"{path}: is sound, nothing was done"
        new, damaged = path.with_name(f".{path.name}.recovered"), _unused(path)
        for old in (new, Path(f"{new}-wal"), Path(f"{new}-shm")):
            old.unlink(missing_ok=True)
        Ledger(new).close()
        numbers: set[int] = set()
        connection = sqlite3.connect(new)
        with connection:
            read = _insert(connection, _rows(path, numbers))
            checked = connection.execute("SELECT count(checksum) FROM requests").fetchone()[0]
            from_tables = _insert(connection, _requests(workspace))
        connection.close()
        if not read + from_tables:
            new.unlink()
            raise UserError(f"{path}: holds nothing that can be read as an answer; move it away and run again")
        sync(new)
        os.link(path, damaged)  # at every moment there is a ledger at `path`
        if (wal := Path(f"{path}-wal")).exists():
            wal.rename(f"{damaged}-wal")
        Path(f"{path}-shm").unlink(missing_ok=True)
        new.replace(path)
        sync(path.parent)
    lost = max(0, max(numbers, default=0) - read - from_tables)
    return (
        f"{path}: {read} answers could be read ({checked} of them checked by a checksum), {from_tables} more were in "
        f"the table requests, at least {lost} are lost; the damaged file is kept as {damaged.name}"
    )


def _unused(path: Path) -> Path:
    number, damaged = 1, path.with_name(f"{path.name}.damaged")
    while damaged.exists():
        number += 1
        damaged = path.with_name(f"{path.name}.damaged{number}")
    return damaged


def _rows(path: Path, numbers: set[int]) -> Iterator[tuple[Any, ...]]:
    for number, values in salvage(path):
        numbers.add(number)
        yield values


def _requests(workspace: Workspace) -> Iterator[tuple[Any, ...]]:
    """The answers that finished units have used; parts that cannot be read are left out."""
    names = [name for name in Entry.__slots__ if name != "revision"]
    for path in sorted((workspace.root / "tables" / "requests").glob("part-*.parquet")):
        try:
            for batch in open_part(path).iter_batches(_BATCH, columns=names):
                for row in batch.to_pylist():
                    entry = Entry(**row, revision=None)
                    yield (*entry.row(), path.stat().st_mtime, entry.checksum())
        except (pa.ArrowException, OSError):
            continue


def _insert(connection: sqlite3.Connection, rows: Iterator[tuple[Any, ...]]) -> int:
    before = connection.total_changes
    connection.executemany(f"INSERT OR IGNORE INTO requests VALUES ({', '.join('?' * 16)})", rows)
    return connection.total_changes - before
