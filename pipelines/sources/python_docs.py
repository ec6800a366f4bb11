"""The running Python's own texts: the topics of its language reference, and the source of its modules.

Nothing is imported but the topics, and nothing outside the standard library is read: a package is looked up as a
folder or file below the library's own folder.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pipelines.sources.files import walk
from pipelines.sources.repository import join_files
from pipelines.sources.rows import MAX_TEXT_BYTES, BadRow, Input, SourceRow, make_row, suggestion, wrong
from schemas.sources import PythonSource

_LIBRARY = Path(sysconfig.get_path("stdlib"))
_PLACE = f"python-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
_TOPICS = "pydoc_data/topics.py"
_TEST_FOLDERS = {"test", "tests", "idle_test", "__pycache__"}


def inputs(source: PythonSource, base_dir: Path) -> list[Input]:
    if not source.topics and not source.packages:
        raise wrong(source, "nothing to read: topics is false and packages is empty")
    names = [_TOPICS] if source.topics else []
    for package in source.packages:
        names.extend(_modules(source, package))
    return [_describe(name) for name in names]


def read(source: PythonSource, base_dir: Path) -> Iterator[SourceRow | BadRow]:
    if source.topics:
        yield from _topics()
    for package in source.packages:
        files = [(name, _LIBRARY / name) for name in _modules(source, package)]
        yield from join_files(files, f"{_PLACE}/{package}", package, MAX_TEXT_BYTES)


def _topics() -> Iterator[SourceRow | BadRow]:
    from pydoc_data.topics import topics  # type: ignore[import-untyped, unused-ignore]

    texts = {name: text for name, text in topics.items() if isinstance(name, str) and isinstance(text, str)}
    for number, name in enumerate(sorted(texts), 1):
        yield make_row(texts[name], f"{_PLACE}/{_TOPICS}:{number}", title=name)


def _modules(source: PythonSource, package: str) -> list[str]:
    """The Python files of a package or module, relative to the library's folder, without tests."""
    parts = package.split(".")
    known = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    if parts[0] not in sys.stdlib_module_names or not all(part.isidentifier() for part in parts):
        raise wrong(source, f"{package!r} is no package of the standard library{suggestion(package, known)}")
    folder = _LIBRARY.joinpath(*parts)
    if folder.is_dir():
        below = (path.relative_to(_LIBRARY) for path in walk(folder, follow_links=False) if path.suffix == ".py")
        names = sorted(path.as_posix() for path in below if not _TEST_FOLDERS.intersection(path.parts[1:-1]))
        if names:
            return names
    if folder.with_suffix(".py").is_file():
        return [folder.with_suffix(".py").relative_to(_LIBRARY).as_posix()]
    if len(parts) > 1:
        raise wrong(source, f"there is no module {package!r} in the standard library")
    raise wrong(source, f"the module {package!r} has no Python source on this machine")


def _describe(name: str) -> Input:
    status = (_LIBRARY / name).stat()
    return Input(f"{_PLACE}/{name}", status.st_size, status.st_mtime_ns)
