"""What hostile recipes, queries and texts cannot do."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build
from pipelines.catalog import check_query, query
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from tests.support import answer, recipe

SECRET = "s3cret-that-no-query-may-see"

OUTSIDE = [
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_json_auto('{file}')",
    "SELECT * FROM read_parquet('{parquet}')",
    "SELECT * FROM '{parquet}'",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM glob('{folder}/*')",
    "ATTACH '{folder}/other.duckdb' AS other",
    "COPY (SELECT 1) TO '{folder}/stolen.csv'",
    "EXPORT DATABASE '{folder}/stolen'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "PRAGMA enable_profiling",
    "SELECT getenv('HOME')",
    "CREATE TABLE new AS SELECT 1",
    "DROP VIEW samples",
    "DELETE FROM samples",
    "SELECT 1; SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_text('https://example.com/x')",
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_a_query_reads_this_workspace_and_nothing_else_and_writes_nothing(built, tmp_path, sql):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "file.txt").write_text(SECRET)
    pq.write_table(pa.table({"text": [SECRET]}), tmp_path / "file.parquet")
    names = {"file": tmp_path / "file.txt", "parquet": tmp_path / "file.parquet", "folder": tmp_path}
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        query(built, sql.format(**names))
    assert SECRET not in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert query(built, "SELECT count(*) FROM samples")[1] == [(15,)]


@pytest.mark.parametrize("sql", [OUTSIDE[0], OUTSIDE[3], OUTSIDE[10], OUTSIDE[12], OUTSIDE[18]])
def test_the_query_of_a_recipe_can_do_no_more(tmp_path, sql):
    (tmp_path / "file.txt").write_text(SECRET)
    with pytest.raises(UserError):
        check_query(sql.format(file=tmp_path / "file.txt", parquet=tmp_path / "file.txt", folder=tmp_path))


def test_a_document_that_is_a_template_is_text(tmp_path):
    hostile = "{{ 7 * 7 }} {% for x in ().__class__.__mro__ %}{{ x }}{% endfor %} {{ question }} ${7*7} {# gone #}"
    text = "\n".join([hostile] * 5)
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": [text]}]
    seen = []

    def listening(request):
        seen.append(request.messages[0].content)
        return answer(request)

    workspace = Workspace(tmp_path / "w")
    asyncio.run(
        build(recipe(tmp_path, documents=documents), workspace, make_engine=lambda *_: ScriptedEngine(listening))
    )
    about = [prompt for prompt in seen if "__mro__" in prompt]
    assert len(about) >= 6 and all(text in prompt for prompt in about)
    _, ((kept,),) = query(workspace, "SELECT text FROM documents")
    assert kept == text


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch {folder}/pwned']",
        "name: !!python/name:os.system",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "name: " + "[" * 5000 + "]" * 5000,
        "name: " + "{a: " * 3000 + "1" + "}" * 3000,
        "name: x\nname: y",
        "\x00\x01",
        "[1, 2",
        "",
    ],
)
def test_yaml_runs_no_code_and_does_not_explode(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("{folder}", str(tmp_path)))
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "A", "x" * 65, "a b", "a\n", ".hidden", "ä"])
@pytest.mark.parametrize("key", ["export", "name", "documents"])
def test_names_are_no_paths(tmp_path, name, key):
    path = recipe(tmp_path)
    value = yaml.safe_load(path.read_text())
    if key == "name":
        value["name"] = name
    else:
        value[key][0]["name"] = name
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(UserError, match="name"):
        load_recipe(path)


def test_a_wrong_recipe_ends_the_command_with_two_and_one_line(tmp_path, capsys):
    path = recipe(tmp_path)
    path.write_text(path.read_text().replace("per_document", "per_documnet"))
    assert main(["run", str(path), "--no-prefect", "--workspace", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "per_documnet" in said and "per_document" in said


def test_the_page_of_licences_names_every_direct_dependency():
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [one for group in (project["dependencies"], *project["optional-dependencies"].values()) for one in group]
    names = {re.match(r"[\w.-]+", one)[0].lower() for one in wanted}
    listed = re.findall(
        r"^\| ([\w.-]+) \|", (root / "docs" / "licences.md").read_text().partition("Brought in")[0], re.M
    )
    assert names == set(listed) - {"package"}
