"""Curation on a Beam job server whose workers are processes of their own, as on a cluster."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import run
from tests.curation.test_curate_stage import curated, tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


@pytest.fixture
def servers(tmp_path):
    """Ports of a job server and of a pool that starts workers."""
    jobs, workers = free_port(), free_port()
    # The pool starts `python`: that of this environment, with this project.
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths}
    started = []
    with (tmp_path / "servers.log").open("wb") as log:
        for module, option, port in (
            ("portability.local_job_service_main", "--port", jobs),
            ("worker.worker_pool_main", "--service_port", workers),
        ):
            command = [sys.executable, "-m", f"apache_beam.runners.{module}", option, str(port)]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
        try:
            for port in (jobs, workers):
                wait(port)
            yield jobs, workers
        finally:
            for process in started:
                os.killpg(process.pid, 9)
                process.wait()


def wait(port: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            socket.create_connection(("localhost", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")


def test_workers_elsewhere_write_the_same_tables(servers, tmp_path):
    jobs, workers = servers
    options = [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{jobs}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{workers}",
    ]
    for name, changes in (("here", {}), ("there", {"executor": {"type": "beam", "options": options}})):
        path = curated(tmp_path / name, **changes)
        for stage in ("ingest", "curate"):
            run(path, tmp_path / name / "ws", stage=stage)
    assert tables(tmp_path / "there" / "ws") == tables(tmp_path / "here" / "ws") != {}
