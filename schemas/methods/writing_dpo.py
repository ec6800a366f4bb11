"""Recipe section of the method writing_dpo."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Share, Slug, Steps


class WritingDPOSteps(Steps):
    answer: SamplingConfig = SamplingConfig(max_tokens=32_768, temperature=1.0)
    quality: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.5)


class WritingDPO(EngineMethod):
    """Preference pairs for long writing: the best of several answers against another one (LongWriter, arXiv
    2408.07055, section 4)."""

    input = "instructions"
    method: Literal["writing_dpo"]
    name: Slug = "writing_dpo"
    per_instruction: Positive = 1
    answers: Annotated[int, Field(ge=2)] = 4  # sampled from `engine`, the model that is to be trained
    judge: Slug | None = None  # the engine that rates them; null: `engine` itself
    judge_tries: Positive = 5  # calls until a rating can be read
    min_gap: Annotated[float, Field(ge=0)] = 0.0  # of the scores of chosen and rejected: S_q + S_l, each 0..100
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    sampling: WritingDPOSteps = WritingDPOSteps()

    @property
    def step_engines(self) -> dict[str, str]:
        return {} if self.judge is None else {"quality": self.judge}

    @model_validator(mode="after")
    def _answers_differ(self) -> "WritingDPO":
        if self.sampling.answer.temperature == 0:
            raise ValueError("sampling.answer.temperature: 0 gives the same answer every time, and a pair needs two")
        return self
