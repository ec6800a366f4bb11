"""Recipe section of the method minimum_tuning."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.methods.base import ModelFree
from schemas.model import Share, Slug


class MinimumTuning(ModelFree):
    """The few examples of an existing set whose answers have the length that was asked for (arXiv 2410.10210)."""

    input = "instructions"
    method: Literal["minimum_tuning"]
    name: Slug = "minimum_tuning"
    answer_field: Annotated[str, Field(min_length=1)] = "answer"  # must stand in the source's fields.metadata
    min_length_score: Annotated[float, Field(ge=0, le=100)] = 80.0  # S_l
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
