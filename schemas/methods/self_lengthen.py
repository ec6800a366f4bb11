"""Recipe section of the method self_lengthen."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.methods.base import EngineMethod
from schemas.model import Model, Positive, SamplingConfig, Share, Slug, Steps, suggestion

PLACEHOLDERS = ("python", "role", "iteration", "model", "data", "previous", "out")


def _paper(max_tokens: int) -> SamplingConfig:
    return SamplingConfig(max_tokens=max_tokens, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)


class SelfLengthenSteps(Steps):
    propose: SamplingConfig = _paper(1024)
    judge: SamplingConfig = _paper(16)
    answer: SamplingConfig = _paper(16_384)
    extend: SamplingConfig = _paper(16_384)  # both stages of an extension
    rewrite: SamplingConfig = _paper(1024)


class Tries(Model):
    instruction: Positive = 10
    answer: Positive = 20
    extend: Positive = 20


class Train(Model):
    """`command`: a program and its arguments, run without a shell in the recipe's folder. {model} is the folder to
    load, {previous} the adapter to go on with (or nothing), {data} a JSONL file of messages, {out} the folder to write
    an adapter or a whole model to; {role}, {iteration}, and {python}, the one that runs this."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]

    @field_validator("command")
    @classmethod
    def _placeholders(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        named = {name for argument in command for name in re.findall(r"\{(\w+)\}", argument)}
        for name in sorted(named - set(PLACEHOLDERS)):
            raise ValueError(f"unknown placeholder {{{name}}}{suggestion(name, PLACEHOLDERS)}")
        for name in ("data", "out"):
            if name not in named:
                raise ValueError(f"must hold {{{name}}}")
        return command


class Kinds(Model):
    """How often each kind of demand is drawn, relative to the others."""

    about: Annotated[float, Field(ge=0)] = 0.40
    range: Annotated[float, Field(ge=0)] = 0.25
    above: Annotated[float, Field(ge=0)] = 0.10
    below: Annotated[float, Field(ge=0)] = 0.25

    @model_validator(mode="after")
    def _some(self) -> "Kinds":
        if not self.about + self.range + self.above + self.below:
            raise ValueError("at least one kind needs a weight above 0")
        return self


class LengthControl(Model):
    """Copies of the samples of `words` (from, below) words whose request demands their length, in steps of `step`
    words, with chance `coarse` of two steps."""

    words: tuple[Positive, Positive] = (2000, 8000)
    step: Positive = 1000
    coarse: Share = 0.2
    chinese_numerals: Share = 0.5
    kinds: Kinds = Kinds()

    @model_validator(mode="after")
    def _ordered(self) -> "LengthControl":
        low, high = self.words
        if low >= high or low % self.step or high % self.step:
            raise ValueError(f"words: {low} and {high} must be rising multiples of the step {self.step}")
        return self


class SelfLengthen(EngineMethod):
    """Self-Lengthen (arXiv 2410.23933): a model writes, extends what it wrote, and is trained on that."""

    input = "instructions"
    continues = True
    method: Literal["self_lengthen"]
    name: Slug = "self_lengthen"
    count: Literal[None] = None  # `instructions` says it
    iterations: Positive = 3
    instructions: Positive = 5000  # to be tried for, each iteration
    answers: Positive = 2  # of each instruction
    extensions: Positive = 2  # of each answer
    micro_iterations: Positive = 3
    tries: Tries = Tries()
    instruction_words: tuple[Positive, Positive] = (3, 500)  # more than, less than
    suits_words: Positive = 2000  # the judge is asked whether an instruction suits a text longer than that
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.7  # Jaccard similarity of three-word runs
    growth: Annotated[float, Field(ge=1)] = 1.2  # an extension has more than that many times the words
    drop_short: bool = True  # the short ones of a language are left out, see filters.lengthening.keep_chances
    keep_lines: Share = 0.8  # of an answer that the extender is trained to complete
    train: Train | None = None
    length_control: LengthControl | None = None
    sampling: SelfLengthenSteps = SelfLengthenSteps()

    @model_validator(mode="after")
    def _trained(self) -> "SelfLengthen":
        if self.iterations > 1 and self.train is None:
            raise ValueError(
                f"iterations: {self.iterations}, but without 'train' every iteration would ask the same model; "
                "say how to train, or iterations: 1"
            )
        return self

    @property
    def steps(self) -> dict[str, Any]:
        return {s: config for s, config in self.sampling if s != "rewrite" or self.length_control is not None}
