"""Sections on the run as a whole: the numbers a reader asks for first, what ran, and what each stage lost."""

import json
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipelines.report.charts import strip
from pipelines.report.html import Heat, fill, join, listing, note, percent, shown, size, swatch, table
from schemas.states import State

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_BY_DESIGN = "(starts_with(stage, 'select.') OR starts_with(stage, 'export.'))"  # what they leave out is no loss
_MUCH = 0.5  # of a stage's rows: a loss to look at

_NUMBERS = """
SELECT (SELECT count(*) FROM row_states WHERE stage = 'ingest') AS "rows read",
       (SELECT count(DISTINCT document_id) FROM documents
        WHERE json_extract_string(metadata, '$.cleaned_from') IS NULL) AS documents,
       (SELECT count(*) FROM curated) AS "kept by curation", (SELECT count(*) FROM instructions) AS instructions,
       (SELECT count(DISTINCT sample_id) FROM samples) AS samples,
       (SELECT count(DISTINCT preference_id) FROM preference_rows) AS preferences,
       (SELECT count(DISTINCT row_id) FROM selected) AS selected,
       count(*) AS "model calls", sum(prompt_tokens)::BIGINT AS "prompt tokens",
       sum(cached_tokens)::BIGINT AS "of these from cache", sum(completion_tokens)::BIGINT AS "tokens written"
FROM (SELECT DISTINCT ON (request_id) * FROM calls)"""
_LAST = """
SELECT status, stage, text FROM runs LEFT JOIN errors USING (run_id) ORDER BY started DESC LIMIT 1"""
_GREAT_LOSSES = f"""
SELECT stage, count(*) AS rows, count(*) FILTER (state <> 'ok') AS lost, mode(reason) FILTER (state <> 'ok')
FROM row_states JOIN stages USING (stage)
WHERE NOT ({_BY_DESIGN} OR (starts_with(stage, 'score.') AND state = 'filtered'))
GROUP BY stage, place HAVING lost > {_MUCH} * rows ORDER BY place"""
_RUNS = """
SELECT started, finished, status, recipe, recipe_hash, run_id, versions FROM runs ORDER BY started DESC LIMIT 10"""
_MAKERS = """
SELECT method, model, prompt_version, recipe_hash, count(*)
FROM (SELECT method, model, prompt_version, recipe_hash FROM samples
      UNION ALL SELECT method, model, prompt_version, recipe_hash FROM preference_rows)
GROUP BY ALL ORDER BY ALL LIMIT 50"""
_STATES = """
SELECT stage, state, count(state) FROM stages LEFT JOIN row_states USING (stage)
GROUP BY stage, place, state ORDER BY place"""
_BY_LENGTH = f"""
SELECT stage, bucket, count(*), count(*) FILTER (state <> 'ok')
FROM row_states JOIN stages USING (stage) LEFT JOIN (
  SELECT row, max(bucket) AS bucket FROM sizes WHERE kind NOT IN ('answers', 'chosen', 'rejected') GROUP BY row)
  ON row = hash(split_part(row_id, '#', 1))
WHERE NOT {_BY_DESIGN} GROUP BY stage, place, bucket ORDER BY place"""
_REASONS = f"""
SELECT stage, state, reason, count(*) AS rows, any_value(total), coalesce(left(min(nullif(detail, '')), 160), '')
FROM row_states JOIN stages USING (stage)
JOIN (SELECT stage, count(*) AS total FROM row_states GROUP BY stage) USING (stage)
WHERE state <> 'ok' GROUP BY stage, place, state, reason
ORDER BY any_value({_BY_DESIGN}), rows DESC, place, reason LIMIT 25"""


def glance(connection: "DuckDBPyConnection") -> Markup:
    cursor = connection.execute(_NUMBERS)
    names = [column[0] for column in cursor.description or []]
    tiles = join(
        fill("<div><dt>{}</dt><dd>{}</dd></div>", name, shown(value))
        for name, value in zip(names, cursor.fetchall()[0], strict=True)
        if value
    )
    lines = listing(_worth_a_look(connection))
    return fill("<dl>{}</dl>{}{}", tiles, Markup("<h3>Worth a look</h3>") if lines else "", lines)


