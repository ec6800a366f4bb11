"""Which documents stay: only what was read beside a kept one goes; any order and any rounds give the same."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.curation.candidates import compare, finder, linked, shared
from filters.curation.clusters import Pairs, alarms, kept, ranked, resolve, settle
from filters.curation.minhash import shingles, sign
from filters.curation.text import Text
from schemas.curation.duplicates import Duplicates

CONFIG = Duplicates(rule="duplicates")


def deduplicate(documents, config=CONFIG, sources=None, parts=1):
    """{id: row} of texts by id, in the order given."""
    ids, sources = pa.array(list(documents)), sources or {}
    texts = [Text(text, sources.get(name, "s")) for name, text in documents.items()]
    columns = sign(texts, 0, config)
    rank = ranked(columns.runs, ids)
    documents_, keys = columns.keys
    split = [(documents_[keys % parts == part], keys[keys % parts == part]) for part in range(parts)]
    find = finder(lambda: split, shared(*columns.samples), columns.sampled, rank, config)
    sets = [shingles(text.words, config.shingle) for text in texts]

    def read(pairs):
        return np.array([compare(sets[a], sets[b]) for a, b in pairs.tolist()]).reshape(-1, 3)

    pairs = settle(find, read, rank, config)
    table = resolve(pairs, rank, ids, columns.exact, config)
    found = alarms(table, pa.array([text.source for text in texts]), config)
    return {row.pop("id"): row for row in table.to_pylist()}, found, len(pairs.documents)


def prose(seed, count):
    return np.random.default_rng(seed).integers(0, 5000, count).astype(str).tolist()


def edited(text, every, seed=0):
    return [f"edit{seed}x{place}" if place % every == every // 2 else word for place, word in enumerate(text)]


BOOK, OTHER, ESSAY = prose(1, 20_000), prose(2, 20_000), prose(3, 200)
CORPUS = {
    "book": " ".join(BOOK),
    "another": " ".join(OTHER),
    "chapter": "Chapter one.\n" + "\n\n".join(BOOK[4000:5500]),
    "copy": ",\n".join(BOOK).upper(),
    "essay": " ".join(ESSAY),
    "essay-edited": " ".join(edited(ESSAY, 200)),
    "essay-rewritten": " ".join(edited(ESSAY, 7)),
    "short": "To be or not.",
    "short-again": "to be, or not?",
    "shorter": "to be or",
    "empty": "",
    "blank": " \n",
}


def test_copies_edits_and_chapters_go_and_others_stay():
    rows, _, _ = deduplicate(CORPUS)
    gone = {name: (row["kept_copy_id"], row["reason"]) for name, row in rows.items() if not row["keep"]}
    assert gone == {
        "copy": ("book", "exact_duplicate"),
        "chapter": ("book", "contained"),
        "essay-edited": ("essay", "near_duplicate"),
        "short-again": ("short", "exact_duplicate"),
    }
    assert rows["book"]["cluster_size"] == rows["chapter"]["cluster_size"] == 3 and rows["another"]["cluster_size"] == 1
    assert rows["essay-edited"]["jaccard"] == pytest.approx(191 / 201) and rows["chapter"]["known_share"] > 0.99
    assert all(row["kept_copy_id"] == name for name, row in rows.items() if row["keep"])


@settings(max_examples=10)
@given(st.permutations(sorted(CORPUS)), st.integers(1, 4))
def test_result_is_independent_of_order_and_parts(names, parts):
    rows, _, _ = deduplicate({name: CORPUS[name] for name in names}, parts=parts)
    assert rows == deduplicate(CORPUS)[0]


def test_two_different_books_are_no_pair():
    assert deduplicate({"a": CORPUS["book"], "b": CORPUS["another"]})[2] == 0


def test_a_chain_of_likenesses_takes_only_what_is_like_a_kept_one():
    """Each is like the next, and the last is nothing like the first."""
    text = prose(4, 1000)
    chain = {f"{step}": " ".join(text[60 * step :][:1000] + prose(10, 60 * step)) for step in range(10)}
    rows, _, _ = deduplicate(chain)
    sets = {name: shingles(Text(one).words, 5) for name, one in chain.items()}
    kept_ = [name for name, row in rows.items() if row["keep"]]
    assert 2 <= len(kept_) < 10
    for name, row in rows.items():
        if not row["keep"]:
            assert max(compare(sets[row["kept_copy_id"]], sets[name])[::2]) >= 0.8


def test_of_a_text_and_its_endless_repetition_the_one_that_says_more_stays():
    text = prose(5, 1000)
    rows, _, _ = deduplicate({"more": " ".join(text), "longer": " ".join(text[:900] * 20)})
    assert not rows["longer"]["keep"] and rows["longer"]["known_share"] == pytest.approx(896 / 900)


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 5)), max_size=40, unique=True),
    st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))),
    st.permutations(range(12)),
)
def test_rounds_find_what_all_pairs_would(rows, alike, rank):
    """Random buckets, random likeness, random ranks: `settle` keeps what the rule over all candidate pairs keeps."""
    rank = np.array(rank)
    documents, keys = np.array(rows, np.int64).reshape(-1, 2).T

    def read(pairs):
        return np.array([[0.9 * ((min(p), max(p)) in alike), 0, 0] for p in pairs.tolist()]).reshape(-1, 3)

    def find(standing, width):
        return linked(documents, keys, rank, standing, width)

    everything, complete = find(np.ones(12, bool), 99)
    assert complete
    assert (
        kept(settle(find, read, rank, CONFIG), rank, CONFIG).tolist()
        == kept(Pairs(everything, read(everything)), rank, CONFIG).tolist()
    )


def test_a_thousand_copies_are_read_once_each():
    rows, found, pairs = deduplicate({f"{n:04}": "a text of more than five words" + "." * n for n in range(1000)})
    assert pairs == 999
    assert [name for name, row in rows.items() if row["keep"]] == ["0000"] and rows["0500"]["cluster_size"] == 1000
    assert [(alarm.kept, alarm.documents) for alarm in found] == [("", 999), ("0000", 1000)]
    assert str(found[1]) == "source 's': one cluster, kept copy '0000', has 1000 documents, 100.0%"


def test_alarms_by_source():
    documents = {f"a{n}": " ".join(prose(n, 30)) for n in range(100)} | {
        f"b{n}": " ".join(prose(n, 30)) for n in range(9)
    }
    sources = {name: name[0] for name in documents}
    rows, found, _ = deduplicate(documents, sources=sources)
    assert not any(row["keep"] for name, row in rows.items() if name[0] == "b")
    assert [(alarm.source, alarm.documents, alarm.share) for alarm in found] == [("b", 9, 1.0)]
    apart, found, _ = deduplicate(documents, Duplicates(rule="duplicates", scope="source"), sources)
    assert all(row["keep"] for row in apart.values()) and found == []


def test_a_million_empty_documents_are_nobody_s_copy():
    count = 1_000_000
    rank = ranked(np.zeros(count, np.int64), pa.array(range(count)))
    table = resolve(Pairs(), rank, pa.array(range(count)), np.zeros(count, np.uint64), CONFIG)
    assert table["keep"].to_numpy().all() and table["reason"].unique().to_pylist() == [""]
    assert sign([Text("")] * 1000, 0, CONFIG).keys[0].tolist() == []
