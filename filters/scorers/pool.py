"""Scores that depend on all rows of a pool: HMG's normalisations, ranks, GATEAU's mixture. Plain numbers, no model."""

import math
from collections.abc import Sequence

_MAX_NLL = 700.0  # exp of more is no float64


def perplexity(nll: float) -> float:
    return math.exp(min(nll, _MAX_NLL))


def hmg(nll_short: Sequence[float], nll_long: Sequence[float], norm: str, clip: float) -> list[float]:
    """HMG of each row from its mean negative log-likelihoods; high: the long window helps. `norm`:

    * `logppl_diff`: short minus long, independent of the pool;
    * `rank`: its rank in the pool, 0 to 1;
    * `minmax_diff`: perplexities of each model brought to 0..1 over the pool, short minus long. Values beyond the
      `clip`-th percentile at either end count as that percentile, else one outlier sets the scale;
    * `paper_minmax_softmax`: softmax of the same over the pool, as the released code does (there without clipping).
    """
    if norm in ("logppl_diff", "rank"):
        differences = [short - long for short, long in zip(nll_short, nll_long, strict=True)]
        return ranks(differences) if norm == "rank" else differences
    scaled = [min_max(clipped([perplexity(nll) for nll in nlls], clip)) for nlls in (nll_short, nll_long)]
    differences = [short - long for short, long in zip(*scaled, strict=True)]
    return softmax(differences) if norm == "paper_minmax_softmax" else differences


def clipped(values: Sequence[float], percent: float) -> list[float]:
    low, high = percentile(values, percent), percentile(values, 100 - percent)
    return [min(max(value, low), high) for value in values]


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest values, as numpy does; 0 for no values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def min_max(values: Sequence[float]) -> list[float]:
    """0 for the smallest, 1 for the largest; all 0 where they are equal."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def standardised(values: Sequence[float]) -> list[float]:
    """Distance from the mean in standard deviations of the pool; all 0 where they are equal."""
    mean = math.fsum(values) / max(1, len(values))
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values)))
    if spread == 0 or min(values) == max(values):  # the mean of equal values may be off by a rounding
        return [0.0] * len(values)
    return [(value - mean) / spread for value in values]


def softmax(values: Sequence[float]) -> list[float]:
    high = max(values, default=0.0)
    powers = [math.exp(value - high) for value in values]
    total = math.fsum(powers)  # exact, hence the same in any order of the pool
    return [power / total for power in powers]


def ranks(values: Sequence[float]) -> list[float]:
    """0 for the smallest to 1 for the largest; equal values share the mean of their ranks. A single value: 0.5."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.5] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            result[place] = (start + end - 1) / 2 / (len(values) - 1) if len(values) > 1 else 0.5
        start = end
    return result


def mixture(hmg_ranks: Sequence[float], cam_ranks: Sequence[float], alpha: float) -> list[float]:
    return [alpha * h + (1 - alpha) * c for h, c in zip(hmg_ranks, cam_ranks, strict=True)]


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """0 where one of them is all zeros."""
    product = math.fsum(a * b for a, b in zip(first, second, strict=True))
    lengths = math.hypot(*first) * math.hypot(*second)
    return product / lengths if lengths > 0 else 0.0
