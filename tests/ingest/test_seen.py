"""SeenIds behaves as a set, in few bytes an entry."""

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import seen as module
from pipelines.seen import SeenIds


def _id(number):
    return "doc-" + hashlib.sha256(str(number).encode()).hexdigest()[:32]


@settings(max_examples=100)
@given(numbers=st.lists(st.integers(0, 60), max_size=200), fresh=st.integers(1, 7))
def test_behaves_as_a_set(numbers, fresh):
    kept, module._FRESH = module._FRESH, fresh
    try:
        ours, theirs = SeenIds(), set()
        for number in numbers:
            assert ours.add(_id(number)) == (number not in theirs)
            theirs.add(number)
            assert len(ours) == len(theirs)
    finally:
        module._FRESH = kept


def test_the_highest_and_lowest_hashes(monkeypatch):
    monkeypatch.setattr(module, "_FRESH", 1)
    ours = SeenIds()
    ids = [f"doc-{'0' * 16}{value:016x}" for value in (0, 2**64 - 1, 2**63, 2**53 + 1, 2**53)]
    assert [ours.add(each) for each in ids] == [True] * 5
    assert [ours.add(each) for each in ids] == [False] * 5


def test_eight_bytes_an_entry_in_few_runs(monkeypatch):
    monkeypatch.setattr(module, "_FRESH", 100)
    ours = SeenIds()
    for number in range(10_000):
        ours.add(_id(number))
    assert sum(run.nbytes for run in ours._runs) + 8 * len(ours._fresh) == 80_000
    assert all(run.dtype == np.uint64 for run in ours._runs)
    lengths = [len(run) for run in ours._runs]
    assert all(longer >= 2 * shorter for longer, shorter in itertools.pairwise(lengths))


def test_loads_the_ids_of_parts(tmp_path):
    for part in range(2):
        ids = [_id(number) for number in range(part * 10, part * 10 + 10)]
        pq.write_table(pa.table({"instruction_id": ids, "text": ids}), tmp_path / f"{part}.parquet")
    ours = SeenIds()
    ours.load(sorted(tmp_path.iterdir()), "instruction_id")
    assert len(ours) == 20 and not ours.add(_id(13)) and ours.add(_id(20))