def _worth_a_look(connection: "DuckDBPyConnection") -> list[str]:
    """What a reader should not miss, one sentence each."""
    lines = []
    ((status, stage, why),) = connection.execute(_LAST).fetchall()
    if status != "done":
        lines.append(f"The last run is not done: {status}{'' if stage is None else f' at {stage}: {why}'}.")
    unfinished = connection.execute("SELECT stage FROM stages WHERE NOT done ORDER BY place").fetchall()
    lines += [f"Stage {stage} is unfinished; the next run goes on with it." for (stage,) in unfinished]
    limits = connection.execute("SELECT DISTINCT row_limit FROM stages WHERE row_limit > 0 ORDER BY 1").fetchall()
    lines += [f"Some stages were limited to {shown(limit)} rows of each source (--limit)." for (limit,) in limits]
    for stage, rows, lost, reason in connection.execute(_GREAT_LOSSES).fetchall():
        lines.append(f"{stage} lost {shown(lost)} of {shown(rows)} rows, most often by {reason}.")
    alarms = connection.execute("SELECT DISTINCT text, share FROM curation_alarms ORDER BY share DESC, text LIMIT 10")
    return lines + [f"Curation: {text}." for text, _ in alarms.fetchall()]


def what_ran(connection: "DuckDBPyConnection") -> Markup:
    runs = connection.execute(_RUNS).fetchall()
    names = ["started (UTC)", "took", "status", "recipe", "recipe hash", "run"]
    lines = [[started, _took(started, ended), *rest] for started, ended, *rest, _ in runs]
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(runs[0][-1]).items())
    seeds = connection.execute("SELECT DISTINCT seed FROM stages WHERE seed IS NOT NULL ORDER BY 1").fetchall()
    makers = ["method", "model", "prompts (step:version)", "recipe hash", "records"]
    return fill(
        "{}{}{}{}",
        table("The last runs", names, lines),
        note(f"Versions in the last run: {versions}."),
        note(f"Seed: {', '.join(str(seed) for (seed,) in seeds)}.") if seeds else "",
        table("Who made what", makers, connection.execute(_MAKERS).fetchall()),
    )


def _took(started: Any, finished: Any) -> str:
    if finished is None:
        return "–"
    minutes, seconds = divmod(round((finished - started).total_seconds()), 60)
    return f"{minutes // 60}h {minutes % 60}m" if minutes >= 60 else f"{minutes}m {seconds}s"


def losses(connection: "DuckDBPyConnection") -> Markup:
    names = ["stage", "state", "reason", "rows", "of the stage", "for example"]
    reasons = connection.execute(_REASONS).fetchall()
    rows = [[*row, percent(row[3], total), detail] for *row, total, detail in reasons]
    return _states(connection) + _by_length(connection) + table("First reasons", names, rows)


def _states(connection: "DuckDBPyConnection") -> Markup:
    found: dict[str, dict[str, int]] = {}
    for stage, state, rows in connection.execute(_STATES).fetchall():
        found.setdefault(stage, {})[state] = rows
    states = [state.value for state in State if any(state.value in counts for counts in found.values())]
    lines = []
    for stage, counts in found.items():
        numbers = [counts.get(state, 0) for state in states]
        lines.append([stage, sum(numbers), strip(list(zip(states, numbers, strict=True))), *numbers])
    return table("Every row ends each stage in one state", ["stage", "rows", "share", *map(swatch, states)], lines)


def _by_length(connection: "DuckDBPyConnection") -> Markup:
    """Lost rows by stage and length of what went in: failures are not random in length."""
    cells: dict[str, dict[int | None, tuple[int, int]]] = {}
    for stage, bucket, rows, lost in connection.execute(_BY_LENGTH).fetchall():
        cells.setdefault(stage, {})[bucket] = (lost, rows)
    cells = {stage: row for stage, row in cells.items() if any(lost for lost, _ in row.values())}
    if not cells:
        return Markup("")
    buckets = sorted({bucket for row in cells.values() for bucket in row}, key=lambda one: (one is None, one or 0))
    lines = [[stage, *(_share(row.get(one)) for one in buckets)] for stage, row in cells.items()]
    return table("Rows lost, of all rows, by the length of what went in", ["stage", *map(size, buckets)], lines) + note(
        "Length in tokens, the nearest power of two. Where tokens were not counted, four characters are one."
    )


def _share(cell: tuple[int, int] | None) -> Heat | str:
    return "" if cell is None else Heat(f"{shown(cell[0])}/{shown(cell[1])}", -cell[0] / cell[1])
