"""The recipe's augmentations of training rows: documents cut and mixed (Untie-the-Knots, CIP), and short rows at long
positions (PoSE, an offset, slices). Told apart by `augment`."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.model import Model, Positive, Share

Token = Annotated[int, Field(ge=0, strict=True)] | Annotated[str, Field(min_length=1)]  # a token's id, or its text
_DOSES = {"utk_low": 0.3, "utk_high": 0.8}


class Utk(Model):
    """Untie-the-Knots (arXiv 2409.04774). `p`: share of the rows that are changed; `utk_low` and `utk_high` are the
    paper's doses. In such a row each document draws its number of parts: `parts` holds the chances of 1, 2, 3, ...
    `knots` are 2n - 2 tokens for up to n parts, in the order close 1, open 2, close 2, open 3, ...; `backtrace` the
    five tokens <D> </D> <S> <s> </S>, or none for no backtraces. All are reserved tokens of the tokenizer, such as
    <|reserved_special_token_7|>, that no text holds."""

    augment: Literal["utk", "utk_low", "utk_high"]
    p: Share
    parts: Annotated[tuple[Share, ...], Field(min_length=1, max_length=16)] = (0.0, 0.0, 1.0)
    knots: tuple[Token, ...]
    backtrace: Annotated[tuple[Token, ...], Field(min_length=5, max_length=5)] | None

    @model_validator(mode="before")
    @classmethod
    def _dose(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("augment") not in _DOSES:
            return given
        dose = _DOSES[given["augment"]]
        if given.get("p", dose) != dose:
            raise ValueError(f"{given['augment']} has p = {dose}: leave p out, or use 'utk'")
        return {**given, "p": dose}

    @field_validator("parts")
    @classmethod
    def _sum_to_one(cls, parts: tuple[float, ...]) -> tuple[float, ...]:
        if not math.isclose(math.fsum(parts), 1, abs_tol=1e-6):
            raise ValueError(f"the chances of 1, 2, 3, ... parts sum to {math.fsum(parts):g}, not to 1")
        return parts

    @model_validator(mode="after")
    def _tokens_differ(self) -> "Utk":
        wanted = 2 * len(self.parts) - 2
        if len(self.knots) != wanted:
            raise ValueError(f"up to {len(self.parts)} parts need {wanted} knots, not {len(self.knots)}")
        names = [*self.knots, *(self.backtrace or ())]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"token {twice!r} stands twice: each knot and each token of the backtrace is its own")
        return self


class Cip(Model):
    """Chunk-interleaved pretraining (LongSkywork, arXiv 2406.00605): all first parts, all second parts, ..."""

    augment: Literal["cip"]
    parts: Annotated[int, Field(ge=2)] = 2


class Pose(Model):
    """Two chunks, the second one moved to a later position (PoSE, arXiv 2309.10400). `target_length`: the window that
    positions stay below, at most the model's own after scaling. `content`: the second chunk's text goes on where the
    first ended, or comes from a later place of the document (as published)."""

    augment: Literal["pose"]
    target_length: Positive
    content: Literal["contiguous", "later"] = "later"


class Offset(Model):
    """The whole row moved (E2-LLM, arXiv 2401.06951). The scale of the rotary angles that E2-LLM draws beside it is
    the trainer's."""

    augment: Literal["offset"]
    target_length: Positive


class Slices(Model):
    """`chunks` equal chunks, each at a place in its own slice of the range (after LOGO, arXiv 2410.18533)."""

    augment: Literal["slices"]
    target_length: Positive
    chunks: Annotated[int, Field(ge=2)] = 16


Positions = Pose | Offset | Slices
Augment = Annotated[Utk | Cip | Positions, Field(discriminator="augment")]
