"""What can still be read of a damaged ledger. Rows are taken from the pages of the file itself, not through SQLite, so
only those on damaged pages are lost, wherever the damage is. (https://sqlite.org/fileformat2.html)"""

import json
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generators.ledger import checksum

_LEAF = 13  # first byte of a page that holds rows of a table
_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # bytes of a value by its type; 10 and 11 do not occur
_TYPES = (*[str] * 4, str | None, *[str] * 4, int, int | None, int, int | float, str, int | float)
_BAD = (ValueError, IndexError, struct.error, RecursionError)


def salvage(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The number and the columns of each row that is whole, maybe several times. A row with a checksum is as it was
    written; without one (of an older Longloom) it has the right shape, and text that was damaged may pass."""
    wal = path.with_name(f"{path.name}-wal")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        pages = _Pages(data, wal.read_bytes() if wal.exists() else b"")
        for page in pages.all():
            if page[0] != _LEAF:
                continue
            for number in range(int.from_bytes(page[3:5], "big")):
                try:
                    rowid, values = pages.row(page, int.from_bytes(page[8 + 2 * number : 10 + 2 * number], "big"))
                except _BAD:
                    continue
                if _is_whole(values):
                    yield rowid, (*values, None)[:16]


def _is_whole(values: list[Any]) -> bool:
    if len(values) not in (15, 16) or not all(map(isinstance, values, _TYPES)):
        return False
    if len(values) == 16 and values[15] is not None:
        return bool(values[15] == checksum(values[0], values[7], values[8]))
    try:
        json.loads(values[5]), json.loads(values[6])
    except _BAD:
        return False
    texts = "".join(value for value in values if isinstance(value, str))
    return bool(re.match("req-[0-9a-f]{40}$", values[0])) and values[8] in ("stop", "length") and "\0" not in texts


class _Pages:
    """Pages by their numbers from 1; newer ones lie in the write-ahead log."""

    def __init__(self, data: mmap.mmap, wal: bytes) -> None:
        stated = int.from_bytes(data[16:18], "big")  # 4096 where the first page is gone: ledgers are made with it
        self.size = stated if stated in [2**n for n in range(9, 16)] else 4096
        self._data, self._wal = data, wal
        self._newer: dict[int, int] = {}
        frame = 24 + self.size
        for place in range(32, len(wal) - frame + 1, frame):
            if wal[place + 8 : place + 16] != wal[16:24]:
                break  # what an earlier log has left
            self._newer[int.from_bytes(wal[place : place + 4], "big")] = place + 24

    def all(self) -> Iterator[bytes]:
        for place in range(0, len(self._data) - self.size + 1, self.size):
            yield self._data[place : place + self.size]
        for number in self._newer:
            yield self._page(number)

    def _page(self, number: int) -> bytes:
        if (place := self._newer.get(number)) is not None:
            return self._wal[place : place + self.size]
        if not 0 < number <= len(self._data) // self.size:
            raise ValueError("no such page")
        return self._data[(number - 1) * self.size : number * self.size]

    def row(self, page: bytes, at: int) -> tuple[int, list[Any]]:
        length, at = _number(page, at)
        rowid, at = _number(page, at)
        if length > len(self._data) + len(self._wal):
            raise ValueError("longer than the file")
        here = length
        if length > self.size - 35:  # the rest is in a chain of pages
            least = (self.size - 12) * 32 // 255 - 23
            here = least + (length - least) % (self.size - 4)
            here = here if here <= self.size - 35 else least
        record, place = bytearray(page[at : at + here]), page[at + here : at + here + 4]
        while len(record) < length:
            more = self._page(int.from_bytes(place, "big"))
            record += more[4 : 4 + length - len(record)]
            place = more[:4]
        return rowid, list(_values(bytes(record)))


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where the next thing begins."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 127
        if data[place] < 128:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _values(record: bytes) -> Iterator[Any]:
    place, at = _number(record, 0)
    end = place
    while at < end:
        kind, at = _number(record, at)
        data = record[place : place + (_WIDTHS[kind] if kind < 12 else (kind - 12) // 2)]
        place += len(data)
        if kind == 7:
            yield struct.unpack(">d", data)[0]
        elif kind >= 12:
            yield data.decode("utf-8") if kind % 2 else data
        else:
            yield None if kind == 0 else kind - 8 if kind > 7 else int.from_bytes(data, "big", signed=True)
    if place != len(record):
        raise ValueError("cut off")
