"""Personal data that is replaced by placeholders."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.curation.base import CurationRule
from schemas.model import Positive

PiiKind = Literal["email", "ip", "phone"]


class PiiConfig(CurationRule):
    """`max_found`: documents with more of all kinds together are dropped (Dolma: 5, for web pages); default: none."""

    rule: Literal["pii"]
    kinds: Annotated[tuple[PiiKind, ...], Field(min_length=1)] = ("email", "ip", "phone")
    max_found: Positive | None = None
