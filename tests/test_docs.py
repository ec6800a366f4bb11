"""Pages are true where a test can tell: recipes in them are recipes, links lead somewhere."""

import re
from pathlib import Path

import pytest

from pipelines.build import make_stages
from pipelines.engine_pool import EnginePool
from schemas.loading import load_recipe

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
RECIPES = [
    pytest.param(text, id=f"{page.stem}-{text.split()[1]}")
    for page in PAGES
    for text in re.findall(r"^```yaml\n(name:.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("text", RECIPES)
def test_a_whole_recipe_of_a_page_is_one(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    recipe = load_recipe(path)
    stages = make_stages(recipe, EnginePool(recipe, tmp_path, tmp_path / "ledger.sqlite", tmp_path))
    assert len(stages) >= 1 + len(recipe.export)


def test_there_are_such_recipes():
    assert len(RECIPES) >= 5


def test_every_shipped_recipe_is_on_the_page_of_recipes():
    page = (ROOT / "docs/recipes.md").read_text("utf-8")
    assert sorted(set(re.findall(r"\(\.\./recipes/([\w.]+)\)", page))) == sorted(
        path.name for path in ROOT.glob("recipes/*.yaml")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):  # http, https, mailto
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target
