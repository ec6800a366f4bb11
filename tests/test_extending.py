"""docs/extending.md, word for word: its files and lines in a copy of the checkout, and a run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.faulty_server import FaultyServer
from tests.support import WORDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
BLOCK = re.compile(r"^```(?:python|jinja|yaml)\n# (\S+)\n(.*?)^```$", re.M | re.S)
LINE = re.compile(r"^\| (\S+\.py) \| `(.*?)` \| `(.*?)` \|$", re.M)


def test_the_page_works_word_for_word(tmp_path):
    for folder in ("schemas", "filters", "generators", "pipelines", "flows"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    files = dict(BLOCK.findall(PAGE))
    assert len(files) == 6
    for name, text in files.items():
        assert text.count("\n") < 60
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    lines = [[part.replace("\\", "") for part in line] for line in LINE.findall(PAGE)]
    assert len(lines) == 6
    for name, after, add in lines:
        text = (tmp_path / name).read_text("utf-8")
        assert text.count(f"{after}\n") == 1, (name, after)
        (tmp_path / name).write_text(text.replace(f"{after}\n", f"{after}\n{add}\n"), "utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "calm.txt").write_text("A calm text about the sea and the wind.")
    (tmp_path / "texts" / "loud.txt").write_text("A LOUD TEXT ABOUT THE SEA AND THE WIND.")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(WORDS))
    server = FaultyServer()
    try:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("URL", server.url))
        run = [sys.executable, "-m", "flows", "run", "recipe.yaml", "--no-prefect", "--workspace", "w"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    sql = "SELECT row_id, stage, state, reason FROM row_states WHERE stage IN ('curate.rules', 'generate.titles')"
    ask = [sys.executable, "-m", "flows", "sql", sql, "--workspace", "w", "--format", "json"]
    rows = json.loads(subprocess.run(ask, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert sorted((row["stage"], row["state"], row["reason"]) for row in rows) == [
        ("curate.rules", "filtered", "shouting.capitals"),
        ("curate.rules", "ok", ""),
        ("generate.titles", "ok", ""),
    ]
