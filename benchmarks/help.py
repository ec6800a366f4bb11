"""How long the command line takes to say what it can do: `longloom --help`, and that of each command.

python -m benchmarks.help
"""

import argparse
import statistics
import subprocess
import sys
import time

from flows.cli import parser

RUNS = 5


def main() -> None:
    (commands,) = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    print(f"| command | seconds (median of {RUNS}) |\n|---|---|")
    for words in ([], *([name] for name in commands.choices)):
        taken = []
        for _ in range(RUNS):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "flows", *words, "--help"], check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - began)
        print(f"| longloom {' '.join([*words, '--help'])} | {statistics.median(taken):.2f} |", flush=True)


if __name__ == "__main__":
    main()
