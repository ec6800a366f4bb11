"""A set of content ids in 8 bytes an entry, for exact duplicates over corpora that no Python set could hold."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.shards import open_part

_FRESH = 65_536  # ids that wait in a Python set before they become a sorted run

Run = npt.NDArray[np.uint64]


class SeenIds:
    """Content ids, each kept as 64 bits of its hash.

    Two different texts share 64 bits with a probability of about n*n / 2**65: 3e-4 at a hundred million
    documents. Sorted runs are merged so that each is at least twice as long as the next: an entry is moved
    O(log n) times and a question asks O(log n) runs. 8 bytes an entry at rest, up to 24 while the longest runs
    are merged. Documents and instructions with one text share a hash: use one set for each kind.
    """

    def __init__(self) -> None:
        self._fresh: set[int] = set()
        self._runs: list[Run] = []  # longest first

    def __len__(self) -> int:
        return len(self._fresh) + sum(len(run) for run in self._runs)

    def __contains__(self, content_id: str) -> bool:
        value = int(content_id[-16:], 16)
        return value in self._fresh or self._in_runs(value)

    def add(self, content_id: str) -> bool:
        """True where the id is new. `content_id`: as `schemas.ids.content_id` makes it."""
        if content_id in self:
            return False
        value = int(content_id[-16:], 16)
        self._fresh.add(value)
        if len(self._fresh) >= _FRESH:
            self._push(np.fromiter(self._fresh, np.uint64, len(self._fresh)))
            self._fresh = set()
        return True

    def load(self, files: Iterable[Path], column: str = "document_id") -> None:
        """Adds the ids of Parquet parts that an earlier run has written."""

        for path in files:
            with open_part(path) as file:
                for batch in file.iter_batches(batch_size=_FRESH, columns=[column]):
                    for content_id in batch.column(0).to_pylist():
                        self.add(content_id)

    def _in_runs(self, value: int) -> bool:
        # A typed scalar: with a Python int numpy would convert the whole run to find a common type.
        wanted = np.uint64(value)
        for run in self._runs:
            place = int(run.searchsorted(wanted))
            if place < len(run) and run[place] == wanted:
                return True
        return False

    def _push(self, run: Run) -> None:
        run.sort()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate((self._runs.pop(), run))
            run.sort(kind="stable")
        self._runs.append(run)
