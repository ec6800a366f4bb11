"""Recipe section of the method agentwrite."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Share, Slug, Steps


class AgentWriteSteps(Steps):
    plan: SamplingConfig = SamplingConfig(max_tokens=4096, temperature=1.0)
    write: SamplingConfig = SamplingConfig(max_tokens=4096, temperature=1.0)


class AgentWrite(EngineMethod):
    """AgentWrite: plan a long text, then write it paragraph by paragraph (arXiv 2408.07055)."""

    input = "instructions"
    method: Literal["agentwrite"]
    name: Slug = "agentwrite"
    per_instruction: Positive = 1
    paragraph_words: tuple[Positive, Positive] = (200, 1000)
    max_steps: Positive = 50
    plan_format: Literal["lines", "json"] = "lines"  # json: the engine is held to a schema; for small models
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    require_length: bool = False  # only instructions that demand exactly one length (Minimum Tuning, section 9)
    min_length_score: Annotated[float, Field(ge=0, le=100)] = 0.0  # S_l of the whole text
    sampling: AgentWriteSteps = AgentWriteSteps()
