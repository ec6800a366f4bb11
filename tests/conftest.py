"""What several test modules share: one small finished workspace that no test may change."""

import asyncio

import pytest
from hypothesis import settings

from pipelines.build import build
from pipelines.workspace import Workspace
from tests.support import recipe, scripted

settings.register_profile("patient", deadline=None)  # how long something takes is no business of tests
settings.load_profile("patient")


def run(recipe_path, root, **options):
    """Run a recipe with the scripted engine; returns the manifests."""
    return asyncio.run(build(recipe_path, Workspace(root), make_engine=lambda *_: scripted(), **options))


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The workspace of `support.recipe`, finished. Queries only rewrite its catalog; whoever changes more copies it."""
    folder = tmp_path_factory.mktemp("built")
    run(recipe(folder), folder / "workspace")
    return Workspace(folder / "workspace")
