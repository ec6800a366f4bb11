"""Text files, repositories, the running Python, inline texts."""

import json
import os
import sys

import pytest
from ingest_support import names, rows, source

from pipelines.sources import inputs, read, repository, text
from schemas.errors import UserError


def test_text_files_one_document_each(tmp_path):
    files = {
        "b.txt": b"\xef\xbb\xbfline\r\nline\rend",
        "a/x.md": "größe".encode("utf-16"),
        "a/y.TXT": b"upper",
        "bin.txt": b"PK\0\0",
        "nul.txt": b"x" * 9000 + b"\0y",
        "latin.txt": b"gr\xfc\xdfe",
        "space.txt": b" \n",
        "empty.txt": b"",
        "code.py": b"pass",
    }
    for name, data in files.items():
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_bytes(data)
    of = source("text", "t")
    assert rows(of, tmp_path) == [
        ("t/a/x.md:1", "größe"),
        ("t/a/y.TXT:1", "upper"),
        ("t/b.txt:1", "line\nline\nend"),
        ("t/bin.txt:1", "filtered", "binary_file"),
        ("t/empty.txt:1", "filtered", "empty_text"),
        ("t/latin.txt:1", "failed", "bad_encoding"),
        ("t/nul.txt:1", "x" * 9000 + "y"),
        ("t/space.txt:1", "filtered", "empty_text"),
    ]
    assert next(read(of, tmp_path)).title == "x"
    assert rows(source("text", "t/code.py"), tmp_path) == [("t/code.py:1", "pass")]
    assert names(source("text", "t", include=["a/*"]), tmp_path) == ["t/a/x.md", "t/a/y.TXT"]


def test_inputs_name_size_and_time(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"12345")
    os.utime(tmp_path / "a.txt", ns=(7, 123456789))
    (file,) = inputs(source("text", "a.txt"), tmp_path)
    assert (file.name, file.size, file.mtime_ns) == ("a.txt", 5, 123456789)


def test_a_text_file_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(text.read_text, "__defaults__", (4,))
    (tmp_path / "a.txt").write_bytes(b"12345")
    (tmp_path / "b.txt").write_bytes(b"1234")
    assert rows(source("text", "."), tmp_path) == [("a.txt:1", "filtered", "file_too_long"), ("b.txt:1", "1234")]


def test_a_text_file_that_cannot_be_opened(tmp_path):
    [row] = read(source("text", "."), tmp_path, [tmp_path / "gone.txt"])  # since `inputs`
    assert (row.location, row.state, row.reason) == ("gone.txt:1", "failed", "unreadable_file")


def _repository(folder):
    files = {
        "README.md": b"# Read me\r\n",
        "src/a.py": b"print()",
        "src/b/c.py": b"",
        ".github/ci.yml": b"on: push\n",
        ".git/HEAD": b"ref\n",
        "node_modules/x/i.js": b"x",
        "sub/node_modules/y.js": b"x",
        "poetry.lock": b"x",
        "logo.png": b"\x89PNG\0",
        "big.txt": b"x" * 200,
        "latin.txt": b"gr\xfc\xdfe",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_a_repository_is_one_document(tmp_path):
    _repository(tmp_path / "repo")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "repo" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "repo" / "out").symlink_to(tmp_path)
    of = source("repository", "repo", max_file_bytes=100)
    document = (
        "# ==== .github/ci.yml ====\non: push\n\n# ==== README.md ====\n# Read me\n\n"
        "# ==== src/a.py ====\nprint()\n\n# ==== src/b/c.py ====\n"
    )
    assert rows(of, tmp_path) == [
        ("repo/big.txt:1", "filtered", "file_too_long"),
        ("repo/latin.txt:1", "failed", "bad_encoding"),
        ("repo/link.txt:1", "filtered", "symbolic_link"),
        ("repo/logo.png:1", "filtered", "binary_file"),
        ("repo/out:1", "filtered", "symbolic_link"),
        ("repo:1", document),
    ]
    assert list(read(of, tmp_path))[-1].title == "repo"
    assert "repo/big.txt" in names(of, tmp_path) and "repo/poetry.lock" not in names(of, tmp_path)
    only = source("repository", "repo", include=["src/*"], exclude=["*/b/*"])
    assert rows(only, tmp_path) == [("repo:1", "# ==== src/a.py ====\nprint()\n")]


def test_a_repository_without_text_or_too_long(tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a").write_text("")
    assert rows(source("repository", "r"), tmp_path) == [("r:1", "filtered", "empty_text")]
    monkeypatch.setattr(repository, "MAX_TEXT_BYTES", 50)
    (tmp_path / "r" / "b").write_text("x" * 60)
    assert rows(source("repository", "r"), tmp_path) == [("r:1", "failed", "text_too_long")]


def test_python_topics_and_packages(tmp_path):
    from pydoc_data.topics import topics

    of = source("python", packages=["json", "xml.dom", "keyword", "argparse"])
    loaded = set(sys.modules)
    found = list(read(of, tmp_path))
    assert "xml.dom" not in set(sys.modules) - loaded
    documents = {row.title: row for row in found}
    assert len(found) == len(topics) + 4 and sorted(topics) == [row.title for row in found[: len(topics)]]
    assert documents["assert"].text == topics["assert"]
    assert documents["json"].text.startswith("# ==== json/__init__.py ====\n")
    assert "\n# ==== json/decoder.py ====\n" in documents["json"].text
    assert documents["keyword"].text.startswith("# ==== keyword.py ====\n")
    assert all(json.dumps(row.location) for row in found) and len({row.location for row in found}) == len(found)
    version = ".".join(map(str, sys.version_info[:3]))
    assert names(of, tmp_path)[:2] == [f"python-{version}/pydoc_data/topics.py", f"python-{version}/json/__init__.py"]


def test_python_tests_are_left_out(tmp_path):
    of = source("python", topics=False, packages=["unittest", "ctypes", "idlelib"])
    assert not [name for name in names(of, tmp_path) if "/test/" in name or "/tests/" in name or "idle_test" in name]


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("jsn", "'jsn' is no package of the standard library; did you mean 'json'?"),
        ("numpy", "'numpy' is no package of the standard library"),
        ("json.nix", "there is no module 'json.nix'"),
        ("json.../..site-packages", "no package of the standard library"),
        ("../json", "no package of the standard library"),
        ("sys", "the module 'sys' has no Python source"),
    ],
)
def test_python_packages_that_are_not_there(tmp_path, package, message):
    with pytest.raises(UserError, match="source 'src': ") as error:
        names(source("python", packages=[package]), tmp_path)
    assert message in str(error.value)


def test_python_with_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="nothing to read"):
        names(source("python", topics=False), tmp_path)


@pytest.mark.parametrize("type_", ["text", "repository"])
def test_missing_folders(tmp_path, type_):
    with pytest.raises(UserError, match=r"source 'src': there is no .*folder 'nix'"):
        names(source(type_, "nix"), tmp_path)
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match="source 'src': no file in folder 'e'"):
        names(source(type_, "e"), tmp_path)


def test_inline_texts(tmp_path):
    of = source("inline", items=["Write a long story.", " ", "a\r\nb"])
    assert rows(of, tmp_path) == [
        ("inline:1", "Write a long story."),
        ("inline:2", "filtered", "empty_text"),
        ("inline:3", "a\nb"),
    ]
    assert names(of, tmp_path) == []
