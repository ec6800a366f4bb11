"""The stage of the method verifiable: its rows are tasks to be made, not documents of the recipe."""

from collections.abc import Iterator
from typing import Any, cast

from generators.registry import imported_modules
from generators.runner import Task
from generators.tasks.registry import TASKS
from generators.verifiable import Remembering, TaskRow, Verifiable, entry_key
from pipelines.code_version import code_version
from pipelines.curated import curated_documents
from pipelines.engine_pool import EnginePool
from pipelines.generate import GenerateStage
from pipelines.haystack import Haystacks, PoolHaystack
from pipelines.manifest import UnitRecord
from pipelines.rows import Candidate, Draw, candidates
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import derive_seed, digest
from schemas.methods import MethodConfig
from schemas.methods.verifiable import TaskEntry
from schemas.methods.verifiable import Verifiable as Config

_ANY_LANGUAGE = ("", "und", None)


def stages(config: MethodConfig, engines: EnginePool) -> list[Stage]:
    return [VerifiableStage(cast(Config, config), engines)]


class VerifiableStage(GenerateStage):
    """Units are runs of tasks of one kind and length: more of one kind leave the units of the others as they are."""

    concurrency: int = 1  # the work is the processor's; one pool of documents is in memory at a time
    config: Config
    generator: Verifiable

    def __init__(self, config: Config, engines: EnginePool) -> None:
        super().__init__(config, engines)
        for key, task in self.generator.tasks.items():
            if task.needs_haystack and not engines.recipe.documents:
                raise UserError(
                    f"generate {config.name!r}: task {self.generator.entries[key].task!r} hides things in documents, "
                    "and the recipe has none under 'documents'"
                )
        if engines.recipe.tokenizer is None:
            engines.tokenizer(None)  # says that the recipe must name one
        self._found: list[Candidate] | None = None
        self._haystacks: Haystacks | None = None

    def settings(self, context: Context) -> dict[str, Any]:
        return {**super().settings(context), "tasks_code": {key: _code(e) for key, e in self.generator.entries.items()}}

    def draws(self, context: Context) -> list[Draw]:
        """All rows, in the order of the recipe; `count` and `limit` take about as many of each task and length."""
        groups = [(entry_key(entry), tokens) for entry in self.config.tasks for tokens in entry.tokens]
        counts = [entry.count for entry in self.config.tasks for _ in entry.tokens]
        most = min((n for n in (self.config.count, context.limit) if n is not None), default=None)
        return [
            self._draw(key, tokens, n)
            for (key, tokens), count in zip(groups, _shares(counts, most), strict=True)
            for n in range(count)
        ]

    def _draw(self, key: str, tokens: int, n: int) -> Draw:
        """A row of no file: in place of file and row group stand the entry's key and the length."""
        name = f"{self.config.name}-{key}-{tokens}-{n}"
        return Draw(Candidate(name, "generated", self.config.language, tokens, key, tokens), 0)

    def units(self, context: Context) -> list[Unit]:
        groups: dict[tuple[str, int], list[Draw]] = {}
        for one in self.draws(context):
            groups.setdefault((one.candidate.file, one.candidate.group), []).append(one)
        common = [
            context.recipe.seed, context.recipe.tokenizer, self.config.language, self.config.split,
            super().settings(context)["code"],
        ]  # fmt: skip
        units = []
        for (key, tokens), draws in groups.items():
            entry, task = self.generator.entries[key], self.generator.tasks[key]
            made_from = self._documents(context) if task.needs_haystack else []
            what = [
                *common,
                entry.task,
                task.version,
                entry.options,
                entry.target,
                _code(entry),
                [d.row_id for d in made_from],
            ]
            for start in range(0, len(draws), self.config.shard_rows):
                shard = draws[start : start + self.config.shard_rows]
                fingerprint = digest([what, [one.row_id for one in shard]])
                units.append(Unit(f"{key}-{tokens}-{start:07d}", fingerprint, len(shard), shard))
        return units

    def _documents(self, context: Context) -> list[Candidate]:
        """What haystacks are made of: documents of the sources asked for, in the language of the tasks."""
        if self._found is None:
            parts, keep = curated_documents(context)
            sources = set(self.config.sources) if self.config.sources is not None else None
            found = candidates(context.workspace.root, parts, "document_id", sources, keep)
            self._found = [one for one in found if one.language in (self.config.language, *_ANY_LANGUAGE)]
            if not self._found:
                raise UserError(
                    f"generate {self.config.name!r}: no document in the language {self.config.language!r} to hide "
                    f"things in ({len(found)} in others)"
                )
        return self._found

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        runner = await self.engines.runner(None)
        if not isinstance(runner.tokenizer, Remembering):
            runner.tokenizer = Remembering(runner.tokenizer)
        return await super().run(number, unit, context)

    def tasks(self, draws: list[Draw], context: Context) -> Iterator[Task]:
        pool = None
        if self.generator.tasks[draws[0].candidate.file].needs_haystack:
            if self._haystacks is None:
                tokenizer = self.engines.tokenizer(None)
                self._haystacks = Haystacks(context.workspace.root, self._documents(context), tokenizer)
            pool = self._haystacks.pool(derive_seed(context.recipe.seed, draws[0].row_id, "haystack"))
        for one in draws:
            haystack = PoolHaystack(pool) if pool is not None else None
            key, tokens = one.candidate.file, one.candidate.group
            # The n-th task of each length asks the same, where a task can do that.
            number = one.row_id.rpartition("-")[2]
            paired = self.generator.tasks[key].same_question
            name = f"{self.config.name}-{key}-{number}" if paired else one.row_id
            yield Task(one.row_id, TaskRow(key, tokens, derive_seed(context.recipe.seed, name), haystack))


def _code(entry: TaskEntry) -> str:
    module = TASKS[entry.task].partition(":")[0]
    return code_version(*(f"{name}.py" for name in sorted(imported_modules(module))), "pipelines/haystack.py")


def _shares(counts: list[int], most: int | None) -> list[int]:
    """At most `most` in all: one of each in turn, as long as there are more."""
    if most is None or sum(counts) <= most:
        return counts
    taken = [0] * len(counts)
    while sum(taken) < most:
        for n, count in enumerate(counts):
            if taken[n] < count and sum(taken) < most:
                taken[n] += 1
    return taken
