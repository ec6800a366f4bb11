"""The stages of curation: every document judged by itself, then what only the corpus as a whole decides.

`curate.rules`: rules and cleaners, a shard of documents a unit, in processes of their own or on Beam workers.
`curate.corpus`: duplicates among what is left, alarms, and the list of documents that go on: the table `curated`.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.beam import BeamExecutor
from pipelines.benchmark_texts import benchmark_facts, built_index
from pipelines.code_version import code_version
from pipelines.curate_shard import Job, judge_shard
from pipelines.curated import CORPUS, RULES
from pipelines.duplicates import Corpus, Search
from pipelines.manifest import UnitRecord
from pipelines.processes import Processes, cores
from pipelines.seen import SeenIds
from pipelines.shards import Part, Shard, TableWriter, open_part, shards, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.curation import Curate, DocumentRule, Embedded
from schemas.curation.contamination import MatchConfig
from schemas.ids import canonical_json, digest
from schemas.states import State
from schemas.tables import TABLES

_BEAM_UNITS = 100_000  # as good as all: a runner gets them as one pipeline


def _processes(config: Curate) -> int:
    assert isinstance(config.executor, Embedded)
    return config.executor.processes or cores()


def make_executor(config: Curate, context: Context) -> Processes | BeamExecutor:
    if isinstance(config.executor, Embedded):
        return Processes(_processes(config))
    return BeamExecutor(config.executor.options, context.workspace.root / ".beam")


class RulesStage(Stage):
    """Rules and cleaners that judge documents one by one."""

    name = RULES

    def __init__(self, config: Curate) -> None:
        self.config = config
        self._executor: Processes | BeamExecutor | None = None
        self._rules: str | None = None  # as workers get them
        self.concurrency = _processes(config) if isinstance(config.executor, Embedded) else _BEAM_UNITS

    def settings(self, context: Context) -> dict[str, Any]:
        search = self.config.duplicates
        matches = [rule for rule in self.config.document_rules if isinstance(rule, MatchConfig)]
        return {
            "rules": [rule.model_dump(mode="json") for rule in self.config.document_rules],
            "benchmarks": [benchmark_facts(rule, context.base_dir) for rule in matches],
            "signatures": None if search is None else [search.threshold, search.shingle, search.scope, search.sources],
            "tokenizer": context.recipe.tokenizer,
            "code": code_version(
                "filters/curation/*.py", "filters/language.py", "schemas/curation/*.py", "pipelines/curate_shard.py"
            ),
        }

    def units(self, context: Context) -> list[Unit]:
        settings = self.settings(context)
        units = []
        for part in context.upstream("ingest").parts("documents"):
            path = context.workspace.root / part.file
            for shard in shards(path, part, self.config.shard_bytes):
                facts = [settings, digest_of(path), list(shard.groups)]
                units.append(Unit(shard.name, digest(facts), shard.rows, shard))
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        if self._rules is None:
            self._rules = canonical_json([self._with_index(rule, context) for rule in self.config.document_rules])
        reference = context.recipe.tokenizer
        tokenizer = None if reference is None else (reference, context.base_dir)
        search = self.config.duplicates
        duplicates = None if search is None else search.model_dump_json()
        job = Job(context.workspace.root, self.name, self._rules, duplicates, tokenizer)
        if self._executor is None:
            self._executor = make_executor(self.config, context)
        done = await self._executor.call(judge_shard, job, unit.work)
        context.progress.advance(unit.work.rows)
        parts, states = [Part(**part) for part in done["parts"]], done["states"]
        return UnitRecord(unit.fingerprint, parts, unit.work.rows, states, retry=State.FAILED.value in states)

    def _with_index(self, rule: DocumentRule, context: Context) -> dict[str, Any]:
        section = rule.model_dump(mode="json")
        if isinstance(rule, MatchConfig):
            section["index"] = str(built_index(rule, context.base_dir, context.workspace.root / "indexes"))
        return section

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def digest_of(path: Path) -> str:
    """Of all but the texts, whose hashes are the ids."""
    return digest(open_part(path).read(["document_id", "source", "language", "metadata"]).to_pylist())


ALARM_SHARE = 0.5  # of a source that one rule takes
ALARM_DOCUMENTS = 100  # smaller sources give no alarm: the share says little


class CorpusStage(Stage):
    """What the corpus as a whole decides. One unit: whether a document goes may depend on any other."""

    name = CORPUS

    def __init__(self, config: Curate) -> None:
        self.config = config

    def settings(self, context: Context) -> dict[str, Any]:
        search = self.config.duplicates
        return {
            "duplicates": None if search is None else search.model_dump(mode="json"),
            "code": code_version("pipelines/curate.py", "pipelines/duplicates.py", "filters/curation/*.py"),
        }

    def units(self, context: Context) -> list[Unit]:
        before = {key: asdict(unit) for key, unit in context.upstream(RULES).units.items()}
        return [Unit("all", digest([self.settings(context), before]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        found, alarms = await self._duplicates(context)
        parts: list[Part] = []
        if found is not None:
            parts += _write_duplicates(root, name, found)
        states: Counter[str] = Counter()
        taken: Counter[tuple[str, str]] = Counter()
        documents: Counter[str] = Counter()
        with TableWriter(root, "curated", name) as curated, TableWriter(root, "row_states", name) as lines:
            seen = SeenIds()
            gone = _gone(found)
            for row in self._judged(context):
                documents[row.source] += 1
                if row.rule:
                    taken[row.source, row.rule] += 1
                    continue
                reason, detail = gone.get(row.original_id, ("", ""))
                if not reason and not seen.add(row.document_id):
                    reason = "same_after_cleaning"
                state = State.FILTERED if reason else State.OK
                if state is State.OK:
                    curated.write(
                        {"document_id": row.document_id, "original_id": row.original_id, "source": row.source}
                    )
                line = {"row_id": row.original_id, "stage": self.name, "state": state.value, "reason": reason}
                lines.write({**line, "detail": detail})
                states[state.value] += 1
        alarms += _alarms(taken, documents)
        for alarm in alarms:
            context.progress.note(f"{self.name}: {alarm['text']}")
        parts += [*curated.parts, *lines.parts, *write_rows(root, "curation_alarms", name, alarms)]
        context.progress.advance(states.total())
        return UnitRecord(unit.fingerprint, parts, states.total(), dict(sorted(states.items())))

    async def _duplicates(self, context: Context) -> tuple[pa.Table | None, list[dict[str, Any]]]:
        """clusters.resolve's table, and alarms."""
        config = self.config.duplicates
        if config is None:
            return None, []
        root, corpus = context.workspace.root, Corpus()
        for row in self._judged(context):
            if not row.rule and (config.sources is None or row.source in config.sources):
                if not corpus.texts or corpus.texts[-1] != row.file:
                    corpus.texts.append(row.file)
                corpus.ids.append(row.original_id)
                corpus.sources.append(row.source)
                corpus.places.append((len(corpus.texts) - 1, row.group, row.place))
        first = 0
        for part in context.upstream(RULES).parts("signatures"):
            corpus.signatures.append((str(root / part.file), first))
            first += part.rows
        if not corpus.ids:
            return None, []
        executor = make_executor(self.config, context)
        try:
            table, alarms = await Search(root, root / ".curate", executor, corpus, config).run()
        finally:
            executor.close()
        return table, [
            {"source": one.source, "rule": "duplicates", "documents": one.documents, "share": one.share,
             "of": corpus.sources.count(one.source), "text": str(one)} for one in alarms
        ]  # fmt: skip

    def _judged(self, context: Context) -> Iterator["_Judged"]:
        """All documents as the stage before has left them, in the order of ingest."""
        root, records = context.workspace.root, context.upstream(RULES).units
        for unit in RulesStage(self.config).units(context):
            shard: Shard = unit.work
            cleaned = dict(_cleaned(root, records[unit.key].parts))
            states = iter(_read(root, records[unit.key].parts, "row_states", ["row_id", "state", "reason"]))
            file = open_part(root / shard.file)
            for group in shard.groups:
                for place, document in enumerate(file.read_row_group(group, ["document_id", "source"]).to_pylist()):
                    original, line = document["document_id"], next(states)
                    assert original == line["row_id"]
                    rule = "" if line["state"] == State.OK.value else line["reason"]
                    final = cleaned.get(original, original)
                    yield _Judged(final, original, document["source"], rule, shard.file, group, place)


