"""The machine around a command: where its lines go, which locale it has, a disk that is full."""

import errno
import os
import subprocess
import sys

import pytest

from flows import cli
from pipelines.files import atomic_path
from tests.support import recipe

DOCUMENTS = {"instructions": [], "generate": [], "engines": {}, "tokenizer": "scripted",
             "export": [{"name": "out", "configs": ["documents"], "format": "jsonl"}]}  # fmt: skip


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = line.replace("longloom", f"{sys.executable} -m flows")
    environment = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", env=environment)


@pytest.mark.slow
def test_a_run_goes_on_where_nobody_reads_its_lines(tmp_path):
    path = recipe(tmp_path, **DOCUMENTS)
    done = shell(f"longloom run {path} --no-prefect --workspace {tmp_path}/w | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "w" / "exports" / "out" / "README.md").exists()


@pytest.mark.slow
def test_stdout_may_be_closed(tmp_path):
    path = recipe(tmp_path, **DOCUMENTS)
    done = shell(f"longloom plan {path} --workspace {tmp_path}/w >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_texts_and_paths_in_a_locale_without_utf_8(tmp_path):
    folder = tmp_path / "größe"
    (folder / "bücher").mkdir(parents=True)
    (folder / "bücher" / "日本.txt").write_text("日本語 äöü 😀 words", "utf-8")
    source = {"name": "books", "type": "text", "path": "bücher", "licence": "CC0-1.0"}
    path = recipe(folder, **{**DOCUMENTS, "documents": [source]})
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"longloom run {path} --no-prefect --workspace {folder}/w", **plain)
    assert (done.returncode, done.stderr) == (0, "")
    done = shell(f"longloom sql 'SELECT text FROM documents' --format csv --workspace {folder}/w", **plain)
    assert "日本語 äöü 😀 words" in done.stdout


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch, capsys):
    def status(_: object) -> None:
        with atomic_path(tmp_path / "file"):
            raise OSError(errno.ENOSPC, "Arrow's own words")

    monkeypatch.setattr("flows.commands.status", status)
    assert cli.main(["status"]) == 1
    told = f"longloom: {tmp_path}/file: No space left on device; make room and run the same command again"
    assert capsys.readouterr().err.startswith(told)
