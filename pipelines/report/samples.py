"""Sections that show records: three of each method and length, always the same ones, with the evidence marked."""

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipelines.report.html import fill, join, shown, size

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SHOWN, _MOST = 3, 500  # records of a method and length, and of a section
_BEFORE, _CONTEXT = 250, 900  # characters before the evidence, and of a document's excerpt in all
_TEXT, _TAIL = (
    700,
    4000,
)  # characters of a question or answer, and of a prompt's end in which the question is looked for

# Ids are hashes of what they name, so the first ones are as good as drawn.
_PICKED = f"""
CREATE OR REPLACE TEMP TABLE picked AS
SELECT id, bucket, total FROM (
  SELECT id, bucket, count(*) OVER (PARTITION BY method) AS total,
         row_number() OVER (PARTITION BY method, bucket ORDER BY id) AS place
  FROM (SELECT DISTINCT {{id}} AS id, method, bucket
        FROM {{table}} JOIN sizes ON row = hash({{id}}) AND kind = '{{kind}}'))
WHERE place <= {_SHOWN} ORDER BY place, id LIMIT {_MOST}"""
# `spans`: characters of the document `holder` where there is one, else of the first message of the user.
_SAMPLES = f"""
SELECT DISTINCT ON (id) id, method, bucket, total, stage, row_id, source, model, prompt_tokens, response_tokens, turns,
       question, holder, spans, len(document_ids) > 0 OR spans IS NOT NULL AS has_context, length(asked) AS characters,
       greatest(coalesce(spans[1][1], 0) - {_BEFORE}, 0) AS first, substr(asked, first + 1, {_CONTEXT}) AS context,
       right(asked, {_TAIL}) AS tail, left(answer, {_TEXT + 1}) AS answer
FROM (SELECT *, sample_id AS id, list_filter(messages, lambda m: m.role = 'user')[1].content AS asked,
             len(messages) AS turns, messages[-1].content AS answer, details->>'$.question' AS question,
             evidence[1].document_id AS holder,
             CASE WHEN len(evidence) > 0 THEN list_transform(
               list_filter(evidence, lambda e: e.document_id = evidence[1].document_id), lambda e: [e.start, e."end"])
             ELSE TRY_CAST(details->'$.evidence' AS BIGINT[][]) END AS spans
      FROM samples WHERE sample_id IN (SELECT unnest($ids)))
JOIN picked USING (id) ORDER BY method, bucket, id"""
_EXCERPTS = f"""
SELECT id, substr(text, first + 1, {_CONTEXT}), chars
FROM (SELECT unnest($ids) AS id, unnest($holders) AS holder, unnest($firsts) AS first)
JOIN documents ON document_id = holder
WHERE document_id IN (SELECT unnest($holders))"""
_PAIRS = f"""
SELECT DISTINCT ON (id) id, method, bucket, total, stage, row_id, source, model,
       right(prompt[-1].content, {_TEXT}) AS asked, length(prompt[-1].content) AS characters,
       left(chosen[-1].content, {_TEXT + 1}) AS chosen, left(rejected[-1].content, {_TEXT + 1}) AS rejected
FROM (SELECT *, preference_id AS id FROM preference_rows WHERE preference_id IN (SELECT unnest($ids)))
JOIN picked USING (id) ORDER BY method, bucket, id"""
# A record's own states, and how the row it was made from left the stage that made it.
_STATES = """
SELECT DISTINCT id, place, stage, state, reason
FROM (SELECT unnest($ids) AS id, unnest($rows) AS made_from, unnest($stages) AS maker)
JOIN (SELECT * FROM row_states WHERE row_id IN (SELECT unnest($ids) UNION SELECT unnest($rows)))
  ON row_id = id OR (row_id = made_from AND stage = maker)
JOIN stages USING (stage) ORDER BY id, place"""

Row = dict[str, Any]


