"""Parquet parts: whole or not at all, numbered, in row groups, the same bytes each time."""

import pyarrow.parquet as pq
import pytest

from pipelines import shards
from pipelines.shards import Part, TableWriter, write_rows
from schemas.tables import TABLES


def _state(number, detail="x"):
    return {"row_id": f"row-{number}", "stage": "s", "state": "ok", "reason": "", "detail": detail}


def _files(workspace):
    return sorted(path.name for path in workspace.rglob("*") if path.is_file())


def test_one_part_with_the_schema_of_its_table(tmp_path):
    parts = write_rows(tmp_path, "row_states", "unit", (_state(number) for number in range(3)))
    assert parts == [Part("row_states", "tables/row_states/part-unit-00000.parquet", 3)]
    table = pq.read_table(tmp_path / parts[0].file)
    assert table.schema.equals(TABLES["row_states"])
    assert table.to_pylist() == [_state(number) for number in range(3)]


def test_no_rows_no_part(tmp_path):
    assert write_rows(tmp_path, "row_states", "unit", []) == [] and _files(tmp_path) == []


def test_missing_columns_are_null(tmp_path):
    (part,) = write_rows(tmp_path, "row_states", "unit", [{"row_id": "a"}])
    assert pq.read_table(tmp_path / part.file).to_pylist() == [dict.fromkeys(_state(0)) | {"row_id": "a"}]


def test_row_groups_and_numbered_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1000)
    with TableWriter(tmp_path, "row_states", "unit", part_bytes=3000) as writer:
        writer.write_all(_state(number, "x" * 400) for number in range(20))
    assert [(part.file[-9:], part.rows) for part in writer.parts] == [
        ("0.parquet", 9),
        ("1.parquet", 9),
        ("2.parquet", 2),
    ]
    files = [pq.ParquetFile(tmp_path / part.file) for part in writer.parts]
    assert [file.metadata.num_row_groups for file in files] == [3, 3, 1]
    ids = [row_id for file in files for row_id in file.read().column("row_id").to_pylist()]
    assert ids == [f"row-{number}" for number in range(20)]


def test_same_rows_same_bytes(tmp_path):
    rows = [_state(number, "text " * number) for number in range(200)]
    written = [(tmp_path / run / write_rows(tmp_path / run, "row_states", "u", rows)[0].file) for run in ("a", "b")]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_texts_have_no_dictionary_and_repeated_words_have_one(tmp_path):
    (part,) = write_rows(tmp_path, "documents", "u", [{"document_id": "d", "text": "t", "source": "s"}] * 9)
    group = pq.read_metadata(tmp_path / part.file).row_group(0)
    encodings = {group.column(n).path_in_schema: group.column(n).encodings for n in range(group.num_columns)}
    assert "RLE_DICTIONARY" in encodings["source"]
    assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(encodings["text"] + encodings["document_id"])


def test_an_exception_leaves_finished_parts_only(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1000)
    with (
        pytest.raises(KeyboardInterrupt),
        TableWriter(tmp_path, "row_states", "unit", part_bytes=2000) as writer,
    ):
        for number in range(8):
            writer.write(_state(number, "x" * 400))
        raise KeyboardInterrupt
    assert _files(tmp_path) == ["part-unit-00000.parquet"]
    assert [part.rows for part in writer.parts] == [6]


@pytest.mark.parametrize("row", [{"row_id": 5}, {"row_id": "\ud800"}])
def test_a_row_that_does_not_fit_leaves_nothing(tmp_path, row):
    with pytest.raises((TypeError, ValueError)):
        write_rows(tmp_path, "row_states", "unit", [_state(1), row])
    assert _files(tmp_path) == []


def test_a_disk_that_fails_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(self):
        self.is_open = False
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "close", full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path, "row_states", "unit", [_state(1)])
    assert _files(tmp_path) == []


def test_the_next_attempt_overwrites(tmp_path):
    write_rows(tmp_path, "row_states", "unit", [_state(1), _state(2)])
    (part,) = write_rows(tmp_path, "row_states", "unit", [_state(3)])
    assert pq.read_table(tmp_path / part.file).to_pylist() == [_state(3)]
    assert _files(tmp_path) == ["part-unit-00000.parquet"]
