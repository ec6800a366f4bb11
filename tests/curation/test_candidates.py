"""Candidates: linear in a bucket, none lost; parts found by their rarest runs; what the reading of a pair tells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.curation.candidates import compare, contained, least, linked, merged, probes, shared, without
from filters.curation.minhash import shingles
from filters.curation.words import words

ALL = 1 << 40


def columns(rows):
    documents, keys = zip(*rows, strict=True) if rows else ((), ())
    return np.array(documents, np.int64), np.array(keys, np.uint64)


def links(rows, width, count=100, standing=None, rank=None):
    standing = np.ones(count, bool) if standing is None else standing
    rank = np.arange(count) if rank is None else rank
    pairs, complete = linked(*columns(rows), rank, standing, width)
    return [tuple(pair) for pair in pairs.tolist()], complete


def test_a_bucket_is_linked_to_its_first_by_rank():
    rows = [(5, 1), (2, 1), (9, 1), (9, 7), (5, 7), (3, 8)]
    assert links(rows, 1) == ([(2, 5), (2, 9), (5, 9)], False)
    assert links(rows, 1, rank=np.arange(100)[::-1]) == ([(9, 2), (9, 5)], False)
    assert links(rows, 2, rank=np.arange(100)[::-1]) == ([(5, 2), (9, 2), (9, 5)], True)
    standing = np.ones(100, bool)
    standing[2] = False
    assert links(rows, 1, standing=standing) == ([(5, 9)], True)
    assert links([], 1) == ([], True)


def test_a_giant_bucket_asks_for_one_pair_a_document():
    count = 200_000
    pairs, complete = linked(np.arange(count), np.zeros(count, np.uint64), np.arange(count), np.ones(count, bool), 1)
    assert len(pairs) == count - 1 and not pairs[:, 0].any() and not complete


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=30, unique=True), st.randoms())
def test_wide_enough_is_all_pairs_in_any_order_and_any_parts(rows, random):
    wanted = sorted({(a, b) for a, key in rows for b, other in rows if a < b and key == other})
    random.shuffle(rows)
    assert links(rows, 99) == (wanted, True)
    parts = [[row for row in rows if row[1] % 3 == part] for part in range(3)]
    together = merged([np.array(links(part, 99)[0], np.int64).reshape(-1, 2) for part in parts])
    assert [tuple(pair) for pair in together.tolist()] == wanted


def test_known_pairs_are_not_asked_again():
    pairs = np.array([[0, 1], [0, 2], [5, 6]])
    assert without(pairs, np.array([[0, 2], [6, 5]])).tolist() == [[0, 1], [5, 6]]
    assert without(pairs, np.zeros((0, 2), np.int64)).tolist() == pairs.tolist()


def parts(sets, containment=0.8, width=ALL):
    """Candidates by samples, of documents given as sets of runs; ranked by number."""
    rows = shared(*columns([(number, run) for number, runs in enumerate(sets) for run in sorted(runs)]))
    sampled = np.array([len(runs) for runs in sets])
    asking = probes(rows, sampled, containment)
    some, ones = np.arange(len(sets)), np.ones(len(sets), bool)
    pairs, complete = contained(rows, asking, sampled, some, ones, width, containment)
    assert complete
    return [tuple(pair) for pair in pairs.tolist()], int(asking.sum())


def test_how_much_of_a_sample_must_be_shared():
    assert least(np.array([0, 1, 8, 31, 100, 1000]), 0.8).tolist() == [1, 1, 4, 20, 70, 769]
    assert least(np.array([8, 31]), 1.0).tolist() == [8, 31]


def test_a_chapter_asks_for_its_book():
    book, other = set(range(1000)), set(range(5000, 6000))
    needed = int(least(np.array(20), 0.8))
    for shown, found in ((20, True), (needed, True), (needed - 1, False)):
        chapter = set(range(300, 300 + shown)) | set(range(9000, 9020 - shown))
        assert parts([book, other, chapter])[0] == [(0, 2)] * found


def test_who_shares_only_a_licence_asks_for_nothing():
    licence = set(range(30))
    pairs, asked = parts([licence | set(range(100 * n, 100 * n + 40)) for n in range(1, 50)])
    assert (pairs, asked) == ([], 0)


@given(st.lists(st.sets(st.integers(0, 25), max_size=20), min_size=2, max_size=8))
def test_no_document_that_shows_enough_is_missed(sets):
    needed = least(np.array([len(runs) for runs in sets]), 0.8)
    shown = {(a, b): len(runs & sets[a]) for b, runs in enumerate(sets) for a in range(b)}
    assert parts(sets)[0] == sorted(pair for pair, count in shown.items() if count >= needed[pair[1]])


def test_compare_by_hand():
    one, other = (shingles(words(text), 5) for text in ("a b c d e f g h", "x c d e f g h"))
    assert len(one) == 4 and len(other) == 3
    assert compare(one, other) == (2 / 5, 2 / 4, 2 / 3)
    assert compare(other, one) == (2 / 5, 2 / 3, 2 / 4)
    nothing = np.zeros(0, np.uint64)
    assert compare(nothing, nothing) == compare(one, nothing) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("text, same", [("B, c d", 1.0), ("b c", 0.0), ("a b c d e f g h", 0.0)])
def test_short_texts_are_alike_only_as_wholes(text, same):
    assert compare(shingles(words("b c D"), 5), shingles(words(text), 5)) == (same, same, same)
