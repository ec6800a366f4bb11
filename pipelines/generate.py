"""The stage generate: a generator over shards of rows, into `samples`, `preferences`, `requests` and `row_states`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from generators.base import Cost
from generators.engines.none import NoEngine
from generators.prompts import template, version
from generators.registry import create_generator, method_modules
from generators.runner import Outcome, Runner, Task
from pipelines.code_version import code_version
from pipelines.curated import curated_documents
from pipelines.engine_pool import EnginePool
from pipelines.manifest import Manifest, UnitRecord
from pipelines.rows import Draw, candidates, draw, load, shards
from pipelines.shards import Part, Row, read_part, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.errors import RunError, UserError
from schemas.ids import canonical_json, content_id, derive_seed, digest
from schemas.methods import MethodConfig
from schemas.rows import Document, Instruction, Messages, Preference, Record, Sample
from schemas.states import State

_ID = {"documents": "document_id", "instructions": "instruction_id"}


class GenerateStage(Stage):
    """One entry of the recipe's `generate` list. Methods whose rows are no documents or instructions of the recipe
    override `draws` and `tasks`."""

    # Shards at once: while the last rows of some finish, the next ones keep the engine's batch full. Rows of a later
    # shard start only when all rows of the earlier ones have (see Runner.run), so this costs no order.
    concurrency: int = 32
    late: ClassVar[bool] = False  # its rows are made by another generate stage: a plan cannot know them

    def __init__(self, config: MethodConfig, engines: EnginePool) -> None:
        self.config, self.engines = config, engines
        self.name = f"generate.{config.name}"
        self.generator = create_generator(config)

    def settings(self, context: Context) -> dict[str, Any]:
        facts = {step: self.engines.facts(name) for step, name in self.config.step_engines.items()}
        return {
            **self.config.model_dump(mode="json"),
            "limit": context.limit,
            "seed": context.recipe.seed,
            "engine": self.engines.facts(self.config.engine),
            **({"step_engines": facts} if facts else {}),
            "code": code_version(
                *(f"{module}.py" for module in method_modules(self.config.method)),
                f"generators/prompts/{self.config.method}/*.j2",
                *(f"generators/prompts/{template(self.config.method, step)}.j2" for step in self.config.steps),
                "filters/*.py",
                "generators/base.py",
                "generators/runner.py",
                "pipelines/generate.py",
                "pipelines/rows.py",
                f"schemas/methods/{self.config.method}.py",
                "schemas/tables.py",
            ),
        }

    def draws(self, context: Context) -> list[Draw]:
        """The rows of this stage, from what ingest has written."""
        config, root = self.config, context.workspace.root
        assert config.input != "nothing", "such a stage brings its own rows"
        parts, keep = context.upstream("ingest").parts(config.input), None
        if config.input == "documents":
            parts, keep = curated_documents(context)
        sources = set(config.sources) if config.sources is not None else None
        found = candidates(root, parts, _ID[config.input], sources, keep)
        counts = [count for count in (config.count, context.limit) if count is not None]
        seed = derive_seed(context.recipe.seed, self.name)
        tokens = getattr(config, "document_tokens", None)
        eligible = found
        if tokens is not None and counts:
            eligible = [candidate for candidate in found if candidate.tokens >= tokens.min]
            if found and not eligible:
                raise UserError(
                    f"generate {config.name!r}: none of {len(found)} documents has the {tokens.min} tokens that "
                    "document_tokens.min asks for"
                )
        flat = bool(getattr(config, "flat_lengths", False))
        return draw(eligible, config.uses, min(counts, default=None), flat, seed)

    def units(self, context: Context) -> list[Unit]:
        settings = {key: value for key, value in self.settings(context).items() if key not in ("limit", "count")}
        units = []
        for number, shard in enumerate(shards(self.draws(context), self.config.shard_rows)):
            rows = [self.facts_of(one) for one in shard]
            fingerprint = digest([settings, rows])
            units.append(Unit(f"{number:05d}", fingerprint, len(shard), shard))
        return units

    def facts_of(self, one: Draw) -> list[Any]:
        """What of a row changes what is made of it: part of the fingerprint."""
        return [one.row_id, one.candidate.source, one.candidate.language]

    def expected(self) -> tuple[int, Cost] | None:
        """Of a late stage: rows and cost as the recipe lets expect."""
        return None

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        runner, others = await self.engines.runners(self.config.engine, self.config.step_engines, context.progress.note)
        context.progress.watch(runner)
        outcomes = await runner.run(
            self.generator,
            self.tasks(unit.work, context),
            self.config.steps,
            unit=number,
            on_row=lambda _: context.progress.advance(1),
            step_runners=others,
        )
        self.settle(outcomes, context)
        return self.write(unit, outcomes, runner, context)

    def check(self, manifest: Manifest, context: Context) -> None:
        check_answered(manifest, context)

    def settle(self, outcomes: list[Outcome], context: Context) -> None:
        """What only the rows of a unit together decide."""
        refuse_duplicates(outcomes)

    def tasks(self, draws: list[Any], context: Context) -> Iterator[Task]:
        kind = Document if self.config.input == "documents" else Instruction
        for one, row in load(context.workspace.root, draws, _ID[self.config.input]):
            yield Task(one.row_id, kind(**row), group=one.candidate.row_id)

    def write(self, unit: Unit, outcomes: list[Outcome], runner: Runner, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        samples = (self._sample_row(o, s, runner, context) for o in outcomes for s in o.samples)
        preferences = (self._preference_row(o, p, runner, context) for o in outcomes for p in o.preferences)
        parts: list[Part] = [
            *write_rows(root, "samples", name, samples),
            *write_rows(root, "preferences", name, preferences),
            *write_calls(root, self.name, name, self.config.method, outcomes),
        ]
        return unit_record(unit, parts, outcomes)

    def _sample_row(self, outcome: Outcome, sample: Sample, runner: Runner, context: Context) -> Row:
        messages = messages_column(sample.messages)
        counts = Counter[bool]()
        for role, content in sample.messages:
            counts[role == "assistant"] += runner.tokenizer.count(content)
        return {
            **self._provenance(outcome, sample, runner, context),
            "sample_id": content_id("sam", [self.config.method, messages]),
            "messages": messages,
            "prompt_tokens": counts[False],
            "response_tokens": counts[True],
            "evidence": [{"document_id": e.document_id, "start": e.start, "end": e.end} for e in sample.evidence],
            "loss_on_prompt": sample.loss_on_prompt,
        }

    def _preference_row(self, outcome: Outcome, pair: Preference, runner: Runner, context: Context) -> Row:
        prompt = messages_column(pair.prompt)
        short = None if pair.short_prompt is None else messages_column(pair.short_prompt)
        return {
            **self._provenance(outcome, pair, runner, context),
            "preference_id": content_id("prf", [self.config.method, prompt, pair.chosen, pair.rejected, short]),
            "prompt": prompt,
            "chosen": messages_column((("assistant", pair.chosen),)),
            "rejected": messages_column((("assistant", pair.rejected),)),
            "short_prompt": short,
        }

    def _provenance(self, outcome: Outcome, record: Record, runner: Runner, context: Context) -> Row:
        return {
            "row_id": outcome.task.row_id,
            "stage": self.name,
            "method": self.config.method,
            "document_ids": list(record.document_ids),
            "request_ids": list(dict.fromkeys(entry.request_id for entry in outcome.entries)),
            "source": outcome.task.row.source,
            "language": record.language,
            "details": canonical_json(record.details),
            # What people wrote and no model was asked for is no model's.
            "model": runner.engine.identity.model if outcome.entries else NoEngine().identity.model,
            "prompt_version": prompt_versions(outcome, self.config.method),
            "recipe_hash": context.recipe_hash,
        }


def write_calls(root: Path, stage: str, name: str, method: str, outcomes: list[Outcome]) -> list[Part]:
    """What a unit's rows asked and how they ended: its parts of `requests` and `row_states`."""
    requests = (row for outcome in outcomes for row in _request_rows(outcome, stage, method))
    states = (_state_row(outcome, stage) for outcome in outcomes)
    return [*write_rows(root, "requests", name, requests), *write_rows(root, "row_states", name, states)]


