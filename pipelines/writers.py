"""Exports as files: the shards of Parquet and JSONL, and which writer makes which format."""

import gzip
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.damage import is_cut
from pipelines.mds import MdsWriter
from pipelines.megatron import MegatronWriter
from schemas.export import Export

_SUFFIXES = {"none": "jsonl", "gzip": "jsonl.gz", "zstd": "jsonl.zst"}


class Writer(Protocol):
    """Takes the rows of one config into one folder."""

    def write(self, table: pa.Table) -> None: ...

    def close(self) -> None:
        """Files are whole only now. Without rows there is still what readers need to find none."""


def writer_for(export: Export, folder: Path, schema: pa.Schema) -> Writer:
    folder.mkdir(parents=True)
    if export.format == "mds":
        return MdsWriter(folder, schema, export.shard_size)
    if export.format == "megatron":
        return MegatronWriter(folder)
    if export.format == "jsonl":
        return JsonlWriter(folder, export.shard_size, export.compression)
    return ParquetWriter(folder, schema, export.shard_size)


def suffix(export: Export) -> str:
    """Of the files `train-*.SUFFIX` in formats that `datasets` reads; empty for others."""
    return {"parquet": "parquet", "jsonl": _SUFFIXES[export.compression]}.get(export.format, "")


class ShardWriter(ABC):
    """Files of about `shard_bytes` each, named `train-00000-of-00002.SUFFIX` once all are written."""

    def __init__(self, folder: Path, shard_bytes: int, suffix: str) -> None:
        self._folder, self._shard_bytes, self._suffix = folder, shard_bytes, suffix
        self._paths: list[Path] = []
        self._file: Any = None

    @abstractmethod
    def _begin(self, file: Any) -> None:
        """Start a shard in an open file."""

    @abstractmethod
    def _put(self, table: pa.Table) -> None: ...

    @abstractmethod
    def _end(self) -> None:
        """Write what is held back; the file stays open."""

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:  # `datasets` cannot read a row group without rows
            return
        if self._file is None:
            self._begin_shard()
        self._put(table)
        if self._file.tell() >= self._shard_bytes:
            self._end_shard()

    def _begin_shard(self) -> None:
        self._paths.append(self._folder / f"{len(self._paths):05d}.{self._suffix}")
        self._file = self._paths[-1].open("wb")
        self._begin(self._file)

    def _end_shard(self) -> None:
        if self._file is not None:
            self._end()
            self._file.close()
            self._file = None

    def close(self) -> None:
        """An empty dataset still gets one file, in Parquet with its columns: readers find zero rows. (`datasets` does
        so with streaming=True only; else it says that the split "corresponds to no data".)"""
        if not self._paths:
            self._begin_shard()
        self._end_shard()
        for number, path in enumerate(self._paths):
            path.rename(path.with_name(f"train-{number:05d}-of-{len(self._paths):05d}.{self._suffix}"))


class ParquetWriter(ShardWriter):
    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int) -> None:
        super().__init__(folder, shard_bytes, "parquet")
        self._schema = schema

    def _begin(self, file: Any) -> None:
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd", write_page_checksum=True)

    def _put(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def _end(self) -> None:
        self._writer.close()


class JsonlWriter(ShardWriter):
    """One JSON object a line, with all columns in their order; NULL and NaN are null."""

    def __init__(self, folder: Path, shard_bytes: int, compression: str) -> None:
        super().__init__(folder, shard_bytes, _SUFFIXES[compression])
        self._compression = compression

    def _begin(self, file: Any) -> None:
        self._stream = file
        if self._compression == "gzip":
            self._stream = gzip.GzipFile("", "wb", fileobj=file, mtime=0)  # no name, no time: same rows, same bytes
        elif self._compression == "zstd":
            import zstandard

            self._stream = zstandard.ZstdCompressor().stream_writer(file, closefd=False)

    def _put(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def _end(self) -> None:
        if self._compression != "none":
            self._stream.close()


def complete(folder: Path, export: Export) -> bool:
    """Does a config's folder have all the files that a finished one names?"""
    if export.format == "mds":
        return MdsWriter.complete(folder)
    if export.format == "megatron":
        return MegatronWriter.complete(folder)
    paths = list(folder.glob(f"train-*-of-*.{suffix(export)}"))
    if not paths or len(paths) != int(paths[0].name.partition(".")[0].rpartition("-")[2]):
        return False
    return export.format != "parquet" or not any(map(is_cut, paths))
