"""The stage generate: a generator over shards of rows, into `samples`, `requests` and `row_states`."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from generators.prompts import version
from generators.registry import create_generator
from generators.runner import Outcome, Runner, Task
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.manifest import UnitRecord
from pipelines.rows import Draw, candidates, draw, load, shards
from pipelines.shards import Part, Row, write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import canonical_json, content_id, derive_seed, digest
from schemas.recipe import AgentWrite, LongQA
from schemas.rows import Document, Instruction, Sample
from schemas.states import State

_ID = {"documents": "document_id", "instructions": "instruction_id"}


class GenerateStage(Stage):
    """One entry of the recipe's `generate` list."""

    # Shards at once: while the last rows of some finish, the next ones keep the engine's batch full. Rows of a later
    # shard start only when all rows of the earlier ones have (see Runner.run), so this costs no order.
    concurrency: ClassVar[int] = 32

    def __init__(self, config: AgentWrite | LongQA, engines: EnginePool) -> None:
        self.config, self.engines = config, engines
        self.name = f"generate.{config.name}"
        self._generator = create_generator(config)

    def settings(self, context: Context) -> dict[str, Any]:
        return {
            **self.config.model_dump(mode="json"),
            "limit": context.limit,
            "seed": context.recipe.seed,
            "engine": self.engines.facts(self.config.engine),
            "code": code_version(
                f"generators/{self.config.method}.py",
                f"generators/prompts/{self.config.method}/*.j2",
                "filters/*.py",
                "generators/base.py",
                "generators/runner.py",
                "pipelines/generate.py",
                "pipelines/rows.py",
                "schemas/tables.py",
            ),
        }

    def draws(self, context: Context) -> list[Draw]:
        """The rows of this stage, from what ingest has written."""
        config, root = self.config, context.workspace.root
        found = candidates(
            root,
            context.upstream("ingest").parts(config.input),
            _ID[config.input],
            set(config.sources) if config.sources is not None else None,
        )
        counts = [count for count in (config.count, context.limit) if count is not None]
        seed = derive_seed(context.recipe.seed, self.name)
        if isinstance(config, LongQA):
            low = config.document_tokens.min
            eligible = [candidate for candidate in found if candidate.tokens >= low] if counts else found
            if found and not eligible:
                raise UserError(
                    f"generate {config.name!r}: none of {len(found)} documents has the {low} tokens that "
                    "document_tokens.min asks for"
                )
            return draw(eligible, config.per_document, min(counts, default=None), config.flat_lengths, seed)
        return draw(found, config.per_instruction, min(counts, default=None), False, seed)

    def units(self, context: Context) -> list[Unit]:
        settings = {key: value for key, value in self.settings(context).items() if key not in ("limit", "count")}
        units = []
        for number, shard in enumerate(shards(self.draws(context), self.config.shard_rows)):
            rows = [[one.row_id, one.candidate.source, one.candidate.language] for one in shard]
            fingerprint = digest([settings, rows])
            units.append(Unit(f"{number:05d}", fingerprint, len(shard), shard))
        return units

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        runner = await self.engines.runner(self.config.engine)
        context.progress.watch(runner)
        outcomes = await runner.run(
            self._generator,
            self._tasks(unit.work, context),
            dict(self.config.sampling),
            unit=number,
            on_row=lambda _: context.progress.advance(1),
        )
        _refuse_duplicates(outcomes)
        return self._write(unit, outcomes, runner, context)

    def _tasks(self, draws: list[Draw], context: Context) -> Iterator[Task]:
        kind = Document if self.config.input == "documents" else Instruction
        for one, row in load(context.workspace.root, draws, _ID[self.config.input]):
            yield Task(one.row_id, kind(**row), group=one.candidate.row_id)

    def _write(self, unit: Unit, outcomes: list[Outcome], runner: Runner, context: Context) -> UnitRecord:
        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        samples = (self._sample_row(o, s, runner, context) for o in outcomes for s in o.samples)
        parts: list[Part] = [
            *write_rows(root, "samples", name, samples),
            *write_rows(root, "requests", name, (row for outcome in outcomes for row in self._request_rows(outcome))),
            *write_rows(root, "row_states", name, (self._state_row(outcome) for outcome in outcomes)),
        ]
        states = Counter(outcome.state.value for outcome in outcomes)
        return UnitRecord(
            unit.fingerprint, parts, len(outcomes), dict(sorted(states.items())), retry=State.FAILED.value in states
        )

    def _sample_row(self, outcome: Outcome, sample: Sample, runner: Runner, context: Context) -> Row:
        messages = [{"role": role, "content": content} for role, content in sample.messages]
        counts = Counter[bool]()
        for role, content in sample.messages:
            counts[role == "assistant"] += runner.tokenizer.count(content)
        used = dict.fromkeys(entry.step for entry in outcome.entries)
        return {
            "sample_id": content_id("sam", [self.config.method, messages]),
            "row_id": outcome.task.row_id,
            "stage": self.name,
            "method": self.config.method,
            "messages": messages,
            "document_ids": list(sample.document_ids),
            "request_ids": list(dict.fromkeys(entry.request_id for entry in outcome.entries)),
            "source": outcome.task.row.source,
            "language": sample.language,
            "prompt_tokens": counts[False],
            "response_tokens": counts[True],
            "evidence": [{"document_id": e.document_id, "start": e.start, "end": e.end} for e in sample.evidence],
            "details": canonical_json(sample.details),
            "model": runner.engine.identity.model,
            "prompt_version": " ".join(f"{step}:{version(self.config.method, step)}" for step in used),
            "recipe_hash": context.recipe_hash,
        }

    def _request_rows(self, outcome: Outcome) -> Iterator[Row]:
        for entry in outcome.entries:
            columns = {name: getattr(entry, name) for name in entry.__slots__ if name != "revision"}
            yield {**columns, "row_id": outcome.task.row_id, "stage": self.name, "method": self.config.method}

    def _state_row(self, outcome: Outcome) -> Row:
        return {
            "row_id": outcome.task.row_id,
            "stage": self.name,
            "state": outcome.state.value,
            "reason": outcome.reason,
            "detail": outcome.detail[:500],
        }


def _refuse_duplicates(outcomes: list[Outcome]) -> None:
    """The same document drawn twice may give the same sample: the second one is no new data."""
    seen: set[str] = set()
    for outcome in outcomes:
        for sample in outcome.samples:
            key = digest([list(message) for message in sample.messages])
            if key in seen and outcome.state is State.OK:
                outcome.state, outcome.reason, outcome.samples = State.FILTERED, "duplicate_sample", []
                break
            seen.add(key)
