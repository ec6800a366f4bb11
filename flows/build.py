"""The Prefect flow: stages in order, each unit of work (a source, a shard, an export) one task.

Prefect sees the run, retries units whose engine failed, and shows progress, the stage table and where the report is as
artifacts. What makes a run resumable is ours (manifests and ledger): after a kill, the same command continues.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

# Set before Prefect is imported: its own server may take longer than 20 s to start on a small machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_HOME
from prefect.states import Crashed

from flows.progress import Lines
from flows.report import Report
from flows.tables import stage_table
from pipelines.build import build
from pipelines.journal import Journal
from pipelines.manifest import UnitRecord
from pipelines.stages import Context, Progress, Stage, Unit
from pipelines.workspace import Workspace
from schemas.errors import ConservationError, RunError, UserError

ARTIFACT_SECONDS = 5.0  # between two updates of the progress artifact

_caller: tuple[Progress, Report] | None = None  # of the command line that called the flow in this process


async def _worth_a_retry(_task: Any, run: Any, state: Any) -> bool:
    """An engine that died may live next time; wrong input or a lost row will not get better."""
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, UserError | ConservationError):
        return False
    if _caller is not None:
        _caller[0].note(f"{run.name}: {error}; trying again")
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


class _Shown:
    """A run's progress artifact."""

    def __init__(self) -> None:
        self._artifact: UUID | None = None
        self._told = 0.0

    async def begin(self, context: Context) -> None:
        await _end_killed(context.workspace)
        self._artifact = await acreate_progress_artifact(0.0, "longloom-progress", f"Progress of {context.recipe.name}")
        self._told = time.monotonic()

    async def unit(self, stage: Stage, number: int, unit: Unit, context: Context) -> UnitRecord:
        # A tag for each stage: `prefect concurrency-limit create longloom:generate.qa 1` then limits it over all runs.
        tagged = run_unit.with_options(tags={"longloom", f"longloom:{stage.name}"})
        record: UnitRecord = await tagged(f"{stage.name}/{unit.key}", stage, number, unit, context)
        if time.monotonic() - self._told > ARTIFACT_SECONDS and isinstance(context.progress, Journal):
            self._told = time.monotonic()
            await self._update(context.progress.percent)
        return record

    async def end(self, recipe: str, table: list[dict[str, Any]]) -> None:
        await self._update(100.0)
        await acreate_table_artifact(table=table, key="longloom-stages", description=f"Stages of {recipe}")

    async def report(self, recipe: str, report: Report) -> None:
        place = f"[{report.path}]({report.path.as_uri()})" if report.written else report.fault
        text = f"Workspace: `{report.path.parent}`\n\nReport: {place}\n"
        await acreate_markdown_artifact(text, "longloom-report", f"Where the results of {recipe} are")

    async def _update(self, percent: float) -> None:
        if self._artifact is not None:
            await aupdate_progress_artifact(self._artifact, percent)


async def _end_killed(workspace: Workspace) -> None:
    """Tell Prefect of an earlier run of this workspace that was killed with whatever watched over it: it would be
    RUNNING for ever, and hold its places in concurrency limits. Call under the lock. Then note this run."""
    note, ours = workspace.root / ".flow_run", flow_run.get_id()
    earlier = note.read_text("utf-8").strip() if note.exists() else ours
    note.write_text(str(ours), "utf-8")
    if earlier == ours:
        return
    async with get_client() as client:
        try:
            run = await client.read_flow_run(UUID(earlier))
        except (ObjectNotFound, ValueError):  # of another server
            return
        if run.state is not None and not run.state.is_final():
            await end_run(client, run.id, f"flow run {ours} has found the workspace unlocked")


async def end_run(client: Any, run: UUID, how: str) -> None:
    """A run that nobody is at any more has crashed, and so have its tasks. `how`: how we know."""
    crashed = Crashed(message=f"The process is gone; {how}.")
    for one in await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run]))):
        if one.state is not None and not one.state.is_final():
            await client.set_task_run_state(one.id, crashed, force=True)
    await client.set_flow_run_state(run, crashed, force=True)


@flow(name="longloom", flow_run_name="{recipe}", persist_result=False, validate_parameters=True)
async def longloom(
    recipe: str,
    workspace: str = "./workspace",
    stage: str | None = None,
    limit: int | None = None,
    ledger: str | None = None,
) -> list[dict[str, Any]]:
    """Run a recipe in a workspace; returns the stage table. Parameters as in `longloom run`."""
    place = Workspace(Path(workspace), Path(ledger) if ledger else None)
    progress, report = _caller if _caller is not None else (Lines(get_run_logger().info), Report(place))
    shown = _Shown()
    try:
        manifests = await build(
            Path(recipe), place, stage, limit, progress, shown.unit, begun=shown.begin, ended=report
        )
    finally:
        if report.written or report.fault:
            await shown.report(recipe, report)
    table = stage_table(manifests)
    await shown.end(recipe, table)
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


async def run_flow(progress: Progress, report: Report, **parameters: Any) -> list[dict[str, Any]]:
    """Run the flow in this process, telling `progress`; `report` is of the workspace that `parameters` name."""
    global _caller
    _caller = progress, report
    try:
        with _two_starts_of_a_server():
            table: list[dict[str, Any]] = await longloom(**parameters)
        return table
    finally:
        _caller = None
