"""The section on scores: how each is distributed, and whether scores agree on which rows are high."""

from typing import TYPE_CHECKING

import pyarrow as pa
from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.html import Heat, fill, note, shown, table
from schemas.tables import TABLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_BINS = 20
_COMPARED = 20_000  # rows that agreement is measured on, at most: a correlation is then known to 0.01

_DISTRIBUTION = f"""
SELECT score, low, high,
       least(coalesce(floor((value - low) / nullif(high - low, 0) * {_BINS}), 0), {_BINS - 1})::INTEGER AS bin, count(*)
FROM score_values JOIN (
  SELECT score, min(value) AS low, max(value) AS high FROM score_values GROUP BY score) USING (score)
GROUP BY ALL"""
_QUANTILES = """
SELECT score, count(*), quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95])
FROM score_values GROUP BY score ORDER BY score"""
# Spearman: Pearson of ranks, ties at their mean rank. The rows with the lowest hashes are the same ones in each score.
_RANK = "rank() OVER (PARTITION BY x, y ORDER BY {0}) + (count(*) OVER (PARTITION BY x, y, {0}) - 1) / 2 AS {0}"
_AGREEMENT = f"""
WITH most AS (SELECT max(n) AS n FROM (SELECT count(*) AS n FROM score_values GROUP BY score)),
few AS (SELECT * FROM score_values, most WHERE row <= least(1, {_COMPARED} / n) * (2.0 ** 64)),
pairs AS (SELECT a.score AS x, b.score AS y, a.value AS u, b.value AS v
          FROM few a JOIN few b ON a.row = b.row AND a.score < b.score)
SELECT x, y, corr(u, v), count(*) FROM (SELECT x, y, {_RANK.format("u")}, {_RANK.format("v")} FROM pairs)
GROUP BY x, y HAVING count(*) >= 3"""


def prepare(connection: "DuckDBPyConnection") -> None:
    """The temporary table score_values (row, score, value): of each score table the first column of numbers, by entries
    of the recipe. A row with several lines has their mean."""
    selects = [
        f"SELECT hash(row_id), CASE stage WHEN 'score.{column}' THEN '{column}' "
        f"ELSE replace(stage, 'score.', '') || ' ({column})' END, avg({column}) FROM {name} "
        f"WHERE isfinite({column}) GROUP BY row_id, stage"
        for name, schema in TABLES.items()
        if name.startswith("scores_")
        and (column := next((field.name for field in schema if field.type == pa.float64()), None)) is not None
    ]
    connection.execute("CREATE TEMP TABLE score_values (row UBIGINT, score VARCHAR, value DOUBLE)")
    connection.execute(f"INSERT INTO score_values {' UNION ALL '.join(selects)}")


def scores(connection: "DuckDBPyConnection") -> Markup:
    ends: dict[str, tuple[float, float]] = {}
    counts: dict[str, dict[int, int]] = {}
    for score, low, high, number, rows in connection.execute(_DISTRIBUTION).fetchall():
        ends[score] = low, high
        counts.setdefault(score, {})[number] = rows
    quantiles = [[score, rows, *values] for score, rows, values in connection.execute(_QUANTILES).fetchall()]
    return fill(
        "{}{}{}{}",
        note("The main number of each scorer; docs/scoring.md says what it means."),
        charts.grid(
            _histogram(score, f"{shown(rows)} rows, median {shown(median)}", *ends[score], counts[score])
            for score, rows, _, _, median, *_ in quantiles
        ),
        table("Quantiles", ["score", "rows", "5%", "25%", "median", "75%", "95%"], quantiles),
        _agreement(connection, [row[0] for row in quantiles]),
    )


def _histogram(score: str, about: str, low: float, high: float, counts: dict[int, int]) -> Markup:
    if low == high:
        return charts.bars(score, [(shown(low), counts[0])], about)
    edges = [shown(low + (high - low) * number / _BINS) for number in range(_BINS)]
    return charts.bars(score, [(edge, counts.get(number, 0)) for number, edge in enumerate(edges)], about)


def _agreement(connection: "DuckDBPyConnection", names: list[str]) -> Markup:
    """Rank correlation of each two scores with common rows."""
    found = {}
    for x, y, value, rows in connection.execute(_AGREEMENT).fetchall():
        heat = Heat(f"{value:.2f} ({rows:,})", value) if value == value else Heat(f"– ({rows:,})", 0.0)  # NaN: constant
        found[x, y] = found[y, x] = heat
    alike = [name for name in names if any(name in pair for pair in found)]
    if not alike:
        return Markup("")
    lines = [[x, *(found.get((x, y), "") for y in alike)] for x in alike]
    what = table("Agreement: rank correlation (Spearman) and common rows", ["", *alike], lines)
    return what + note(
        "1: the same order; 0: nothing in common; -1: the opposite. Scores that say the same need not all be paid for; "
        "where two that should agree do not, read ten rows."
    )
