"""Scorers that ask a model: generator programs over samples, whose numbers go into a score table and whose calls go
through the ledger as those of methods do."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from generators.base import Cost, Generator, RowSize
from generators.judges.qa_checks import QaChecks
from generators.judges.quality import Quality
from generators.prompts import template
from generators.registry import imported_modules
from generators.runner import Outcome, Runner, Task
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.generate import check_answered, prompt_versions, unit_record, write_calls
from pipelines.manifest import Manifest, UnitRecord
from pipelines.score import ScoreStage, Shard
from pipelines.score_worker import read_rows
from pipelines.shards import Row, write_rows
from pipelines.stages import Context, Unit
from schemas.ids import digest
from schemas.rows import Judged, Scores
from schemas.scores import JudgeScorer, Pass
from schemas.tables import TABLES

JUDGES: dict[str, type[Generator[Judged]]] = {"qa_checks": QaChecks, "quality": Quality}
_COLUMNS = ["sample_id", "messages", "document_ids", "details", "evidence"]
Span = tuple[int, int]


class JudgeStage(ScoreStage):
    """One entry of the recipe's `score` list. Shards are those of other scorers; rows run as a generate stage's do."""

    concurrency: int = 32  # as in GenerateStage
    config: JudgeScorer  # type: ignore[assignment]

    def __init__(self, config: JudgeScorer, makers: list[str], engines: EnginePool) -> None:
        self.config, self.engines, self._makers = config, engines, makers
        self.reading = Pass(config.scorer, config.engine, f"scores_{config.scorer}")
        self.name = f"score.{config.name}"
        self.judge = JUDGES[config.scorer](config)  # type: ignore[call-arg]
        modules = imported_modules(type(self.judge).__module__)
        self._version = code_version(
            *(f"{module}.py" for module in modules),
            *(f"generators/prompts/{template(config.scorer, step)}.j2" for step in config.steps),
            "filters/*.py",
            "filters/scorers/conversation.py",
            "generators/base.py",
            "generators/runner.py",
            "pipelines/judge_stage.py",
        )

    def settings(self, context: Context) -> dict[str, Any]:
        facts = {step: self.engines.facts(name) for step, name in self.config.step_engines.items()}
        return {
            **self.config.model_dump(mode="json"),
            "limit": context.limit,
            "seed": context.recipe.seed,
            "engine": self.engines.facts(self.config.engine),
            **({"step_engines": facts} if facts else {}),
            "code": self._version,
        }

    def units(self, context: Context) -> list[Unit]:
        """A sample's id tells its messages; judges read its details and evidence too."""
        columns = [column for column in _COLUMNS if column != "messages"]
        units = []
        for unit in super().units(context):
            rows = list(read_rows(context.workspace.root / unit.work.file, columns, unit.work.ids))
            units.append(replace(unit, fingerprint=digest([unit.fingerprint, rows])))
        return units

    def cost(self, units: list[Unit], context: Context) -> Cost:
        """An estimate for samples that are made already, from their lengths."""
        columns = ["sample_id", "prompt_tokens", "response_tokens"]
        rows = (
            RowSize(row["sample_id"], row["prompt_tokens"] + row["response_tokens"])
            for unit in units
            for group in read_rows(context.workspace.root / unit.work.file, columns, unit.work.ids)
            for row in group
        )
        return self.judge.cost(rows, 0)

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        runner, others = await self.engines.runners(self.config.engine, self.config.step_engines, context.progress.note)
        context.progress.watch(runner)
        outcomes = await runner.run(
            self.judge,
            self._tasks(unit.work, context),
            self.config.steps,
            unit=number,
            on_row=lambda _: context.progress.advance(1),
            step_runners=others,
        )
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        lines = (line for outcome in outcomes for line in self._lines(outcome, runner, context))
        parts = [
            *write_rows(root, self.reading.table, name, lines),
            *write_calls(root, self.name, name, self.config.scorer, outcomes),
        ]
        return unit_record(unit, parts, outcomes)

    def check(self, manifest: Manifest, context: Context) -> None:
        check_answered(manifest, context)

    def _lines(self, outcome: Outcome, runner: Runner, context: Context) -> Iterator[Row]:
        for record in outcome.records:
            assert isinstance(record, Scores), "a judge makes numbers"
            line = {
                **record.values,
                "row_id": outcome.task.row_id,
                "stage": self.name,
                "judge_model": runner.engine.identity.model,
                "prompt_version": prompt_versions(outcome, self.config.scorer),
                "seed": context.recipe.seed,
                "scorer_version": self._version,
            }
            yield {column: line[column] for column in TABLES[self.reading.table].names}

    def _tasks(self, shard: Shard, context: Context) -> Iterator[Task]:
        for rows in read_rows(context.workspace.root / shard.file, _COLUMNS, shard.ids):
            texts = _evidence(rows, context)
            for row in rows:
                sample = Judged(
                    row["sample_id"],
                    tuple((message["role"], message["content"]) for message in row["messages"]),
                    tuple(row["document_ids"]),
                    json.loads(row["details"] or "{}"),
                    texts.get(row["sample_id"]) or _own_evidence(row),
                )
                yield Task(sample.sample_id, sample, group=next(iter(sample.document_ids), None))


def _evidence(rows: list[dict[str, Any]], context: Context) -> dict[str, tuple[str, ...]]:
    """The texts that the samples' spans point to, by sample; documents are read one row group at a time."""
    spans: dict[str, dict[tuple[str, Span], str]] = defaultdict(dict)
    wanted = {span["document_id"] for row in rows for span in row["evidence"] or ()}
    if not wanted:
        return {}
    for part in context.upstream("ingest").parts("documents"):
        for found in read_rows(context.workspace.root / part.file, ["document_id", "text"], list(wanted)):
            texts = {document["document_id"]: document["text"] for document in found}
            for row in rows:
                for span in row["evidence"] or ():
                    if (text := texts.get(span["document_id"])) is not None:
                        place = (span["document_id"], (span["start"], span["end"]))
                        spans[row["sample_id"]][place] = text[span["start"] : span["end"]]
    return {sample: tuple(found.values()) for sample, found in spans.items()}


def _own_evidence(row: dict[str, Any]) -> tuple[str, ...]:
    """Tasks without documents of their own name characters of the user's message in their details (verifiable)."""
    details = json.loads(row["details"] or "{}")
    found = details.get("evidence") if "verifier" in details else None
    text = next((message["content"] for message in row["messages"] if message["role"] == "user"), "")
    return tuple(text[start:end] for start, end in found or ())
