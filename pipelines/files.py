"""Files that appear whole or not at all: write to a temporary name, fsync, rename."""

import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An OSError of the system that names no file (Arrow's, a full disk's) names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed to `path`, on error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named(path):
            yield temporary
            sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file or a folder (a rename is durable only once its folder is synced)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in the place of an old one, which stands whole until then."""
    for path in (*temporary.rglob("*"), temporary):
        sync(path)
    if not final.exists():
        temporary.rename(final)
    elif not _exchange(temporary, final):
        # Two steps, where the file system has no better: killed in between, the next run does its stage again.
        old = final.with_name(f".{final.name}.old")
        discard(old)
        final.rename(old)
        temporary.rename(final)
        temporary = old
    sync(final.parent)
    discard(temporary)


def discard(folder: Path) -> None:
    """Remove a folder if it is there; of a link only the link."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step. False where the system (not Linux, say) or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed run was writing in a workspace; returns how many there were. Looks only where runs
    write: the folder may hold other people's files too."""
    catalog = (".catalog.duckdb.*.tmp", ".catalog.duckdb.*.tmp.wal")
    names = (*catalog, "manifests/.*.json.*.tmp", "tables/*/.part-*.parquet.*.tmp")
    leftovers = [path for name in names for path in folder.glob(name) if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    folders = [path for path in folder.glob("exports/.*.tmp") if path.is_dir()]
    for path in folders:
        discard(path)
    return len(leftovers) + len(folders)
