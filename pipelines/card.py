"""The dataset card: README.md with YAML front matter, made from what really happened."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipelines.catalog import connect
from pipelines.export_configs import schema_of
from pipelines.loading import loading
from pipelines.runs import versions
from pipelines.stages import Context
from pipelines.styles import LeftOut
from pipelines.writers import suffix
from schemas.curation.contamination import MatchConfig
from schemas.export import Export
from schemas.ids import digest
from schemas.recipe import Recipe

_MARK = "longloom"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))

_SAMPLES = """
SELECT method, source, language, count(*) AS samples,
       sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(response_tokens)::BIGINT AS response_tokens
FROM samples WHERE {where} GROUP BY ALL ORDER BY ALL"""
_LENGTHS = """
SELECT method, min(response_tokens), quantile_disc(response_tokens, 0.25), median(response_tokens)::BIGINT,
       quantile_disc(response_tokens, 0.75), max(response_tokens),
       min(prompt_tokens), median(prompt_tokens)::BIGINT, max(prompt_tokens)
FROM samples WHERE {where} GROUP BY ALL ORDER BY ALL"""
_PREFERENCES = """
SELECT method, source, language, count(*) AS preferences, count(DISTINCT (stage, row_id)) AS conversations,
       count(ref_chosen_logps) AS with_reference_logps
FROM preferences WHERE {where_pairs} GROUP BY ALL ORDER BY ALL"""
_PAIR_LENGTHS = """
SELECT method, side, min(characters), quantile_disc(characters, 0.25), median(characters)::BIGINT,
       quantile_disc(characters, 0.75), max(characters)
FROM (SELECT method, unnest(['prompt', 'short prompt', 'chosen', 'rejected']) AS side,
             unnest([{prompt}, {short_prompt}, {chosen}, {rejected}]) AS characters
      FROM preferences WHERE {where_pairs})
WHERE characters IS NOT NULL
GROUP BY ALL ORDER BY ALL"""
_CHARACTERS = "list_sum(list_transform({}, lambda message: length(message.content)))::BIGINT"
_TENTHS = ", ".join(f'count(*) FILTER (WHERE tenth = {n}) AS "{10 * n}-{10 * n + 10}%"' for n in range(10))
# Where in the text stands what the answers of verifiable tasks need.
_DEPTHS = f"""
SELECT tokens, count(DISTINCT sample_id) AS samples, {_TENTHS}
FROM (SELECT sample_id, tokens, least(floor(depth * 10), 9) AS tenth
      FROM (SELECT sample_id, (details->>'$.length_bucket')::INTEGER AS tokens,
                   unnest((details->'$.depths')::DOUBLE[]) AS depth
            FROM samples WHERE method = 'verifiable' AND {{where}}))
GROUP BY tokens ORDER BY tokens"""
_DOCUMENTS = """
SELECT source, language, json_extract_string(metadata, '$.licence') AS licence, count(*) AS documents,
       sum(chars)::BIGINT AS chars, sum(tokens)::BIGINT AS tokens