def _request_rows(outcome: Outcome, stage: str, method: str) -> Iterator[Row]:
    for entry in outcome.entries:
        columns = {name: getattr(entry, name) for name in entry.__slots__ if name != "revision"}
        yield {**columns, "row_id": outcome.task.row_id, "stage": stage, "method": method}


def _state_row(outcome: Outcome, stage: str) -> Row:
    return {
        "row_id": outcome.task.row_id,
        "stage": stage,
        "state": outcome.state.value,
        "reason": outcome.reason,
        "detail": outcome.detail[:500],
    }


def unit_record(unit: Unit, parts: list[Part], outcomes: list[Outcome]) -> UnitRecord:
    states = Counter(outcome.state.value for outcome in outcomes)
    return UnitRecord(
        unit.fingerprint, parts, len(outcomes), dict(sorted(states.items())), retry=State.FAILED.value in states
    )


def check_answered(manifest: Manifest, context: Context) -> None:
    """RunError where every row of a stage failed for want of an answer: its server is wrong, not its rows."""
    if manifest.states != {State.FAILED.value: manifest.rows_in}:
        return
    for part in manifest.parts("row_states"):
        for row in read_part(context.workspace.root / part.file, ["reason", "detail"]).to_pylist():
            if row["reason"] not in ("engine_error", "engine_died"):
                return
    raise RunError(f"{manifest.stage}: none of {manifest.rows_in} rows got an answer, {row['detail']}")


def prompt_versions(outcome: Outcome, method: str) -> str:
    used = dict.fromkeys(entry.step for entry in outcome.entries)
    return " ".join(f"{step}:{version(method, step)}" for step in used)


def messages_column(messages: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def refuse_duplicates(outcomes: list[Outcome]) -> None:
    """The same document drawn twice may give the same record: the second one is no new data."""
    seen: set[str] = set()
    for outcome in outcomes:
        records: list[Record] = [*outcome.samples, *outcome.preferences]
        for record in records:
            key = digest(
                [list(message) for message in record.messages]
                if isinstance(record, Sample)
                else [list(map(list, record.prompt)), record.chosen, record.rejected]
            )
            if key in seen and outcome.state is State.OK:
                outcome.state, outcome.reason, outcome.records = State.FILTERED, "duplicate_sample", []
                break
            seen.add(key)
