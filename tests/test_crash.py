"""kill -9 at any moment, then the same command again: the same bytes, and no recorded call is made twice."""

import random
from collections.abc import Iterator

import pytest

from tests.crash_driver import Drill, Killed, drill, noted
from tests.support import recipe

SEED = 20
STAGES = ["ingest", "generate.long_qa", "generate.agentwrite", "export.out"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Drill]:
    folder = tmp_path_factory.mktemp("drill")
    with drill(folder, recipe(folder / "recipe")) as found:
        yield found


def harm(killed: list[Killed]) -> list[Killed]:
    return [one for one in killed if one.lost or one.repeated or one.differing]


def test_an_uninterrupted_run_asks_each_request_once_and_two_runs_write_the_same(small):
    calls = noted(small.folder / "whole-0", "call")
    assert len(calls) == len(set(calls)) == 36  # 4 documents x 3 rows x 2 steps, 3 instructions x (a plan, 3 parts)
    assert noted(small.folder / "whole-0", "stage") == STAGES
    assert (
        sorted(calls)
        == sorted(noted(small.folder / "whole-1", "call"))
        == sorted(noted(small.folder / "whole-0", "put"))
    )
    assert len(small.files) == 20 and "exports/out/README.md" in small.files


def test_killed_at_random_moments(small):
    """At least twenty kills, some of them several in one workspace."""
    rng = random.Random(SEED)
    killed: list[Killed] = []
    while sum(len(one.stages) for one in killed) < 20:
        number = len(killed)
        assert number < 60, "the runs end before they are killed"
        killed += small.together(
            [small.at_moments(f"moment-{number + n}", rng, kills=(1, 3)[(number // 2) % 2]) for n in (0, 1)]
        )
    assert harm(killed) == []
    assert any(one.recorded for one in killed)  # else nothing could have been repeated


def test_killed_right_before_a_file_operation(small):
    """Evenly over the run: while ingest, the two generators and the export write their files and manifests."""
    numbers = [small.operations * n // 10 for n in range(1, 10)]
    killed = small.together([small.at_operation(f"operation-{number}", number) for number in numbers])
    assert harm(killed) == []
    assert {stage for one in killed for stage in one.stages} >= set(STAGES)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_before_every_file_operation(small):
    numbers = range(1, small.operations + 1)
    killed = small.together([small.at_operation(f"operation-{number}", number) for number in numbers])
    assert harm(killed) == []
