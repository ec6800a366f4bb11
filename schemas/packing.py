"""The recipe section of packing. Sources of the defaults: methods/packing.md, sections 4, 5 and 7."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.model import Model, Positive

Strategy = Literal["none", "bfd", "bfd_split", "next_fit", "wrapped", "length_group", "dd_buckets"]

_WHOLE = ("none", "bfd", "next_fit", "length_group")
_ONLY = {  # keys that mean something to some strategies only
    "row_length": ("none", "bfd", "bfd_split", "next_fit", "wrapped", "length_group"),
    "overlong": _WHOLE,
    "group_size": ("none", "length_group"),
    "min_exponent": ("dd_buckets",),
    "max_exponent": ("dd_buckets",),
    "randomize": ("dd_buckets",),
}


class Packing(Model):
    """How samples become rows of a trainer. Lengths are in tokens, BOS and EOS among them.

    none: a sample a row. bfd: best fit decreasing. bfd_split: the same, longer samples are cut (documents, not chats).
    next_fit: in the order of the samples. wrapped: all tokens in one stream, cut without regard for samples, which see
    each other. length_group: a sample a row, in groups of like length. dd_buckets: documents in pieces of 2^k + 1.
    """

    strategy: Strategy = "bfd"
    row_length: Positive | None = None  # the longest row; for dd_buckets it is 2^max_exponent + 1
    overlong: Literal["reject", "truncate"] = "reject"  # a cut answer is worse than none
    group_size: Positive = 8  # rows that the trainer pads to their longest: its global micro-batch
    min_exponent: Annotated[int, Field(ge=1, le=30)] = 8
    max_exponent: Annotated[int, Field(ge=1, le=30)] = 13
    randomize: bool = False  # draw the size of pieces of longer documents, most of them short: not for long context
    shuffle: bool = True  # rows, by the seed; for length_group its groups
    multiple_of: Positive = 1  # padding; context parallelism over n devices needs 2n
    pad: Literal["row", "piece"] = "row"  # what is padded to it. Megatron needs each piece
    loss_weights: Literal["none", "token", "sample"] = "none"
    global_batch: Positive | None = None  # rows of an optimiser step, over all devices and accumulation

    @model_validator(mode="after")
    def _sensible(self) -> "Packing":
        for key, readers in _ONLY.items():
            if key in self.model_fields_set and self.strategy not in readers:
                raise ValueError(f"'{key}' is for {', '.join(readers)}, not for {self.strategy}")
        if self.strategy != "dd_buckets" and self.row_length is None:
            raise ValueError("needs 'row_length', the tokens of a row")
        if self.min_exponent > self.max_exponent:
            raise ValueError(f"min_exponent {self.min_exponent} is larger than max_exponent {self.max_exponent}")
        if self.strategy != "dd_buckets" and self.capacity % self.multiple_of:
            raise ValueError(f"row_length {self.row_length} is no multiple of multiple_of {self.multiple_of}")
        if self.strategy == "wrapped" and self.pad == "piece":
            raise ValueError("'pad: piece' needs borders between samples, which wrapped rows do not have")
        if (self.loss_weights == "none") != (self.global_batch is None):
            raise ValueError("'loss_weights' and 'global_batch' need each other: weights hold for one batch size")
        return self

    @property
    def capacity(self) -> int:
        """Tokens of the longest row."""
        return 2**self.max_exponent + 1 if self.row_length is None else self.row_length
