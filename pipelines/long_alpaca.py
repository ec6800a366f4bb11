"""The two stages of long_alpaca: long records, then short ones in a fixed number to those that were kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from generators.long_alpaca import ShortAnswer
from generators.runner import Outcome, Task
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.generate import GenerateStage, refuse_duplicates
from pipelines.manifest import UnitRecord
from pipelines.rows import Draw, candidates, load
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import derive_seed, digest
from schemas.methods.long_alpaca import LongAlpaca
from schemas.rows import Instruction


def stages(config: LongAlpaca, engines: EnginePool) -> list[Stage]:
    """`generate.NAME`, and with `short` also `generate.NAME.short`."""
    long = GenerateStage(config, engines)
    return [long] if config.short is None else [long, ShortStage(config, engines, long.name)]


@dataclass(frozen=True, slots=True)
class _Work:
    """`wanted` records from `draws`, which are tried in this order."""

    wanted: int
    draws: list[Draw]


class ShortStage(GenerateStage):
    """One short record for every `short.per_long` long ones. One unit: how many instructions it takes depends on how
    many of them end well."""

    late: ClassVar[bool] = True

    def __init__(self, config: LongAlpaca, engines: EnginePool, long: str) -> None:
        super().__init__(config, engines)
        assert config.short is not None
        self.name, self.short, self._long = f"{long}.short", config.short, long
        self.generator = ShortAnswer(config)

    def settings(self, context: Context) -> dict[str, Any]:
        return {**super().settings(context), "code_short": code_version("pipelines/long_alpaca.py")}

    def units(self, context: Context) -> list[Unit]:
        kept = sum(part.rows for part in context.upstream(self._long).parts("samples"))
        wanted = round(kept / self.short.per_long)
        draws = self.draws(context)
        if len(draws) < wanted:
            raise UserError(
                f"generate {self.config.name!r}: {kept} long records ask for {wanted} short ones, and source "
                f"{self.short.source!r} has {len(draws)} rows; add rows or raise short.per_long"
            )
        if not wanted:
            return []
        settings = {key: value for key, value in self.settings(context).items() if key not in ("limit", "count")}
        fingerprint = digest([settings, wanted, [one.row_id for one in draws]])
        return [Unit("00000", fingerprint, work=_Work(wanted, draws))]

    def draws(self, context: Context) -> list[Draw]:
        """All instructions of the source in the order of a hash: a source that grows keeps most of its draws."""
        parts = context.upstream("ingest").parts("instructions")
        found = candidates(context.workspace.root, parts, "instruction_id", {self.short.source})
        seed = derive_seed(context.recipe.seed, self.name)
        return [Draw(one, 0) for one in sorted(found, key=lambda one: digest([seed, one.row_id]))]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        runner = await self.engines.runner(self.config.engine)
        context.progress.watch(runner)
        wanted, waiting = unit.work.wanted, unit.work.draws
        outcomes: list[Outcome] = []
        kept = 0
        while kept < wanted and waiting:
            missing = wanted - kept
            wave, waiting = waiting[:missing], waiting[missing:]
            outcomes += await runner.run(
                self.generator,
                self.tasks(wave, context),
                self.config.steps,
                unit=number,
                on_row=lambda _: context.progress.advance(1),
            )
            refuse_duplicates(outcomes)
            kept = sum(len(outcome.samples) for outcome in outcomes)
        if kept < wanted:
            context.progress.note(f"{self.name}: {kept} of {wanted} short records; the source has no more rows")
        return self.write(unit, outcomes, runner, context)

    def tasks(self, draws: list[Draw], context: Context) -> Iterator[Task]:
        placed = sorted(draws, key=lambda one: (one.candidate.file, one.candidate.group))  # a row group is read once
        for one, row in load(context.workspace.root, placed, "instruction_id"):
            yield Task(one.row_id, Instruction(**row), group=one.candidate.row_id)
