"""Recipe section of the method llama2_long."""

from typing import Literal

from pydantic import model_validator

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Share, Slug, Steps, TokenRange


class Llama2LongSteps(Steps):
    pair: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.7, top_p=0.9)
    critique: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.0)


class Llama2Long(EngineMethod):
    """Self-instruct of Llama-2-Long: question, answer and critique from one chunk, the record from the long document
    (arXiv 2309.16039, section 4.3 and appendix D). Numbers of tokens are ours, the paper reports none."""

    input = "documents"
    method: Literal["llama2_long"]
    name: Slug = "llama2_long"
    per_document: Positive = 1
    chunk_tokens: Positive = 2048  # what the model reads
    document_tokens: TokenRange = TokenRange(min=4_096, max=16_384)  # max: a longer document is cut around its chunk
    pair_format: Literal["tags", "json"] = "tags"  # json: the engine is held to a schema; for small models
    cut_to_window: bool = True  # never longer than the engine's window; false: the model may read less than it teaches
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    loss_on_prompt: bool = True  # the paper's ablation: without it summaries and QuALITY fall below the baseline
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    sampling: Llama2LongSteps = Llama2LongSteps()

    @property
    def least_document(self) -> int:
        return self.document_tokens.min if self.cut_to_window else 0

    @model_validator(mode="after")
    def _chunk_fits(self) -> "Llama2Long":
        longest = self.document_tokens.max
        if longest is not None and self.chunk_tokens > longest:
            raise ValueError(f"chunk_tokens {self.chunk_tokens} is larger than document_tokens.max {longest}")
        return self
