"""The recipe's `export` entries: what an export holds and in which files."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.model import Model, Positive, Slug

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MDS_BYTES = 2**32 - 1  # offsets in a shard of MosaicML streaming are unsigned integers of 32 bits
TOKEN_CONFIGS: frozenset[str] = frozenset({"packed", "tokenised"})  # what Megatron's files can hold


class Indicator(Model):
    """A text at the end of user messages whose answers depend on the context, by the scorer context_dependency."""

    score: Slug = "context_dependency"  # the name of the score entry
    column: Literal["cd_score", "cd_lift", "cd_doc", "cd_doc_lift"] = "cd_score"
    above: Annotated[float, Field(ge=-1, le=1)] = 0.6
    text: Annotated[str, Field(min_length=1)] = "[IND]"  # make it one token of the tokenizer before you train


class Export(Model):
    name: Slug
    configs: Annotated[
        tuple[Literal["sft", "preference", "longpo", "documents", "packed", "tokenised"], ...], Field(min_length=1)
    ] = ("sft", "documents")
    format: Literal["parquet", "jsonl", "mds", "megatron"] = "parquet"
    style: Literal["messages", "sharegpt", "alpaca"] = "messages"  # of the config sft
    compression: Literal["none", "gzip", "zstd"] = "none"  # of jsonl; Parquet is always zstd
    methods: tuple[Slug, ...] | None = None  # default: all
    select: Slug | None = None  # the name of a selection; default: all rows. Documents are not selected
    pack: Slug | None = None  # of the config packed: the name of a pack entry
    of: tuple[Slug, ...] = ()  # of the config tokenised: names of tokenise entries; default: all
    shard_size: Positive = 500_000_000  # bytes of a file, e.g. 500MB
    indicator: Indicator | None = None  # default: messages as they are

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

    @model_validator(mode="after")
    def _fits_together(self) -> "Export":
        if self.style != "messages" and "sft" not in self.configs:
            raise ValueError(f"the style {self.style!r} is for the config 'sft'")
        for key, config in (("pack", "packed"), ("of", "tokenised")):
            if getattr(self, key) and config not in self.configs:
                raise ValueError(f"{key!r} is for the config {config!r}")
        if self.compression != "none" and self.format != "jsonl":
            raise ValueError(f"'compression' is for the format 'jsonl', not {self.format!r}")
        if self.format == "mds" and self.shard_size > MDS_BYTES:
            raise ValueError("a shard of the format 'mds' has less than 4 GiB; name a smaller 'shard_size'")
        if self.select is not None and TOKEN_CONFIGS & set(self.configs):
            raise ValueError("tokens are selected where they are made: put 'select' under 'tokenise'")
        texts = sorted(set(self.configs) - TOKEN_CONFIGS)
        if self.format == "megatron" and texts:
            raise ValueError(
                f"the format 'megatron' holds tokens, for the configs {' and '.join(sorted(TOKEN_CONFIGS))}, not "
                f"{texts[0]!r}"
            )
        return self
