"""Ingest: the rows of one source into the table `documents` or `instructions`, every row accounted for."""

import datetime
import decimal
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filters.language import detect_languages
from pipelines.seen import SeenIds
from pipelines.shards import Part, TableWriter
from pipelines.sources import BadRow, SourceRow, read
from pipelines.sources.rows import bad_row
from schemas.errors import ConservationError
from schemas.ids import canonical_json, content_id
from schemas.sources import AnySource
from schemas.states import State

Kind = Literal["documents", "instructions"]
CountTokens = Callable[[list[str]], list[int]]

STAGE = "ingest"
_PREFIX = {"documents": "doc", "instructions": "ins"}
_BATCH_CHARS = 4_000_000  # of text, for one call of the token counter
_BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class IngestResult:
    """`rows_in`: rows read, good and bad; always the sum of `states` (state -> rows)."""

    parts: list[Part]
    rows_in: int
    states: dict[str, int]


def unit_name(kind: Kind, source_name: str, group: int = 0) -> str:
    """The unit of work of one source, or of one group of its files, as its part files are named."""
    return f"{STAGE}.{kind}.{source_name}" + (f".{group:05d}" if group else "")


def ingest_source(
    source: AnySource,
    kind: Kind,
    workspace: Path,
    base_dir: Path,
    seen: SeenIds,
    count_tokens: CountTokens | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
    files: Sequence[Path] = (),
    group: int = 0,
) -> IngestResult:
    """Reads a source into parts of its table and of `row_states`; memory is bounded by a few batches.

    `seen` is asked and extended: a text that this or an earlier source of the same kind had is filtered.
    `limit`: rows read, good and bad; the source's own limit holds too. `progress` is told the rows read since it
    was last called. `files`: only these of the source, its group of that number. Same inputs, same bytes. Raises
    UserError where the source is missing (see `sources.inputs`) and ConservationError where a row would be lost.
    """
    unit = unit_name(kind, source.name, group)
    states: Counter[str] = Counter()
    rows_in = 0
    with TableWriter(workspace, kind, unit) as table, TableWriter(workspace, "row_states", unit) as ledger:
        for batch in _batches(_limited(read(source, base_dir, files), source.limit, limit)):
            rows_in += len(batch)
            kept, lines = _judge(batch, kind, source, seen)
            _add_languages(kept)
            if kind == "documents" and count_tokens is not None and kept:
                _add_tokens(kept, count_tokens)
            table.write_all(kept)
            ledger.write_all(lines)
            states.update(line["state"] for line in lines)
            if progress is not None:
                progress(len(batch))
    parts = [*table.parts, *ledger.parts]
    _check(source.name, kind, parts, rows_in, states)
    return IngestResult(parts, rows_in, dict(sorted(states.items())))


def _limited(rows: Iterator[SourceRow | BadRow], *limits: int | None) -> Iterator[SourceRow | BadRow]:
    limit = min((limit for limit in limits if limit is not None), default=None)
    for number, row in enumerate(rows, 1):
        yield row
        if number == limit:
            return


def _batches(rows: Iterator[SourceRow | BadRow]) -> Iterator[list[SourceRow | BadRow]]:
    """Rows in batches that are bounded by their characters, as documents differ in length by a factor of 1000."""
    batch: list[SourceRow | BadRow] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row.text) if isinstance(row, SourceRow) else 0
        if held >= _BATCH_CHARS or len(batch) == _BATCH_ROWS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _judge(
    batch: list[SourceRow | BadRow], kind: Kind, source: AnySource, seen: SeenIds
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to keep, and one line of `row_states` for every row."""
    kept: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for row in batch:
        record = row if isinstance(row, BadRow) else _record(row, kind, source, seen)
        if isinstance(record, BadRow):
            row_id = content_id("row", [source.name, record.location])
            lines.append(_line(row_id, record.state, record.reason, record.detail))
        else:
            kept.append(record)
            row_id = record["document_id" if kind == "documents" else "instruction_id"]
            lines.append(_line(row_id, State.OK, "", ""))
    return kept, lines


def _record(row: SourceRow, kind: Kind, source: AnySource, seen: SeenIds) -> dict[str, Any] | BadRow:
    metadata = _metadata(row, source)
    if metadata is None:
        return bad_row(row.location, State.FAILED, "bad_encoding", "the metadata hold a lone surrogate")
    row_id = content_id(_PREFIX[kind], row.text)
    if not seen.add(row_id):
        return bad_row(row.location, State.FILTERED, "duplicate_text")
    record = {
        "text": row.text,
        "source": source.name,
        "language": row.language or source.language,  # else detected, a batch at a time
        "metadata": metadata,
    }
    if kind == "documents":
        return {"document_id": row_id, "chars": len(row.text), "tokens": None, **record}
    return {"instruction_id": row_id, **record}


def _add_languages(kept: list[dict[str, Any]]) -> None:
    unknown = [row for row in kept if row["language"] is None]
    for row, language in zip(unknown, detect_languages([row["text"] for row in unknown]), strict=True):
        row["language"] = language


def _add_tokens(kept: list[dict[str, Any]], count_tokens: CountTokens) -> None:
    for row, count in zip(kept, count_tokens([row["text"] for row in kept]), strict=True):
        row["tokens"] = count


def _metadata(row: SourceRow, source: AnySource) -> str | None:
    """Canonical JSON of the chosen columns, title, licence and location; None where UTF-8 cannot hold it."""
    values = {name: _json_value(value) for name, value in row.metadata.items()}
    named = {"title": row.title, "licence": row.licence or source.licence, "location": row.location}
    values.update((name, value) for name, value in named.items() if value is not None)
    text = canonical_json(values)
    try:
        text.encode("utf-8")
        (row.language or "").encode("utf-8")
    except UnicodeEncodeError:
        return None
    return text


def _json_value(value: Any) -> Any:
    """A value as JSON can hold it: dates and decimals as text, what has no form in JSON (NaN, bytes) as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else None


def _line(row_id: str, state: State, reason: str, detail: str) -> dict[str, Any]:
    return {"row_id": row_id, "stage": STAGE, "state": state.value, "reason": reason, "detail": detail}


def _check(name: str, kind: str, parts: list[Part], rows_in: int, states: Counter[str]) -> None:
    written = sum(part.rows for part in parts if part.table == kind)
    lines = sum(part.rows for part in parts if part.table == "row_states")
    if not (rows_in == states.total() == lines and written == states[State.OK.value]):
        raise ConservationError(
            f"source {name!r}: {rows_in} rows read, {states.total()} judged, {lines} recorded, {written} written"
        )
