"""Formats and styles of exports: what readers find in the files is what the tables hold, or is named as left out."""

import json
import struct
from hashlib import sha256
from itertools import cycle, islice

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from pipelines import export_configs
from pipelines.export_configs import SFT
from pipelines.export_tokens import PROLONG, prolong
from pipelines.manifest import load_manifest
from pipelines.mds import MdsWriter
from pipelines.megatron import MegatronWriter
from pipelines.styles import styled, turns
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.export import Export
from schemas.tables import TABLES
from tests.conftest import run
from tests.mds_reader import read_mds
from tests.support import recipe, texts
from tests.test_export import documents_only, front_matter, load, snapshot, table

SYSTEM = {"role": "system", "content": "Be brief."}
ASK, SAY = {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}
ASK2, SAY2 = {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2"}


def samples(*conversations):
    rows = [{"id": f"s{n}", "messages": messages, "method": "m"} for n, messages in enumerate(conversations)]
    return pa.Table.from_pylist(rows, schema=SFT)


def card_sql(folder, config):
    """The card's own words for DuckDB, as something to select from."""
    lines = (folder / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if "duckdb.sql" in line and f"/{config}/" in line]
    sql = line.strip().removeprefix('duckdb.sql("""').removesuffix('""")')
    return f"({sql.replace('DIR', str(folder))})"


# ---------------------------------------------------------------- styles


def test_sharegpt_and_alpaca_say_the_same_in_their_words():
    rows = samples([SYSTEM, ASK, SAY, ASK2, SAY2], [ASK, SAY])
    found, left_out = styled(rows, "sharegpt")
    assert left_out == [] and found.column_names == [
        "id", "conversations", "method", "source", "language", "prompt_tokens", "response_tokens", "document_ids",
        "evidence", "details", "loss_on_prompt", "model",
    ]  # fmt: skip
    assert found["conversations"].to_pylist() == [
        [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Q1"},
            {"from": "gpt", "value": "A1"},
            {"from": "human", "value": "Q2"},
            {"from": "gpt", "value": "A2"},
        ],
        [{"from": "human", "value": "Q1"}, {"from": "gpt", "value": "A1"}],
    ]
    found, left_out = styled(rows, "alpaca")
    wanted = ["instruction", "input", "output", "system", "history"]
    assert left_out == [] and found.column_names[1:6] == wanted
    assert found.select(wanted).to_pylist() == [
        {"instruction": "Q2", "input": "", "output": "A2", "system": "Be brief.", "history": [["Q1", "A1"]]},
        {"instruction": "Q1", "input": "", "output": "A1", "system": None, "history": []},
    ]


@pytest.mark.parametrize("style", ["sharegpt", "alpaca"])
def test_what_a_style_cannot_say_is_left_out_with_what_was_seen(style):
    tool = {"role": "tool", "content": "42"}
    rows = samples(
        [ASK], [ASK, SAY], [SYSTEM, ASK, SAY, ASK2], [ASK, ASK2, SAY], [SAY], [ASK, SAY, SYSTEM, ASK2, SAY2],
        [ASK, tool, SAY], [SYSTEM], [],
    )  # fmt: skip
    found, left_out = styled(rows, style)
    assert found["id"].to_pylist() == ["s1"]
    assert [tuple(one) for one in left_out] == [
        (row_id, f"not_{style}", seen)
        for row_id, seen in {
            "s0": "ends with a user message",
            "s2": "ends with a user message",
            "s3": "message 2 is of the role 'user', not 'assistant'",
            "s4": "message 1 is of the role 'assistant', not 'user'",
            "s5": "message 3 is of the role 'system', not 'user'",
            "s6": "message 2 is of the role 'tool', not 'assistant'",
            "s7": "has no turn",
            "s8": "has no turn",
        }.items()
    ]
    nothing, left_out = styled(rows.slice(0, 1), style)
    assert nothing.num_rows == 0 and nothing.schema == found.schema and len(left_out) == 1


def back(row):
    """Messages of a row in either style."""
    if "conversations" in row:
        names = {"system": "system", "human": "user", "gpt": "assistant"}
        return [{"role": names[one["from"]], "content": one["value"]} for one in row["conversations"]]
    pairs = [*row["history"], [row["instruction"], row["output"]]]
    said = [{"role": "system", "content": row["system"]}] if row["system"] is not None else []
    return said + [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()})


@given(st.lists(st.lists(MESSAGE, max_size=5), max_size=8), st.sampled_from(["sharegpt", "alpaca"]))
def test_every_row_comes_back_word_for_word_or_is_named(conversations, style):
    found, left_out = styled(samples(*conversations), style)
    here = {row["id"]: back(row) for row in found.to_pylist()}
    assert here == {f"s{n}": one for n, one in enumerate(conversations) if f"s{n}" in here}
    assert sorted([*here, *(one.row_id for one in left_out)]) == sorted(f"s{n}" for n in range(len(conversations)))
    for one in left_out:
        with pytest.raises(ValueError):
            turns(conversations[int(one.row_id[1:])])


