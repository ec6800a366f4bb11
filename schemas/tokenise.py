"""The recipe section `tokenise`: text to token ids, once, for everything that is packed later."""

from typing import Literal

from pydantic import model_validator

from schemas.model import Model, Positive, Slug


class Tokenise(Model):
    """Documents become plain text with an end-of-text token; samples go through the tokenizer's chat template, with a
    loss on the assistant's answers (on everything where a sample says `loss_on_prompt`)."""

    name: Slug
    rows: Literal["documents", "samples"]
    tokenizer: str | None = None  # a model reference or tiktoken:NAME; default: the recipe's
    sources: tuple[Slug, ...] | None = None  # of documents; default: all
    methods: tuple[Slug, ...] | None = None  # of samples; default: all
    select: Slug | None = None  # of samples: the name of a selection; default: all rows
    # Of documents: begin and end each with the tokenizer's own token, with none, or with a control token by its text.
    # An instruction-tuned model's own eos mostly ends a turn: name the one that its base model ended texts with.
    bos: bool | str = False
    eos: bool | str = True
    max_tokens: Positive | None = None  # longer rows end as over_budget; default: no limit
    fast: bool = True  # a faster library where it gives the same ids; false: always the reference

    @model_validator(mode="after")
    def _fits(self) -> "Tokenise":
        for key, kind in (("sources", "documents"), ("methods", "samples"), ("select", "samples")):
            if getattr(self, key) is not None and self.rows != kind:
                raise ValueError(f"{key!r} is for rows: {kind}")
        return self
