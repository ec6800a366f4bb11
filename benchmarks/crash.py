"""kill -9 at random moments, hundreds of times: is anything lost, asked twice or different afterwards?

python -m benchmarks.crash [--kills 200] [--operations] [--seed 1]

A small recipe (ingest, two generators, an export; a scripted engine of 4 ms a call) is killed with SIGKILL at random
moments, half of the workspaces three times, and resumed to the end in a fresh process. `lost`: answers that a row had
seen and the ledger did not have. `repeated`: requests that the ledger had and that were asked again. `differing`: files
below tables/ and exports/ that are not byte for byte those of an uninterrupted run, and temporary files left behind.
"""

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path

from tests.crash_driver import Drill, Killed, drill
from tests.support import recipe

STAGES = ("start", "ingest", "generate.long_qa", "generate.agentwrite", "export.out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills at random moments")
    parser.add_argument("--operations", action="store_true", help="also one kill before each file operation of a run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longloom-crash-") as folder:
        path = recipe(Path(folder, "recipe"))
        with drill(Path(folder), path) as small:
            print(f"{small.calls} requests, {small.operations} file operations, {small.seconds:.1f} s a run\n")
            print("| killed | kills | workspaces resumed | lost | repeated | differing |")
            print("|---|---|---|---|---|---|")
            killed = at_moments(small, random.Random(arguments.seed), arguments.kills)
            print_rows("at a random moment", killed)
            if arguments.operations:
                numbers = range(1, small.operations + 1)
                jobs = [small.at_operation(f"operation-{number}", number) for number in numbers]
                print_rows("before each file operation", small.together(jobs))


def at_moments(small: Drill, rng: random.Random, kills: int) -> list[Killed]:
    killed: list[Killed] = []
    while sum(len(one.stages) for one in killed) < kills:
        number = len(killed)
        killed += small.together([small.at_moments(f"moment-{number + n}", rng, (1, 3)[n // 2]) for n in range(4)])
    return killed


def print_rows(how: str, killed: list[Killed]) -> None:
    harm = [
        sum(len(names) for names in column)
        for column in zip(*((k.lost, k.repeated, k.differing) for k in killed), strict=True)
    ]
    stages = Counter(stage for one in killed for stage in one.stages)
    resumed = sum(bool(one.stages) for one in killed)
    print(f"| {how} | {stages.total()} | {resumed} | {' | '.join(map(str, harm))} |")
    for stage in STAGES:
        print(f"| ... in {stage} | {stages[stage]} | | | | |")
    for one in killed:
        if one.lost or one.repeated or one.differing:
            print(f"\n{one}\n")


if __name__ == "__main__":
    main()