FROM documents {where} GROUP BY ALL ORDER BY ALL"""
_CURATED = "WHERE document_id IN (SELECT document_id FROM curated)"
_INSTRUCTIONS = """
SELECT source, language, json_extract_string(metadata, '$.licence') AS licence, count(*) AS instructions
FROM instructions GROUP BY ALL ORDER BY ALL"""
_STATES = "SELECT stage, state, reason, count(*) AS rows FROM row_states WHERE {made} GROUP BY ALL ORDER BY ALL"
_REQUESTS = """
SELECT model, method, step, count(DISTINCT request_id) AS calls, sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(cached_tokens)::BIGINT AS cached_tokens, sum(completion_tokens)::BIGINT AS completion_tokens
FROM (SELECT DISTINCT ON (request_id) * FROM requests WHERE {made}) GROUP BY ALL ORDER BY ALL"""

_PACKING = """
SELECT strategy, row_length, rows, tokens_out AS tokens, tokens_dropped, samples_in AS samples, samples_dropped,
       samples_cut, round(efficiency, 4) AS efficiency FROM packings WHERE {made} ORDER BY ALL"""
_MIXTURE = """
SELECT source, round(planned_share, 4) AS planned_share, round(real_share, 4) AS real_share, rows, tokens,
       round(epochs, 3) AS epochs FROM mixtures WHERE {made} ORDER BY ALL"""
_TOKENS = """
SELECT stage, kind, source, method, count(*) AS rows, sum(length)::BIGINT AS tokens,
       sum(loss_tokens)::BIGINT AS loss_tokens FROM tokens WHERE {made} GROUP BY ALL ORDER BY ALL"""


def is_export(folder: Path) -> bool:
    """Was this folder written by an export? Told by the card's front matter."""
    try:
        lines = (folder / "README.md").read_text("utf-8").split("\n")
        front = yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))
        return lines[0] == "---" and _MARK in front["tags"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False


def write_card(
    folder: Path, export: Export, stages: list[str], counts: dict[str, int], left_out: list[LeftOut], context: Context
) -> None:
    """Write README.md. `stages`: what the export was made from (the workspace may hold others, of an earlier recipe).
    `counts`: rows of each exported config."""
    made = f"stage IN {_in(stages)}"
    where = made if export.methods is None else f"{made} AND method IN {_in(export.methods)}"
    wheres = {"where": where, "where_pairs": where}
    if export.select is not None:
        picked = f"SELECT row_id FROM selected WHERE stage = 'select.{export.select}'"
        kind = "where" if "sft" in export.configs else "where_pairs"
        wheres[kind] += f" AND {'sample_id' if kind == 'where' else 'preference_id'} IN ({picked})"
    inexpressible = [one.row_id for one in left_out if one.reason == f"not_{export.style}"]
    if inexpressible:
        wheres["where"] += " AND sample_id NOT IN (SELECT row_id FROM inexpressible)"
    reasons = sorted(Counter(one.reason for one in left_out).items())
    characters = {side: _CHARACTERS.format(side) for side in ("prompt", "short_prompt", "chosen", "rejected")}
    with connect(context.workspace) as connection:
        connection.register("inexpressible", pa.table({"row_id": pa.array(inexpressible, pa.string())}))

        def table(sql: str, header: list[str] | None = None) -> str:
            cursor = connection.execute(sql.format(made=made, **wheres, **characters))
            names = header or [column[0] for column in cursor.description or []]
            return _table(names, cursor.fetchall())

        documents = _DOCUMENTS.replace("{where}", "" if context.recipe.curate is None else _CURATED)
        sources = [*connection.execute(documents).fetchall(), *connection.execute(_INSTRUCTIONS).fetchall()]
        lengths = ["method", "answer min", "25%", "median", "75%", "max", "prompt min", "median", "max"]
        pair_lengths = ["method", "text", "min", "25%", "median", "75%", "max"]
        sections = {
            "Rows": _table(["config", "rows"], sorted(counts.items())),
            **({"Rows left out": _table(["reason", "rows"], reasons)} if reasons else {}),
            "Loading": loading(export),
            **({"Selection": _selection(connection, export.select)} if export.select is not None else {}),
            "Samples": table(_SAMPLES),
            "Lengths in tokens": table(_LENGTHS, lengths),
            "Preferences": table(_PREFERENCES),
            "Lengths of preferences in characters": table(_PAIR_LENGTHS, pair_lengths),
            **_found({"Verifiable tasks: evidence by depth and length in tokens": table(_DEPTHS)}),
            **_found({"Mixture": table(_MIXTURE), "Tokens": table(_TOKENS), "Packing": table(_PACKING)}),
            "Documents: sources and licences": table(documents),
            "Instructions: sources and licences": table(_INSTRUCTIONS),
            "What became of every row": table(_STATES),
            "Model calls": table(_REQUESTS),
        }
    text = _front_matter(folder, export, counts, sources, context) + _body(sections, context)
    (folder / "README.md").write_text(text, "utf-8")


def _found(sections: dict[str, str]) -> dict[str, str]:
    """Those that have rows."""
    return {title: text for title, text in sections.items() if text != "none"}


def _selection(connection: Any, name: str) -> str:
    """How many of how many; the rule itself stands in the recipe below."""
    counts = "SELECT count(*) FILTER (WHERE state = 'ok'), count(*) FROM row_states WHERE stage = ?"
    chosen, of = connection.execute(counts, [f"select.{name}"]).fetchone()
    return f"Rows of the selection `{name}`: {chosen} of {of}."


def _in(names: Iterable[str]) -> str:
    return f"({', '.join(repr(name) for name in names)})"  # names of recipes hold no quotes


def _content_hash(folder: Path) -> str:
    digests = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest(digests)[:16]


def _front_matter(folder: Path, export: Export, counts: dict[str, int], sources: list[Any], context: Context) -> str:
    # One licence is named only where every source states that one; a source without a licence counts too.
    licences = list({row[2] for row in sources})
    languages = sorted({row[1] for row in sources if _is_code(row[1]) and row[1] != "und"})
    total = max(counts.values(), default=0)
    matter = {
        "pretty_name": f"{context.recipe.name}/{export.name}",
        "language": languages,
        "license": str(licences[0]).lower() if len(licences) == 1 and _is_code(licences[0]) else "other",
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>10M")],
        "task_categories": ["text-generation"],
        "tags": [_MARK, "synthetic", "long-context"],
    }
    matter |= _hub_configs(folder, export) if suffix(export) else {}
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---\n"


def _hub_configs(folder: Path, export: Export) -> dict[str, Any]:
    """Where `datasets` finds each config."""
    configs = [
        {
            "config_name": name,
            # `datasets` finds what it has cached by the folder's name and by this list, not by what the files
            # hold: without the hash a second export to a folder of the same name would load as the first one.
            "description": f"content {_content_hash(folder / name)}",
            "data_files": [{"split": "train", "path": f"{name}/train-*.{suffix(export)}"}],
        }
        for name in export.configs
    ]
    if export.format == "parquet":  # which has its schema inside
        return {"configs": configs}
    # JSON has no types: what is empty in the first rows would make `datasets` fail at the first one that is not.
    from datasets import DatasetInfo, Features
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    features = {name: Features.from_arrow_schema(schema_of(name, export)) for name in export.configs}
    card = DatasetCardData()
    infos = {name: DatasetInfo(config_name=name, features=found) for name, found in features.items()}
    DatasetInfosDict(infos).to_dataset_card_data(card)
    return {"configs": configs, "dataset_info": card["dataset_info"]}


def _is_code(value: str | None) -> bool:
    """Is it a code like `en` or `CC-BY-4.0`? Rows may bring any text as their language or licence."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{1,39}", value or "") is not None


def _body(sections: dict[str, str], context: Context) -> str:
    recipe = context.recipe
    facts = [
        ("recipe", recipe.name), ("recipe hash", context.recipe_hash), ("seed", recipe.seed),
        ("decontamination", _decontamination(recipe)), *((name, version) for name, version in versions().items()),
    ]  # fmt: skip
    parts = [f"# {_escape(recipe.name)}\n\n{_escape(recipe.description)}\n"]
    parts += [f"## {title}\n\n{text}\n" for title, text in sections.items()]
    parts.append(f"## Provenance\n\n{_table(['what', 'value'], facts)}\n")
    recipe_json = json.dumps(recipe.model_dump(mode="json"), indent=1, ensure_ascii=False).replace("<", "\\u003c")
    # Indented code: no run of back-ticks in a source name can close it.
    parts.append("## Recipe with all defaults\n\n" + "\n".join(f"    {line}" for line in recipe_json.split("\n")))
    return "\n".join(parts) + "\n"


def _decontamination(recipe: Recipe) -> str:
    """Against which benchmarks, by which n-grams; what was found is in the table of states."""
    rules = [] if recipe.curate is None else recipe.curate.document_rules
    named = [
        f"{rule.rule} of {', '.join(one.name for one in rule.benchmarks)} ({rule.ngram}-grams)"
        for rule in rules
        if isinstance(rule, MatchConfig)
    ]
    return "; ".join(named) or "none"


def _table(names: list[str], rows: list[Any]) -> str:
    if not rows:
        return "none"
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(_escape(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _escape(value: Any) -> str:
    """Text from outside as plain text in Markdown: no markup, no table or HTML break-out."""
    if value is None:
        return ""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#!~":
        text = text.replace(character, f"\\{character}")
    return text
