"""The section on curation: what stayed of each source, what each rule took, duplicates and benchmarks found."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipelines.report.charts import strip
from pipelines.report.html import fill, note, percent, side, table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SOURCES = """
SELECT source, count(*), count(kept), sum(tokens)::BIGINT, coalesce(sum(tokens) FILTER (kept IS NOT NULL), 0)::BIGINT
FROM (SELECT DISTINCT document_id, source, coalesce(tokens, chars // 4) AS tokens FROM documents
      WHERE json_extract_string(metadata, '$.cleaned_from') IS NULL)
LEFT JOIN (SELECT DISTINCT original_id AS kept FROM curated) ON kept = document_id
GROUP BY source ORDER BY 2 DESC, 1"""
_RULES = """
WITH alone AS (
  SELECT rule, count(*) AS judged, count(*) FILTER (NOT keep) AS taken FROM document_judgements GROUP BY rule),
firsts AS (SELECT reason AS rule, count(*) AS taken_first FROM row_states
           WHERE starts_with(stage, 'curate.') AND state <> 'ok' GROUP BY reason)
SELECT rule, judged, taken, coalesce(taken_first, 0) FROM alone FULL JOIN firsts USING (rule)
WHERE taken > 0 OR taken_first > 0 ORDER BY 4 DESC, 3 DESC, 1 LIMIT 40"""
_QUIET = "SELECT count(*) FROM (SELECT rule FROM document_judgements GROUP BY rule HAVING bool_and(keep))"
_CLUSTERS = """
WITH clusters AS (
  SELECT kept_copy_id, max(cluster_size) AS documents, count(*) FILTER (NOT keep) AS dropped
  FROM duplicates WHERE cluster_size > 1 GROUP BY kept_copy_id),
largest AS (SELECT *, count(*) OVER () AS all_clusters, sum(documents) OVER ()::BIGINT AS all_documents
            FROM clusters ORDER BY documents DESC, kept_copy_id LIMIT 8)
SELECT kept_copy_id, documents, dropped, any_value(left(text, 90)), any_value(all_clusters), any_value(all_documents)
FROM largest LEFT JOIN documents ON document_id = kept_copy_id GROUP BY ALL ORDER BY documents DESC, kept_copy_id"""
_BENCHMARKS = """
SELECT benchmark, count(DISTINCT document_id), count(DISTINCT document_id) FILTER (contaminated),
       count(DISTINCT item) FILTER (contaminated), max(longest_run)
FROM contamination GROUP BY benchmark ORDER BY 3 DESC, 1"""
_ITEMS = """
SELECT item, benchmark, count(DISTINCT document_id) AS documents, max(longest_run) AS longest, max(covered)
FROM contamination WHERE contaminated GROUP BY ALL ORDER BY documents DESC, longest DESC, item LIMIT 8"""
_ALARMS = "SELECT text, source, rule, documents, of FROM curation_alarms ORDER BY share DESC, text LIMIT 20"


def curation(connection: "DuckDBPyConnection") -> Markup:
    sources = [
        [source, rows, kept, strip([("ok", kept), ("filtered", rows - kept)]), tokens, percent(kept_tokens, tokens)]
        for source, rows, kept, tokens, kept_tokens in connection.execute(_SOURCES).fetchall()
    ]
    rules = connection.execute(_RULES).fetchall()
    ((quiet,),) = connection.execute(_QUIET).fetchall()
    items = [[*row, percent(covered, 1)] for *row, covered in connection.execute(_ITEMS).fetchall()]
    alarms = [[*row, percent(row[3], row[4])] for row in connection.execute(_ALARMS).fetchall()]
    benchmarks = ["benchmark", "documents that share words", "contaminated", "items found", "longest run of words"]
    return fill(
        "{}{}{}{}{}",
        side(
            table("What stayed", ["source", "documents", "kept", "", "tokens", "tokens kept"], sources),
            table("What rules took", ["rule or reason", "judged", "would take alone", "took first"], rules),
        ),
        note(f"Rules that took nothing: {quiet:,}.") if quiet else "",
        _clusters(connection),
        side(
            table("Benchmarks in documents", benchmarks, connection.execute(_BENCHMARKS).fetchall()),
            table("Items found most", ["item", "benchmark", "documents", "longest run", "of the item"], items),
        ),
        table("Alarms", ["alarm", "source", "rule", "documents", "of", "share"], alarms),
    )


def _clusters(connection: "DuckDBPyConnection") -> Markup:
    found = connection.execute(_CLUSTERS).fetchall()
    if not found:
        return Markup("")
    rows = [[one, documents, dropped, " ".join((text or "").split())] for one, documents, dropped, text, *_ in found]
    *_, clusters, documents = found[0]
    names = ["copy that stays", "documents", "dropped", "begins with"]
    return note(f"Clusters of documents that are alike: {clusters:,}, with {documents:,} documents.") + table(
        "Largest clusters", names, rows
    )
