"""Recipe section of the method context_recycling."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.methods.base import EngineMethod
from schemas.model import Model, Positive, SamplingConfig, Share, Slug, Steps, TokenRange


class ContextRecyclingSteps(Steps):
    demonstrate: SamplingConfig = SamplingConfig(max_tokens=512)  # a question and its answer from a passage
    answer: SamplingConfig = SamplingConfig(max_tokens=512)  # the final prompt, for round_trip


class KnownQuestion(Model):
    """Names of the document's metadata fields that hold a question on it. `evidence`: numbers of paragraphs (from 1, as
    empty lines part them), or texts that stand in the document; one of them or a list."""

    question: str = "question"
    answer: str | None = "answer"
    evidence: str | None = "evidence"


class ContextRecycling(EngineMethod):
    """DoubleDipper: few-shot demonstrations made from the context itself (arXiv 2406.13632)."""

    input = "documents"
    method: Literal["context_recycling"]
    name: Slug = "context_recycling"
    per_document: Positive = 1
    # The context: a longer document loses passages at its end. Without round_trip no call sees more than two passages,
    # and max may exceed the model's window.
    document_tokens: TokenRange = TokenRange(min=1_000, max=32_000)
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    passage_tokens: TokenRange = TokenRange(min=64, max=256)  # shorter paragraphs are joined, longer ones cut
    k: Positive = 3  # demonstrations
    two_passage: Annotated[int, Field(ge=0)] = 0  # so many of them from two passages, for multi-hop questions
    known: KnownQuestion | None = None  # default: the question is made from a further passage
    question_passages: Literal[1, 2] = 1  # of a question that is made
    exclude_gold: bool = True  # no demonstration from a passage that a known question's answer stands in
    extractive: Literal["free", "exact", "normalised"] = "normalised"  # must an answer stand in its passage?
    max_failures: Annotated[int, Field(ge=0)] = 6  # failed demonstration calls of a row; other passages are tried
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    round_trip: bool = False  # ask with the whole context: keep what comes back with the same evidence and answer
    emit: Literal["sft", "prompt", "both"] = "sft"  # prompt: the user's turn only
    sampling: ContextRecyclingSteps = ContextRecyclingSteps()

    @property
    def steps(self) -> dict[str, Any]:
        return {step: config for step, config in self.sampling if step != "answer" or self.round_trip}

    @model_validator(mode="after")
    def _consistent(self) -> "ContextRecycling":
        if self.two_passage > self.k:
            raise ValueError(f"two_passage {self.two_passage} is more than the {self.k} demonstrations of k")
        if self.known is not None and self.emit != "prompt" and None in (self.known.answer, self.known.evidence):
            raise ValueError(f"emit {self.emit!r} needs known.answer and known.evidence: the target is made of them")
        return self
