"""A folder as one document: its text files in path order, each after a header line."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pipelines.sources.files import describe, resolve, shown, walk
from pipelines.sources.rows import MAX_TEXT_BYTES, BadRow, Input, SourceRow, bad_row, make_row, normalise, wrong
from pipelines.sources.text import read_text
from schemas.sources import RepositorySource
from schemas.states import State


def inputs(source: RepositorySource, base_dir: Path) -> list[Input]:
    folder = resolve(base_dir, source.path)
    return [describe(folder / name, base_dir) for name in _names(source, folder)]


def read(source: RepositorySource, base_dir: Path) -> Iterator[SourceRow | BadRow]:
    folder = resolve(base_dir, source.path)
    place = shown(folder, base_dir)
    files = [(name, folder / name) for name in _names(source, folder)]
    yield from join_files(files, place, folder.resolve().name, source.max_file_bytes)


def join_files(
    files: Iterable[tuple[str, Path]], place: str, title: str, max_file_bytes: int
) -> Iterator[SourceRow | BadRow]:
    """A bad row for each file that is left out, then the document of the others. `place` leads all locations."""
    pieces: list[str] = []
    size, has_text = 0, False
    for name, path in files:
        location = f"{place}/{name}:1"
        text = _one_file(path, location, max_file_bytes)
        if isinstance(text, BadRow):
            yield text
            continue
        text = normalise(text)
        end = "" if text.endswith("\n") or not text else "\n"
        pieces.append(f"# ==== {name} ====\n{text}{end}")
        size += len(pieces[-1])
        has_text = has_text or bool(text.strip())
        if size > MAX_TEXT_BYTES:
            what = f"more than {MAX_TEXT_BYTES} characters in all"
            yield bad_row(f"{place}:1", State.FAILED, "text_too_long", what)
            return
    yield make_row("\n".join(pieces) if has_text else "", f"{place}:1", title=title)


def _one_file(path: Path, location: str, max_file_bytes: int) -> str | BadRow:
    if path.is_symlink():
        # What a link inside the folder points to is read under its own name; the rest is not ours to read.
        return bad_row(location, State.FILTERED, "symbolic_link")
    return read_text(path, location, max_file_bytes)


def _names(source: RepositorySource, folder: Path) -> list[str]:
    if not folder.is_dir():
        raise wrong(source, f"there is no folder {source.path!r} (looked for {str(folder)!r})")
    found = (path.relative_to(folder).as_posix() for path in walk(folder, hidden=True, follow_links=False))
    names = [name for name in found if _any(name, source.include) and not _any(name, source.exclude)]
    if not names:
        raise wrong(source, f"no file in folder {source.path!r} is included")
    return sorted(names)


def _any(name: str, patterns: Sequence[str]) -> bool:
    """The slash in front lets `*/build/*` match a `build` at the top as well."""
    return any(fnmatchcase(name, pattern) or fnmatchcase("/" + name, pattern) for pattern in patterns)
