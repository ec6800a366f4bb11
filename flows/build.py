"""The Prefect flow: stages in order, each unit of work (a source, a shard, an export) one task.

Prefect sees the run, retries units whose engine failed, and shows the stage table as an artifact. What makes a run
resumable is ours (manifests and ledger): after a kill, the same command continues.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Set before Prefect is imported: its own server may take longer than 20 s to start on a small machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_HOME

from flows.progress import Lines
from flows.tables import stage_table
from pipelines.build import build
from pipelines.manifest import UnitRecord
from pipelines.stages import Context, Progress, Stage, Unit
from pipelines.workspace import Workspace
from schemas.errors import ConservationError, RunError, UserError

_progress: Progress | None = None  # of the command line that called the flow in this process


async def _worth_a_retry(_task: Any, run: Any, state: Any) -> bool:
    """An engine that died may live next time; wrong input or a lost row will not get better."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, UserError | ConservationError):
        return False
    if _progress is not None:
        _progress.note(f"{run.name}: {error}; trying again")
    return True


@task(
    name="unit",
    task_run_name="{label}",
    tags={"longloom"},
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_worth_a_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def run_unit(label: str, stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
    return await stage.run(number, unit, context)


async def _as_task(stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
    # A tag for each stage: `prefect concurrency-limit create longloom:generate.qa 1` then limits it over all runs.
    tagged = run_unit.with_options(tags={"longloom", f"longloom:{stage.name}"})
    record: UnitRecord = await tagged(f"{stage.name}/{unit.key}", stage, number, unit, context)
    return record


@flow(name="longloom", flow_run_name="{recipe}", persist_result=False, validate_parameters=True)
async def longloom(
    recipe: str,
    workspace: str = "./workspace",
    stage: str | None = None,
    limit: int | None = None,
    ledger: str | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe in a workspace; returns the stage table. Parameters as in `longloom run`."""
    progress = _progress if _progress is not None else Lines(get_run_logger().info)
    manifests = await build(
        Path(recipe), Workspace(Path(workspace), Path(ledger) if ledger else None), stage, limit, progress, _as_task
    )
    table = stage_table(manifests)
    await acreate_table_artifact(table=table, key="longloom-stages", description=f"Stages of {recipe}")
    return table


@contextmanager
def _two_starts_of_a_server() -> Iterator[None]:
    """Prefect starts its own server again and again when that ends at once, and says nothing: most of all where
    another version of Prefect has changed the database. Twice is for a port that was taken in between."""
    from prefect.server.api.server import SubprocessASGIServer

    start, starts = SubprocessASGIServer._run_uvicorn_command, 0

    def counted(server: Any) -> Any:
        nonlocal starts
        starts += 1
        if starts > 2:
            raise RunError(
                f"Prefect's own server does not start; its database in {PREFECT_HOME.value()} may be that of another "
                "version: set PREFECT_HOME to another folder or PREFECT_API_URL to a server, or use --no-prefect"
            )
        return start(server)

    SubprocessASGIServer._run_uvicorn_command = counted
    try:
        yield
    finally:
        SubprocessASGIServer._run_uvicorn_command = start


async def run_flow(progress: Progress, **parameters: Any) -> list[dict[str, Any]]:
    """Run the flow in this process, telling `progress`."""
    global _progress
    _progress = progress
    try:
        with _two_starts_of_a_server():
            table: list[dict[str, Any]] = await longloom(**parameters)
        return table
    finally:
        _progress = None
