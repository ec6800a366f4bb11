"""Recipe section of the method long_alpaca."""

from collections.abc import Sequence
from typing import Any, Literal

from schemas.methods.base import EngineMethod
from schemas.model import Model, Positive, SamplingConfig, Share, Slug, Steps, TokenRange, suggestion
from schemas.sources import Fields, Source

Kind = Literal["paper", "book", "repository", "manual"]


class Human(Model):
    """Keys of a document's metadata that hold a question people asked about it, their answer, and where it stands.
    A source keeps them with `fields: {metadata: [...]}`."""

    question: str = "question"
    answer: str = "answer"
    url: str = "url"


class Short(Model):
    """Short records beside the long ones. `answer_field`: the key of an instruction's metadata that holds its answer;
    instructions without one are answered by the model."""

    source: Slug  # of the recipe's instructions
    per_long: Positive = 3  # long records for each short one
    answer_field: str | None = None


class LongAlpacaSteps(Steps):
    question: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.7, top_p=0.9)
    answer: SamplingConfig = SamplingConfig(max_tokens=2048, temperature=0.0)
    short: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.0)


class LongAlpaca(EngineMethod):
    """LongAlpaca (arXiv 2309.12307): questions by the kind of document, answered by people or by the model. The
    published set has 9,000 long records of papers and books and 3,000 short ones; token limits here are ours."""

    input = "documents"
    method: Literal["long_alpaca"]
    name: Slug = "long_alpaca"
    per_document: Positive = 1
    document_tokens: TokenRange = TokenRange(min=4_000, max=32_000)
    too_long: Literal["excerpt", "reject"] = "excerpt"  # where no run of whole chapters fits: whole lines, or nothing
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    kinds: dict[Slug, Kind] = {}  # source -> kind; else the document's metadata under "kind"; else default_kind
    default_kind: Kind = "book"
    human: Human | None = None
    short: Short | None = None
    max_repetition: Share = 0.5  # share of words inside repeated 8-word spans
    sampling: LongAlpacaSteps = LongAlpacaSteps()

    @property
    def steps(self) -> dict[str, Any]:
        return {step: config for step, config in self.sampling if step != "short" or self.short is not None}

    def check_sources(self, documents: Sequence[Source], instructions: Sequence[Source]) -> None:
        names = {source.name for source in documents}
        for name in self.kinds:
            if name not in names:
                raise ValueError(f"kinds: no source {name!r} under 'documents'{suggestion(name, names)}")
        if self.human is not None:
            read = [source for source in documents if self.sources is None or source.name in self.sources]
            if not any(self.human.question in getattr(source, "fields", Fields()).metadata for source in read):
                raise ValueError(
                    f"human.question: no source under 'documents' keeps {self.human.question!r}; "
                    f"add it to the source's fields.metadata"
                )
        if self.short is None:
            return
        found = {source.name: source for source in instructions}
        if self.short.source not in found:
            close = suggestion(self.short.source, found)
            raise ValueError(f"short.source: no source {self.short.source!r} under 'instructions'{close}")
        kept = getattr(found[self.short.source], "fields", Fields()).metadata
        if self.short.answer_field is not None and self.short.answer_field not in kept:
            raise ValueError(
                f"short.answer_field: source {self.short.source!r} does not keep {self.short.answer_field!r}; "
                f"add it to the source's fields.metadata"
            )
