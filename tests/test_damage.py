"""Bits that a disk has flipped: found by their checksum, put aside, made anew with the same bytes."""

import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipelines.catalog import query
from pipelines.damage import verify
from pipelines.workspace import Workspace
from schemas.errors import UserError
from tests.conftest import run
from tests.crash_driver import snapshot
from tests.support import recipe, texts


def flip(path, bit):
    """A bit in front of the footer, which has no checksum of its own."""
    data = bytearray(path.read_bytes())
    pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little") - 4
    place = bit % (8 * pages)
    data[4 + place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def flip_text(path):
    """A bit near the end of the column `text`: of its last page, not of that page's head."""
    column = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("text"))
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin + column.total_compressed_size - 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["tables/documents", "tables/samples", "tables/runs", "exports/out/sft"])
def test_a_flipped_bit_is_found_or_changes_nothing(built, tmp_path, place):
    """Bits of the smallest and largest value that a page's head repeats change nothing that is read."""
    chance, found = random.Random(place), 0
    workspace = Workspace(shutil.copytree(built.root, tmp_path / "w"))
    path = sorted((workspace.root / place).glob("*.parquet"))[0]
    whole, table = path.read_bytes(), pq.read_table(path)
    for _ in range(60):
        path.write_bytes(whole)
        flip(path, chance.randrange(10**9))
        try:
            verify(workspace)
        except UserError as error:
            assert str(error).startswith(f"{path}: is damaged and has been put aside")
            assert not path.exists() and path.with_name(f"{path.name}.damaged").exists()
            found += 1
        else:
            assert pq.read_table(path) == table
    assert found > 15


def test_the_next_run_makes_it_anew_with_the_same_bytes(tmp_path, capsys):
    path, root = recipe(tmp_path), tmp_path / "w"
    run(path, root)
    whole = snapshot(root)
    flip(sorted((root / "tables/samples").glob("*.parquet"))[0], 4321)
    flip(sorted((root / "exports/out/sft").glob("*.parquet"))[0], 4321)
    assert main(["status", "--verify", "--workspace", str(root)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "(and 1 more): is damaged" in said
    run(path, root)
    assert {name: digest for name, digest in snapshot(root).items() if not name.endswith(".damaged")} == whole
    files = len(list(root.glob("tables/*/part-*.parquet"))) + len(list(root.glob("exports/out/*/*.parquet")))
    assert main(["status", "--verify", "--workspace", str(root)]) == 0
    assert f"{files} Parquet files of tables and exports read, none damaged" in capsys.readouterr().out


def test_a_stage_that_reads_it_ends_with_its_name(tmp_path):
    root = tmp_path / "w"
    run(recipe(tmp_path), root)
    part = sorted((root / "tables/documents").glob("*.parquet"))[0]
    flip_text(part)
    tokens = [{"name": "pages", "rows": "documents", "tokenizer": "scripted", "eos": False}]
    with pytest.raises(UserError, match=f"{part}: is damaged and has been put aside"):
        run(recipe(tmp_path, tokenise=tokens), root)


def test_a_user_s_parquet_file_with_a_flipped_bit_is_told(tmp_path):
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": texts(3)}), path, write_page_checksum=True)
    flip_text(path)
    documents = [{"name": "texts", "type": "parquet", "licence": "CC0-1.0", "path": str(path)}]
    run(recipe(tmp_path, documents=documents), tmp_path / "w")
    _, rows = query(Workspace(tmp_path / "w"), "SELECT detail FROM row_states WHERE reason = 'broken_stream'")
    ((detail,),) = rows
    assert "rows 1 to 3 not read" in detail and "checksum" in detail
