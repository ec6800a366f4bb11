"""Sections on lengths, and on where in a text the evidence stands."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.html import fill, join, note, table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_KINDS = {
    "documents": ("Documents", "as ingested, and as cleaned"),
    "kept": ("Documents kept", "by curation"),
    "instructions": ("Instructions", ""),
    "prompts": ("Prompts of samples", "all messages but the answers"),
    "answers": ("Answers of samples", ""),
    "pair prompts": ("Prompts of preferences", ""),
    "chosen": ("Chosen answers", "of preferences"),
    "rejected": ("Rejected answers", "of preferences"),
}
_BUCKETS = """
SELECT kind, bucket, count(*) FROM sizes GROUP BY ALL
UNION ALL SELECT 'kept', bucket, count(*) FROM sizes
WHERE kind = 'documents' AND row IN (SELECT hash(document_id) FROM curated) GROUP BY bucket"""
_METHODS = """
SELECT method, count(*), min(prompt_tokens), median(prompt_tokens)::BIGINT, max(prompt_tokens), min(response_tokens),
       median(response_tokens)::BIGINT, max(response_tokens)
FROM (SELECT DISTINCT sample_id, method, prompt_tokens, response_tokens FROM samples) GROUP BY method ORDER BY method"""

# Depths from 0 to 1: spans of documents; facts that verifiable tasks have planted; evidence in prompts, as measured.
_IN_DOCUMENTS = """
SELECT (span.start + span."end") / 2 / chars AS depth
FROM (SELECT unnest(evidence) AS span FROM (SELECT DISTINCT sample_id, evidence FROM samples))
JOIN (SELECT DISTINCT document_id, chars FROM documents) d ON d.document_id = span.document_id"""
_PLANTED = """
SELECT unnest(TRY_CAST(details->'$.depths' AS DOUBLE[])) AS depth
FROM (SELECT DISTINCT sample_id, details FROM samples)"""
_DEPTH, _EXTENT = (f"SELECT {column} AS depth FROM scores_evidence" for column in ("depth", "span_extent"))
_SCOPE = """
SELECT count(*), median(scope_tokens)::BIGINT, median(n_spans)::BIGINT, median(span_extent), median(bm25_rank)::BIGINT,
       count(*) FILTER (bm25_rank > 1), count(bm25_rank)
FROM scores_evidence"""
_EVEN, _ENOUGH = 16.92, 50  # chi-square of ten bins that chance exceeds in 5 of 100 cases; rows for five in each bin


def lengths(connection: "DuckDBPyConnection") -> Markup:
    counts: dict[str, dict[int, int]] = {}
    for kind, bucket, rows in connection.execute(_BUCKETS).fetchall():
        counts.setdefault(kind, {})[bucket] = rows
    names = ["method", "samples", "prompt min", "median", "max", "answer min", "median", "max"]
    return fill("{}{}{}",
        note("Tokens, to the nearest power of two. Instructions and preferences are not counted in tokens, nor are "
             "documents where the recipe names no tokenizer: there, four characters are one."),
        charts.grid(charts.lengths(title, counts.get(kind, {}), about) for kind, (title, about) in _KINDS.items()),
        table("Samples, in tokens", names, connection.execute(_METHODS).fetchall()),
    )  # fmt: skip


def evidence(connection: "DuckDBPyConnection") -> Markup | None:
    """Evenly spread evidence teaches a model to look everywhere, a heap at one depth teaches it a place."""
    depths = _tenths(connection, _DEPTH)
    pictures = charts.grid([
        _chart("Depth in the prompt", depths, "middle of a sample's evidence, % of its context"),
        _chart("Dispersion", _tenths(connection, _EXTENT), "from first to last evidence, % of the context"),
        _chart("Depth in the document", _tenths(connection, _IN_DOCUMENTS), "each span, % of its document"),
        _chart("Depth as planted", _tenths(connection, _PLANTED), "facts of verifiable tasks, % of the context"),
    ])  # fmt: skip
    if not pictures:
        return None
    ((rows, scope, spans, extent, rank, hard, ranked),) = connection.execute(_SCOPE).fetchall()
    lines = []
    if rows:
        lines.append(f"Medians of {rows:,} measured samples: {scope:,} words of evidence in {spans:,} places, which "
                     f"stretch over {extent:.1%} of the context.")  # fmt: skip
    if ranked:
        lines.append(f"For {hard:,} of {ranked:,} questions, a search by words (BM25) finds something else before the "
                     f"evidence; the median rank is {rank:,}.")  # fmt: skip
    if rows >= _ENOUGH:
        chi = sum((n - rows / 10) ** 2 / (rows / 10) for n in depths)
        lines.append(f"The depth in the prompt is {'un' if chi > _EVEN else ''}even: chi-square over ten bins is "
                     f"{chi:.1f}; chance alone exceeds {_EVEN} in 5 of 100 cases.")  # fmt: skip
    return pictures + join(map(note, lines))


def _tenths(connection: "DuckDBPyConnection", sql: str) -> list[int]:
    """How many of the depths fall in each tenth."""
    counts = (
        f"SELECT least(floor(depth * 10), 9)::INTEGER, count(*) FROM ({sql}) WHERE depth BETWEEN 0 AND 1 GROUP BY 1"
    )
    found = dict(connection.execute(counts).fetchall())
    return [found.get(tenth, 0) for tenth in range(10)]


def _chart(title: str, tenths: list[int], about: str) -> Markup:
    return charts.bars(title, [(f"{10 * n}–{10 * n + 10}", rows) for n, rows in enumerate(tenths)], about)
