"""Parquet parts of tables: `tables/<table>/part-<unit>-<number>.parquet`, written whole or not at all."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import atomic_path, named
from schemas.tables import TABLES

ROW_GROUP_BYTES = 8_000_000  # small groups: a reader holds one at a time, and documents are long
PART_BYTES = 256_000_000  # of Arrow data in memory, before compression
# zstd's own default. Against level 1: files of English and Chinese documents are 11 to 21% smaller, and ingest as a
# whole takes about 10% more CPU time.
COMPRESSION_LEVEL = 3
# Only what repeats from row to row pays for a dictionary; for texts it is tried and thrown away, row group by row
# group. Names are Parquet paths.
_REPEATED = [
    *("source", "language", "rule", "stage", "state", "reason", "method", "step", "model", "prompt_version"),
    *("recipe_hash", "engine", "finish_reason", "recipe", "status", "messages.list.element.role"),
    *(f"{column}.list.element.role" for column in ("prompt", "chosen", "rejected", "short_prompt")),
]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a table, as manifests name it. `file` is relative to the workspace."""

    table: str
    file: str
    rows: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Row groups of a part: the work of one process at a time. `name` ends the names of what it makes."""

    name: str
    file: str
    groups: tuple[int, ...]
    rows: int


def shards(path: Path, part: Part, shard_bytes: int) -> Iterator[Shard]:
    """Runs of row groups of about so many bytes, before compression."""
    stem = path.stem.removeprefix("part-")
    metadata = pq.read_metadata(path)
    groups: list[int] = []
    held = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        held += metadata.row_group(group).total_byte_size
        if held >= shard_bytes or group == metadata.num_row_groups - 1:
            rows = sum(metadata.row_group(one).num_rows for one in groups)
            yield Shard(f"{stem}-{groups[0]:05d}", part.file, tuple(groups), rows)
            groups, held = [], 0


def open_part(path: Path | str) -> pq.ParquetFile:
    """A part to read. Bytes that a disk has changed raise OSError: pages carry checksums (damage.damage_named)."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def read_part(path: Path | str, columns: list[str] | None = None) -> pa.Table:
    """A part as a whole, or these columns of it, as `open_part` reads it."""
    with open_part(path) as file:
        return file.read(columns)


class TableWriter:
    """Streams rows of one table into numbered parts.

    Bounded memory: one row group is held. Same rows in the same order give the same bytes. Use as a context
    manager: on an exception the open part is dropped, finished parts stay (they are in no manifest yet, and the
    next attempt overwrites them).
    """

    def __init__(self, workspace: Path, table: str, unit: str, part_bytes: int = PART_BYTES) -> None:
        self.parts: list[Part] = []
        self._workspace, self._table, self._unit, self._part_bytes = workspace, table, unit, part_bytes
        self._schema = TABLES[table]
        self._rows: list[Row] = []
        self._held = 0
        self._written = 0
        self._part_rows = 0
        self._open: tuple[str, Any, Any] | None = None  # the part being written

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self._held += sum(len(value) for value in row.values() if isinstance(value, str)) + 64
        if self._held >= ROW_GROUP_BYTES:
            self._flush()

    def write_all(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.write(row)

    def write_table(self, table: pa.Table) -> None:
        """Rows in columns already, as a row group of their own."""
        self._flush()
        self._held = table.nbytes
        self._write_group(table)

    def _flush(self) -> None:
        if self._rows:
            self._write_group(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def _write_group(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if self._open is None:
            self._open = self._begin_part()
        with named(self._workspace / self._open[0]):
            self._open[2].write_table(table)
        self._written += self._held
        self._part_rows += table.num_rows
        self._held = 0
        if self._written >= self._part_bytes:
            self._finish_part()

    def _begin_part(self) -> tuple[str, Any, Any]:
        name = f"tables/{self._table}/part-{self._unit}-{len(self.parts):05d}.parquet"
        context: Any = atomic_path(self._workspace / name)
        path = context.__enter__()
        try:
            writer = pq.ParquetWriter(
                path,
                self._schema,
                compression="zstd",
                compression_level=COMPRESSION_LEVEL,
                write_page_checksum=True,
                use_dictionary=_REPEATED,  # names that this table lacks do no harm
            )
        except BaseException:
            context.gen.close()
            raise
        return name, context, writer

    def _finish_part(self) -> None:
        if self._open is None:
            return
        name, context, writer = self._open
        with named(self._workspace / name):
            writer.close()
            context.__exit__(None, None, None)
        self.parts.append(Part(self._table, name, self._part_rows))
        self._open, self._written, self._part_rows = None, 0, 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._finish_part()
        finally:
            self._drop_part()

    def _drop_part(self) -> None:
        """The temporary file of a part that was not finished goes; why it was not is on its way to the caller."""
        if self._open is None:
            return
        _, context, writer = self._open
        self._open = None
        with suppress(Exception):
            writer.close()
        context.gen.close()  # runs the clean-up of atomic_path without renaming


def write_rows(workspace: Path, table: str, unit: str, rows: Iterable[Row]) -> list[Part]:
    """All rows into the parts of one unit. No rows, no part."""
    with TableWriter(workspace, table, unit) as writer:
        writer.write_all(rows)
    return writer.parts
