"""The documents that go on after curation, for all stages that read documents."""

from pipelines.seen import SeenIds
from pipelines.shards import Part
from pipelines.stages import Context
from schemas.recipe import Recipe

RULES, CORPUS = "curate.rules", "curate.corpus"


def curation(recipe: Recipe) -> tuple[str, ...]:
    """The stages of curation that the recipe has."""
    return () if recipe.curate is None else (RULES, CORPUS)


def curated_documents(context: Context) -> tuple[list[Part], SeenIds | None]:
    """Parts of `documents`, and the ids in them that stayed; None where the recipe curates nothing: all of them."""
    parts = context.upstream("ingest").parts("documents")
    if context.recipe.curate is None:
        return parts, None
    kept = SeenIds()
    kept.load(context.workspace.root / part.file for part in context.upstream(CORPUS).parts("curated"))
    return [*parts, *context.upstream(RULES).parts("documents")], kept
