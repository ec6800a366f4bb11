"""Packing a million lengths: CPU seconds, memory, rows, beside the ways of other trainers.

`python -m benchmarks.packing` (extra `train`, for TRL; the loop as Axolotl's needs numba, which vLLM brings). Each way
runs in a process of its own, on the same log-normal lengths; CPU seconds are of packing alone, the median of --repeats
(of what takes longer than five seconds: once), the peak is of the whole process with its imports. TRL is run as it is,
or without copying tokens; its `pack_dataset` over all lengths at once took 16 bytes a token of 200,000 lengths, so it
must be asked for: --ways 6. The loops of Axolotl (first fit decreasing in groups of 100,000, at most 200 samples a row)
and LLaMA-Factory (the largest that fits, in batches of 1,000) are written here after their descriptions.
"""

import argparse
import bisect
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def lengths_of(options: argparse.Namespace) -> Array:
    rng = np.random.default_rng(0)
    found = rng.lognormal(np.log(options.median), options.sigma, options.count)
    return found.astype(np.int64).clip(1, options.window)


def ours(lengths: Array, window: int) -> Callable[[], int]:
    from pipelines.packing.plan import plan
    from schemas.packing import Packing

    config = Packing(row_length=window)
    return lambda: len(plan(lengths, config, 0).row_offsets) - 1


def trl_loop(lengths: Array, window: int) -> Callable[[], int]:
    """TRL's own function on lists of nothing, of which it copies only how long they are."""
    import pyarrow as pa
    from trl import data_utils

    class Compute:  # no length is above the window
        filter = staticmethod(lambda values, mask: values)  # nor is one empty
        list_slice = staticmethod(lambda column, start, stop: column)
        take = staticmethod(lambda table, order: table.select(["seq_lengths"]).take(order))

        def __getattr__(self, name: str) -> Any:
            return getattr(pa.compute, name)

    data_utils.pc = Compute()
    offsets = pa.array(np.append(0, np.cumsum(lengths)))
    table = pa.table({"input_ids": pa.LargeListArray.from_arrays(offsets, pa.nulls(int(lengths.sum())))})
    return lambda: len(data_utils._pack_bfd(table, window))


def trl_dataset(lengths: Array, window: int, batch: int | None = 1000) -> Callable[[], int]:
    """With tokens of one byte each, in a cache on disk. `batch`: rows that are packed together; None for all."""
    import datasets
    import pyarrow as pa
    from trl import pack_dataset

    datasets.disable_progress_bars()
    offsets = pa.array(np.append(0, np.cumsum(lengths)))
    tokens = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(int(lengths.sum()), np.int8)))
    dataset = datasets.Dataset(pa.table({"input_ids": tokens}))

    def pack() -> int:
        with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
            options = {"batch_size": batch, "cache_file_name": file.name, "load_from_cache_file": False}
            return len(pack_dataset(dataset, window, map_kwargs=options))

    return pack


def axolotl(lengths: Array, window: int) -> Callable[[], int]:
    from numba import njit

    @njit
    def rows_of(lengths: Array, window: int, most: int) -> int:
        spaces, counts = np.empty(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
        rows = 0
        for length in lengths:
            row = 0
            while row < rows and (spaces[row] < length or counts[row] == most):
                row += 1
            if row == rows:
                spaces[row] = window
                rows += 1
            spaces[row] -= length
            counts[row] += 1
        return rows

    rows_of(lengths[:9], window, 200)  # compiled before the clock runs
    groups = np.split(lengths, range(100_000, len(lengths), 100_000))
    return lambda: sum(rows_of(np.sort(group)[::-1].copy(), window, 200) for group in groups)


def llama_factory(lengths: Array, window: int) -> Callable[[], int]:
    def pack() -> int:
        rows = 0
        for first in range(0, len(lengths), 1000):
            left = sorted(lengths[first : first + 1000].tolist())
            while left:
                rows, space = rows + 1, window
                while place := bisect.bisect_right(left, space):
                    space -= left.pop(place - 1)
        return rows

    return pack


def sorted_list(lengths: Array, window: int) -> Callable[[], int]:
    """Best fit decreasing a piece at a time, over a sorted list of free spaces."""
    from sortedcontainers import SortedList

    def pack() -> int:
        spaces, rows = SortedList(), 0
        for length in np.sort(lengths)[::-1].tolist():
            place = spaces.bisect_left(length)
            if place == len(spaces):
                rows, space = rows + 1, window
            else:
                space = spaces.pop(place)
            spaces.add(space - length)
        return rows

    return pack


WAYS: dict[str, Callable[[Array, int], Callable[[], int]]] = {
    "Longloom, bfd": ours,
    "best fit decreasing, sorted list": sorted_list,
    "TRL 1.16, packing loop, all at once": trl_loop,
    "TRL 1.16, pack_dataset, batches of 1,000": trl_dataset,
    "as Axolotl, numba": axolotl,
    "as LLaMA-Factory, batches of 1,000": llama_factory,
    "TRL 1.16, pack_dataset, all at once": lambda lengths, window: trl_dataset(lengths, window, None),
}


def one(options: argparse.Namespace) -> None:
    """Runs in the process of one way."""
    lengths = lengths_of(options)
    pack = WAYS[options.way](lengths, options.window)
    seconds: list[float] = []
    while len(seconds) < options.repeats and (not seconds or seconds[0] < 5):
        start = time.process_time()
        rows = pack()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bound = -(-int(lengths.sum()) // options.window)
    print(json.dumps({"seconds": seconds, "peak": peak, "rows": rows, "waste": 100 * (rows / bound - 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--window", type=int, default=65_536)
    parser.add_argument("--median", type=float, default=600)
    parser.add_argument("--sigma", type=float, default=1.2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help="this one alone, as JSON")
    parser.add_argument("--ways", type=int, nargs="*", default=range(6), help="numbers of the ways")
    options = parser.parse_args()
    if options.way:
        return one(options)
    lengths = lengths_of(options)
    print(f"{options.count} lengths, {lengths.sum()} tokens, {-(-lengths.sum() // options.window)} rows at least\n")
    print("| way | CPU s, median | least | most | peak MB | rows | waste % |\n" + "|---" * 7 + "|")
    for number, way in enumerate(WAYS):
        if number not in options.ways:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.packing", *sys.argv[1:], "--way", way], capture_output=True, text=True
        )
        if done.returncode:
            print(f"| {way} | failed: {done.stderr.strip().splitlines()[-1]} | | | | | |", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = found["seconds"]
        cells = [f"{value:.2f}" for value in (statistics.median(seconds), min(seconds), max(seconds))]
        print(
            f"| {way} | {' | '.join(cells)} | {found['peak']:.0f} | {found['rows']} | {found['waste']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
