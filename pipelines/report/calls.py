"""The section on model calls: what they cost, what the prefix cache saved, what an accepted record took."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipelines.report.charts import strip
from pipelines.report.html import fill, note, percent, side, table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_ENGINES = """
SELECT method, engine, model, count(*), sum(prompt_tokens)::BIGINT, coalesce(sum(cached_tokens), 0)::BIGINT,
       (sum(prompt_tokens) FILTER (cached_tokens IS NOT NULL))::BIGINT, sum(completion_tokens)::BIGINT, sum(seconds)
FROM calls GROUP BY ALL ORDER BY ALL"""
_RECORDS = """
WITH spent AS (
  SELECT method, count(*) AS calls, sum(prompt_tokens) AS prompts, sum(completion_tokens) AS answers
  FROM calls WHERE starts_with(stage, 'generate.') GROUP BY method),
made AS (
  SELECT method, count(*) AS records FROM (
    SELECT DISTINCT method, sample_id FROM samples UNION ALL SELECT DISTINCT method, preference_id FROM preference_rows)
  GROUP BY method)
SELECT method, coalesce(records, 0), calls, (prompts + answers)::BIGINT, calls / records, prompts / records,
       answers / records, (prompts + answers) / records AS cost
FROM spent LEFT JOIN made USING (method) ORDER BY cost DESC NULLS FIRST, method"""
_TOTAL = "SELECT sum(prompt_tokens - coalesce(cached_tokens, 0) + completion_tokens), sum(seconds) FROM calls"
_STEPS = """
SELECT method || ', ' || step, count(*), sum(prompt_tokens - coalesce(cached_tokens, 0))::BIGINT AS read,
       sum(completion_tokens)::BIGINT AS written, read + written AS tokens,
       sum(seconds) AS seconds, median(seconds), quantile_cont(seconds, 0.95)
FROM calls GROUP BY method, step ORDER BY {} DESC NULLS LAST, 1 LIMIT 10"""


def calls(connection: "DuckDBPyConnection") -> Markup:
    engines = [
        [*row, percent(cached, of), strip([("bar", cached), ("rest", (of or 0) - cached)]), written, seconds]
        for *row, cached, of, written, seconds in connection.execute(_ENGINES).fetchall()
    ]
    ((tokens, seconds),) = connection.execute(_TOTAL).fetchall()
    steps = {order: connection.execute(_STEPS.format(order)).fetchall() for order in ("tokens", "seconds")}
    expensive = [[*row[:4], percent(row[4], tokens)] for row in steps["tokens"]]
    slow = [[*row[:2], row[5], percent(row[5], seconds), *row[6:]] for row in steps["seconds"]]
    cache = ["method", "engine", "model", "calls", "prompt tokens", "from cache", "", "tokens written", "seconds"]
    records = [
        "method",
        "records",
        "calls",
        "tokens",
        "calls each",
        "prompt tokens each",
        "tokens written each",
        "tokens each",
    ]
    return fill(
        "{}{}{}{}",
        table("Tokens and prefix cache", cache, engines),
        note(
            "Calls overlap: their seconds are more than the run took. A dash: the engine does not tell what it cached."
        ),
        table(
            "Tokens for each accepted record, with those of lost rows", records, connection.execute(_RECORDS).fetchall()
        ),
        side(
            table("Most expensive steps", ["step", "calls", "tokens read anew", "tokens written", "of all"], expensive),
            table("Slowest steps", ["step", "calls", "seconds", "of all", "median", "95%"], slow),
        ),
    )