def test_an_alpaca_export_counts_what_it_leaves_out(tmp_path, monkeypatch):
    """No method makes a sample that ends with a user message: the first one of each batch is given such."""
    plain = export_configs.styled

    def planted(rows, style):
        messages = rows["messages"].to_pylist()
        messages[:1] = [[ASK]] if messages else []
        place = rows.schema.get_field_index("messages")
        return plain(rows.set_column(place, SFT.field("messages"), pa.array(messages, SFT.field(place).type)), style)

    monkeypatch.setattr(export_configs, "styled", planted)
    exports = [{"name": "out", "configs": ["sft"], "format": "jsonl", "style": "alpaca", "methods": ["agentwrite"]}]
    run(recipe(tmp_path, export=exports), tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    states = table(
        workspace,
        "SELECT state, reason, detail, count(*) AS n FROM row_states WHERE stage = 'export.out' AND "
        "reason <> 'method_not_exported' GROUP BY ALL ORDER BY ALL",
    )
    assert states == [
        {"state": "filtered", "reason": "not_alpaca", "detail": "ends with a user message", "n": 2},
        {"state": "ok", "reason": "", "detail": "sft", "n": 1},
    ]
    manifest = load_manifest(workspace.manifest("export.out"))
    assert (manifest.rows_in, manifest.states) == (15, {"filtered": 14, "ok": 1})
    lines = (workspace.exports / "out" / "README.md").read_text().splitlines()
    assert "| sft | 1 |" in lines and "| not\\_alpaca | 2 |" in lines
    assert any(line.startswith("| agentwrite | tasks | en | 1 |") for line in lines)


# ---------------------------------------------------------------- JSONL


@pytest.mark.parametrize(("compression", "suffix"), [("none", "jsonl"), ("gzip", "jsonl.gz"), ("zstd", "jsonl.zst")])
def test_jsonl_loads_as_the_tables_are(tmp_path, compression, suffix):
    exports = [{"name": "out", "format": "jsonl", "compression": compression, "shard_size": "1B"}]
    run(recipe(tmp_path, export=exports), tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    folder = workspace.exports / "out"
    shards = sorted(path.name for path in (folder / "sft").iterdir())
    # zstd holds back the first 128 kB.
    assert (len(shards) > 1) is (compression != "zstd") and shards[0] == f"train-00000-of-{len(shards):05d}.{suffix}"
    expected = table(
        workspace,
        "SELECT sample_id AS id, messages, method, source, language, prompt_tokens, response_tokens, document_ids, "
        "evidence, details, loss_on_prompt, model FROM samples ORDER BY id",
    )
    assert sorted(load(folder, tmp_path, "sft")["sft"], key=lambda row: row["id"]) == expected
    assert sorted(duck(card_sql(folder, "sft"), SFT.names), key=lambda row: row["id"]) == expected


def test_a_value_that_comes_late_is_read_all_the_same(tmp_path):
    """JSON has no types: `datasets` and DuckDB guess them from the first rows unless they are told."""
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n} " + "x" * 900} for n in range(21_000)] + [{"text": "last", "language": "de"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "rows", "type": "jsonl", "path": str(path), "fields": {"language": "language"}}
    exports = [{"name": "out", "configs": ["documents"], "format": "jsonl"}]
    run(documents_only(tmp_path, documents=[source], export=exports), tmp_path / "w")
    folder = tmp_path / "w" / "exports" / "out"
    (found,) = [row for row in load(folder, tmp_path, "documents")["documents"] if row["text"] == "last"]
    assert found["language"] == "de"
    assert front_matter(folder)["dataset_info"]["config_name"] == "documents"


def test_the_same_rows_are_the_same_bytes(tmp_path):
    exports = [
        {"name": f"{kind}-{n}", "configs": ["documents"], **more}
        for n in (1, 2)
        for kind, more in {
            "gz": {"format": "jsonl", "compression": "gzip"}, "zst": {"format": "jsonl", "compression": "zstd"},
            "mds": {"format": "mds"},
        }.items()
    ]  # fmt: skip
    run(documents_only(tmp_path, export=exports), tmp_path / "w")
    for kind in ("gz", "zst", "mds"):
        one, other = (snapshot(tmp_path / "w" / "exports" / f"{kind}-{n}" / "documents") for n in (1, 2))
        assert one == other and one


# ---------------------------------------------------------------- MosaicML streaming


HEADER = (
    b'{"column_encodings": ["str", "ndarray:int32"], "column_names": ["id", "input_ids"], '
    b'"column_sizes": [null, null], "compression": null, "format": "mds", "hashes": [], '
    b'"size_limit": 67108864, "version": 2}'
)
GOLDEN = (
    b"\x02\x00\x00\x00\xdb\x00\x00\x00\xef\x00\x00\x00\xab\x05\x00\x00" + HEADER
    + b"\x02\x00\x00\x00\n\x00\x00\x00\xc3\xa9\x04\x02\x01\x00\x00\x00\xfe\xff\xff\xff"
    + b"\x01\x00\x00\x00\xb3\x04\x00\x00b\x05,\x01" + struct.pack("<300i", *range(300))
)  # fmt: skip


def test_mds_shards_are_byte_for_byte_those_of_the_library(tmp_path):
    """Golden bytes of mosaicml-streaming 0.13, its MDSWriter(columns={"id": "str", "input_ids": "ndarray:int32"})."""
    schema = pa.schema([("input_ids", pa.list_(pa.int32())), ("id", pa.string())])
    rows = [{"id": "é", "input_ids": [1, -2]}, {"id": "b", "input_ids": list(range(300))}]
    writer = MdsWriter(tmp_path, schema, 1 << 26)
    writer.write(pa.Table.from_pylist(rows, schema=schema))
    writer.close()
    assert (tmp_path / "shard.00000.mds").read_bytes() == GOLDEN


def test_an_mds_export_holds_the_tables_in_shards_of_the_stated_size(tmp_path):
    exports = [{"name": "out", "format": "mds", "shard_size": "2KB"}]
    manifests = run(recipe(tmp_path, export=exports), tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    folder = workspace.exports / "out"
    shards = list((folder / "documents").glob("shard.*.mds"))
    assert len(shards) > 1 and all(path.stat().st_size <= 2000 for path in shards)
    expected = table(
        workspace, "SELECT document_id AS id, text, source, language, chars, tokens, metadata FROM documents"
    )
    assert read_mds(folder / "documents") == expected
    assert len(read_mds(folder / "sft")) == 15 and "configs" not in front_matter(folder)
    assert 'StreamingDataset(local="DIR/sft", batch_size=1)' in (folder / "README.md").read_text()
    # A shard that is gone makes the stage do it again.
    shards[0].unlink()
    assert run(tmp_path / "recipe.yaml", tmp_path / "w")[-1].units.keys() == manifests[-1].units.keys()
    assert read_mds(folder / "documents") == expected


def packs():
    lists = {
        "input_ids": [[5, 6, 7, 8, 9], [3, 4]], "labels": [[-100, 6, -100, -100, 9], [-100, 4]],
        "seq_lengths": [[2, 3], [2]],
    }  # fmt: skip
    columns = {name: pa.array(rows, pa.list_(pa.int32())) for name, rows in lists.items()}
    return pa.record_batch({"pack_id": ["p", "q"], "domain": ["books", None], "length": [5, 2], **columns})


def test_packs_in_the_layout_of_prolong(tmp_path):
    writer = MdsWriter(tmp_path, PROLONG, 1 << 26)
    writer.write(prolong(packs()))
    writer.close()
    row, other = read_mds(tmp_path)
    assert (row["domain"], row["length"], row["input_ids"].dtype) == ("books", 5, np.int32)
    assert row["input_ids"].tolist() == [5, 6, 7, 8, 9] and row["mask"].tolist() == [0, 1, 0, 0, 1]
    assert [row["input_ids"][a:b].tolist() for a, b in row["indices"]] == [[5, 6], [7, 8, 9]]
    assert 4_294_967_296 - row["indices"][0][1] > 0  # the loader's budget of tokens: no overflow
    assert (other["domain"], other["indices"].tolist(), other["mask"].tolist()) == ("", [[0, 2]], [0, 1])


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1)), max_size=20))
def test_mds_rows_come_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("mds")
    schema = pa.schema([("id", pa.string()), ("a", pa.list_(pa.int32())), ("other", pa.list_(pa.string()))])
    values = [{"id": text, "a": numbers, "other": [text, None]} for text, numbers in rows]
    writer = MdsWriter(folder, schema, 1200)
    writer.write(pa.Table.from_pylist(values, schema=schema))
    writer.close()
    assert [{**row, "a": row["a"].tolist()} for row in read_mds(folder)] == values


