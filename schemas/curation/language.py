"""Documents in the languages that a recipe asks for."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.curation.base import CurationRule
from schemas.model import Positive, Share

LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2}$")]  # "eng" would drop every document


class LanguageConfig(CurationRule):
    """`keep`: codes as in the column `language` (ISO 639-1); default: all. `min_score`: mean probability of the label
    (FineWeb: .65 of fastText). `max_foreign`: share of windows in another language; default: no limit. Of a long text
    at most `max_windows` windows of `window` characters are read, spread evenly."""

    rule: Literal["language"]
    keep: Annotated[tuple[LanguageCode, ...], Field(min_length=1)] | None = None
    min_score: Share = 0.65
    max_foreign: Share | None = None
    window: Annotated[int, Field(ge=200)] = 2000
    max_windows: Positive = 32
