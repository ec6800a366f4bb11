"""Finding the files of a source, and opening them: compression by content, text encodings by byte order mark."""

import codecs
import glob
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import IO, Any

from pipelines.sources.rows import Input, wrong
from schemas.curation.contamination import Benchmark
from schemas.sources import Source

BUFFER_BYTES = 1 << 20
STREAM_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError)  # what reading a damaged file raises
# zstd output is not bounded by its input: 4 KB of a hostile frame make at most about 128 MB.
_ZSTD_CHUNK = 4096
_BOMS = (  # UTF-32 first: its little-endian mark begins with the one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def resolve(base_dir: Path, path: str) -> Path:
    """A path of the recipe; relative ones start at the recipe's folder."""
    return base_dir.absolute() / Path(path).expanduser()


def shown(path: Path, base_dir: Path) -> str:
    """How inputs and locations name a file: relative to the recipe's folder where possible, with slashes."""
    try:
        name = path.relative_to(base_dir.absolute()).as_posix()
    except ValueError:
        name = path.as_posix()
    return name.encode("utf-8", "backslashreplace").decode("utf-8")  # names that are not UTF-8 stay printable


def find_files(
    source: Source | Benchmark, path: str, base_dir: Path, patterns: Sequence[str], links: bool = True
) -> list[Path]:
    """The files of `path`: itself, or all below a folder whose name matches a pattern, or those of a glob.

    Sorted by path. Hidden files and folders below a folder are left out; patterns ignore case and match the
    relative path or the name. Without `links` no linked folder is entered but given itself. Raises UserError where
    there is no such file, folder or match.
    """
    start = resolve(base_dir, path)
    if start.is_file():
        return [start]
    if start.is_dir():
        below = walk(start, follow_links=links)
        found = [f for f in below if _matches(f.relative_to(start), patterns) or (not links and f.is_dir())]
        if not found:
            raise wrong(source, f"no file in folder {path!r} matches {', '.join(patterns)}")
    elif glob.has_magic(path):
        top = named_top(path, base_dir)
        found = [file for file in _glob(top, Path(path).expanduser().parts) if file.is_file()]
        if not found:
            raise wrong(source, f"no file matches {path!r}")
    else:
        raise wrong(source, f"there is no file or folder {path!r} (looked for {str(start)!r})")
    return sorted(found, key=Path.as_posix)


def named_top(path: str, base_dir: Path) -> Path:
    """What a path of the recipe names without doubt: all of it, or the folders before the magic of a glob."""
    start = resolve(base_dir, path)
    if start.exists() or not glob.has_magic(path):
        return start
    plain = takewhile(lambda part: not glob.has_magic(part), Path(path).expanduser().parts)
    return base_dir.absolute().joinpath(*plain)


def is_linked(file: Path, top: Path) -> bool:
    """Does a symbolic link below `top` stand between it and the file? `top` itself may be one: a recipe named it."""
    return os.path.realpath(file) != os.path.normpath(os.path.realpath(top) / file.relative_to(top))


def _glob(top: Path, parts: Sequence[str]) -> Iterator[Path]:
    """As glob.glob, which follows links in `**` without end."""
    pattern = list(dropwhile(lambda part: not glob.has_magic(part), parts))
    if pattern[-1] == "**":
        pattern.append("*")
    hidden = any(part.startswith(".") for part in pattern)
    for file in top.glob("/".join(pattern)):
        if hidden or not any(part.startswith(".") for part in file.relative_to(top).parts):
            yield file


def walk(folder: Path, hidden: bool = False, follow_links: bool = True) -> Iterator[Path]:
    """All files below a folder, in no stable order.

    A linked folder is entered once, so that loops end; without `follow_links` it is given as if it were a file.
    """
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=follow_links):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        if not follow_links:
            files += [name for name in folders if Path(root, name).is_symlink()]
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield from (Path(root, name) for name in files if hidden or not name.startswith("."))


def describe(path: Path, base_dir: Path, apart: bool = False) -> Input:
    """Size and time of a file. One that cannot be examined has size 0 here, and is a bad row when it is read. `apart`:
    it can be read apart from the others of its source."""
    alone = path if apart else None
    try:
        status = path.stat()
    except OSError:
        return Input(shown(path, base_dir), 0, 0, alone)
    return Input(shown(path, base_dir), status.st_size, status.st_mtime_ns, alone)


def open_stream(path: Path) -> IO[bytes]:
    """The bytes of a file as UTF-8: gzip and zstd are unpacked, UTF-16 and UTF-32 with a mark are recoded.

    A UTF-8 mark is skipped. Raises OSError when it cannot be opened; damage raises one of STREAM_ERRORS when the
    damaged place is read, after everything before it.
    """
    with path.open("rb") as file:
        head = file.read(4)
    stream: IO[bytes]
    if head.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(path)  # type: ignore[assignment]  # a buffer around it would lose rows before damage
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        stream = io.BufferedReader(_ZstdReader(path), BUFFER_BYTES)
    else:
        stream = path.open("rb", buffering=BUFFER_BYTES)
    encoding = bom_encoding(_peek(stream))
    if encoding == "utf-8-sig":
        stream.read(len(codecs.BOM_UTF8))
    elif encoding is not None:
        stream = io.BufferedReader(_Recoded(stream, encoding), BUFFER_BYTES)
    return stream


def bom_encoding(head: bytes) -> str | None:
    """The codec that the byte order mark at the start names, if there is one."""
    return next((encoding for mark, encoding in _BOMS if head.startswith(mark)), None)


def looks_binary(head: bytes) -> bool:
    """A NUL in the first bytes and no byte order mark, the rule of git and grep."""
    return b"\0" in head[:8000] and bom_encoding(head) is None


def _matches(relative: Path, patterns: Sequence[str]) -> bool:
    names = relative.as_posix().lower(), relative.name.lower()
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)


def _peek(stream: Any) -> bytes:
    try:
        return bytes(stream.peek(4)[:4])
    except STREAM_ERRORS:
        return b""  # the same error comes back with the first read, where a bad row is made of it


class _ZstdReader(io.RawIOBase):
    """Unpacks zstd frames. The library's own reader ends quietly where a file was cut; this one raises EOFError."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._file = path.open("rb")
        self._error = zstandard.ZstdError
        # The widest window that zstd can write (--long=31), as large public dumps use it.
        self._frames = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame: Any = None
        self._unread = b""  # packed bytes behind the end of a frame
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._unread or self._file.read(_ZSTD_CHUNK)
            self._unread = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("the zstd stream ends before its end mark")
                return 0
            self._unpack(packed)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _unpack(self, packed: bytes) -> None:
        if self._frame is None:
            self._frame = self._frames.decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except self._error as error:
            raise OSError(str(error)) from error
        if self._frame.eof:
            self._unread, self._frame = self._frame.unused_data, None

    def close(self) -> None:
        self._file.close()
        super().close()


class _Recoded(io.RawIOBase):
    """A UTF-16 or UTF-32 stream as UTF-8. Lone surrogates pass, so that only their own line is bad."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._stream.read1(BUFFER_BYTES)
            text = self._decoder.decode(data, final=not data)
            self._ready = memoryview(text.encode("utf-8", "surrogatepass"))
            if not data and not self._ready:
                return 0
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()
