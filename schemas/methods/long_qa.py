"""Recipe section of the method long_qa."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.methods.base import EngineMethod
from schemas.model import Model, Positive, SamplingConfig, Share, Slug, Steps, TokenRange


class LongQASteps(Steps):
    questions: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.7, top_p=0.9)
    answer: SamplingConfig = SamplingConfig(max_tokens=2048, temperature=0.0)
    critique: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.0)


class Verify(Model):
    """Question, answer and critique from a chunk; the record from the whole document (arXiv 2309.16039, App. D)."""

    chunk_tokens: Positive = 2048


TaskType = Literal["general", "summary", "multi_hop", "extraction"]


class LongQA(EngineMethod):
    """Long-document question answering (LongAlign, arXiv 2401.18058)."""

    input = "documents"
    method: Literal["long_qa"]
    name: Slug = "long_qa"
    per_document: Positive = 1
    document_tokens: TokenRange = TokenRange(min=8_000, max=64_000)
    too_long: Literal["excerpt", "reject"] = "excerpt"  # excerpt: a random run of whole lines that fits
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    questions: Positive = 5
    task_types: Annotated[tuple[TaskType, ...], Field(min_length=1)] = (
        "general",
        "summary",
        "multi_hop",
        "extraction",
    )
    verify: Verify | None = None
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    sampling: LongQASteps = LongQASteps()

    @property
    def steps(self) -> dict[str, Any]:
        return {step: config for step, config in self.sampling if step != "critique" or self.verify is not None}
