"""The recipe section `mix`: which sources make up a training mixture, in which shares of its tokens and which order."""

import re
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from schemas.model import Model, Positive, Share, Slug, suggestion

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_CLOSE = 1e-6  # shares that sum to 1 within this do

# Role, share, shortest and longest document, row length. ProLong 2410.02660, as in its training scripts: long documents
# of a role fill rows of their own, so they must be as long as a row. The two lengths of the 512K stage do not overlap
# here, so that no document is in both.
_SHORT = [
    ("fineweb_edu", 0.10), ("fineweb", 0.10), ("stackexchange", 0.04), ("wikipedia", 0.04), ("arxiv", 0.03),
    ("openwebmath", 0.03), ("tulu", 0.03), ("textbooks", 0.03),
]  # fmt: skip
_PROLONG_SHORT = [(role, share, 1, None, 65_536) for role, share in _SHORT]
_PRESETS: dict[str, list[tuple[str, float, int, int | None, int | None]]] = {
    "prolong_64k": [
        ("code", 0.30, 65_536, None, 65_536), ("books", 0.30, 65_536, None, 65_536), *_PROLONG_SHORT,
    ],
    "prolong_512k": [
        ("code", 0.15, 524_288, None, 524_288), ("code", 0.15, 65_536, 524_287, 65_536),
        ("books", 0.05, 524_288, None, 524_288), ("books", 0.25, 65_536, 524_287, 65_536), *_PROLONG_SHORT,
    ],
    # Fu et al. 2402.10171: the shares of SlimPajama.
    "per_source_70": [
        (role, share, 1, None, None)
        for role, share in (
            ("commoncrawl", 0.67), ("c4", 0.15), ("github", 0.045), ("wikipedia", 0.045), ("books", 0.045),
            ("arxiv", 0.025), ("stackexchange", 0.02),
        )
    ],
}  # fmt: skip


def _tokens(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMBT]?)\s*", value, re.IGNORECASE)
    if match is None:
        raise ValueError(f"{value!r} is not a number of tokens like 500M or 20B")
    return int(Decimal(match[1]) * _UNITS[match[2].upper()])


class LengthWeights(Model):
    """Which share (`targets`) of a source's tokens comes from documents of which length: of at most edges[0] tokens,
    of more than that and at most edges[1], ..., of more than the last edge. The default is the per-source upsampling
    of Fu et al. (2402.10171); targets [0.75, 0.25] are a ratio of 3 short tokens to 1 long one."""

    edges: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4096,)
    targets: tuple[Share, ...] = (0.3, 0.7)

    @model_validator(mode="after")
    def _fit(self) -> "LengthWeights":
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"the edges must rise, not {list(self.edges)}")
        if len(self.targets) != len(self.edges) + 1:
            raise ValueError(
                f"{len(self.edges)} edges make {len(self.edges) + 1} groups of lengths, not {len(self.targets)} targets"
            )
        if abs(sum(self.targets) - 1) > _CLOSE:
            raise ValueError(f"the targets sum to {sum(self.targets):.6g}, not 1")
        return self


class Rows(Model):
    """Tokenised rows: the documents of these sources and the samples of these methods. In short: a list of sources."""

    sources: tuple[Slug, ...] = ()
    methods: tuple[Slug, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"sources": given} if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _some(self) -> "Rows":
        if not self.sources and not self.methods:
            raise ValueError("name the rows by 'sources' (of documents) or 'methods' (of samples)")
        return self

    def takes(self, source: str | None, method: str | None) -> bool:
        """Whether a row belongs here. A sample goes by its method alone: that it was made from a book does not make it
        one. A document has no method (None)."""
        return source in self.sources if method is None else method in self.methods


