"""docs/extending.md, done as it says in a copy of the checkout: three examples, run end to end."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import yaml

from pipelines.catalog import query
from pipelines.workspace import Workspace
from tests import support
from tests.scorers.models import naive, write

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
EDIT = re.compile(r"^`([^`]+)`, (below|above) `([^`]+)`[^\n]*:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARTS = dict(zip(("summary", "digits", "surprisal"), re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:], strict=True))
NUMBERS = "\n".join(f"row {n} 12345 67890 24680 13579" for n in range(30))
SUMMARY = "The text says a thing or two in each of its lines."
# As `longloom run --no-prefect`, with an engine that always says the same.
RUN = f"""
import asyncio, sys
from pathlib import Path
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build
from pipelines.workspace import Workspace
asyncio.run(build(Path(sys.argv[1]), Workspace(Path(sys.argv[2])), make_engine=lambda *_: ScriptedEngine(
    lambda request: {SUMMARY!r} if "Say in 3 sentences" in request.messages[0].content else "")))
"""


def extend(checkout, name):
    """Follow one part of the page."""
    shutil.copytree(ROOT / "examples" / "extending" / name, checkout, dirs_exist_ok=True)
    for file, where, anchor, added in EDIT.findall(PARTS[name]):
        lines = (checkout / file).read_text("utf-8").splitlines(keepends=True)
        (place,) = [number for number, line in enumerate(lines) if line.strip() == anchor]
        lines.insert(place + (where == "below"), added)
        (checkout / file).write_text("".join(lines), "utf-8")


def section(name):
    (found,) = re.findall(r"```yaml\n(.*?)```", PARTS[name], re.DOTALL)
    return yaml.safe_load(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workspace of a recipe that uses all three, and the scorer's model, in a folder beside the checkout."""
    folder = tmp_path_factory.mktemp("extending")
    for package in ("schemas", "filters", "generators", "pipelines", "flows"):
        shutil.copytree(ROOT / package, folder / "checkout" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PARTS:
        extend(folder / "checkout", name)
    model = write(folder / "tiny")
    engines = {"writer": {"type": "auto", "model": "scripted", "max_model_len": 32768},
               "probe": {"type": "transformers", "model": str(model), "dtype": "float32"}}  # fmt: skip
    items = [*support.texts(2), NUMBERS]
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": items}]
    sections = {key: value for name in PARTS for key, value in section(name).items()}
    recipe = support.recipe(folder, documents=documents, engines=engines, instructions=[], **sections)
    command = [sys.executable, "-c", RUN, str(recipe), str(folder / "workspace")]
    done = subprocess.run(command, cwd=folder / "checkout", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "workspace", model


def rows(workspace, sql):
    return query(Workspace(workspace), sql)[1]


def test_the_method_makes_samples(finished):
    workspace, _ = finished
    found = rows(workspace, "SELECT method, messages[1].content, messages[2].content FROM samples ORDER BY 2")
    asked = [f"{text}\n\nSummarise this in 3 sentences." for text in support.texts(2)]
    assert found == [("summary", prompt, SUMMARY) for prompt in asked]


def test_the_rule_takes_tables_of_numbers(finished):
    workspace, _ = finished
    states = "SELECT reason, detail FROM row_states WHERE stage = 'curate.rules' AND state = 'filtered'"
    both, digits = (sum(map(kind, NUMBERS)) for kind in (str.isalnum, str.isdigit))
    assert rows(workspace, states) == [("digits.share", f"too_many: {digits / both:g}")]
    assert rows(workspace, "SELECT count(*), count(*) FILTER (keep) FROM document_judgements") == [(3, 2)]


def test_the_scorer_measures_what_the_model_says(finished):
    workspace, model = finished
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, probe = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    # Not the catalog: that of this checkout does not know the new table.
    tables = (f"read_parquet('{workspace}/tables/{table}/*.parquet')" for table in ("scores_surprisal", "documents"))
    sql = "SELECT text, surprisal, n_read, s.n_tokens FROM {} s JOIN {} d ON document_id = row_id".format(*tables)
    found = duckdb.sql(sql).fetchall()
    assert len(found) == 2
    for text, surprisal, read, tokens in found:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (read, tokens) == (63, len(ids))
        assert surprisal == pytest.approx(-naive(probe, ids[:1], ids[1:64]).mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", PARTS)
def test_each_is_short_and_registered(name):
    files = [path for path in (ROOT / "examples" / "extending" / name).rglob("*") if path.suffix in (".py", ".j2")]
    lines = [path.read_text("utf-8").count("\n") for path in files]
    edits = EDIT.findall(PARTS[name])
    assert len(edits) == PARTS[name].count("```python")  # none that the test would pass over
    assert sum(lines) + sum(added.count("\n") for *_, added in edits) < 60