def test_what_mds_cannot_hold_is_said(tmp_path):
    schema = pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32()))])
    with pytest.raises(UserError, match="row one: MDS cannot hold an array without elements"):
        MdsWriter(tmp_path, schema, 1000).write(pa.Table.from_pylist([{"id": "one", "input_ids": []}], schema=schema))


# ---------------------------------------------------------------- Megatron


def test_megatron_reads_back_tokens_and_labels(tmp_path):
    pytest.importorskip("megatron.core", reason="pip install 'longloom[megatron]'")
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    writer = MegatronWriter(tmp_path)
    more = pa.table({"input_ids": [[2**31 - 1]], "labels": [[-100]], "seq_lengths": [[1]]})
    for rows in (pa.Table.from_batches([packs().slice(0, 1)]), more):
        writer.write(rows)
    writer.close()
    assert MegatronWriter.complete(tmp_path)
    tokens, labels = (IndexedDataset(str(tmp_path / name)) for name in ("train", "train_labels"))
    assert [row.tolist() for row in tokens] == [[5, 6, 7, 8, 9], [2**31 - 1]]
    assert [row.tolist() for row in labels] == [[-100, 6, -100, -100, 9], [-100]]
    assert tokens.document_indices.tolist() == [0, 1, 2]
    (tmp_path / "train_labels.bin").unlink()
    assert not MegatronWriter.complete(tmp_path)


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"style": "alpaca", "configs": ["documents"]}, "the style 'alpaca' is for the config 'sft'"),
        ({"compression": "zstd"}, "'compression' is for the format 'jsonl', not 'parquet'"),
        ({"format": "mds", "shard_size": "4GiB"}, "a shard of the format 'mds' has less than 4 GiB"),
        ({"format": "megatron"}, "the format 'megatron' holds tokens, for the configs packed and tokenised, not"),
    ],
)
def test_formats_that_do_not_fit_are_refused(keys, sentence):
    with pytest.raises(ValueError, match=sentence):
        Export(name="out", **keys)


