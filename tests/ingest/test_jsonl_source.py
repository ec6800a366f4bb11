"""JSON lines: every kind of good and bad line, compression, encodings, streams that break."""

import gzip
import json

import pytest
import zstandard
from ingest_support import names, rows, source

from pipelines.sources import jsonl, read
from schemas.errors import UserError

GOOD = b'{"text": "one"}\n{"text": "two"}\n'


def test_reads_lines_in_order_with_chosen_columns(tmp_path):
    line = {"body": "Hello", "name": "A title", "lang": "de", "license": " MIT ", "year": 1984, "none": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n\n" + json.dumps({"body": "Two", "name": 7}))
    fields = {"text": "body", "title": "name", "language": "lang", "licence": "license", "metadata": ["year", "none"]}
    first, second = read(source("jsonl", "a.jsonl", fields=fields), tmp_path)
    assert (first.text, first.title, first.language, first.licence) == ("Hello", "A title", "de", "MIT")
    assert (first.metadata, first.location) == ({"year": 1984}, "a.jsonl:1")
    assert (second.text, second.title, second.location) == ("Two", None, "a.jsonl:3")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "cut', ("failed", "malformed_json")),
        (b"nonsense", ("failed", "malformed_json")),
        (b"[" * 100_000, ("failed", "malformed_json")),
        (b'["text"]', ("failed", "not_an_object")),
        (b'"text"', ("failed", "not_an_object")),
        (b"12", ("failed", "not_an_object")),
        (b"null", ("failed", "not_an_object")),
        (b'{"other": "x"}', ("failed", "missing_text")),
        (b'{"text": null}', ("failed", "missing_text")),
        (b'{"text": 5}', ("failed", "text_not_a_string")),
        (b'{"text": ["a"]}', ("failed", "text_not_a_string")),
        (b'{"text": ""}', ("filtered", "empty_text")),
        (b'{"text": " \\n\\t\\u00a0\\u0000"}', ("filtered", "empty_text")),
        (b'{"text": "\xff"}', ("failed", "bad_encoding")),
        (b'{"text": "a \\ud800 b"}', ("failed", "bad_encoding")),
    ],
)
def test_bad_lines_are_told_and_their_neighbours_kept(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    of = source("jsonl", "a.jsonl")
    assert rows(of, tmp_path) == [("a.jsonl:1", "before"), ("a.jsonl:2", *expected), ("a.jsonl:3", "after")]
    bad = list(read(of, tmp_path))[1]
    assert bad.detail.startswith("a.jsonl:2") and len(bad.detail) <= 200


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a\\r\\nb\\rc\\nd"}\r', "a\nb\nc\nd"),
        (b'{"text": "\\ufeffa\\u0000b \\ufeff"}', "ab \ufeff"),
        (b'{"text": "x", "score": NaN}', "x"),
        (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
        ('{"text": "日本\u2028語"}'.encode(), "日本\u2028語"),
        (b'{"text": "x", "big": 1' + b"0" * 400 + b"}", "x"),
    ],
)
def test_good_lines(tmp_path, line, text):
    (tmp_path / "a.jsonl").write_bytes(line)
    assert rows(source("jsonl", "a.jsonl"), tmp_path) == [("a.jsonl:1", text)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_byte_order_marks_and_compression(tmp_path, encoding, packing):
    data = '{"text": "größe"}\n{"text": "二"}\n'.encode(encoding)
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    name = f"a.jsonl{packing}"
    (tmp_path / name).write_bytes(pack(data))
    assert rows(source("jsonl", name), tmp_path) == [(f"{name}:1", "größe"), (f"{name}:2", "二")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_streams_of_several_members(tmp_path, pack):
    (tmp_path / "a.json").write_bytes(pack(GOOD) + pack(b'{"text": "three"}'))
    assert [text for _, text in rows(source("jsonl", "a.json"), tmp_path)] == ["one", "two", "three"]


def _incompressible_lines(count):
    import hashlib

    return [json.dumps({"text": hashlib.shake_256(str(n).encode()).hexdigest(2000)}) for n in range(count)]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.ZstdCompressor().compress)])
def test_a_truncated_stream_keeps_the_rows_before(tmp_path, suffix, pack):
    lines = _incompressible_lines(300)
    packed = pack("\n".join(lines).encode())
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(packed[: len(packed) * 3 // 4])
    (tmp_path / f"b.jsonl.{suffix}").write_bytes(pack(b'{"text": "next file"}'))
    *good, broken, after = rows(source("jsonl", "."), tmp_path)
    assert [text for _, text in good] == [json.loads(line)["text"] for line in lines[: len(good)]]
    assert 100 < len(good) < 300
    assert broken == (f"a.jsonl.{suffix}:{len(good) + 1}", "failed", "broken_stream")
    assert after == (f"b.jsonl.{suffix}:1", "next file")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.ZstdCompressor().compress)])
