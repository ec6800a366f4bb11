"""What a run would do and cost, from the lengths of the rows: nothing is sent to a model.

Numbers are estimates and say so: the longest answer is known (max_tokens), the usual one is not.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from filters.lengths import required_words
from generators.long_qa import PROMPT_RESERVE
from pipelines.build import make_stages
from pipelines.engine_pool import EnginePool
from pipelines.generate import GenerateStage
from pipelines.ingest_stage import IngestStage
from pipelines.manifest import changed_settings, load_manifest
from pipelines.rows import Draw, load
from pipelines.sources import inputs
from pipelines.stages import Context, Stage, Unit, execute
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.recipe import AgentWrite, LongQA

SMALL_BYTES = 64_000_000  # sources up to this size are ingested into a temporary folder to be planned exactly
TEMPLATE_TOKENS = 150  # task text and chat template around a document
TOKENS_PER_WORD = 1.4
DISK_PER_TOKEN = 2.0  # bytes of compressed Parquet per token of text


@dataclass(slots=True)
class Cost:
    """`new_rows` of `rows` would be made. Token numbers are for those; `cached_tokens` are prompt tokens that a prefix
    cache answers. `answer_tokens_max`: if every answer used its whole max_tokens."""

    rows: int = 0
    new_rows: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    answer_tokens_max: int = 0

    @property
    def disk_bytes(self) -> int:
        return int(DISK_PER_TOKEN * (self.prompt_tokens / max(1, self.requests) * self.new_rows + self.answer_tokens))


@dataclass(slots=True)
class StagePlan:
    """`units`: how many of how many would run; `why`: what has changed since the last run."""

    name: str
    todo: int
    units: int
    why: list[str] = field(default_factory=list)
    cost: Cost | None = None


async def make_plan(context: Context, engines: EnginePool) -> list[StagePlan]:
    """Plans of all stages. Where ingest is not up to date, small sources are read into a temporary folder; UserError
    asks for `--stage ingest` first where they are large."""
    ingest = IngestStage()
    current = _plan_stage(ingest, context, ingest.units(context))
    if not current.todo:
        return [current, *await _plan_rest(context, engines)]
    size = sum(
        file.size
        for source in (*context.recipe.documents, *context.recipe.instructions)
        for file in inputs(source, context.base_dir)
    )
    if size > SMALL_BYTES:
        raise UserError(
            f"{size / 1e6:.0f} MB of sources are not ingested yet, and the plan needs their lengths: "
            "run with --stage ingest first (it calls no model)"
        )
    with tempfile.TemporaryDirectory(prefix="longloom-plan-") as folder:
        trial = Context(
            context.recipe, context.recipe_hash, context.base_dir, Workspace(Path(folder), context.workspace.ledger),
            context.run_id, context.limit,
        )  # fmt: skip
        await execute(IngestStage(), trial)
        return [current, *await _plan_rest(context, engines, trial)]


async def _plan_rest(context: Context, engines: EnginePool, trial: Context | None = None) -> list[StagePlan]:
    plans: list[StagePlan] = []
    for stage in make_stages(context.recipe, engines)[1:]:
        if isinstance(stage, GenerateStage):
            units = stage.units(trial or context)
            plan = _plan_stage(stage, context, units)
            plan.cost = await _cost(stage, context, engines, units, trial or context)
        else:
            done = [load_manifest(context.workspace.manifest(p.name)) for p in plans]
            fresh = trial is None and all(m is not None and m.done for m in done) and not any(p.todo for p in plans)
            plan = _plan_stage(stage, context, stage.units(context)) if fresh else StagePlan(stage.name, 1, 1)
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


async def _cost(
    stage: GenerateStage, context: Context, engines: EnginePool, units: list[Unit], rows_from: Context
) -> Cost:
    todo = _todo(stage, context, units)
    cost = Cost(rows=sum(unit.rows or 0 for unit in units), new_rows=sum(unit.rows or 0 for unit in todo))
    draws = [one for unit in todo for one in unit.work]
    if isinstance(stage.config, LongQA):
        _add_long_qa(cost, stage.config, await engines.window(stage.config.engine), draws)
    else:
        texts = [row["text"] for _, row in load(rows_from.workspace.root, draws, "instruction_id")]
        _add_agentwrite(cost, stage.config, texts)
    return cost


def _add_long_qa(cost: Cost, config: LongQA, window: int, draws: list[Draw]) -> None:
    steps = config.sampling
    answers = [steps.questions.max_tokens, steps.answer.max_tokens]
    budget = window - max(answers) - PROMPT_RESERVE
    budget = min(budget, config.document_tokens.max or budget)
    calls = 2 if config.verify is None else 3
    if config.verify is not None:
        budget = min(budget, config.verify.chunk_tokens)
        answers.append(steps.critique.max_tokens)
    seen: set[str] = set()
    for one in draws:
        document = min(one.candidate.tokens, budget)
        known = one.candidate.row_id in seen and config.verify is None  # chunks differ between questions
        seen.add(one.candidate.row_id)
        cost.requests += calls
        cost.prompt_tokens += calls * (document + TEMPLATE_TOKENS)
        cost.cached_tokens += (calls if known else calls - 1) * document
        cost.answer_tokens += 40 * config.questions + 150 * (calls - 1)
        cost.answer_tokens_max += sum(answers)


def _add_agentwrite(cost: Cost, config: AgentWrite, texts: list[str]) -> None:
    usual = sum(config.paragraph_words) // 2
    for text in texts:
        words = required_words(text) or 6 * usual
        steps = min(config.max_steps, max(1, round(words / usual)))
        plan = 40 * steps
        part = int(TOKENS_PER_WORD * words / steps)
        fixed = int(TOKENS_PER_WORD * len(text.split())) + plan + TEMPLATE_TOKENS
        cost.requests += 1 + steps
        cost.prompt_tokens += fixed + sum(fixed + number * part for number in range(steps))
        # Instruction, plan and the text so far are the prefix of the next call.
        cost.cached_tokens += sum(fixed - TEMPLATE_TOKENS + (number - 1) * part for number in range(1, steps))
        cost.answer_tokens += plan + steps * part
        cost.answer_tokens_max += config.sampling.plan.max_tokens + steps * config.sampling.write.max_tokens
