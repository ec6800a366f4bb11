"""Symbolic links below what a recipe names: what is read through them, what is not, and that loops end."""

from pathlib import Path

import pytest
from ingest_support import names, rows, source

from schemas.errors import UserError

SECRET = "the secret outside"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`inside` with one text, with links to a file and a folder outside and to itself, and a link in a circle."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    (outside / "secret.jsonl").write_text(f'{{"text": "{SECRET}"}}')
    (inside / "own.txt").write_text("own")
    (inside / "own.jsonl").write_text('{"text": "own"}')
    for suffix in ("txt", "jsonl"):
        (inside / f"file.{suffix}").symlink_to(outside / f"secret.{suffix}")
        (inside / f"round.{suffix}").symlink_to(inside / f"round.{suffix}")
    (inside / "out").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "again").symlink_to("../inside")
    return tmp_path


_BEHIND = {"again/file.txt", "again/own.txt", "loop/file.txt", "loop/own.txt", "out/secret.txt"}


@pytest.mark.parametrize(
    ("type_", "path", "linked"),
    [
        ("text", "inside", {"again", "file.txt", "loop", "out"}),
        ("text", "inside/*.txt", {"file.txt"}),  # a glob sees no link in a circle
        ("text", "inside/*/*.txt", _BEHIND),
        ("text", "inside/**/*.txt", {"file.txt"}),
        ("repository", "inside", {"again", "file.jsonl", "file.txt", "loop", "out", "round.jsonl"}),
    ],
)  # fmt: skip
def test_links_below_a_folder_of_texts_are_named_and_not_read(folder, type_, path, linked):
    found = rows(source(type_, path), folder)
    bad = {row[0]: row[2] for row in found if len(row) == 3}
    assert bad.pop("inside/round.txt:1", "unreadable_file") in ("symbolic_link", "unreadable_file")
    assert bad == {f"inside/{name}:1": "symbolic_link" for name in linked}
    assert not any(SECRET in row[1] for row in found)


def test_a_link_that_the_recipe_names_itself_is_read(folder):
    assert rows(source("text", "inside/file.txt"), folder) == [("inside/file.txt:1", SECRET)]
    assert rows(source("text", "inside/out"), folder) == [("inside/out/secret.txt:1", SECRET)]
    assert rows(source("text", "inside/out/*.txt"), folder) == [("inside/out/secret.txt:1", SECRET)]
    assert len(rows(source("repository", "inside/out"), folder)) == 1


def test_links_are_read_where_the_recipe_says_so(folder):
    found = rows(source("text", "inside", follow_links=True), folder)
    assert [row for row in found if len(row) == 2] == [
        *(("inside/file.txt:1", SECRET), ("inside/out/secret.txt:1", SECRET), ("inside/own.txt:1", "own"))
    ]
    assert [row for row in found if len(row) == 3] == [("inside/round.txt:1", "failed", "unreadable_file")]


def test_shards_of_data_may_be_links_and_every_loop_ends(folder):
    assert names(source("jsonl", "inside"), folder) == [
        *("inside/file.jsonl", "inside/out/secret.jsonl", "inside/own.jsonl", "inside/round.jsonl")
    ]
    assert names(source("jsonl", "inside/**/*.jsonl"), folder) == ["inside/file.jsonl", "inside/own.jsonl"]
    assert names(source("jsonl", "inside/**"), folder)[0] == "inside/file.jsonl"


@pytest.mark.parametrize(
    "file", ["../secret.txt", "{outside}/*.txt", "file://{outside}/secret.txt", "http://127.0.0.1:9/x.txt"]
)
def test_a_dataset_folder_cannot_name_files_elsewhere(folder, file):
    dataset = folder / "outside" / "dataset"
    dataset.mkdir()
    (dataset / "own.txt").write_text("own")
    path = file.replace("{outside}", str(folder / "outside"))
    split = f"  - {{split: train, path: '{path}'}}"
    (dataset / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}\n---\n")
    with pytest.raises(UserError, match=r"no part of it|cannot be loaded"):
        rows(source("huggingface", "outside/dataset"), folder)


def test_a_dataset_folder_may_be_a_link_and_hold_links(folder):
    dataset = folder / "outside" / "dataset"
    (dataset / "data").mkdir(parents=True)
    (dataset / "data" / "own.txt").symlink_to(folder / "inside" / "own.txt")  # as snapshots of the hub cache do
    (dataset / "README.md").write_text("---\nconfigs:\n- {config_name: default, data_files: data/*.txt}\n---\n")
    (folder / "link").symlink_to(dataset)
    for path in ("outside/dataset", "link", "inside/../link", "inside/out/dataset"):
        assert [row[1] for row in rows(source("huggingface", path), folder)] == ["own"]


def test_the_script_of_a_dataset_folder_is_not_run(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "dataset.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "dataset" / "own.txt").write_text("own")
    with pytest.raises(UserError, match=r"source 'src'.*no longer supported"):
        rows(source("huggingface", "dataset"), tmp_path)
    assert not (tmp_path / "ran").exists()