class MixSource(Rows):
    """One part of a mixture. Lengths are in tokens and include both limits; other documents are left out, not cut."""

    name: Slug
    share: Annotated[float, Field(gt=0, le=1)]  # of the tokens of the mixture
    min_length: Positive = 1
    max_length: Positive | None = None
    length_weights: LengthWeights | None = None  # default: the mixture's
    max_epochs: Annotated[float, Field(gt=0, le=1000)] | None = None  # default: the mixture's
    row_length: Positive | None = None  # of the packed rows; default: what packs the mixture decides

    @model_validator(mode="after")
    def _ordered(self) -> "MixSource":
        if self.max_length is not None and self.max_length < self.min_length:
            raise ValueError(f"max_length {self.max_length} is smaller than min_length {self.min_length}")
        return self

    def overlaps(self, other: "MixSource") -> str:
        """The name of a source or method of which both may draw the same row, or nothing."""
        highest = min(length for length in (self.max_length, other.max_length, 2**63) if length is not None)
        if max(self.min_length, other.min_length) > highest:
            return ""
        shared = {*self.sources} & {*other.sources} or {*self.methods} & {*other.methods}
        return min(shared, default="")


class Mix(Model):
    """One mixture: `sources`, or a `preset` whose roles are mapped onto sources of the recipe."""

    name: Slug
    of: tuple[Slug, ...] = ()  # names of tokenise entries; default: all
    total_tokens: Annotated[Positive, BeforeValidator(_tokens)]  # 20B, 500M or a number
    sources: tuple[MixSource, ...] = ()
    preset: Literal["prolong_64k", "prolong_512k", "per_source_70"] | None = None
    roles: dict[Slug, Rows] = {}
    spread_missing: bool = False  # roles without rows give their share to the others, in proportion
    length_weights: LengthWeights | None = None  # of all sources that have none of their own
    max_epochs: Annotated[float, Field(gt=0, le=1000)] = 4
    on_shortage: Literal["error", "cap"] = "error"  # cap: a smaller mixture, by what a source lacks
    curriculum: Literal["none", "by_length", "grow_p2"] = "none"

    @model_validator(mode="after")
    def _consistent(self) -> "Mix":
        if (self.preset is None) == (not self.sources):
            raise ValueError("needs either 'sources' or a 'preset' with 'roles'")
        self._check_roles()
        plan = self.plan
        names = [source.name for source in plan]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the source name {name!r} is used twice")
        total = sum(source.share for source in plan)
        if abs(total - 1) > _CLOSE:
            raise ValueError(f"the shares of the sources sum to {total:.6g}, not 1")
        for one, other in combinations(plan, 2):
            if shared := one.overlaps(other):
                raise ValueError(
                    f"{one.name!r} and {other.name!r} both take rows of {shared!r} of the same lengths; a row may "
                    "belong to one of them only"
                )
        return self

    def _check_roles(self) -> None:
        if self.preset is None:
            if self.roles or self.spread_missing:
                raise ValueError("'roles' and 'spread_missing' are for a 'preset'")
            return
        known = list(dict.fromkeys(role for role, *_ in _PRESETS[self.preset]))
        for role in self.roles:
            if role not in known:
                close = suggestion(role, known) or f"; it has {', '.join(known)}"
                raise ValueError(f"preset {self.preset!r} has no role {role!r}{close}")
        missing = [role for role in known if role not in self.roles]
        if missing and (not self.spread_missing or not self.roles):
            raise ValueError(
                f"preset {self.preset!r}: 'roles' has no source for {', '.join(missing)}; name one for each, or set "
                "spread_missing: true to give their shares to the others"
            )

    @property
    def plan(self) -> tuple[MixSource, ...]:
        """The sources with all that they inherit from the mixture and its preset."""
        weights = self.length_weights or (LengthWeights() if self.preset == "per_source_70" else None)
        return tuple(
            source.model_copy(
                update={
                    "length_weights": source.length_weights or weights,
                    "max_epochs": source.max_epochs or self.max_epochs,
                }
            )
            for source in self.sources or self._from_preset()
        )

    def _from_preset(self) -> list[MixSource]:
        assert self.preset is not None
        parts = [part for part in _PRESETS[self.preset] if part[0] in self.roles]
        covered = sum(share for _, share, *_ in parts)
        roles = [role for role, *_ in parts]
        return [
            MixSource(
                **self.roles[role].model_dump(),
                name=role if roles.count(role) == 1 else f"{role}_{row_length}",  # code_65536, code_524288
                share=share / covered,
                min_length=shortest,
                max_length=longest,
                row_length=row_length,
            )
            for role, share, shortest, longest, row_length in parts
        ]
