"""How many tokens each source of a mixture gives, in total and from documents of each length, and what is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.errors import UserError
from schemas.mix import Mix, MixSource

Array = np.ndarray[Any, Any]
_ROUNDING = 2  # tokens: a share of a share, both rounded, is no shortage


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The documents of one source whose lengths lie between two edges; all of them where it has no edges."""

    rows: Array  # int64: their places among the rows of the source
    lengths: Array  # int64, of the same shape: tokens
    weight: float  # how much more often than the source's average document each is drawn
    wanted: int  # tokens
    limit: int  # tokens that max_epochs allows
    budget: int  # tokens to draw: wanted, unless a limit moved some to or from the source's other groups

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def missing(self) -> int:
        over = self.wanted - self.limit
        return over if over > _ROUNDING else 0


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """What one source shall give. `wanted`: its share of the mixture in tokens. `groups`: shortest first."""

    source: MixSource
    wanted: int
    groups: list[Group]

    @property
    def missing(self) -> int:
        """Tokens that the source cannot give: more than max_epochs, or no document of the lengths asked for."""
        lack = self.wanted - sum(group.budget for group in self.groups)
        return lack if lack > _ROUNDING else 0


def length_weights(available: Sequence[int], targets: Sequence[float]) -> list[float]:
    """For each group of lengths, target share / natural share: b/a for long and (1-b)/(1-a) for short documents
    (Fu et al. 2402.10171, section 3). The source's expected total stays as it is. `available`: tokens of each group. A
    group without tokens cannot reach its target, which goes to the others in proportion."""
    total = sum(available)
    reached = sum(target for target, tokens in zip(targets, available, strict=True) if tokens)
    return [
        target / reached * total / tokens if tokens and reached else 0.0
        for target, tokens in zip(targets, available, strict=True)
    ]


def within_limits(wanted: Sequence[int], limits: Sequence[int]) -> list[int]:
    """What each group gives. What it lacks the others give in proportion, as far as they can: a source's share of the
    mixture matters more than its lengths. Nothing where nothing is wanted."""
    given = [min(pair) for pair in zip(wanted, limits, strict=True)]
    while (lack := sum(wanted) - sum(given)) > 0:
        able = [place for place, tokens in enumerate(wanted) if tokens and given[place] < limits[place]]
        if not able:
            break
        parts = sum(wanted[place] for place in able)
        for place in able:
            given[place] = min(limits[place], given[place] + math.ceil(lack * wanted[place] / parts))
    return given


def budget(source: MixSource, lengths: Array, total_tokens: int) -> Budget:
    """`lengths`: int64, tokens of all rows of the source. `source`: one of `Mix.plan`."""
    assert source.max_epochs is not None
    wanted = round(source.share * total_tokens)
    usable = lengths >= source.min_length
    if source.max_length is not None:
        usable &= lengths <= source.max_length
    rows = np.flatnonzero(usable)
    weights = source.length_weights
    # side="left": a document of exactly `edge` tokens is not longer than the edge.
    place = np.searchsorted(weights.edges if weights else [], lengths[rows], side="left")
    members = [rows[place == number] for number in range(len(weights.targets) if weights else 1)]
    tokens = [int(lengths[group].sum()) for group in members]
    factors = length_weights(tokens, weights.targets if weights else [1.0])
    parts = [round(wanted * factor * held / (sum(tokens) or 1)) for factor, held in zip(factors, tokens, strict=True)]
    limits = [int(source.max_epochs * held) for held in tokens]
    given = within_limits(parts, limits)
    groups = [
        Group(one, lengths[one], factors[place], parts[place], limits[place], given[place])
        for place, one in enumerate(members)
    ]
    return Budget(source, wanted, groups)


def check_shortage(mix: Mix, budgets: Sequence[Budget]) -> None:
    """Raises UserError where max_epochs leaves too little of a source, with the total that could be had."""
    possible = mix.total_tokens
    worst: tuple[Budget, Group] | None = None
    for one in budgets:
        if one.wanted and not any(group.wanted for group in one.groups):
            raise UserError(f"mix {mix.name!r}: source {one.source.name!r} has no row of a length that it may take")
        for group in one.groups:
            if group.missing and (here := int(mix.total_tokens * group.limit / group.wanted)) < possible:
                possible, worst = here, (one, group)
    if worst is None:
        return
    one, group = worst
    raise UserError(
        f"mix {mix.name!r}: source {one.source.name!r} has {group.tokens:,} tokens in rows of "
        f"{group.lengths.min():,} to {group.lengths.max():,} tokens, and {group.wanted:,} are wanted: "
        f"{group.wanted / group.tokens:.4g} epochs, more than max_epochs ({one.source.max_epochs:g}); lower "
        f"total_tokens to {possible:,} or set on_shortage: cap"
    )
