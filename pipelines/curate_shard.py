"""Judging a shard of documents: every rule of the recipe on every document, then the cleaners on what stays.

Runs in any process, of this machine or of a Beam worker; all it needs are the workspace's files.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from filters.curation.batch import Batch
from filters.curation.contamination import Pair
from filters.curation.registry import load_rule
from filters.curation.text import Judgement, Text
from generators.models import load_tokenizer
from pipelines.duplicates import signatures
from pipelines.shards import Shard, TableWriter, open_part
from schemas.curation import parse_rule
from schemas.curation.duplicates import Duplicates
from schemas.ids import canonical_json, content_id
from schemas.states import State
from schemas.tables import TABLES

MAX_CHARS = 50_000_000  # of one document: rules take up to 30 bytes for each
_BATCH_CHARS, _BATCH_ROWS = 300_000, 2_000  # documents that are judged together: quick, and still in the cache
_BATCH_LINES = 50_000
_LONG_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs beside the shard; picklable. `rules`, `duplicates`: as JSON. `tokenizer`: counts
    cleaned documents, with the folder that its reference is relative to."""

    root: Path
    stage: str
    rules: str
    duplicates: str | None
    tokenizer: tuple[str, Path] | None


@dataclass(slots=True)
class Judged:
    """What became of one document. `text`: what the cleaners made of it, if anything."""

    judgements: list[Judgement] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    state: State = State.OK
    reason: str = ""
    detail: str = ""
    text: str | None = None


def judge_shard(job: Job, shard: Shard) -> dict[str, Any]:
    """Writes the shard's parts of document_judgements, documents (cleaned ones), signatures and row_states. Returns
    them as JSON (`parts`), and how many documents ended in which state (`states`)."""
    rules = _rules(job.rules)
    count = _counter(*job.tokenizer) if job.tokenizer is not None else None
    states: Counter[str] = Counter()
    name = f"{job.stage}-{shard.name}"
    with (
        TableWriter(job.root, "document_judgements", name) as judgements,
        TableWriter(job.root, "documents", name) as cleaned,
        TableWriter(job.root, "signatures", name) as signed,
        TableWriter(job.root, "contamination", name) as contamination,
        TableWriter(job.root, "row_states", name) as lines,
    ):
        columns = _Columns()
        search = None if job.duplicates is None else parse_rule(json.loads(job.duplicates))
        signs = [TABLES["signatures"].empty_table()]
        for rows in _batches(_documents(job.root, shard)):
            judgeds = judge_all(rows, rules)
            for row, judged in zip(rows, judgeds, strict=True):
                columns.add(row["document_id"], judged.judgements)
                contamination.write_all({"document_id": row["document_id"], **asdict(pair)} for pair in judged.pairs)
                if judged.text is not None:
                    cleaned.write(_cleaned(row, judged.text, count))
                lines.write(
                    {"row_id": row["document_id"], "stage": job.stage, "state": judged.state.value,
                     "reason": judged.reason, "detail": judged.detail[:_LONG_DETAIL]}
                )  # fmt: skip
                states[judged.state.value] += 1
            if search is not None:
                signs.append(signatures(_compared(rows, judgeds, search), search))
            if len(columns) >= _BATCH_LINES:
                judgements.write_table(columns.take())
        judgements.write_table(columns.take())
        signed.write_table(pa.concat_tables(signs))
    parts = [
        asdict(part) for part in (*judgements.parts, *cleaned.parts, *signed.parts, *contamination.parts, *lines.parts)
    ]
    return {"parts": parts, "states": dict(sorted(states.items()))}


def _compared(rows: list[dict[str, Any]], judged: list[Judged], search: Duplicates) -> list[tuple[str, Text]]:
    return [
        (row["document_id"], Text(row["text"], row["source"]))
        for row, one in zip(rows, judged, strict=True)
        if one.state is State.OK and (search.sources is None or row["source"] in search.sources)
    ]


