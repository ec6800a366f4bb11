"""What a source hands over: the files it reads (`Input`), its rows (`SourceRow`) and its bad rows (`BadRow`)."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.curation.contamination import Benchmark
from schemas.errors import UserError
from schemas.sources import Fields, Source
from schemas.states import State

# About 32 million tokens. What is longer is a dump without line ends rather than a text. On its way into Parquet a
# document is held some nine times (measured), so this bounds ingest to about 1.2 GB whatever it reads.
MAX_TEXT_BYTES = 128 * 2**20
DETAIL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Input:
    """One file that a source will read. `name` is relative to the recipe's folder where possible. `path`: of a
    file that can be read apart from the others of its source."""

    name: str
    size: int  # bytes
    mtime_ns: int
    path: Path | None = field(default=None, compare=False)


@dataclass(slots=True)
class SourceRow:
    """One text as its source has it, normalised. `location` is `file:row`, rows counted from 1."""

    text: str
    title: str | None
    language: str | None
    licence: str | None
    location: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class BadRow:
    """A row that cannot become a document, and why. `detail` names `file:row` and fits `DETAIL_CHARS`."""

    location: str
    state: State
    reason: str
    detail: str


def bad_row(location: str, state: State, reason: str, what: str = "") -> BadRow:
    """`what`: what was seen, in a few words. A long location loses its beginning, so that file:row stays."""
    what = what.encode("utf-8", "replace").decode("utf-8")[:100]
    room = DETAIL_CHARS - (len(what) + 2 if what else 0)
    place = location if len(location) <= room else "…" + location[-(room - 1) :]
    return BadRow(location, state, reason, f"{place}: {what}" if what else place)


def normalise(text: str) -> str:
    """NUL and a leading byte order mark removed, line ends as \\n; nothing else. Idempotent."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.startswith("\ufeff"):
        text = text.lstrip("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def make_row(
    text: str,
    location: str,
    *,
    title: str | None = None,
    language: str | None = None,
    licence: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> SourceRow | BadRow:
    """The row of one text: normalised, and bad where it is empty or holds what UTF-8 cannot (lone surrogates)."""
    text = normalise(text)
    if not text or text.isspace():
        return bad_row(location, State.FILTERED, "empty_text")
    if not _encodable(text):
        return bad_row(location, State.FAILED, "bad_encoding", "the text holds a lone surrogate")
    return SourceRow(text, title, language, licence, location, metadata or {})


def row_from_columns(values: Mapping[str, Any], fields: Fields, location: str) -> SourceRow | BadRow:
    """The row of one record (a JSON object, a Parquet row) by the columns that the recipe names."""
    text = values.get(fields.text)
    if text is None:
        return bad_row(location, State.FAILED, "missing_text", f"nothing under {fields.text!r}")
    if not isinstance(text, str):
        what = f"{fields.text!r} is {type(text).__name__}, not a text"
        return bad_row(location, State.FAILED, "text_not_a_string", what)
    return make_row(
        text,
        location,
        title=_text_or_none(values, fields.title),
        language=_text_or_none(values, fields.language),
        licence=_text_or_none(values, fields.licence),
        metadata={name: values[name] for name in fields.metadata if values.get(name) is not None},
    )


def columns_of(fields: Fields) -> list[str]:
    """The columns to read, `text` first, each once."""
    named = (fields.text, fields.title, fields.language, fields.licence, *fields.metadata)
    return list(dict.fromkeys(name for name in named if name is not None))


def wrong(source: Source | Benchmark, what: str) -> UserError:
    """The error of a source: one sentence that begins with the source's name in the recipe."""
    kind = "benchmark" if isinstance(source, Benchmark) else "source"
    return UserError(f"{kind} {source.name!r}: {what}")


def require_columns(source: Source, wanted: Iterable[str], present: Iterable[str], where: str) -> None:
    """UserError, with the nearest name that exists, for the first wanted column that is not present."""
    present = list(present)
    for name in wanted:
        if name not in present:
            offers = ", ".join(repr(column) for column in present[:12]) or "none"
            hint = suggestion(name, present) or f" (columns: {offers})"
            raise wrong(source, f"no column {name!r} in {where}{hint}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is close."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def _text_or_none(values: Mapping[str, Any], name: str | None) -> str | None:
    value = values.get(name) if name is not None else None
    return value.strip() or None if isinstance(value, str) else None


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
