"""Exports: what `datasets` reads is what the tables hold, and the dataset card stands whatever the rows say."""

import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import main
from pipelines import export, files
from pipelines.card import is_export
from pipelines.catalog import query
from pipelines.export_configs import CONFIGS
from pipelines.manifest import load_manifest
from pipelines.workspace import Workspace
from tests.conftest import run
from tests.support import recipe, texts

LOAD = """
import datasets, json, os, sys
folder, cache, streaming, *configs = sys.argv[1:]
options = {"cache_dir": cache, "streaming": streaming == "True"}
print(json.dumps({c: list(datasets.load_dataset(folder, c, **options)["train"]) for c in configs}), flush=True)
os._exit(0)  # threads that still read a stream abort a process that ends now and then
"""


def load(folder, cache, *configs, streaming=False):
    """The rows of each config as `datasets` reads them, in a process that may not ask the hub."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", LOAD, str(folder), str(cache), str(streaming), *configs]
    done = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def table(workspace, sql):
    names, rows = query(workspace, sql)
    return [dict(zip(names, row, strict=True)) for row in rows]


def front_matter(folder):
    """The YAML between the first line, which is `---`, and the next such line."""
    lines = (folder / "README.md").read_text("utf-8").split("\n")
    assert lines[0] == "---"
    return yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def documents_only(folder, **changes):
    return recipe(folder, **{"instructions": [], "engines": {}, "generate": [], **changes})


# ---------------------------------------------------------------- rows


def test_a_second_export_is_not_read_from_the_cache_of_the_first(tmp_path):
    """`datasets` caches by folder name and card: other rows must make another card."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for items in (["one text"], ["another text"]):
        path = documents_only(tmp_path, documents=[{"name": "texts", "type": "inline", "items": items}])
        run(path, tmp_path / "w")
        found = load(tmp_path / "w" / "exports" / "out", cache, "documents")
        assert [row["text"] for row in found["documents"]] == items


def test_datasets_reads_the_rows_of_the_tables(built, tmp_path):
    found = load(built.exports / "out", tmp_path, "sft", "documents")
    by_id = {row["id"]: row for row in found["sft"]}
    expected = table(
        built,
        "SELECT sample_id AS id, messages, method, source, language, prompt_tokens, response_tokens, document_ids, "
        "evidence, details, loss_on_prompt, model FROM samples",
    )
    assert len(found["sft"]) == len(by_id) == 15
    assert by_id == {row["id"]: row for row in expected}
    assert {tuple(message["role"] for message in row["messages"]) for row in found["sft"]} == {("user", "assistant")}
    expected = table(built, "SELECT document_id AS id, text, source, language, chars, tokens, metadata FROM documents")
    assert found["documents"] == expected and [row["text"] for row in expected] == texts(4)


def test_no_samples_are_a_file_with_columns_and_the_other_config_loads(tmp_path):
    """`datasets` reads no empty split but as a stream (5.2: 'Instruction "train" corresponds to no data!')."""
    run(documents_only(tmp_path), tmp_path / "w")
    folder = tmp_path / "w" / "exports" / "out"
    assert pq.read_table(folder / "sft" / "train-00000-of-00001.parquet").schema.equals(CONFIGS["sft"].schema)
    found = load(folder, tmp_path, "sft", "documents", streaming=True)
    assert found["sft"] == [] and [row["text"] for row in found["documents"]] == texts(4)


def test_the_stated_size_splits_into_shards(tmp_path):
    # A shard ends with the row group that reaches the size; a row group comes from one part of the table.
    sources = [{"name": f"s{n}", "type": "inline", "items": [text]} for n, text in enumerate(texts(3))]
    exports = [{"name": "out", "configs": ["documents"], "shard_size": "1B"}]
    run(documents_only(tmp_path, documents=sources, export=exports), tmp_path / "w")
    folder = tmp_path / "w" / "exports" / "out"
    assert sorted(snapshot(folder)) == [
        "README.md", *(f"documents/train-0000{n}-of-00003.parquet" for n in range(3)),
    ]  # fmt: skip
    found = [pq.read_table(path)["text"].to_pylist() for path in sorted((folder / "documents").iterdir())]
    assert found == [[text] for text in texts(3)]


