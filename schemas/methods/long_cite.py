"""Recipe section of the method long_cite."""

from typing import Literal

from schemas.methods.base import EngineMethod
from schemas.model import Positive, SamplingConfig, Share, Slug, Steps, TokenRange


class LongCiteSteps(Steps):
    questions: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.7, top_p=0.9)
    answer: SamplingConfig = SamplingConfig(max_tokens=2048)
    chunks: SamplingConfig = SamplingConfig(max_tokens=4096)  # the answer again, with numbers of chunks
    sentences: SamplingConfig = SamplingConfig(max_tokens=512)  # for one statement


class LongCite(EngineMethod):
    """Coarse to fine: answers whose statements cite sentences of the document (LongCite, arXiv 2409.02897)."""

    input = "documents"
    method: Literal["long_cite"]
    name: Slug = "long_cite"
    per_document: Positive = 1
    document_tokens: TokenRange = TokenRange(min=256, max=128_000)
    too_long: Literal["excerpt", "reject"] = "excerpt"  # excerpt: a random run of whole lines that fits
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    questions: Positive = 5  # made in one call; one of them is kept
    chunk_tokens: Positive = 128
    chunks_per_statement: Positive = 5  # citations of chunks that are followed up; later ones are left out
    spans_per_statement: Positive = 3  # citations of sentences that are kept
    min_cited: Share = 0.2  # share of statements with a citation
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    sampling: LongCiteSteps = LongCiteSteps()
