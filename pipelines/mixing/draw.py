"""Drawing a mixture: rows of each source up to its budget, in an order that only seed, source and epoch decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.mixing.budgets import Array, Budget, Group, budget, check_shortage
from pipelines.mixing.order import CURRICULA, interleave
from schemas.ids import derive_seed
from schemas.mix import Mix


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """The rows of a mixture in the order of training; three arrays of one shape."""

    budgets: list[Budget]  # one for each source, in the order of the recipe
    source: Array  # int16: place in `budgets`
    row: Array  # int64: place among the rows of the source, as given to `draw`
    epoch: Array  # int16: how often the row came before


def draw(available: Mapping[str, Array], mix: Mix, seed: int) -> Mixture:
    """`available`: for each source of `mix.plan` by name, the lengths (tokens) of all its rows, in an order that is the
    same in every run. Raises UserError where the rows do not suffice (unless on_shortage: cap).

    A source's rows come in a fresh permutation each epoch, none twice in an epoch. It depends on the seed, the source,
    its group of lengths and the epoch only: other sources and their shares change nothing in it."""
    budgets = [budget(one, np.asarray(available[one.name], np.int64), mix.total_tokens) for one in mix.plan]
    if mix.on_shortage == "error":
        check_shortage(mix, budgets)
    rows, epochs, lengths, sources, phases = [], [], [], [], []
    for number, one in enumerate(budgets):
        carried = 0
        for place, group in reversed([*enumerate(one.groups)]):
            allowed = min(max(0, group.budget + carried), group.limit)
            key = (seed, one.source.name, place)
            taken, epoch = _take(group, allowed, key)
            rows.append(group.rows[taken])
            lengths.append(group.lengths[taken])
            epochs.append(epoch)
            sources.append(np.full(len(taken), number, np.int16))
            phases.append(derive_seed("phase", *key) / 2**31)
            # What whole rows left over, shorter ones can give or save.
            carried += group.budget - int(lengths[-1].sum())
    order = interleave(lengths, phases)
    if mix.curriculum != "none":
        order = order[CURRICULA[mix.curriculum](np.concatenate(lengths)[order])]
    return Mixture(budgets, *(np.concatenate(parts)[order] for parts in (sources, rows, epochs)))


def _take(group: Group, tokens: int, seed: tuple[Any, ...]) -> tuple[Array, Array]:
    """Places of rows in the group, about `tokens` in all, and of each its epoch: whole epochs, then the beginning of
    one more. The last row is that of this epoch's rest which comes nearest to the budget; none, if that is nearer."""
    whole, rest = divmod(tokens, group.tokens) if group.tokens else (0, 0)
    parts = [_permutation(group, seed, epoch) for epoch in range(whole)]
    if rest:
        order = _permutation(group, seed, whole)
        ends = np.cumsum(group.lengths[order])
        count = int(np.searchsorted(ends, rest, side="right"))  # rows that fit
        rest -= int(ends[count - 1]) if count else 0
        off = np.abs(group.lengths[order[count:]] - rest)
        nearest = int(np.argmin(off))
        last = order[count + nearest : count + nearest + (off[nearest] < rest)]
        parts.append(np.concatenate([order[:count], last]))
    epochs = [np.full(len(part), epoch, np.int16) for epoch, part in enumerate(parts)]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *parts]), np.concatenate([empty.astype(np.int16), *epochs])


def _permutation(group: Group, seed: tuple[Any, ...], epoch: int) -> Array:
    return np.random.default_rng(derive_seed("mix", *seed, epoch)).permutation(len(group.rows))
