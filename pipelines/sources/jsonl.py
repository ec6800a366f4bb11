"""JSON lines, plain or compressed: one object a line. Blank lines are no rows."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from pipelines.sources.files import STREAM_ERRORS, describe, find_files, open_stream, shown
from pipelines.sources.rows import (
    MAX_TEXT_BYTES,
    BadRow,
    Input,
    SourceRow,
    bad_row,
    columns_of,
    require_columns,
    row_from_columns,
    wrong,
)
from schemas.sources import JsonlSource
from schemas.states import State

_SUFFIXES = ("*.jsonl", "*.ndjson", "*.json")
PATTERNS = tuple(suffix + packing for suffix in _SUFFIXES for packing in ("", ".gz", ".zst"))
_SAMPLE_LINES = 1000  # how far the check of the text key looks for a first well-formed row


def inputs(source: JsonlSource, base_dir: Path) -> list[Input]:
    files = find_files(source, source.path, base_dir, PATTERNS)
    _check_text_key(source, files, base_dir)
    return [describe(path, base_dir, apart=True) for path in files]


def read(source: JsonlSource, base_dir: Path, files: Sequence[Path] = ()) -> Iterator[SourceRow | BadRow]:
    for path in files or find_files(source, source.path, base_dir, PATTERNS):
        for location, value in objects(path, shown(path, base_dir)):
            if isinstance(value, BadRow):
                yield value
            else:
                yield row_from_columns(value, source.fields, location)


def _check_text_key(source: JsonlSource, files: list[Path], base_dir: Path) -> None:
    """The first well-formed row must have the text key. Later rows without it are bad rows."""
    for path in files:
        name = shown(path, base_dir)
        if _is_array(path):
            what = f"{name} is one JSON array and not JSON lines (jq -c '.[]' FILE makes lines of it)"
            raise wrong(source, what)
        for count, (location, value) in enumerate(objects(path, name)):
            if isinstance(value, dict):
                require_columns(source, columns_of(source.fields)[:1], value, location)
                return
            if count == _SAMPLE_LINES:
                break


def _is_array(path: Path) -> bool:
    try:
        with open_stream(path) as stream:
            line = stream.readline(4096).strip()
    except STREAM_ERRORS:
        return False
    return line == b"[" or (line.startswith(b"[") and ".json" in path.suffixes)


def objects(path: Path, name: str) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """Each line's object or bad row, with its location. A stream that breaks ends with one bad row."""
    try:
        stream = open_stream(path)
    except OSError as error:
        location = f"{name}:1"
        yield location, bad_row(location, State.FAILED, "unreadable_file", error.strerror or str(error))
        return
    number = 0
    with stream:
        while True:
            number += 1
            location = f"{name}:{number}"
            try:
                line = stream.readline(MAX_TEXT_BYTES + 1)
                whole = len(line) <= MAX_TEXT_BYTES or _skip_line(stream, line)
            except UnicodeDecodeError as error:  # from a UTF-16 or UTF-32 stream
                yield location, bad_row(location, State.FAILED, "bad_encoding", error.reason)
                return
            except STREAM_ERRORS as error:
                yield location, bad_row(location, State.FAILED, "broken_stream", str(error))
                return
            if not line:
                return
            if not whole:
                what = f"the line is longer than {MAX_TEXT_BYTES} bytes"
                yield location, bad_row(location, State.FAILED, "line_too_long", what)
            elif not line.isspace():
                yield location, _parse(line, location)


def _skip_line(stream: IO[bytes], line: bytes) -> bool:
    """Reads on to the end of a line that is too long; always False, i.e. the line is not whole."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_TEXT_BYTES)
    return False


def _parse(line: bytes, location: str) -> dict[str, Any] | BadRow:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Slow and lenient: Python's own reader takes NaN and lone surrogates, as json.dumps writes them.
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"{error.reason} at byte {error.start} of the line"
            return bad_row(location, State.FAILED, "bad_encoding", what)
        except json.JSONDecodeError as error:
            what = f"{error.msg} at column {error.colno}"
            return bad_row(location, State.FAILED, "malformed_json", what)
        except (RecursionError, ValueError) as error:  # too deep; an integer of too many digits
            return bad_row(location, State.FAILED, "malformed_json", str(error))
    if not isinstance(value, dict):
        return bad_row(location, State.FAILED, "not_an_object", f"the line is {_json_type(value)}")
    return value


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
