"""kill -9 of one process that a run has started, not of the run: a worker of curation, or the engine's.

python -m benchmarks.worker_kills [--kills 12] [--seed 3]

The real command line. At a random moment of a victim's life it is killed, twice at most in a workspace; then the same
command runs until it ends well. Columns as in benchmarks.faults; `borne`: runs that ended well all the same.
"""

import argparse
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.curation.test_curate_killed import two_workers
from tests.curation.test_curate_stage import page
from tests.fault_bench import Bench, Ended, until_well
from tests.scorers import test_scores_end_to_end as scored
from tests.scorers.models import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print("| killed | kills | borne | lost | twice | not equal | what was said |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="longloom-workers-") as folder:
        (Path(folder) / "curation").mkdir()
        curation = Bench(two_workers(Path(folder) / "curation", [page(number, 400) for number in range(300)]))
        _kill(curation, "a worker of curation", "spawn_main", 1.2, arguments.kills, rng)
        models = {"long": write(Path(folder) / "model", max_position_embeddings=4096)}
        engine = Bench(scored.recipe(Path(folder) / "engine", models, [], texts=3, instructions=[]))
        _kill(engine, "the engine's process", "generators.engines.worker", 12.0, arguments.kills, rng)


def _kill(bench: Bench, what: str, mark: str, longest: float, kills: int, rng: random.Random) -> None:
    """`mark` stands in a victim's command line; `longest`: seconds of its life."""
    done = borne = lost = twice = unequal = number = 0
    said: set[str] = set()
    while done < kills and number < 4 * kills:
        number += 1
        workspace = bench.recipe.parent / f"w{number}"
        most = done + 2

        def once(workspace: Path = workspace, most: int = most) -> Ended:
            nonlocal done, borne
            process = bench.start(workspace)
            killed = done < most and _strike(process.pid, mark, rng.uniform(0, longest), rng)
            ended = bench.ended(process)
            done, borne = done + killed, borne + (killed and ended.code == 0)
            return ended

        ends = until_well(once)
        harm = bench.harm(workspace)
        lost, twice = lost + harm.lost, twice + harm.twice
        unequal += not harm.equal or ends[-1].code != 0 or not all(one.is_clear for one in ends)
        said |= {one.sentence.replace(str(bench.recipe.parent), "").partition(" (log")[0] for one in ends}
    told = "; ".join(sorted(said - {""})).replace("longloom: ", "")
    print(f"| {what} | {done} | {borne} | {lost} | {twice} | {unequal} | {told} |", flush=True)


def _strike(run: int, mark: str, after: float, rng: random.Random) -> bool:
    """Kill one of the run's processes, that many seconds after the first has been seen; was there one?"""
    with suppress(psutil.NoSuchProcess):
        while not _victims(run, mark):
            time.sleep(0.01)
        time.sleep(after)
        if found := _victims(run, mark):
            rng.choice(found).kill()
            return True
    return False


def _victims(run: int, mark: str) -> list[psutil.Process]:
    parent = psutil.Process(run)
    if parent.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(run)
    found = []
    for child in parent.children(recursive=True):
        with suppress(psutil.Error):
            if mark in " ".join(child.cmdline()):
                found.append(child)
    return found


if __name__ == "__main__":
    main()
