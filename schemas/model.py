"""What all parts of a recipe are made of: the pydantic base, names, sizes, token ranges, sampling."""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class SamplingConfig(Model):
    max_tokens: Positive
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=3)] = ()  # end the answer


class Steps(Model):
    """Sampling for each step of a method. What a recipe leaves out of a step keeps that step's default."""

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        merged: dict[str, Any] = {}
        for step, value in given.items():
            field = cls.model_fields.get(step)
            if field is not None and isinstance(value, dict):
                value = {**field.default.model_dump(), **value}
            merged[step] = value
        return merged


class TokenRange(Model):
    min: Annotated[int, Field(ge=0)] = 0
    max: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "TokenRange":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is smaller than min {self.min}")
        return self
