"""Recipe section of the method longpo."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Share, Slug, Steps, TokenRange

TRUSTED_TOKENS = 32_768  # what the short-context model is trusted with: chunk and instruction together
INSTRUCTION_TOKENS = 256  # the longest instruction
CHAT_TOKENS = 150  # of a chat template around all messages of a conversation


class LongPOSteps(Steps):
    questions: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.7, top_p=0.9)
    # Greedy, so that the two answers differ by what was read and not by chance.
    chosen: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.0)
    rejected: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.0)


class LongPO(EngineMethod):
    """LongPO: the answer from a chunk is preferred to the answer from the whole document (arXiv 2502.13922)."""

    input = "documents"
    method: Literal["longpo"]
    name: Slug = "longpo"
    turns: Annotated[int, Field(ge=1, le=8)] = 4  # chunks of one document; fewer where fewer fit side by side
    chunk_tokens: Annotated[int, Field(gt=0, le=TRUSTED_TOKENS)] = 16_384
    document_tokens: TokenRange = TokenRange(min=65_536)
    target_tokens: Positive = 131_072  # of the longest training example: document, all turns and chat template
    too_long: Literal["excerpt", "reject"] = "excerpt"  # excerpt: a random run of whole lines that fits
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    questions: Positive = 4  # written for each chunk; one is kept
    max_similarity: Share = 0.9  # of chosen and rejected, word by word
    max_repetition_chosen: Share = 0.9  # share of words that occur more than once
    max_repetition_rejected: Share = 0.95
    sampling: LongPOSteps = LongPOSteps()

    @property
    def turn_tokens(self) -> int:
        """The longest turn: an instruction and its answer."""
        return INSTRUCTION_TOKENS + self.sampling.chosen.max_tokens

    @property
    def room(self) -> int:
        """What the target leaves for the document. May be negative."""
        return self.target_tokens - CHAT_TOKENS - self.turns * self.turn_tokens

    @property
    def document_range(self) -> TokenRange:
        """`document_tokens`, and no more than there is room for."""
        most = self.document_tokens.max
        return TokenRange(min=self.document_tokens.min, max=self.room if most is None else min(self.room, most))

    @model_validator(mode="after")
    def _consistent(self) -> "LongPO":
        if self.sampling.chosen != self.sampling.rejected:
            raise ValueError("sampling.chosen and sampling.rejected must be the same: else decoding tells them apart")
        shortest = self.document_tokens.min
        if shortest <= self.chunk_tokens:
            raise ValueError(
                f"document_tokens.min {shortest} must be more than chunk_tokens {self.chunk_tokens}: else a chunk "
                "could be the whole document"
            )
        if self.room < shortest:
            raise ValueError(
                f"target_tokens {self.target_tokens} leaves {self.room} tokens for the document beside {self.turns} "
                f"turns of up to {self.turn_tokens} tokens, and document_tokens.min is {shortest}"
            )
        return self
