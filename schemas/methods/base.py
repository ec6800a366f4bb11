"""What the recipe sections of all generation methods share."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from schemas.model import Model, Positive, Slug
from schemas.sources import Source


class Method(Model):
    """`input`: what the method reads. `sources`: names of the recipe's sources to read (default: all). `count`: at
    most that many rows. A section without model calls has neither engine nor sampling."""

    input: ClassVar[str]  # documents, instructions or nothing
    continues: ClassVar[bool] = False  # needs an engine that continues an answer which the prompt has begun
    engine: Slug | None = None
    sources: tuple[Slug, ...] | None = None
    count: Positive | None = None
    shard_rows: Positive = 128

    @property
    def uses(self) -> int:
        """How many rows each document or instruction gives."""
        return int(getattr(self, "per_document", getattr(self, "per_instruction", 1)))

    @property
    def least_document(self) -> int:
        """Tokens of a document that must fit the window beside an answer."""
        tokens = getattr(self, "document_tokens", None)
        return int(tokens.min) if tokens is not None else 0

    @property
    def step_engines(self) -> dict[str, str]:
        """The engine of each step that has one of its own."""
        return {}

    def engine_of(self, step: str) -> str:
        """The engine that answers a step."""
        name = self.step_engines.get(step, self.engine)
        assert name is not None, "a method without an engine has no steps"
        return name

    @property
    def steps(self) -> dict[str, Any]:
        """Step -> SamplingConfig, of the steps that this section's settings use."""
        return dict(getattr(self, "sampling", ()))

    def check_sources(self, documents: Sequence[Source], instructions: Sequence[Source]) -> None:
        """Raises ValueError where options of the method's own name sources that the recipe lacks."""


class EngineMethod(Method):
    """A method that asks a language model."""

    engine: Slug


class ModelFree(Method):
    """A method that asks no model: naming an engine is a mistake."""

    engine: Literal[None] = None