def test_methods_choose_samples_and_the_others_are_counted(tmp_path):
    exports = [{"name": "out", "configs": ["sft"], "methods": ["agentwrite"]}]
    run(recipe(tmp_path, export=exports), tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    found = load(workspace.exports / "out", tmp_path, "sft")  # whole batches were left out
    assert [row["method"] for row in found["sft"]] == ["agentwrite"] * 3
    manifest = load_manifest(workspace.manifest("export.out"))
    assert (manifest.rows_in, manifest.states) == (15, {"filtered": 12, "ok": 3})
    states = (
        "SELECT state, reason, detail, count(*) FROM row_states WHERE stage = 'export.out' GROUP BY ALL ORDER BY ALL"
    )
    assert query(workspace, states)[1] == [("filtered", "method_not_exported", "", 12), ("ok", "", "sft", 3)]
    card = (workspace.exports / "out" / "README.md").read_text()
    assert "| agentwrite | tasks | en | 3 | 21 | 117 |" in card and "| long\\_qa | texts |" not in card


# ---------------------------------------------------------------- card


def test_the_card_of_a_small_export(built):
    folder = built.exports / "out"
    matter = front_matter(folder)
    contents = [config.pop("description") for config in matter["configs"]]
    assert all(re.fullmatch("content [0-9a-f]{16}", content) for content in contents) and contents[0] != contents[1]
    assert matter == {
        "pretty_name": "small/out",
        "language": ["en"],
        "license": "cc0-1.0",
        "size_categories": ["n<1K"],
        "task_categories": ["text-generation"],
        "tags": ["longloom", "synthetic", "long-context"],
        "configs": [
            {"config_name": "sft", "data_files": [{"split": "train", "path": "sft/train-*.parquet"}]},
            {"config_name": "documents", "data_files": [{"split": "train", "path": "documents/train-*.parquet"}]},
        ],
    }
    lines = (folder / "README.md").read_text("utf-8").splitlines()
    for line in (
        "# small",
        "| documents | 4 |",
        "| sft | 15 |",
        "| long\\_qa | texts | en | 12 | 1524 | 84 |",
        "| agentwrite | 39 | 39 | 39 | 39 | 39 | 7 | 7 | 7 |",
        "| texts | en | CC0-1.0 | 4 | 1828 |  |",
        "| generate.long\\_qa | ok |  | 12 |",
        "| ingest | ok |  | 7 |",
        "| seed | 7 |",
        "| decontamination | none |",
        '       "shard_size": 500000000,',
    ):
        assert line in lines, line
    assert sum(line.startswith("| scripted | agentwrite | write | 9 | ") for line in lines) == 1


HOSTILE = [
    "---\nlicense: mit\n---\n# Mine",
    "<script>alert(1)</script>",
    "a | b | c",
    "``` and ` and ~~~",
    "[click](javascript:alert(1)) ![x](http://x) **bold** _it_",
    "\u2028---\u2028\x85---\r---",
    "'single' \"double\" {curly} %s {{ jinja }} {% raw %}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_stay_text(tmp_path, hostile):
    """In the description, as licence and language of a source and of a row."""
    row = {"text": "a text", "licence": hostile, "language": hostile}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    sources = [
        {"name": "one", "type": "inline", "items": ["<b>text"], "licence": hostile, "language": hostile},
        {
            "name": "two", "type": "jsonl", "path": "rows.jsonl",
            "fields": {"licence": "licence", "language": "language"},
        },
    ]  # fmt: skip
    path = documents_only(tmp_path, documents=sources, description=hostile)
    run(path, tmp_path / "w")
    folder = tmp_path / "w" / "exports" / "out"
    matter = front_matter(folder)
    assert (matter["license"], matter["language"], matter["tags"][0]) == ("other", [], "longloom")
    assert is_export(folder)

    text = (folder / "README.md").read_text("utf-8")
    assert "<" not in text.split("---\n", 2)[2]
    lines = text.split("\n")
    headings = [line for line in lines if line.startswith("#")]
    assert headings == [
        "# small", "## Rows", "## Loading", "## Samples", "## Lengths in tokens", "## Preferences",
        "## Lengths of preferences in characters", "## Documents: sources and licences",
        "## Instructions: sources and licences",
        "## What became of every row", "## Model calls", "## Provenance", "## Recipe with all defaults",
    ]  # fmt: skip
    assert [line for line in lines if line == "---"] == ["---", "---"]
    body = lines[lines.index("# small") : lines.index("## Recipe with all defaults")]
    assert not any(re.search(r"(?<!\\)[`\[~]", line) for line in body)
    rows = [line for line in body if line.startswith(("| one |", "| two |"))]
    assert len(rows) == 2 and all(len(re.findall(r"(?<!\\)\|", line)) == 7 for line in rows)
    # The recipe is one block of indented code, and still the recipe.
    code = lines[lines.index("## Recipe with all defaults") + 1 :]
    assert all(line.startswith("    ") or line == "" for line in code)
    shown = json.loads("\n".join(line[4:] for line in code))
    assert shown["description"] == hostile and shown["documents"][0]["items"] == ["<b>text"]


def test_the_card_leaves_out_what_an_earlier_recipe_made(tmp_path):
    generate = {"method": "agentwrite", "engine": "writer"}
    run(recipe(tmp_path, generate=[{**generate, "name": "old"}]), tmp_path / "w")
    run(recipe(tmp_path, generate=[{**generate, "name": "new"}]), tmp_path / "w")
    card = (tmp_path / "w" / "exports" / "out" / "README.md").read_text("utf-8")
    assert "| sft | 3 |" in card and "| agentwrite | tasks | en | 3 |" in card
    assert "| generate.new | ok |  | 3 |" in card and "generate.old" not in card


# ---------------------------------------------------------------- again and again


def test_an_export_that_stands_is_not_made_anew_and_a_changed_one_replaces_the_old(tmp_path):
    folder = tmp_path / "w" / "exports" / "out"
    run(documents_only(tmp_path), tmp_path / "w")
    before = folder.stat().st_ino
    run(documents_only(tmp_path), tmp_path / "w")
    assert folder.stat().st_ino == before
    run(documents_only(tmp_path, export=[{"name": "out", "configs": ["documents"]}]), tmp_path / "w")
    assert sorted(snapshot(folder)) == ["README.md", "documents/train-00000-of-00001.parquet"]
    assert [config["config_name"] for config in front_matter(folder)["configs"]] == ["documents"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out"]


def test_a_failure_midway_leaves_the_old_export(tmp_path, monkeypatch):
    folder = tmp_path / "w" / "exports" / "out"
    run(documents_only(tmp_path), tmp_path / "w")
    before = snapshot(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    changed = [{"name": "texts", "type": "inline", "items": ["another text"]}]
    with monkeypatch.context() as patched:
        patched.setattr(export, "write_card", full)
        with pytest.raises(OSError, match="No space left"):
            run(documents_only(tmp_path, documents=changed), tmp_path / "w")
    assert snapshot(folder) == before
    run(documents_only(tmp_path, documents=changed), tmp_path / "w")
    (shard,) = (folder / "documents").iterdir()
    assert pq.read_table(shard)["text"].to_pylist() == ["another text"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out"]


# ---------------------------------------------------------------- longloom export


def export_to(built, to, name="small/out"):
    return main(["export", name, "--workspace", str(built.root), "--to", str(to)])


def test_export_to_a_new_folder_and_to_an_empty_one_and_over_an_old_export(built, tmp_path, capsys):
    new, empty = tmp_path / "below" / "new", tmp_path / "empty"
    empty.mkdir()
    for to in (new, empty):
        assert export_to(built, to) == 0
        assert snapshot(to) == snapshot(built.exports / "out")
    shutil.rmtree(new / "sft")
    assert export_to(built, new) == 0
    assert snapshot(new) == snapshot(built.exports / "out")
    assert sorted(path.name for path in new.parent.iterdir()) == ["new"]  # nothing temporary stays
    assert capsys.readouterr().out == f"{new}: out\n{empty}: out\n{new}: out\n"


@pytest.mark.parametrize("name", ["notes.txt", "README.md", ".git/config"])
def test_a_folder_of_others_is_not_touched(built, tmp_path, capsys, name):
    mine = tmp_path / "mine"
    (mine / name).parent.mkdir(parents=True)
    (mine / name).write_text("---\ntags: [mine]\n---\n")
    before = snapshot(tmp_path)
    assert export_to(built, mine) == 2
    assert (
        capsys.readouterr().err == f"longloom: {mine}: exists and is no export; name a new or empty folder with --to\n"
    )
    assert snapshot(tmp_path) == before


def test_what_was_put_beside_an_old_export_is_not_lost(built, tmp_path, capsys):
    assert export_to(built, tmp_path / "clone") == 0
    (tmp_path / "clone" / ".git").mkdir()
    assert export_to(built, tmp_path / "clone") == 2
    sentence = f"{tmp_path}/clone: holds '.git' beside an export; name a new or empty folder with --to"
    assert capsys.readouterr().err == f"longloom: {sentence}\n"
    assert (tmp_path / "clone" / ".git").is_dir()


def test_a_file_is_no_folder(built, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert export_to(built, tmp_path / "file") == 2
    assert capsys.readouterr().err == (
        f"longloom: {tmp_path}/file: exists and is no export; name a new or empty folder with --to\n"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_exports_by_recipe_file(built, tmp_path, capsys):
    path = built.root.parent / "recipe.yaml"
    assert export_to(built, tmp_path / "a", f"{path}/out") == export_to(built, tmp_path / "b", str(path)) == 0
    assert export_to(built, tmp_path / "c", f"{path}/uot") == export_to(built, tmp_path / "c", "small/uot") == 2
    assert capsys.readouterr().err == (
        f"longloom: {path}: has no export 'uot'; it has out\n"
        f"longloom: {built.root}: holds no finished export 'uot'; run the recipe first\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_system_that_cannot_exchange_folders_gets_two_renames(tmp_path, monkeypatch):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with monkeypatch.context() as patched:
        patched.setattr(files, "_exchange", lambda *_: False)
        files.replace_folder(tmp_path / "new", tmp_path / "old")
    assert snapshot(tmp_path) == {"old/file": b"new"} and len(list(tmp_path.iterdir())) == 1


def test_an_export_is_not_copied_while_a_run_may_replace_it(built, tmp_path, capsys):
    with built.lock():
        assert export_to(built, tmp_path / "copy") == 2
    assert "another run" in capsys.readouterr().err and not (tmp_path / "copy").exists()
