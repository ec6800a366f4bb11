"""MosaicML streaming datasets (MDS): `index.json` and shards that `streaming.StreamingDataset` reads.

The format is that of mosaicml-streaming 0.13 (streaming/base/format/mds). Its own writer wants numpy < 2.2 and
transformers < 5, which this project's environment cannot give; shards here are, byte for byte, what it writes.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from pipelines.files import write_json
from schemas.errors import UserError
from schemas.export import MDS_BYTES

_PLAIN = {"id", "text", "pack_id"}  # texts that are never NULL; MDS has no NULL but JSON's
_WIDTHS = (np.uint8, np.uint16, np.uint32, np.int64)  # of an array's shape: the smallest that holds it


def encoding(field: pa.Field) -> str:
    """What a column is in MDS: `str`, `ndarray:int32` for lists of integers, and JSON for everything else."""
    if field.name in _PLAIN:
        return "str"
    if pa.types.is_list(field.type):
        inner = field.type.value_type
        while pa.types.is_list(inner):
            inner = inner.value_type
        if pa.types.is_integer(inner):
            return f"ndarray:{np.dtype(inner.to_pandas_dtype()).name}"
    return "json"


def encode(kind: str, value: Any) -> bytes:
    """ValueError for an array without elements: MDS cannot hold it."""
    if kind == "str":
        return str(value).encode()
    if kind == "json":
        return orjson.dumps(value)
    array = np.ascontiguousarray(value, kind.partition(":")[2])
    if not array.size:
        raise ValueError("MDS cannot hold an array without elements")
    width = next(n for n, one in enumerate(_WIDTHS) if max(array.shape) < 2 ** (8 << n) or n == 3)
    return bytes([array.ndim << 2 | width]) + np.array(array.shape, _WIDTHS[width]).tobytes() + array.tobytes()


def _values(column: pa.ChunkedArray, kind: str) -> list[Any]:
    if kind.startswith("ndarray") and not pa.types.is_nested(column.type.value_type):  # tokens: no Python integers
        return [row.values.to_numpy(zero_copy_only=False) for row in column]
    values: list[Any] = column.to_pylist()
    return values


class MdsWriter:
    """Shards of at most `shard_bytes` (a row that is larger alone has one of its own). Bounded memory: rows go to a
    file without a name until the shard's header, which stands before them, is known."""

    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int) -> None:
        self._folder = folder
        self._columns = {field.name: encoding(field) for field in sorted(schema, key=lambda field: field.name)}
        self._config: dict[str, Any] = {
            "version": 2, "format": "mds", "compression": None, "hashes": [], "size_limit": shard_bytes,
            "column_names": list(self._columns), "column_encodings": list(self._columns.values()),
            "column_sizes": [None] * len(self._columns),
        }  # fmt: skip
        self._header = json.dumps(self._config, sort_keys=True).encode()
        self._shards: list[dict[str, Any]] = []
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._body = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._sizes: list[int] = []
        self._bytes = 8 + len(self._header)  # the count of rows, and where the first one begins

    def write(self, table: pa.Table) -> None:
        columns = [_values(table.column(name), kind) for name, kind in self._columns.items()]
        for values in zip(*columns, strict=True):
            self.write_row(dict(zip(self._columns, values, strict=True)))

    def write_row(self, row: Mapping[str, Any]) -> None:
        try:
            data = [encode(kind, row[name]) for name, kind in self._columns.items()]
        except ValueError as error:
            raise UserError(f"row {row.get('id', len(self._sizes))}: {error}") from error
        size = sum(map(len, data)) + 4 * len(data)
        limit = self._config["size_limit"]
        if self._sizes and self._bytes + size + 4 > limit:
            self._end_shard()
            self._begin_shard()
        if self._bytes + size + 4 > MDS_BYTES:
            raise UserError(f"row {row.get('id', 0)}: too large for MDS, whose shards have less than 4 GiB")
        self._body.write(np.array([len(datum) for datum in data], np.uint32).tobytes())
        self._body.writelines(data)
        self._sizes.append(size)
        self._bytes += size + 4

    def _end_shard(self) -> None:
        count = len(self._sizes)
        first = 4 + 4 * (count + 1) + len(self._header)
        begins = np.cumsum([first, *self._sizes]).astype(np.uint32)
        path = self._folder / f"shard.{len(self._shards):05d}.mds"
        self._body.seek(0)
        with path.open("wb") as file:
            file.write(np.uint32(count).tobytes() + begins.tobytes() + self._header)
            shutil.copyfileobj(self._body, file)
        self._body.close()
        assert path.stat().st_size == self._bytes
        raw = {"basename": path.name, "bytes": self._bytes, "hashes": {}}
        self._shards.append({**self._config, "samples": count, "raw_data": raw, "zip_data": None})

    def close(self) -> None:
        if self._sizes:
            self._end_shard()
        else:
            self._body.close()
        write_json(self._folder / "index.json", {"version": 2, "shards": self._shards})

    @staticmethod
    def complete(folder: Path) -> bool:
        index = folder / "index.json"
        if not index.is_file():
            return False
        shards = json.loads(index.read_text())["shards"]
        return all((folder / shard["raw_data"]["basename"]).is_file() for shard in shards)