def test_run_suggests_what_can_be_done_with_the_format(tmp_path, capsys):
    path = documents_only(tmp_path, export=[{"name": "out", "configs": ["documents"], "format": "mds"}])
    assert main(["run", str(path), "--no-prefect", "--workspace", str(tmp_path / "w")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  cat {tmp_path}/w/exports/out/README.md"


# ---------------------------------------------------------------- many


QA = {"method": "long_qa", "engine": "writer", "per_document": 3, "document_tokens": {"min": 10}}


def digest(rows):
    """One number for all rows, whatever their order."""
    return sum(int.from_bytes(sha256(orjson.dumps(row, option=orjson.OPT_SORT_KEYS)).digest()) for row in rows) % 2**256


def duck(source, columns):
    relation = duckdb.sql(f"SELECT {', '.join(columns)} FROM {source}")
    return [dict(zip(columns, row, strict=True)) for row in relation.fetchall()]


def test_ten_thousand_samples_are_the_same_in_every_reader(tmp_path):
    """Exported as Parquet, JSONL and MDS; read by `datasets`, DuckDB and by MDS's rules: all rows and columns."""
    exports = [
        {"name": "parquet", "configs": ["sft"], "shard_size": "300KB"},
        {"name": "jsonl", "configs": ["sft"], "format": "jsonl", "compression": "zstd", "shard_size": "10KB"},
        {"name": "mds", "configs": ["sft"], "format": "mds", "shard_size": "1MB"},
    ]
    path = recipe(
        tmp_path,
        instructions=[],
        documents=[{"name": "t", "type": "inline", "items": texts(1)}],
        generate=[QA],
        export=exports,
    )
    run(path, tmp_path / "w", stage="ingest")
    run(path, tmp_path / "w", stage="generate")
    workspace = Workspace(tmp_path / "w")
    (part,) = workspace.root.glob("tables/samples/*.parquet")  # its rows, many times over, each a little different
    rows = pq.read_table(part).to_pylist()
    many = [
        {
            **row,
            "sample_id": f"s{n}",
            "prompt_tokens": n,
            "language": None if n % 3 else "en",
            "loss_on_prompt": n % 2 == 0,
        }
        for n, row in enumerate(islice(cycle(rows), 10_000))
    ]
    pq.write_table(pa.Table.from_pylist(many, schema=TABLES["samples"]), part)
    run(path, tmp_path / "w", stage="export")
    names = ", ".join("sample_id AS id" if name == "id" else name for name in SFT.names)
    expected = table(workspace, f"SELECT {names} FROM samples")
    assert len(expected) == len({row["id"] for row in expected}) == 10_000
    wanted = digest(expected)
    for name in ("parquet", "jsonl"):
        folder = workspace.exports / name
        assert len(list((folder / "sft").iterdir())) > 1
        assert digest(load(folder, tmp_path, "sft")["sft"]) == wanted, name
    assert digest(duck(f"'{workspace.exports}/parquet/sft/*.parquet'", SFT.names)) == wanted
    assert digest(duck(card_sql(workspace.exports / "jsonl", "sft"), SFT.names)) == wanted
    assert digest(read_mds(workspace.exports / "mds" / "sft")) == wanted
