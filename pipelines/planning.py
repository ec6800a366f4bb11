"""What a run would do and cost, from the lengths of the rows: nothing is sent to a model.

Numbers are estimates and say so: the longest answer is known (max_tokens), the usual one is not.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from generators.base import Cost, RowSize
from pipelines.build import documents_first, make_stages
from pipelines.engine_pool import EnginePool
from pipelines.generate import GenerateStage
from pipelines.judge_stage import JudgeStage
from pipelines.manifest import changed_settings, load_manifest
from pipelines.rows import load
from pipelines.sources import inputs
from pipelines.stages import Context, Stage, Unit, execute
from pipelines.workspace import Workspace
from schemas.errors import UserError

SMALL_BYTES = 64_000_000  # sources up to this size are ingested into a temporary folder to be planned exactly
_FIRST = ("ingest", "curate")
DISK_PER_TOKEN = 2.0  # bytes of compressed Parquet per token of text


@dataclass(slots=True)
class Estimate:
    """`new_rows` of `rows` would be made, at `cost`."""

    rows: int
    new_rows: int
    cost: Cost

    @property
    def disk_bytes(self) -> int:
        prompt = self.cost.prompt_tokens / max(1, self.cost.requests)
        return int(DISK_PER_TOKEN * (prompt * self.new_rows + self.cost.answer_tokens))


@dataclass(slots=True)
class StagePlan:
    """`units`: how many of how many would run; `why`: what has changed since the last run. Without `estimate`, the
    stage asks no model, or its rows are known only when those before it have run and it cannot say what to expect."""

    name: str
    todo: int
    units: int
    why: list[str] = field(default_factory=list)
    estimate: Estimate | None = None


async def make_plan(context: Context, engines: EnginePool) -> list[StagePlan]:
    """Plans of all stages. Where ingest and curation are not up to date, small sources are read into a temporary
    folder; UserError asks to run these stages first where they are large."""
    current: list[StagePlan] = []
    for stage in documents_first(context.recipe):
        ready = not any(plan.todo for plan in current)
        current.append(_plan_stage(stage, context, stage.units(context)) if ready else StagePlan(stage.name, 1, 1))
    if not any(plan.todo for plan in current):
        return [*current, *await _plan_rest(context, engines, len(current))]
    size = sum(
        file.size
        for source in (*context.recipe.documents, *context.recipe.instructions)
        for file in inputs(source, context.base_dir)
    )
    if size > SMALL_BYTES:
        raise UserError(
            f"{size / 1e6:.0f} MB of sources are not ingested and curated yet, and the plan needs their lengths: "
            f"run with --stage {' and then --stage '.join(_FIRST[: 1 + (context.recipe.curate is not None)])} first "
            "(they call no model)"
        )
    with tempfile.TemporaryDirectory(prefix="longloom-plan-") as folder:
        trial = Context(
            context.recipe, context.recipe_hash, context.base_dir, Workspace(Path(folder), context.workspace.ledger),
            context.run_id, context.limit,
        )  # fmt: skip
        for stage in documents_first(context.recipe):
            await execute(stage, trial)
        return [*current, *await _plan_rest(context, engines, len(current), trial)]


async def _plan_rest(
    context: Context, engines: EnginePool, first: int, trial: Context | None = None
) -> list[StagePlan]:
    """Of the stages after the `first` ones."""
    plans: list[StagePlan] = []
    for stage in make_stages(context.recipe, engines)[first:]:
        if isinstance(stage, GenerateStage) and not stage.late:
            units = stage.units(trial or context)
            plan = _plan_stage(stage, context, units)
            plan.estimate = await _estimate(stage, context, engines, units, trial or context)
        else:
            done = [load_manifest(context.workspace.manifest(p.name)) for p in plans]
            fresh = trial is None and all(m is not None and m.done for m in done) and not any(p.todo for p in plans)
            plan = _plan_stage(stage, context, stage.units(context)) if fresh else StagePlan(stage.name, 1, 1)
            if fresh and isinstance(stage, JudgeStage):
                units, todo = stage.units(context), _todo(stage, context, stage.units(context))
                planned, new = (sum(unit.rows or 0 for unit in some) for some in (units, todo))
                plan.estimate = Estimate(planned, new, stage.cost(todo, context))
            if plan.todo and isinstance(stage, GenerateStage) and (expected := stage.expected()) is not None:
                rows, cost = expected
                plan.estimate = Estimate(rows, rows, cost)
        plans.append(plan)
    return plans


def _plan_stage(stage: Stage, context: Context, units: list[Unit]) -> StagePlan:
    manifest = load_manifest(context.workspace.manifest(stage.name))
    todo = _todo(stage, context, units)
    why = changed_settings(manifest.settings, stage.settings(context)) if manifest is not None and todo else []
    return StagePlan(stage.name, len(todo), len(units), why)


def _todo(stage: Stage, context: Context, units: list[Unit]) -> list[Unit]:
    manifest = load_manifest(context.workspace.manifest(stage.name))
    records = manifest.units if manifest is not None else {}
    return [unit for unit in units if not stage.stands(records.get(unit.key), unit, context)]


async def _estimate(
    stage: GenerateStage, context: Context, engines: EnginePool, units: list[Unit], rows_from: Context
) -> Estimate:
    todo = _todo(stage, context, units)
    config = stage.config
    draws = [one for unit in todo for one in unit.work]
    sizes: Iterable[RowSize]
    if config.input == "instructions":
        rows = load(rows_from.workspace.root, draws, "instruction_id")
        sizes = (RowSize(one.candidate.row_id, one.candidate.tokens, row["text"]) for one, row in rows)
    else:
        sizes = (RowSize(one.candidate.row_id, one.candidate.tokens) for one in draws)
    window = await engines.window(config.engine) if config.engine is not None else 0
    planned, new = (sum(unit.rows or 0 for unit in some) for some in (units, todo))
    return Estimate(planned, new, stage.generator.cost(sizes, window))