def test_a_damaged_stream_is_one_bad_row(tmp_path, suffix, pack):
    packed = bytearray(pack("\n".join(_incompressible_lines(300)).encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = b"\xff" * 50
    packed += b"rubbish"
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(packed)
    bad = [row for row in rows(source("jsonl", f"a.jsonl.{suffix}"), tmp_path) if len(row) == 3]
    assert bad[-1][1:] == ("failed", "broken_stream")


def test_half_a_character_at_the_end_of_utf16(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "one"}\n'.encode("utf-16") + b"x")
    assert rows(source("jsonl", "a.jsonl"), tmp_path) == [
        ("a.jsonl:1", "one"),
        ("a.jsonl:2", "failed", "bad_encoding"),
    ]


def test_a_line_over_the_limit_is_skipped_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_TEXT_BYTES", 100)
    exact = b'{"text": "' + b"x" * 87 + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"text": "' + b"y" * 1000 + b'"}\n' + exact + b"z" * 500)
    assert len(exact) == 100
    assert rows(source("jsonl", "a.jsonl"), tmp_path)[2:] == [
        ("a.jsonl:3", "failed", "line_too_long"),
        ("a.jsonl:4", "x" * 87),
        ("a.jsonl:5", "failed", "line_too_long"),
    ]


def test_folders_and_globs_are_sorted_and_hidden_files_left_out(tmp_path):
    for name in ("b.jsonl", "sub/a.ndjson", "sub/c.JSONL", ".hidden/x.jsonl", ".y.jsonl", "notes.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(GOOD)
    assert names(source("jsonl", "data"), tmp_path) == ["data/b.jsonl", "data/sub/a.ndjson", "data/sub/c.JSONL"]
    assert names(source("jsonl", "data/*/*.ndjson"), tmp_path) == ["data/sub/a.ndjson"]
    absolute = tmp_path / "data" / "notes.txt"
    assert names(source("jsonl", str(absolute)), tmp_path) == ["data/notes.txt"]
    assert names(source("jsonl", str(absolute)), tmp_path / "elsewhere") == [absolute.as_posix()]


def test_linked_folders_are_read_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "near").symlink_to(tmp_path / "far")
    assert names(source("jsonl", "data"), tmp_path) == ["data/near/a.jsonl"]


def test_a_file_that_cannot_be_opened_is_a_bad_row(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}')
    of = source("jsonl", ".")
    assert rows(of, tmp_path) == [("a.jsonl:1", "failed", "unreadable_file"), ("b.jsonl:1", "x")]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("nix.jsonl", None, "source 'src': there is no file or folder 'nix.jsonl'"),
        ("*.nix", None, "source 'src': no file matches '*.nix'"),
        ("empty", None, "source 'src': no file in folder 'empty' matches *.jsonl"),
        ("a.jsonl", b'{"tekst": "x"}', "source 'src': no column 'text' in a.jsonl:1; did you mean 'tekst'?"),
        ("a.jsonl", b'bad\n\n[]\n{"q": 1, "z": 2}', "no column 'text' in a.jsonl:4 (columns: 'q', 'z')"),
        ("a.json", b'[{"text": "x"}]', "a.json is one JSON array and not JSON lines"),
        ("a.jsonl", b'[\n{"text": "x"}\n]', "a.jsonl is one JSON array and not JSON lines"),
    ],
)
def test_what_is_missing_is_a_user_error(tmp_path, path, content, message):
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / path).write_bytes(content)
    with pytest.raises(UserError) as error:
        names(source("jsonl", path), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_without_any_good_row_is_no_user_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"bad\nworse\n")
    assert [row[2] for row in rows(source("jsonl", "a.jsonl"), tmp_path)] == ["malformed_json"] * 2


def test_location_is_no_name_for_a_metadata_column(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError, match="metadata cannot have a column 'location'"):
        names(source("jsonl", "a.jsonl", fields={"metadata": ["location"]}), tmp_path)


def test_details_are_short_and_keep_the_end_of_a_long_location(tmp_path):
    folder = "d" * 150
    (tmp_path / folder / folder).mkdir(parents=True)
    name = f"{folder}/{folder}/a.jsonl"
    (tmp_path / name).write_bytes(b'{"text": 1}\n\n{"text": ')
    first, second = read(source("jsonl", name), tmp_path)
    assert first.location == f"{name}:1" and len(first.detail) <= 200 and len(second.detail) <= 200
    assert first.detail.endswith("d/a.jsonl:1: 'text' is int, not a text") and "d/a.jsonl:3: " in second.detail
