"""The sections on training data: mixtures, planned and real, and how full packed rows are."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipelines.report.charts import grid, lengths
from pipelines.report.html import fill, join, note, percent, table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MOST = 12  # sources whose lengths are drawn

_SOURCES = """
SELECT stage, source, planned_share, real_share, tokens, missing_tokens, rows, epochs, available_tokens,
       too_short_tokens + too_long_tokens FROM mixtures ORDER BY ALL LIMIT 60"""
_LENGTHS = """
SELECT stage, source, tokens_from, available_tokens, tokens FROM mixture_lengths
WHERE tokens_from > 0 AND available_tokens > 0 ORDER BY stage, source, tokens_from"""
_PACKINGS = """
SELECT stage, strategy, row_length, rows, lower_bound, efficiency, tokens_out, tokens_dropped, samples_in,
       samples_dropped, samples_cut, samples_per_row, sq_cost_max / nullif(sq_cost_median, 0)
FROM packings ORDER BY stage, row_length"""
_ALONE = """
SELECT stage, count(*) FILTER (len(sample_ids) = 1), count(*), max(len(sample_ids))
FROM packs GROUP BY ALL ORDER BY ALL"""


def mixtures(connection: "DuckDBPyConnection") -> Markup:
    rows = [
        [
            stage,
            source,
            percent(planned, 1),
            percent(real, 1),
            tokens,
            missing,
            drawn,
            round(epochs, 2),
            there,
            left_out,
        ]
        for stage, source, planned, real, tokens, missing, drawn, epochs, there, left_out in connection.execute(
            _SOURCES
        ).fetchall()
    ]
    before: dict[tuple[str, str], dict[int, int]] = {}
    after: dict[tuple[str, str], dict[int, int]] = {}
    for stage, source, bucket, available, drawn in connection.execute(_LENGTHS).fetchall():
        before.setdefault((stage, source), {})[bucket] = available
        after.setdefault((stage, source), {})[bucket] = drawn
    pairs = [  # each on a line of its own, to be compared
        grid([
            lengths(f"{source}: has", before[stage, source], f"{stage}: tokens by length of their row"),
            lengths(f"{source}: in the mixture", after[stage, source], "a row counts once for each use"),
        ])
        for stage, source in list(before)[:_MOST]
    ]  # fmt: skip
    names = [
        "mix",
        "source",
        "planned",
        "real",
        "tokens",
        "missing",
        "rows",
        "epochs",
        "has tokens",
        "of other lengths",
    ]
    return fill("{}{}", table("Planned and real shares of tokens", names, rows), join(pairs))


def packings(connection: "DuckDBPyConnection") -> Markup:
    rows = [
        [*row[:5], percent(row[5], 1), *row[6:11], round(row[11], 1), None if row[12] is None else round(row[12], 1)]
        for row in connection.execute(_PACKINGS).fetchall()
    ]
    names = [
        "pack", "strategy", "row length", "rows", "rows at least", "filled", "tokens", "tokens dropped", "samples",
        "dropped", "cut", "samples in a row", "attention, longest by middle row",
    ]  # fmt: skip
    alone = [
        f"{stage}: {single:,} of {count:,} rows hold a single sample, the fullest {most:,}."
        for stage, single, count, most in connection.execute(_ALONE).fetchall()
    ]
    return fill("{}{}", table("How full rows are", names, rows), note(" ".join(alone)))
