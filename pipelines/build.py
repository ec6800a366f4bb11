"""From a recipe to stages, and from stages to a finished workspace."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

from generators.engines import create_engine
from pipelines.catalog import build_catalog
from pipelines.curate import CorpusStage, RulesStage
from pipelines.damage import damage_named, is_cut, put_aside
from pipelines.engine_pool import EnginePool, MakeEngine
from pipelines.export import ExportStage
from pipelines.files import named
from pipelines.ingest_stage import IngestStage
from pipelines.journal import Journal, ending
from pipelines.manifest import Manifest, load_manifest
from pipelines.methods import generate_stages
from pipelines.mix import mix_stages
from pipelines.pack import pack_stages
from pipelines.runs import RunRecord, new_run_id, recipe_hash
from pipelines.score import score_stages
from pipelines.select import select_stages
from pipelines.stages import Context, Progress, RunUnit, Silence, Stage, execute, run_directly
from pipelines.tokenise import tokenise_stages
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.export import Export
from schemas.loading import load_recipe
from schemas.recipe import Recipe


def documents_first(recipe: Recipe) -> list[Stage]:
    """The stages that read and curate documents; they ask no model."""
    return [IngestStage(), *(() if recipe.curate is None else (RulesStage(recipe.curate), CorpusStage(recipe.curate)))]


def export_sources(config: Export, recipe: Recipe, records: list[str]) -> list[str]:
    """The stages that an export reads. `records`: those that made records, or scores of records."""
    selection = [] if config.select is None else [f"select.{config.select}"]
    pack = [] if config.pack is None else [f"pack.{config.pack}"]
    pack += [f"mix.{one.mix}" for one in recipe.pack if one.name == config.pack and one.mix is not None]
    entries = recipe.token_entries(config.of) if "tokenised" in config.configs else ()
    tokens = [f"tokenise.{entry}" for entry in entries]
    return [*records, *selection, *tokens, *pack]


def make_stages(recipe: Recipe, engines: EnginePool) -> list[Stage]:
    """All stages of a recipe, in the order they run."""
    generate = [stage for config in recipe.generate for stage in generate_stages(config, engines)]
    made = [stage.name for stage in generate]
    score = score_stages(recipe.score, made, engines)
    scored = [stage.name for stage in score]
    select = select_stages(recipe, made, scored)
    trained = [*tokenise_stages(recipe, made), *mix_stages(recipe), *pack_stages(recipe)]
    export = [ExportStage(config, export_sources(config, recipe, [*made, *scored])) for config in recipe.export]
    return [*documents_first(recipe), *generate, *score, *select, *trained, *export]


PREVIEW = "preview"


def choose(stages: list[Stage], name: str | None) -> list[Stage]:
    """The stages that `--stage NAME` means: one stage, or all of a kind; `generate` means the trainings in between too.
    PREVIEW: of each generate entry what comes before it trains a model. UserError if none."""
    if name is None:
        return stages
    kinds = (f"{name}.", "train.") if name == "generate" else (f"{name}.",)
    chosen = [stage for stage in stages if stage.name == name or stage.name.startswith(kinds)]
    if name == PREVIEW:
        firsts = [stage.name.split(".")[:2] for stage in stages]
        trained = [firsts.index(first) for first in firsts if first[0] == "train"]
        chosen = [
            stage
            for place, (stage, first) in enumerate(zip(stages, firsts, strict=True))
            if first[0] == "generate" and not any(t < place and firsts[t][1] == first[1] for t in trained)
        ]
    if not chosen:
        raise UserError(f"--stage {name!r}: the recipe has the stages {', '.join(stage.name for stage in stages)}")
    return chosen


def retire(context: Context, stages: set[str]) -> None:
    """Take away the tables of stages that the recipe no longer has. The ledger keeps their calls, exports stay."""
    for path in sorted(context.workspace.manifests.glob("*.json")):
        manifest = load_manifest(path)
        if manifest is None or manifest.stage in stages or manifest.recipe != context.recipe.name:
            continue
        path.unlink()
        context.progress.note(f"{manifest.stage}: no longer in the recipe, its tables are removed")


def remove_orphans(workspace: Workspace) -> None:
    """Delete parts that no manifest names: what a killed run wrote last, what retired stages wrote. Parts that were cut
    off are put aside."""
    known: set[str] = set()
    manifests = [load_manifest(path) for path in workspace.manifests.glob("*.json")]
    for manifest in manifests:
        for unit in manifest.units.values() if manifest is not None else ():
            known.update(part.file for part in unit.parts)
    for path in (workspace.root / "tables").glob("*/part-*.parquet"):
        if path.parent.name != "runs" and path.relative_to(workspace.root).as_posix() not in known:
            path.unlink()
        elif is_cut(path):
            put_aside(path)


@asynccontextmanager
async def opened(
    recipe_path: Path,
    workspace: Workspace,
    limit: int | None = None,
    progress: Progress | None = None,
    make_engine: MakeEngine = create_engine,
) -> AsyncIterator[tuple[Context, EnginePool]]:
    """A context over a recipe with its engine pool, closed at the end. Takes no lock and writes nothing."""
    recipe = load_recipe(recipe_path)
    base_dir = recipe_path.absolute().parent
    engines = EnginePool(recipe, base_dir, workspace.ledger, workspace.logs, make_engine)
    context = Context(
        recipe, recipe_hash(recipe), base_dir, workspace, new_run_id(), limit, progress if progress else Silence()
    )
    try:
        yield context, engines
    finally:
        await engines.close()


async def build(
    recipe_path: Path,
    workspace: Workspace,
    stage: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
    run_unit: RunUnit = run_directly,
    make_engine: MakeEngine = create_engine,
    begun: Callable[[Context], Awaitable[None]] | None = None,
    ended: Callable[[], Awaitable[None]] | None = None,
) -> list[Manifest]:
    """Run a recipe: every stage that is not up to date. Returns the manifests of the stages that were asked for.
    `begun` is awaited once the workspace is locked: whatever ran in it before has ended. `ended` is awaited when the
    run is done or has failed, but not where it was stopped: who stops a run does not want to wait."""
    async with opened(recipe_path, workspace, limit, progress, make_engine) as (context, engines):
        stages = choose(make_stages(context.recipe, engines), stage)
        with workspace.lock(), named(workspace.root), damage_named(workspace):
            run = RunRecord(workspace, context.recipe, context.run_id)
            run.start()
            error: BaseException | None = None
            try:
                with Journal(context, stages) as journal:
                    context.progress = journal
                    if begun is not None:
                        await begun(context)
                    if stage is None:
                        retire(context, {one.name for one in stages})
                    remove_orphans(workspace)
                    manifests = []
                    for one in stages:
                        manifests.append(await execute(one, context, journal.noting(run_unit)))
                        journal.stage_end(manifests[-1])
                        build_catalog(workspace)
                    return manifests
            except BaseException as raised:
                error = raised
                raise
            finally:
                # Where the disk is full, the error on its way says so, and a part that is damaged has been named.
                with suppress(OSError) if error is not None else nullcontext():
                    run.finish(ending(error))
                    build_catalog(workspace)
                if ended is not None and ending(error) != "interrupted":
                    await ended()
