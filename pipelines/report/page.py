"""Writing the page: what sections read, which there are, and the frame around them."""

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from pipelines.catalog import connect
from pipelines.files import atomic_path
from pipelines.journal import last_lines
from pipelines.manifest import load_manifest
from pipelines.report import calls, curation, lengths, samples, scores, stages, training
from pipelines.report.html import visible
from pipelines.workspace import Workspace
from schemas.errors import UserError

if TYPE_CHECKING:
    import duckdb

Section = Callable[["duckdb.DuckDBPyConnection"], Markup | None]

# Title, the table or view without whose rows there is nothing to say, and what says it.
SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("At a glance", "runs", stages.glance),
    ("What ran", "runs", stages.what_ran),
    ("Stages and losses", "row_states", stages.losses),
    ("Lengths", "sizes", lengths.lengths),
    ("Curation", "curated", curation.curation),
    ("Model calls", "calls", calls.calls),
    ("Scores", "score_values", scores.scores),
    ("Evidence", "samples", lengths.evidence),
    ("Mixtures", "mixtures", training.mixtures),
    ("Packing", "packings", training.packings),
    ("Samples", "samples", samples.samples),
    ("Preferences", "preferences", samples.preferences),
)

_ORDER = ("ingest", "curate.rules", "curate", "generate", "train", "score", "select", "tokenise", "mix", "pack")

_LAST_FAILED = "SELECT run_id FROM runs WHERE status = 'failed' ORDER BY started DESC LIMIT 1"

# What several sections read. Long tables name rows by a hash of 8 bytes, to keep a million of them small.
_PREPARED = """
CREATE TEMP TABLE calls AS
SELECT DISTINCT ON (method, step, request_id) stage, method, step, request_id, model, engine, prompt_tokens,
       cached_tokens, completion_tokens, seconds
FROM requests;

CREATE TEMP TABLE sizes AS
SELECT row, kind, any_value(tokens) AS tokens, (2 ** round(log2(greatest(any_value(tokens), 1))))::BIGINT AS bucket
FROM (
  SELECT hash(document_id) AS row, 'documents' AS kind, coalesce(tokens, chars // 4) AS tokens FROM documents
  UNION ALL SELECT hash(instruction_id), 'instructions', length(text) // 4 FROM instructions
  UNION ALL SELECT hash(sample_id), unnest(['prompts', 'answers']), unnest([prompt_tokens, response_tokens])
    FROM samples
  UNION ALL SELECT hash(preference_id), unnest(['pair prompts', 'chosen', 'rejected']),
    unnest([list_sum(list_transform(prompt, lambda m: length(m.content)))::BIGINT // 4,
            length(chosen[-1].content) // 4, length(rejected[-1].content) // 4]) FROM preference_rows)
GROUP BY row, kind;
"""


def write_report(workspace: Workspace, to: Path | None = None) -> Path:
    """Write the page to `to` (default: report.html in the workspace). UserError without a workspace."""
    path = to.absolute() if to is not None else workspace.root / "report.html"
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    with connect(workspace) as connection:
        prepare(connection, workspace)
        html = _page(connection)
    with atomic_path(path) as temporary:
        temporary.write_text(html, "utf-8")
    return path


def prepare(connection: "duckdb.DuckDBPyConnection", workspace: Workspace) -> None:
    """The temporary tables `stages` (what manifests know), `errors` (what the journal of the last failed run says),
    `calls`, `sizes` and `score_values`."""
    connection.execute("CREATE TEMP TABLE errors (run_id VARCHAR, stage VARCHAR, text VARCHAR)")
    for (run_id,) in connection.execute(_LAST_FAILED).fetchall():
        journal = workspace.logs / f"{run_id}.jsonl"
        if journal.exists() and (line := last_lines(journal).get("error")) is not None:
            connection.execute("INSERT INTO errors VALUES (?, ?, ?)", [run_id, line["stage"], line["text"]])
    connection.execute(
        "CREATE TEMP TABLE stages (place INTEGER, stage VARCHAR, units INTEGER, done BOOLEAN, seed BIGINT, "
        "row_limit BIGINT)"
    )
    manifests = [manifest for path in workspace.manifests.glob("*.json") if (manifest := load_manifest(path))]
    manifests.sort(key=lambda one: (_place(one.stage), one.stage))
    for place, one in enumerate(manifests):
        row = [place, one.stage, len(one.units), one.done, one.settings.get("seed"), one.limit]
        connection.execute("INSERT INTO stages VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute(_PREPARED)
    scores.prepare(connection)


def _place(stage: str) -> int:
    known = (place for place, start in enumerate(_ORDER) if stage == start or stage.startswith(f"{start}."))
    return next(known, len(_ORDER) + stage.startswith("export."))


def _page(connection: "duckdb.DuckDBPyConnection") -> str:
    sections = [
        (title.lower().replace(" ", "-"), title, html)
        for title, needed, section in SECTIONS
        if _has_rows(connection, needed) and (html := section(connection))
    ]
    last = connection.execute("SELECT recipe, recipe_hash FROM runs ORDER BY started DESC LIMIT 1").fetchone()
    recipe, recipe_hash = last or ("an empty workspace", "")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
    )
    environment.filters["csp_hash"] = _csp_hash
    return environment.get_template("page.html.j2").render(
        recipe=recipe, recipe_hash=recipe_hash, sections=sections, now=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    )


def _has_rows(connection: "duckdb.DuckDBPyConnection", table: str) -> bool:
    known = connection.execute("SELECT count(*) FROM duckdb_columns() WHERE table_name = ?", [table]).fetchone()
    return bool(known and known[0]) and connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None


def _csp_hash(text: str) -> str:
    """How a content security policy names an inline style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