@dataclass(frozen=True, slots=True)
class _Judged:
    """`rule`: what took it, empty where it stays. Its text is row `place` of a row group of `file`."""

    document_id: str
    original_id: str
    source: str
    rule: str
    file: str
    group: int
    place: int


def _gone(found: pa.Table | None) -> dict[str, tuple[str, str]]:
    """Of the documents that are too much like another: reason, and which that is."""
    if found is None:
        return {}
    rows = found.filter(pc.invert(found["keep"])).to_pylist()
    return {row["id"]: (row["reason"], f"like {row['kept_copy_id']}") for row in rows}


def _write_duplicates(root: Path, name: str, found: pa.Table) -> list[Part]:
    """A judgement of every document, and a line in `duplicates` for those with any likeness."""
    rules = pa.repeat(pa.scalar("duplicates.known_share"), len(found))
    columns = [found["id"], rules, found["known_share"], found["keep"], found["reason"]]
    related = found.filter(pc.or_(pc.greater(found["cluster_size"], 1), pc.greater(found["known_share"], 0)))
    with TableWriter(root, "document_judgements", name) as judgements, TableWriter(root, "duplicates", name) as pairs:
        judgements.write_table(pa.table(columns, schema=TABLES["document_judgements"]))
        renamed = related.rename_columns(["document_id", *related.column_names[1:]])
        pairs.write_table(renamed.select(TABLES["duplicates"].names).cast(TABLES["duplicates"]))
    return [*judgements.parts, *pairs.parts]


def _read(root: Path, parts: list[Part], table: str, columns: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.table == table:
            found += open_part(root / part.file).read(columns).to_pylist()
    return found


def _cleaned(root: Path, parts: list[Part]) -> Iterator[tuple[str, str]]:
    """Which document each cleaned one was made from, and its own id."""
    for row in _read(root, parts, "documents", ["document_id", "metadata"]):
        yield json.loads(row["metadata"])["cleaned_from"], row["document_id"]


def _alarms(taken: Counter[tuple[str, str]], documents: Counter[str]) -> Iterator[dict[str, Any]]:
    """A rule that takes most of a source is more often a wrong rule than a bad source."""
    for (source, rule), count in sorted(taken.items()):
        share = count / documents[source]
        if documents[source] >= ALARM_DOCUMENTS and share > ALARM_SHARE:
            text = f"{rule} takes {count} of {documents[source]} documents of source {source!r}: look at ten of them"
            yield {
                "source": source, "rule": rule, "documents": count, "of": documents[source], "share": share,
                "text": text,
            }  # fmt: skip
