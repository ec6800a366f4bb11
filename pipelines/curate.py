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

import pyarrow.parquet as pq

from pipelines.beam import BeamExecutor
from pipelines.code_version import code_version
from pipelines.curate_shard import Job, Shard, judge_shard
from pipelines.curated import CORPUS, RULES
from pipelines.manifest import UnitRecord
from pipelines.processes import Processes, cores
from pipelines.seen import SeenIds
from pipelines.shards import Part, TableWriter, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.curation import Curate, Embedded
from schemas.ids import canonical_json, digest
from schemas.states import State

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
        self.concurrency = _processes(config) if isinstance(config.executor, Embedded) else _BEAM_UNITS

    def settings(self, context: Context) -> dict[str, Any]:
        return {
            "rules": [rule.model_dump(mode="json") for rule in self.config.rules],
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
            for shard in _shards(path, part, self.config.shard_bytes):
                facts = [settings, digest_of(path), list(shard.groups)]
                units.append(Unit(shard.name, digest(facts), shard.rows, shard))
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        rules = canonical_json(self.settings(context)["rules"])
        reference = context.recipe.tokenizer
        tokenizer = None if reference is None else (reference, context.base_dir)
        job = Job(context.workspace.root, self.name, rules, tokenizer)
        if self._executor is None:
            self._executor = make_executor(self.config, context)
        done = await self._executor.call(judge_shard, job, unit.work)
        context.progress.advance(unit.work.rows)
        parts, states = [Part(**part) for part in done["parts"]], done["states"]
        return UnitRecord(unit.fingerprint, parts, unit.work.rows, states, retry=State.FAILED.value in states)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def _shards(path: Path, part: Part, shard_bytes: int) -> Iterator[Shard]:
    """Runs of row groups of about so many bytes of text."""
    stem = path.stem.removeprefix("part-")
    metadata = pq.read_metadata(path)
    groups: list[int] = []
    held = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        held += metadata.row_group(group).total_byte_size
        if held >= shard_bytes or group == metadata.num_row_groups - 1:
            rows = sum(metadata.row_group(one).num_rows for one in groups)
            yield Shard(f"{stem}-{groups[0]:05d}", part.file, tuple(groups), rows)
            groups, held = [], 0


def digest_of(path: Path) -> str:
    """Of all but the texts, whose hashes are the ids."""
    return digest(pq.ParquetFile(path).read(["document_id", "source", "language", "metadata"]).to_pylist())


ALARM_SHARE = 0.5  # of a source that one rule takes
ALARM_DOCUMENTS = 100  # smaller sources give no alarm: the share says little


class CorpusStage(Stage):
    """What the corpus as a whole decides. One unit: whether a document goes may depend on any other."""

    name = CORPUS

    def __init__(self, config: Curate) -> None:
        self.config = config

    def settings(self, context: Context) -> dict[str, Any]:
        return {"code": code_version("pipelines/curate.py", "filters/curation/*.py")}

    def units(self, context: Context) -> list[Unit]:
        before = {key: asdict(unit) for key, unit in context.upstream(RULES).units.items()}
        return [Unit("all", digest([self.settings(context), before]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        states: Counter[str] = Counter()
        taken: Counter[tuple[str, str]] = Counter()
        documents: Counter[str] = Counter()
        with (
            TableWriter(root, "curated", name) as curated,
            TableWriter(root, "row_states", name) as lines,
        ):
            seen = SeenIds()
            for row in self._judged(context):
                documents[row.source] += 1
                if row.rule:
                    taken[row.source, row.rule] += 1
                    continue
                reason = "" if seen.add(row.document_id) else "same_after_cleaning"
                state = State.FILTERED if reason else State.OK
                if state is State.OK:
                    curated.write(
                        {"document_id": row.document_id, "original_id": row.original_id, "source": row.source}
                    )
                line = {"row_id": row.original_id, "stage": self.name, "state": state.value, "reason": reason}
                lines.write({**line, "detail": ""})
                states[state.value] += 1
        alarms = list(_alarms(taken, documents))
        for alarm in alarms:
            context.progress.note(f"{self.name}: {alarm['text']}")
        parts = [*curated.parts, *lines.parts, *write_rows(root, "curation_alarms", name, alarms)]
        context.progress.advance(states.total())
        return UnitRecord(unit.fingerprint, parts, states.total(), dict(sorted(states.items())))

    def _judged(self, context: Context) -> Iterator["_Judged"]:
        """All documents as the stage before has left them, in the order of ingest."""
        root, records = context.workspace.root, context.upstream(RULES).units
        for unit in RulesStage(self.config).units(context):
            cleaned = dict(_cleaned(root, records[unit.key].parts))
            file = pq.ParquetFile(root / unit.work.file)
            documents = file.read_row_groups(unit.work.groups, ["document_id", "source"]).to_pylist()
            states = _read(root, records[unit.key].parts, "row_states", ["row_id", "state", "reason"])
            for document, line in zip(documents, states, strict=True):
                original = document["document_id"]
                assert original == line["row_id"]
                rule = "" if line["state"] == State.OK.value else line["reason"]
                yield _Judged(cleaned.get(original, original), original, document["source"], rule)


@dataclass(frozen=True, slots=True)
class _Judged:
    """`rule`: what took it, empty where it stays."""

    document_id: str
    original_id: str
    source: str
    rule: str


def _read(root: Path, parts: list[Part], table: str, columns: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for part in parts:
        if part.table == table:
            found += pq.ParquetFile(root / part.file).read(columns).to_pylist()
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
