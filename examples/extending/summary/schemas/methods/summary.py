"""Recipe section of the method summary: a document, and what it says in some sentences."""

from typing import Literal

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Slug, Steps, TokenRange


class SummarySteps(Steps):
    summarise: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.7)


class Summary(EngineMethod):
    input = "documents"
    method: Literal["summary"]
    name: Slug = "summary"
    sentences: Positive = 5
    document_tokens: TokenRange = TokenRange(min=2048)
    sampling: SummarySteps = SummarySteps()