def samples(connection: "DuckDBPyConnection") -> Markup:
    rows = _rows(connection, _PICKED.format(id="sample_id", table="samples", kind="prompts"), _SAMPLES)
    columns = {f"{name}s": [row[name] for row in rows] for name in ("id", "holder", "first")}
    held = {one: (text, chars) for one, text, chars in connection.execute(_EXCERPTS, columns).fetchall()}
    for row in rows:
        row["texts"] = [("Question", _cut(_question(row))), ("Answer", _cut(row["answer"]))]
        context, characters = held.get(row["id"], (row["context"], row["characters"]))
        if row["has_context"] and (row["holder"] is None or row["id"] in held):
            title = f"Document, from character {shown(row['first'])} of {shown(characters)}"
            row["texts"].insert(0, (title, marked(context, row["first"], row["spans"] or [])))
        more = f", {row['turns']} messages" if row["turns"] > 2 else ""
        row["about"] = (
            f"{shown(row['prompt_tokens'])} tokens of prompt, {shown(row['response_tokens'])} of answer{more}"
        )
    return _methods(connection, rows, "samples")


def preferences(connection: "DuckDBPyConnection") -> Markup:
    rows = _rows(connection, _PICKED.format(id="preference_id", table="preference_rows", kind="pair prompts"), _PAIRS)
    for row in rows:
        texts = {"End of the prompt": "asked", "Chosen": "chosen", "Rejected": "rejected"}
        row["texts"] = [(title, _cut(row[name])) for title, name in texts.items()]
        row["about"] = f"{shown(row['characters'])} characters of prompt"
    return _methods(connection, rows, "preferences")


def _rows(connection: "DuckDBPyConnection", pick: str, sql: str) -> list[Row]:
    """Long texts are read only of the rows that are shown, and cut where they are read."""
    connection.execute(pick)
    ids = [one for (one,) in connection.execute("SELECT id FROM picked").fetchall()]
    cursor = connection.execute(sql, {"ids": ids})
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _methods(connection: "DuckDBPyConnection", rows: list[Row], what: str) -> Markup:
    states: dict[str, list[str]] = {}
    columns = {"ids": "id", "rows": "row_id", "stages": "stage"}
    values = {parameter: [row[name] for row in rows] for parameter, name in columns.items()}
    for one, _, stage, state, reason in connection.execute(_STATES, values).fetchall():
        states.setdefault(one, []).append(f"{stage}: {state}{f' ({reason})' if reason else ''}")
    pieces: list[Markup] = []
    for method, of_method in groupby(rows, lambda row: row["method"]):
        found = list(of_method)
        title = f"{method}: {len(found)} of {shown(found[0]['total'])} {what}"
        pieces.append(fill("<details{}><summary>{}</summary>", "" if pieces else " open", title))
        for bucket, of_bucket in groupby(found, lambda row: row["bucket"]):
            pieces.append(fill("<h3>About {} tokens</h3>", size(bucket)))
            pieces += [_article(row, states.get(row["id"], [])) for row in of_bucket]
        pieces.append(Markup("</details>"))
    return join(pieces)


def _article(row: Row, states: list[str]) -> Markup:
    text = '<small>{}</small><div class="text" dir="auto">{}</div>'
    texts = join(fill(text, title, content) for title, content in row["texts"])
    chips = join(fill("<li>{}</li>", state) for state in states)
    return fill(
        "<article><h4>{}</h4><small>{} · from {} · by {}</small>{}"
        '<ul class="chips" aria-label="States">{}</ul></article>',
        row["id"],
        row["about"],
        shown(row["source"]),
        shown(row["model"]),
        texts,
        chips,
    )


def _question(row: Row) -> str:
    """What a sample asks: what its details name, else what stands after the document, else the prompt."""
    if row["question"]:
        return str(row["question"])
    tail = str(row["tail"] or "").rstrip()
    return tail.rpartition("\n\n")[2] if row["has_context"] else tail


def _cut(text: str | None) -> str:
    return (text or "") if len(text or "") <= _TEXT else f"{(text or '')[:_TEXT]} …"


def marked(text: str, first: int, spans: list[list[int]]) -> Markup:
    """An excerpt that begins at character `first`, with the parts of it that lie in [start, end) spans marked."""
    last = first + len(text)
    places = sorted({first, last, *(place for span in spans for place in span if first < place < last)})
    pieces = [Markup("… ")] if first else []
    for start, end in pairwise(places):
        inside = any(span[0] <= start and end <= span[1] for span in spans)
        pieces.append(fill("<mark>{}</mark>" if inside else "{}", text[start - first : end - first]))
    return join(pieces) + (" …" if len(text) == _CONTEXT else "")
