"""The recipe section of near-duplicates. Sources of the defaults: methods/quality_and_decontamination.md, section 3."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.curation.base import CurationRule
from schemas.model import Positive, Share


class Duplicates(CurationRule):
    """Of documents that are alike, the one with most different word runs stays. One goes only where a document that
    stays was read beside it and found alike, so no chain of likenesses takes what resembles nothing that is left."""

    rule: Literal["duplicates"]
    threshold: Annotated[float, Field(ge=0.5, lt=1)] = 0.8  # Jaccard; SlimPajama's nominal one, here held by verifying
    shingle: Positive = 5  # words; FineWeb, RefinedWeb. Runs of 5 characters make unrelated books alike (marin #6854)
    containment: Annotated[float, Field(ge=0.5, le=1)] = 0.8  # known share from which a document is part of another
    scope: Literal["all", "source"] = "all"  # FineWeb: per dump
    alarm_cluster: Share = 0.01  # of a source in one cluster
    alarm_gone: Share = 0.2  # of a source in all
