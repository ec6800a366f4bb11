"""The recipe section `pack`: which tokenised rows are packed, and how."""

from pydantic import model_validator

from schemas.augment import Augment, Cip, Utk
from schemas.model import Slug
from schemas.packing import Packing


class Pack(Packing):
    """Rows of `tokenise` entries, or what a mix draws from them."""

    name: Slug
    of: tuple[Slug, ...] = ()  # names of tokenise entries; default: all
    mix: Slug | None = None  # the name of a mix
    separate: bool = False  # a row holds one source (of the mix) only, as in ProLong
    augment: Augment | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Pack":
        if self.of and self.mix is not None:
            raise ValueError("names either 'of' or a 'mix', which has its own")
        if self.augment is None:
            return self
        kind = self.augment.augment
        if self.loss_weights != "none":
            raise ValueError(f"'augment: {kind}' changes what is learnt: leave out 'loss_weights'")
        if self.multiple_of > 1:
            raise ValueError(f"'augment: {kind}' cannot be padded to multiples")
        if isinstance(self.augment, Utk | Cip):
            if self.strategy not in ("bfd", "bfd_split", "next_fit"):
                raise ValueError(f"'augment: {kind}' mixes the documents of a row: use bfd, bfd_split or next_fit")
        elif self.strategy != "none":
            raise ValueError(f"'augment: {kind}' gives one document positions of its own: use strategy: none")
        return self
