"""`longloom serve`: the flow on a schedule, its runs started by this process, on the Prefect server that is configured
or on one that lives as long as this process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.build import choose, make_stages, opened
from pipelines.workspace import Workspace
from schemas.errors import RunError, UserError

START_SECONDS = 180  # for the server, on a small busy machine
_ROOT = Path(__file__).resolve().parent.parent
# The server ends when we do, even when we are killed.
_SERVER = """
import runpy, sys
from pipelines.processes import die_with
die_with(int(sys.argv.pop(1)))
runpy.run_module("prefect", run_name="__main__")
"""


def serve(arguments: Namespace) -> None:
    """Runs until it is stopped. Everything that is wrong with the arguments shows before anything is started."""
    workspace = Workspace(arguments.workspace, arguments.ledger)
    name = asyncio.run(_check(arguments, workspace))
    from flows.build import longloom

    schedule = _schedule(arguments.cron, arguments.timezone)
    parameters = {
        "recipe": str(arguments.recipe.absolute()),
        "workspace": str(workspace.root),
        "stage": arguments.stage,
        "limit": arguments.limit,
        "ledger": str(workspace.ledger) if arguments.ledger else None,
    }
    name = arguments.name or name
    with _server() as url:
        print(f"longloom/{name}: {arguments.cron} ({schedule.timezone}), on {url}; Ctrl-C ends it", flush=True)
        if not workspace.busy():
            asyncio.run(_end_killed(name, parameters["workspace"]))
        _serve(longloom, name, schedule, parameters)


async def _end_killed(name: str, workspace: str | None) -> None:
    """Runs of this deployment that went down with the machine would hold its one place, and nothing be started any
    more: a server that went down too has forgotten that places are lent for minutes only."""
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter

    from flows.build import end_run

    at_work = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    async with get_client() as client:
        for run in await client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": ["longloom"]}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [name]}}),
            flow_run_filter=FlowRunFilter.model_validate(at_work),
        ):
            if run.parameters.get("workspace") == workspace:
                await end_run(client, run.id, "`longloom serve` has found the workspace unlocked")


async def _check(arguments: Namespace, workspace: Workspace) -> str:
    """The recipe's name. UserError where a run would end with one at once."""
    async with opened(arguments.recipe, workspace) as (context, engines):
        choose(make_stages(context.recipe, engines), arguments.stage)
        return context.recipe.name


def _schedule(cron: str, timezone: str | None) -> Any:
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.schedules import Cron
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        wrong = {str(one["loc"][0]) for one in error.errors()}
        if "timezone" in wrong:
            raise UserError(f"--timezone {timezone!r}: is no time zone, such as Europe/Berlin") from error
        what = "is no cron line: minute hour day month weekday, such as '0 2 * * *' for every night at two"
        raise UserError(f"--cron {cron!r}: {what}") from error
    return Cron(cron, timezone=timezone or "UTC")


def _serve(flow: Any, name: str, schedule: Any, parameters: dict[str, Any]) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    flow.serve(
        name,
        schedule=schedule,
        parameters=parameters,
        # A run that is due while another is at work would only meet the workspace's lock: it is not started.
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        tags=["longloom"],
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


@contextmanager
def _server() -> Iterator[str]:
    """The URL of the API. Where none is configured, Prefect's own server is started, at its usual port."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    port = int(PREFECT_SERVER_API_PORT.value())
    url = f"http://127.0.0.1:{port}/api"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            hint = (
                f"if that is a Prefect server, set PREFECT_API_URL={url}, else PREFECT_SERVER_API_PORT to a free port"
            )
            raise UserError(f"port {port} is in use: {hint}") from error
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    start = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(os.getpid()), *start],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,  # no Ctrl-C before the flow is taken off the schedule
    )
    try:
        _wait(process, url)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RunError(
        "Prefect's server does not start: try `prefect server start`, or set PREFECT_API_URL to one that runs"
    )
