"""Parquet files: read by record batches of a few megabytes, and only the columns that the recipe names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.files import describe, find_files, shown
from pipelines.sources.rows import (
    BadRow,
    Input,
    SourceRow,
    bad_row,
    columns_of,
    require_columns,
    row_from_columns,
    wrong,
)
from schemas.sources import ParquetSource
from schemas.states import State

_BATCH_BYTES = 4_000_000  # of unpacked data, by the mean of the row group
_BATCH_ROWS = 4096
_BUFFER_BYTES = 1 << 20  # without it a whole column chunk is read at once


def inputs(source: ParquetSource, base_dir: Path) -> list[Input]:
    files = find_files(source, source.path, base_dir, ("*.parquet",))
    for path in files:
        _check_columns(source, path, shown(path, base_dir))
    return [describe(path, base_dir, apart=True) for path in files]


def read(source: ParquetSource, base_dir: Path, files: Sequence[Path] = ()) -> Iterator[SourceRow | BadRow]:
    for path in files or find_files(source, source.path, base_dir, ("*.parquet",)):
        name = shown(path, base_dir)
        try:
            file = _open(path)
        except (OSError, pa.ArrowException) as error:  # gone or replaced since `inputs`
            yield bad_row(f"{name}:1", State.FAILED, "unreadable_file", first_line(error))
            continue
        with file:
            yield from _rows(file, name, source)


def _check_columns(source: ParquetSource, path: Path, name: str) -> None:
    try:
        with _open(path) as file:
            schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise wrong(source, f"{name} cannot be read as Parquet: {first_line(error)}") from error
    require_columns(source, columns_of(source.fields), schema.names, name)
    type_ = schema.field(source.fields.text).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)):
        raise wrong(source, f"column {source.fields.text!r} of {name} is {type_}, not a text")


def _rows(file: Any, name: str, source: ParquetSource) -> Iterator[SourceRow | BadRow]:
    """Row groups one by one: damage in one costs its remaining rows, told by one bad row, and no other group."""
    first = 1
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        number = first
        first += metadata.num_rows
        mean = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
        size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // mean))
        batches = file.iter_batches(size, [group], columns_of(source.fields))
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:
                what = f"rows {number} to {first - 1} not read: {first_line(error)}"
                yield bad_row(f"{name}:{number}", State.FAILED, "broken_stream", what)
                break
            if batch is None:
                break
            for values in _values(batch):
                location = f"{name}:{number}"
                number += 1
                if isinstance(values, UnicodeDecodeError):
                    what = f"{values.reason} at byte {values.start}"
                    yield bad_row(location, State.FAILED, "bad_encoding", what)
                else:
                    yield row_from_columns(values, source.fields, location)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch. Writers do not check text, so a row can hold what is not UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass  # nothing was yielded: to_pylist builds the whole list first
    for index in range(batch.num_rows):
        try:
            yield {name: batch.column(name)[index].as_py() for name in batch.schema.names}
        except UnicodeDecodeError as error:
            yield error


def _open(path: Path) -> Any:
    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
