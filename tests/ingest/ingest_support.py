"""Short ways to make a source, to read it, and to see what ingest wrote."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import TypeAdapter

from pipelines.ingest import IngestResult, ingest_source
from pipelines.seen import SeenIds
from pipelines.sources import BadRow, inputs, read
from schemas.sources import AnySource

_SOURCE: TypeAdapter[Any] = TypeAdapter(AnySource)


def source(type_: str, path: str | None = None, **rest: Any) -> Any:
    values = {"name": "src", "type": type_, **({} if path is None else {"path": path}), **rest}
    return _SOURCE.validate_python(values)


def rows(of: Any, base: Path) -> list[tuple[str, ...]]:
    """(location, text) of good rows, (location, state, reason) of bad ones. Checks `inputs` on the way."""
    inputs(of, base)
    return [
        (row.location, str(row.state), row.reason) if isinstance(row, BadRow) else (row.location, row.text)
        for row in read(of, base)
    ]


def names(of: Any, base: Path) -> list[str]:
    return [file.name for file in inputs(of, base)]


def ingest(of: Any, base: Path, workspace: Path, kind: Any = "documents", **rest: Any) -> IngestResult:
    rest.setdefault("seen", SeenIds())
    return ingest_source(of, kind, workspace, base, **rest)


def table(workspace: Path, name: str) -> list[dict[str, Any]]:
    files = sorted((workspace / "tables" / name).glob("part-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def columns(workspace: Path, name: str, *wanted: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in wanted) for row in table(workspace, name)]
