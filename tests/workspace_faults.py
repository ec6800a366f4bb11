"""What may happen to the files of a finished or half-finished workspace."""

import random
from collections.abc import Callable
from pathlib import Path


def _part(workspace: Path, table: str) -> Path:
    return sorted((workspace / "tables" / table).glob("part-*.parquet"))[0]


def truncated_part(workspace: Path, table: str = "samples") -> Path:
    path = _part(workspace, table)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def empty_part(workspace: Path, table: str = "samples") -> Path:
    path = _part(workspace, table)
    path.write_bytes(b"")
    return path


def flipped_part(workspace: Path, table: str = "samples") -> Path:
    """Ends as it should; zeros where its columns were."""
    path = _part(workspace, table)
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    return path


def missing_part(workspace: Path, table: str = "samples") -> Path:
    path = _part(workspace, table)
    path.unlink()
    return path


def cut_manifest(workspace: Path, stage: str = "generate.long_qa") -> Path:
    path = workspace / "manifests" / f"{stage}.json"
    text = path.read_text("utf-8")
    path.write_text(text[: len(text) // 2], "utf-8")
    return path


def broken_catalog(workspace: Path) -> Path:
    path = workspace / "catalog.duckdb"
    path.write_bytes(random.Random(1).randbytes(5000))
    return path


def broken_ledger_page(workspace: Path, page: int = 2) -> Path:
    """Rubbish in a page of the ledger: the first is its header, the second the root of its table. A stage is to be done
    again, so that the ledger is asked."""
    (workspace / "manifests" / "generate.long_qa.json").unlink()
    path = workspace / "ledger.sqlite"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[4096 * (page - 1) : 4096 * page] = b"\xff" * 4096
    path.write_bytes(data)
    return path


FAULTS: dict[str, Callable[[Path], Path]] = {
    "a truncated part": truncated_part,
    "an empty part": empty_part,
    "a part with flipped bytes": flipped_part,
    "a part is gone": missing_part,
    "a part of documents is truncated": lambda workspace: truncated_part(workspace, "documents"),
    "a part of documents has flipped bytes": lambda workspace: flipped_part(workspace, "documents"),
    "a line of runs is truncated": lambda workspace: truncated_part(workspace, "runs"),
    "a cut manifest": cut_manifest,
    "a cut manifest of ingest": lambda workspace: cut_manifest(workspace, "ingest"),
    "a cut manifest of an export": lambda workspace: cut_manifest(workspace, "export.out"),
    "a broken catalog": broken_catalog,
    "a broken page of the ledger": broken_ledger_page,
    "a broken first page of the ledger": lambda workspace: broken_ledger_page(workspace, 1),
}
