"""What all rules of curation share in the recipe."""

from schemas.model import Model, Slug


class CurationRule(Model):
    """`rule` tells them apart. `sources`: the documents it judges; default: all."""

    sources: tuple[Slug, ...] | None = None
