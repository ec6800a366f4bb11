"""Parquet and Hugging Face sources."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_support import names, rows, source

from pipelines.sources import parquet, read
from schemas.errors import UserError


def _write(path, table, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def test_parquet_rows_and_columns(tmp_path):
    day = datetime.date(2024, 2, 29)
    table = pa.table(
        {"body": ["one", None, "", "four"], "unread": [1, 2, 3, 4], "day": [day, None, day, None], "t": list("abcd")}
    )
    _write(tmp_path / "p/b.parquet", table, row_group_size=2)
    _write(tmp_path / "p/sub/a.parquet", table.slice(0, 1))
    of = source("parquet", "p", fields={"text": "body", "title": "t", "metadata": ["day"]})
    assert rows(of, tmp_path) == [
        ("p/b.parquet:1", "one"),
        ("p/b.parquet:2", "failed", "missing_text"),
        ("p/b.parquet:3", "filtered", "empty_text"),
        ("p/b.parquet:4", "four"),
        ("p/sub/a.parquet:1", "one"),
    ]
    first = next(read(of, tmp_path))
    assert (first.title, first.metadata) == ("a", {"day": day})


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_kinds_of_strings(tmp_path, type_):
    _write(tmp_path / "a.parquet", pa.table({"text": pa.array(["x", "y"]).cast(type_)}))
    assert rows(source("parquet", "a.parquet"), tmp_path) == [("a.parquet:1", "x"), ("a.parquet:2", "y")]


def test_parquet_text_that_is_not_utf8(tmp_path):
    broken = pa.array([b"good", b"b\xff", b"also good"]).view(pa.string())
    _write(tmp_path / "a.parquet", pa.table({"text": broken}), write_statistics=False)
    assert rows(source("parquet", "a.parquet"), tmp_path) == [
        ("a.parquet:1", "good"),
        ("a.parquet:2", "failed", "bad_encoding"),
        ("a.parquet:3", "also good"),
    ]


def test_damage_in_one_row_group_costs_that_group_only(tmp_path):
    texts = [f"{number} " + "x" * 50 for number in range(30)]
    path = tmp_path / "a.parquet"
    _write(path, pa.table({"text": texts}), row_group_size=10, compression="zstd", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = rows(source("parquet", "a.parquet"), tmp_path)
    assert found[10] == ("a.parquet:11", "failed", "broken_stream")
    assert [row[1] for row in found[:10] + found[11:]] == texts[:10] + texts[20:]


def test_batches_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 3000)
    _write(tmp_path / "a.parquet", pa.table({"text": [str(n) * 100 for n in range(50)]}))
    assert len(rows(source("parquet", "a.parquet"), tmp_path)) == 50


def test_parquet_user_errors(tmp_path):
    _write(tmp_path / "a.parquet", pa.table({"content": ["x"], "n": [1]}))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    for path, fields, message in [
        ("a.parquet", {"text": "contents"}, "no column 'contents' in a.parquet; did you mean 'content'?"),
        ("a.parquet", {"text": "content", "metadata": ["N"]}, "no column 'N' in a.parquet; did you mean 'n'?"),
        ("a.parquet", {"text": "n"}, "column 'n' of a.parquet is int64, not a text"),
        ("bad.parquet", {}, "bad.parquet cannot be read as Parquet: "),
        ("cut.parquet", {}, "cut.parquet cannot be read as Parquet: "),
        ("nix.parquet", {}, "there is no file or folder 'nix.parquet'"),
    ]:
        with pytest.raises(UserError) as error:
            names(source("parquet", path, fields=fields), tmp_path)
        assert str(error.value).startswith("source 'src': ") and message in str(error.value)


def test_a_parquet_file_that_went_away(tmp_path):
    _write(tmp_path / "a.parquet", pa.table({"text": ["x"]}))
    of = source("parquet", ".")
    stream = read(of, tmp_path)
    _write(tmp_path / "b.parquet", pa.table({"text": ["y"]}))
    found = [next(stream).location]
    (tmp_path / "b.parquet").write_bytes(b"")
    found += [row.reason for row in stream]
    assert found == ["a.parquet:1", "unreadable_file"]


def test_huggingface_local_folder(tmp_path):
    table = pa.table({"body": ["one", None], "n": [1, 2], "unread": ["x", "y"]})
    _write(tmp_path / "ds/data/train-0.parquet", table)
    _write(tmp_path / "ds/data/test-0.parquet", table.slice(0, 1))
    of = source("huggingface", "ds", fields={"text": "body", "metadata": ["n"]})
    assert rows(of, tmp_path) == [("ds/train:1", "one"), ("ds/train:2", "failed", "missing_text")]
    assert next(read(of, tmp_path)).metadata == {"n": 1}
    assert names(of, tmp_path) == ["ds/data/test-0.parquet", "ds/data/train-0.parquet"]
    assert len(rows(of.model_copy(update={"split": "test"}), tmp_path)) == 1


def test_huggingface_json_folder_with_a_broken_end(tmp_path):
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "a.jsonl").write_text(json.dumps({"text": "x"}) + "\n" + json.dumps({"text": "y"}) + "\n")
    (tmp_path / "ds" / "b.jsonl").write_text('{"text": "never closed')
    found = rows(source("huggingface", "ds"), tmp_path)
    assert found[:2] == [("ds/train:1", "x"), ("ds/train:2", "y")]
    assert [row[1:] for row in found[2:]] == [("failed", "broken_stream")]


def test_huggingface_saved_to_disk(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_list([{"text": "x"}, {"text": "y"}])
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "many"))
    assert rows(source("huggingface", "one"), tmp_path) == [("one/train:1", "x"), ("one/train:2", "y")]
    assert rows(source("huggingface", "many"), tmp_path)[1] == ("many/train:2", "y")
    with pytest.raises(UserError, match="has no split 'dev' \\(splits: train\\)"):
        names(source("huggingface", "many", split="dev"), tmp_path)


def test_huggingface_user_errors(tmp_path):
    _write(tmp_path / "ds/train.parquet", pa.table({"content": ["x"]}))
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "a.jsonl").write_text('{"content": "x"}')
    for path, rest, message in [
        ("ds", {}, "no column 'text' in 'ds', split 'train' (columns: 'content')"),
        (
            "js",
            {"fields": {"text": "contents"}},
            "no column 'contents' in 'js', split 'train'; did you mean 'content'?",
        ),
        ("ds", {"split": "dev"}, "Available splits: ['train']"),
        ("ds", {"config": "de"}, "'de' not found"),
        ("./nix", {}, "there is no folder './nix'"),
    ]:
        with pytest.raises(UserError) as error:
            names(source("huggingface", path, **rest), tmp_path)
        assert str(error.value).startswith("source 'src': ") and message in str(error.value)