def judge_all(rows: list[dict[str, Any]], rules: list["Loaded"]) -> list[Judged]:
    """Documents, judged by all rules, whatever the first of them says: judgements are there to be asked later. The
    first that says no is the reason. Columns read: text, source, language, metadata."""
    results = [Judged() for _ in rows]
    documents = {}
    for number, (row, result) in enumerate(zip(rows, results, strict=True)):
        if len(row["text"]) > MAX_CHARS:
            result.state, result.reason = State.OVER_BUDGET, "document_too_long"
            result.detail = f"{len(row['text'])} characters, at most {MAX_CHARS} are judged"
        else:
            documents[number] = Text(row["text"], row["source"], row["language"], row["metadata"])
    try:
        for number, found in _judgements(documents, rules):
            _record(found, results[number])
        for one in rules:
            if one.finds_pairs:
                for number, document in documents.items():
                    if one.applies(document.source):
                        results[number].pairs += one.rule.pairs(document)
        for number, document in documents.items():
            if results[number].state is State.OK:
                _clean(document, rules, results[number])
    except Exception as error:  # a document that breaks a rule must not take the corpus along
        if len(rows) > 1:
            return [one for row in rows for one in judge_all([row], rules)]
        return [Judged(state=State.FAILED, reason="rule_broke", detail=f"{type(error).__name__}: {error}")]
    return results


def _judgements(documents: dict[int, Text], rules: list["Loaded"]) -> Iterator[tuple[int, list[Judgement]]]:
    """By rule, in the order of the recipe. Rules that can, read the documents together."""
    batches: dict[frozenset[str] | None, tuple[list[int], Batch]] = {}
    for one in rules:
        if one.cleans:
            continue
        if one.sources not in batches:
            numbers = [number for number, document in documents.items() if one.applies(document.source)]
            batches[one.sources] = numbers, Batch([documents[number] for number in numbers])
        numbers, batch = batches[one.sources]
        if hasattr(one.rule, "judge_all"):
            yield from zip(numbers, one.rule.judge_all(batch), strict=True)
        else:
            yield from ((number, one.rule.judge(documents[number])) for number in numbers)


def _clean(document: Text, rules: list["Loaded"], result: Judged) -> None:
    now = document
    for one in rules:
        if one.applies(document.source) and one.cleans and result.state is State.OK:
            text, found = one.rule.clean(now)
            _record(found, result)
            if text != now.text:
                now = Text(text, document.source, document.language, document.metadata)
    if result.state is State.OK and now.text != document.text:
        if now.text.strip():
            result.text = now.text
        else:
            result.state, result.reason = State.FILTERED, "nothing_left"


def _record(found: list[Judgement], result: Judged) -> None:
    result.judgements += found
    for one in found:
        if not one.keep and result.state is State.OK:
            result.state, result.reason, result.detail = State.FILTERED, one.rule, f"{one.reason}: {one.value:g}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rule with the sources it judges. `cleans`: it is a Cleaner. `finds_pairs`: of documents and benchmark items."""

    rule: Any
    sources: frozenset[str] | None
    cleans: bool
    finds_pairs: bool

    def applies(self, source: str) -> bool:
        return self.sources is None or source in self.sources


@lru_cache(2)
def _rules(rules: str) -> list[Loaded]:
    loaded = []
    for config in json.loads(rules):
        rule = load_rule(config)
        sources = config.get("sources")
        only = None if sources is None else frozenset(sources)
        loaded.append(Loaded(rule, only, hasattr(rule, "clean"), hasattr(rule, "pairs")))
    return loaded


@lru_cache(2)
def _counter(reference: str, base_dir: Path) -> Callable[[str], int]:
    return load_tokenizer(reference, base_dir).count


def _documents(root: Path, shard: Shard) -> Iterator[dict[str, Any]]:
    file = open_part(root / shard.file)
    for group in shard.groups:
        yield from file.read_row_group(group).to_pylist()


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row["text"])
        if held >= _BATCH_CHARS or len(batch) == _BATCH_ROWS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _cleaned(row: dict[str, Any], text: str, count: Callable[[str], int] | None) -> dict[str, Any]:
    """A changed text is a new document, and names the one it was."""
    metadata = {**json.loads(row["metadata"]), "cleaned_from": row["document_id"]}
    return {
        **row, "document_id": content_id("doc", text), "text": text, "chars": len(text),
        "tokens": None if count is None else count(text), "metadata": canonical_json(metadata),
    }  # fmt: skip


class _Columns:
    """Judgements on their way to a table: short texts give a hundred lines each, too many for dictionaries."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._judgements: list[Judgement] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, document_id: str, judgements: list[Judgement]) -> None:
        self._ids += [document_id] * len(judgements)
        self._judgements += judgements

    def take(self) -> pa.Table:
        found, ids = self._judgements, self._ids
        self._ids, self._judgements = [], []
        values = [one.value if math.isfinite(one.value) else None for one in found]
        return pa.table(
            [ids, [one.rule for one in found], values, [one.keep for one in found], [one.reason for one in found]],
            schema=TABLES["document_judgements"],
        )
