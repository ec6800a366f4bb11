"""Documents that are alike in a whole corpus: signatures by shard, keys grouped in parts, pairs read side by side.

What is computed says filters/curation (minhash, candidates, clusters); here is where columns stand and which process
does what. Texts are read where pairs are compared, and nowhere else. In memory: some 40 bytes and the id of each
document, and the sampled word runs that several documents have.
"""

import asyncio
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from filters.curation.candidates import Shared, compare, finder, shared
from filters.curation.clusters import Alarm, alarms, ranked, resolve, settle
from filters.curation.minhash import shingles, sign
from filters.curation.text import Text
from filters.curation.words import Array, words_of
from pipelines.shards import open_part, read_part
from schemas.curation.duplicates import Duplicates
from schemas.tables import TABLES

PART_ROWS = 8_000_000  # of keys that are grouped at once: some 120 bytes for each
READ_RUNS = 4_000_000  # word runs of the texts that one call compares


def signatures(rows: list[tuple[str, Text]], config: Duplicates) -> pa.Table:
    """The table `signatures` of some documents (id, text)."""
    columns = sign([text for _, text in rows], 0, config)
    lists = [
        pa.ListArray.from_arrays(np.searchsorted(documents, np.arange(len(rows) + 1)).astype(np.int32), hashes)
        for documents, hashes in (columns.keys, columns.samples)
    ]
    values = [[one for one, _ in rows], columns.runs, columns.exact, columns.sampled, *lists]
    return pa.table(values, schema=TABLES["signatures"])


def shared_part(files: list[tuple[str, int]], column: str, part: int, parts: int, to: str) -> int:
    """Of the hashes (`keys` or `samples`) of one part, those that several documents have: written to the file `to` as
    arrays `documents`, `hashes`, `many`; returns how many. `files`: signatures, and the number of the first document
    in each."""
    found = [columns_of(file, first, column, part, parts) for file, first in files]
    return write_shared(found, to)


def columns_of(file: str, first: int, column: str, part: int, parts: int) -> tuple[Array, Array]:
    """(documents, hashes) of one part."""
    lists = read_part(file, columns=[column]).column(0).combine_chunks()
    hashes = lists.flatten().to_numpy(zero_copy_only=False)
    documents = first + np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy(zero_copy_only=False))
    if parts == 1:
        return documents, hashes
    mine = hashes % np.uint64(parts) == part
    return documents[mine], hashes[mine]


def write_shared(found: Iterable[tuple[Array, Array]], to: str) -> int:
    documents, hashes = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((documents, hashes))  # whoever brought them, in whatever order
    rows = shared(documents[order], hashes[order])
    with Path(to).open("wb") as file:
        np.savez(file, documents=rows.documents, hashes=rows.hashes, many=rows.many)
    return len(rows.hashes)


def compare_pairs(root: str, places: list[tuple[str, int, int]], pairs: list[tuple[int, int]], shingle: int) -> Any:
    """candidates.compare of pairs; a document is named by its number in `places` (file, row group, row)."""
    sets: list[Array | None] = [None] * len(places)
    by_group: dict[tuple[str, int], list[int]] = {}
    for number, (file, group, _) in enumerate(places):
        by_group.setdefault((file, group), []).append(number)
    for (file, group), numbers in by_group.items():
        texts = open_part(Path(root) / file).read_row_group(group, ["text"]).column(0)
        mine = (texts[places[number][2]].as_py() for number in numbers)
        for number, found in zip(numbers, words_of(mine), strict=True):
            sets[number] = shingles(found, shingle)
    return [compare(sets[one], sets[other]) for one, other in pairs]  # type: ignore[arg-type]


@dataclass(slots=True)
class Corpus:
    """The documents to compare, in their order: those that their rules have kept."""

    ids: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # parts of `documents`
    places: list[tuple[int, int, int]] = field(default_factory=list)  # of each: which of `texts`, row group, row
    signatures: list[tuple[str, int]] = field(
        default_factory=list
    )  # parts, and the number of each one's first document


class Search:
    """One search. `executor`: processes.Processes or beam.BeamExecutor. `folder`: for files in between."""

    def __init__(self, root: Path, folder: Path, executor: Any, corpus: Corpus, config: Duplicates) -> None:
        self._root, self._folder, self._executor = root, folder, executor
        self._corpus, self._config = corpus, config
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    async def run(self) -> tuple[pa.Table, list[Alarm]]:
        """clusters.resolve's table of all documents, in their order, and the alarms."""
        config, corpus = self._config, self._corpus
        ids = pa.array(corpus.ids, pa.string())
        columns = ["runs", "exact", "sampled"]
        facts = pa.concat_tables([read_part(file, columns=columns) for file, _ in corpus.signatures])
        runs, exact, sampled = (facts.column(name).to_numpy() for name in ("runs", "exact", "sampled"))
        rank = ranked(runs, ids)
        bands = await self._shared("keys", len(runs) * 40)
        parts = [load_shared(file) for file in await self._shared("samples", int(sampled.sum()))]
        samples = Shared(*(np.concatenate([getattr(part, name) for part in parts]) for name in Shared.__slots__))

        def keys() -> Iterator[tuple[Array, Array]]:
            for file in bands:
                part = load_shared(file)
                yield part.documents, part.hashes

        find = finder(keys, samples, sampled, rank, config)
        loop = asyncio.get_running_loop()

        def read(pairs: Array) -> Array:
            return asyncio.run_coroutine_threadsafe(self._read(pairs, runs), loop).result()

        pairs = await asyncio.to_thread(settle, find, read, rank, config)
        shutil.rmtree(self._folder)
        table = resolve(pairs, rank, ids, exact, config)
        return table, alarms(table, pa.array(corpus.sources, pa.string()), config)

    async def _shared(self, column: str, rows: int) -> list[Path]:
        parts = 1 + rows // PART_ROWS
        files = [self._folder / f"{column}-{part:05d}.npz" for part in range(parts)]
        await self._executor.grouped(self._corpus.signatures, column, [str(file) for file in files])
        return files

    async def _read(self, pairs: Array, runs: Array) -> Array:
        """candidates.compare of sorted pairs, (pairs, 3)."""
        held = np.cumsum(runs[pairs].sum(axis=1)) // READ_RUNS
        calls = []
        for chunk in np.split(pairs, np.flatnonzero(np.diff(held)) + 1):
            numbers = np.unique(chunk)
            found = (self._corpus.places[number] for number in numbers.tolist())
            places = [(self._corpus.texts[file], group, row) for file, group, row in found]
            local = np.searchsorted(numbers, chunk).tolist()
            calls.append(self._executor.call(compare_pairs, str(self._root), places, local, self._config.shingle))
        return np.array([one for chunk in await asyncio.gather(*calls) for one in chunk])


def load_shared(file: Path) -> Shared:
    with np.load(file) as arrays:
        return Shared(*(arrays[name] for name in Shared.__slots__))
