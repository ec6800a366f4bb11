"""Text files: one document a file, titled with the file's name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.sources.files import (
    STREAM_ERRORS,
    bom_encoding,
    describe,
    find_files,
    is_linked,
    looks_binary,
    named_top,
    shown,
)
from pipelines.sources.rows import MAX_TEXT_BYTES, BadRow, Input, SourceRow, bad_row, make_row
from schemas.sources import TextSource
from schemas.states import State


def inputs(source: TextSource, base_dir: Path) -> list[Input]:
    files = find_files(source, source.path, base_dir, source.include, source.follow_links)
    return [describe(path, base_dir, apart=True) for path in files]


def read(source: TextSource, base_dir: Path, files: Sequence[Path] = ()) -> Iterator[SourceRow | BadRow]:
    top = named_top(source.path, base_dir)
    for path in files or find_files(source, source.path, base_dir, source.include, source.follow_links):
        location = f"{shown(path, base_dir)}:1"
        if not source.follow_links and is_linked(path, top):  # to a text that may be no part of the folder
            yield bad_row(location, State.FILTERED, "symbolic_link")
            continue
        text = read_text(path, location)
        yield text if isinstance(text, BadRow) else make_row(text, location, title=path.stem)


def read_text(path: Path, location: str, max_bytes: int = MAX_TEXT_BYTES) -> str | BadRow:
    """A text file decoded (UTF-8, or what its byte order mark says), or the bad row that it is."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except STREAM_ERRORS as error:
        what = getattr(error, "strerror", None) or str(error)
        return bad_row(location, State.FAILED, "unreadable_file", what)
    if looks_binary(data):
        return bad_row(location, State.FILTERED, "binary_file", "a NUL byte near the start")
    if len(data) > max_bytes:
        return bad_row(location, State.FILTERED, "file_too_long", f"more than {max_bytes} bytes")
    try:
        return data.decode(bom_encoding(data[:4]) or "utf-8")
    except UnicodeDecodeError as error:
        what = f"{error.encoding}: {error.reason} at byte {error.start}"
        return bad_row(location, State.FAILED, "bad_encoding", what)
