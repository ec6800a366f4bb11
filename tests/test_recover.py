"""`longloom recover`: what is lost of a damaged ledger is what stood on the damaged pages, and nothing else."""

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import main
from generators.ledger import Entry, Ledger
from generators.salvage import salvage
from schemas.errors import RunError

PAGE = 4096


def entry(number: int) -> Entry:
    """Answers of 0 to 30,000 characters: some fill many pages, some share one."""
    chance = random.Random(number)
    size = chance.choice([0, 20, 900, 5000, 30_000])
    text = "".join(chance.choices("ab 中😀", k=size))
    return Entry(
        f"req-{number:040x}", "long_qa", "answer", "model", None if number % 2 else "r1", '{"max_tokens":5}',
        '{"a":"b"}', text, "stop", number, None if number % 3 else 7, 2**40 + number, float(number % 5), "engine",
    )  # fmt: skip


def filled(path: Path, count: int) -> dict[str, Entry]:
    entries = {one.request_id: one for one in map(entry, range(count))}

    async def put() -> None:
        ledger = Ledger(path)
        await asyncio.gather(*map(ledger.put, entries.values()))
        ledger.close()

    asyncio.run(put())
    return entries


def held(path: Path) -> dict[str, Entry]:
    ledger = Ledger(path)
    try:
        with sqlite3.connect(path) as connection:
            keys = [key for (key,) in connection.execute("SELECT request_id FROM requests")]
        return {key: found for key in keys if (found := ledger.get(key)) is not None}
    finally:
        ledger.close()


def overwrite(path: Path, pages: list[int], what: bytes = b"\xff" * PAGE) -> None:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[page * PAGE : page * PAGE + len(what)] = what
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "ledger.sqlite"
    return path, filled(path, 300)


def damaged(whole, folder: Path) -> Path:
    (folder / "ledger.sqlite").write_bytes(whole[0].read_bytes())
    return folder / "ledger.sqlite"


def test_all_rows_of_a_sound_ledger_are_read(whole):
    rows = {values[0]: values for _, values in salvage(whole[0])}
    assert {key: Entry(*values[:14]) for key, values in rows.items()} == whole[1]


@pytest.mark.parametrize("page", [0, 1, 2], ids=["header", "root", "index"])
def test_without_the_pages_that_hold_it_together_no_row_is_lost(whole, tmp_path, capsys, page):
    path = damaged(whole, tmp_path)
    overwrite(path, [page])
    before = path.read_bytes()
    assert main(["recover", "--workspace", str(tmp_path)]) == 0
    assert "300 answers could be read (300 of them checked" in capsys.readouterr().out
    assert held(path) == whole[1]
    assert (tmp_path / "ledger.sqlite.damaged").read_bytes() == before
    assert main(["recover", "--workspace", str(tmp_path)]) == 0
    assert "is sound, nothing was done" in capsys.readouterr().out and not list(tmp_path.glob("*.damaged2"))


@pytest.mark.parametrize("what", [b"\xff" * PAGE, bytes(PAGE), b"a" * PAGE, b"\x01"], ids=["ff", "00", "text", "bit"])
def test_of_a_damaged_page_only_its_rows_are_lost_and_no_answer_is_another(whole, tmp_path, what):
    pages = whole[0].stat().st_size // PAGE
    for page in random.Random(len(what)).sample(range(1, pages), 5):
        path = damaged(whole, tmp_path)
        overwrite(path, [page], what) if len(what) > 1 else flip(path, page)
        rows = {values[0]: Entry(*values[:14]) for _, values in salvage(path)}
        assert all(whole[1][key] == found for key, found in rows.items() if found.response)
        assert len(rows) >= 300 - 8, page


def flip(path: Path, page: int) -> None:
    data = bytearray(path.read_bytes())
    data[page * PAGE + 2000] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_an_answer_is_noticed_and_recovered_from(whole, tmp_path):
    """SQLite itself does not notice: the page is as sound as before."""
    path = damaged(whole, tmp_path)
    victim = max(whole[1].values(), key=lambda one: len(one.response))
    with closing(sqlite3.connect(path)) as connection, connection:
        text = victim.response.replace("a", "e", 1)
        connection.execute("UPDATE requests SET response = ? WHERE request_id = ?", (text, victim.request_id))
    ledger = Ledger(path)
    with pytest.raises(RunError, match=rf"the answer {victim.request_id} is not what was written; 'longloom recover'"):
        ledger.get(victim.request_id)
    ledger.close()
    assert main(["recover", "--workspace", str(tmp_path)]) == 0
    assert held(path) == {key: one for key, one in whole[1].items() if key != victim.request_id}


def test_answers_in_the_write_ahead_log_are_read(tmp_path):
    """As a killed process leaves them: the file itself does not hold them yet."""
    path = tmp_path / "w" / "ledger.sqlite"
    early = filled(path, 40)
    ledger = Ledger(path)
    late = {one.request_id: one for one in map(entry, range(40, 60))}

    async def put() -> None:
        await asyncio.gather(*map(ledger.put, late.values()))

    asyncio.run(put())
    copy = tmp_path / "copy" / "ledger.sqlite"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    ledger.close()
    assert not any(key.encode() in copy.read_bytes() for key in late)
    overwrite(copy, list(range(3, copy.stat().st_size // PAGE)))
    assert main(["recover", "--workspace", str(copy.parent)]) == 0
    assert set(late) <= set(held(copy)) < {*early, *late}
    assert copy.with_name("ledger.sqlite.damaged-wal").exists()


def test_a_ledger_of_an_older_longloom_gets_the_column_and_loses_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite"
    entries = filled(path, 30)
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE requests DROP COLUMN checksum")
    assert held(path) == entries
    overwrite(path, [1])
    assert main(["recover", "--workspace", str(tmp_path)]) == 0
    assert held(path) == entries


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path, capsys):
    path = tmp_path / "letter"
    path.write_bytes(b"Dear reader, this is no database." * 500)
    assert main(["recover", "--workspace", str(tmp_path / "w"), "--ledger", str(path)]) == 2
    assert f"longloom: {path}: holds nothing that can be read as an answer" in capsys.readouterr().err
    assert path.read_bytes().startswith(b"Dear") and sorted(p.name for p in tmp_path.iterdir()) == ["letter", "w"]
    assert main(["recover", "--workspace", str(tmp_path / "v")]) == 2
    assert "is no file" in capsys.readouterr().err
