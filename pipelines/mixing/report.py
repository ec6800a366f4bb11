"""Plan and reality of a mixture: for each source its shares, epochs and losses, and its lengths before and after."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.mixing.budgets import Array
from pipelines.mixing.draw import Mixture
from pipelines.mixing.order import octaves

Line = dict[str, Any]


def sources(mixture: Mixture, available: Mapping[str, Array]) -> list[Line]:
    """One line for each source. Shares are of tokens; `epochs` = tokens / available tokens, `group_epochs` the same for
    each group of lengths, shortest first. Available is what the length limits leave; too_short and too_long what they
    take. `missing_tokens`: refused by max_epochs, or of no length that there is."""
    drawn = [_drawn(mixture, available, number) for number in range(len(mixture.budgets))]
    total = sum(int(lengths.sum()) for lengths in drawn)
    lines = []
    for one, taken in zip(mixture.budgets, drawn, strict=True):
        lengths = np.asarray(available[one.source.name])
        longest = one.source.max_length
        tokens, usable = int(taken.sum()), sum(group.tokens for group in one.groups)
        edges = one.source.length_weights.edges if one.source.length_weights else ()
        by_group = np.bincount(np.searchsorted(edges, taken), weights=taken, minlength=len(one.groups))
        lines.append(
            {
                "source": one.source.name,
                "planned_share": one.source.share,
                "real_share": tokens / total if total else 0.0,
                "planned_tokens": one.wanted,
                "tokens": tokens,
                "missing_tokens": one.missing,
                "rows": len(taken),
                "epochs": tokens / usable if usable else 0.0,
                "group_epochs": [
                    float(used / group.tokens) if group.tokens else 0.0
                    for used, group in zip(by_group, one.groups, strict=True)
                ],
                "available_rows": sum(len(group.rows) for group in one.groups),
                "available_tokens": usable,
                **_left_out("too_short", lengths[lengths < one.source.min_length]),
                **_left_out("too_long", lengths[lengths > longest] if longest is not None else lengths[:0]),
            }
        )
    return lines


def histogram(mixture: Mixture, available: Mapping[str, Array]) -> list[Line]:
    """One line for each source and power of two: rows of `tokens_from` to 2 x tokens_from - 1 tokens that the source
    has, and those in the mixture, a row counted once for each epoch. Empty rows (0 tokens) are in the line 0."""
    names = ("available_rows", "available_tokens", "rows", "tokens")
    lines = []
    for number, one in enumerate(mixture.budgets):
        before = np.asarray(available[one.source.name])
        after = _drawn(mixture, available, number)
        counts = [*_by_power(before), *_by_power(after)]
        lines += [
            {
                "source": one.source.name,
                "tokens_from": 2 ** (power - 1) if power else 0,
                **dict(zip(names, (int(column[power]) for column in counts), strict=True)),
            }
            for power in np.flatnonzero(counts[0]).tolist()
        ]
    return lines


def _by_power(lengths: Array) -> tuple[Array, Array]:
    """Rows and tokens of each power of two, at its exponent + 1; at 0 those of empty rows."""
    places = octaves(lengths) + 1
    return np.bincount(places, minlength=64), np.bincount(places, weights=lengths, minlength=64)


def _drawn(mixture: Mixture, available: Mapping[str, Array], number: int) -> Array:
    """The lengths of the rows drawn from a source."""
    lengths = np.asarray(available[mixture.budgets[number].source.name], np.int64)
    drawn: Array = lengths[mixture.row[mixture.source == number]]
    return drawn


def _left_out(why: str, lengths: Array) -> Line:
    return {f"{why}_rows": len(lengths), f"{why}_tokens": int(lengths.sum())}
