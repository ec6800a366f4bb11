"""The scorer `evidence`: numbers by hand, where spans are found, and its stage."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.evidence import CHUNK, bm25_rank, cut, evidence_columns, merge, overlap
from pipelines.catalog import query
from pipelines.evidence import locate, measure
from pipelines.workspace import Workspace
from schemas.states import Reject
from tests.conftest import run
from tests.test_select import recipe

FILLER = "The sea was calm and grey that day. " * 40  # 1440 characters
NEEDLE = "The silver key lies under the third stone. "


def row(prompt, evidence=(), documents=("doc-1",), **details):
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "a"}],
        "document_ids": list(documents), "evidence": list(evidence), "details": json.dumps(details),
    }  # fmt: skip


def test_scope_and_dispersion_by_hand():
    context = "aa bb cc dd " * 10  # 120 characters
    found = evidence_columns(context, [(0, 5), (60, 65), (108, 119)], "bb zz", 2)
    assert (found["scope_tokens"], found["n_spans"], found["n_documents"]) == (8, 3, 2)
    assert found["scope_share"] == 21 / 120 and found["span_extent"] == 119 / 120
    assert found["mean_gap"] == pytest.approx((55 + 43) / 2 / 120) and found["depth"] == pytest.approx(119 / 240)
    assert found["overlap"] == 0.5 and found["bm25_rank"] == found["n_chunks"] == 1


def test_spans_that_overlap_or_touch_are_one_and_a_span_outside_is_refused():
    assert merge([(5, 9), (0, 3), (3, 4), (8, 12)], 12) == [(0, 4), (5, 12)]
    for wrong in ((0, 13), (-1, 2), (4, 4)):
        with pytest.raises(ValueError, match="no part of a text of 12 characters"):
            merge([wrong], 12)


@given(st.text(alphabet="ab \n字", max_size=3000))
def test_chunks_hold_the_whole_text_once(text):
    chunks = cut(text)
    assert "".join(text[start:end] for start, end in chunks) == text
    assert all(0 < end - start <= CHUNK for start, end in chunks)


def test_bm25_rank_is_1_where_the_question_has_the_words_and_last_where_it_has_none():
    context = FILLER + NEEDLE + FILLER
    start = context.index(NEEDLE)
    chunks, evidence = cut(context), [(start, start + len(NEEDLE))]
    assert bm25_rank(context, chunks, evidence, "Where is the silver key?") == 1
    assert bm25_rank(context, chunks, evidence, "Nothing fits") == len(chunks) == 4  # hard, not easy
    text = "calm sea " * 89 + "xyzzy" * 20
    assert bm25_rank(text, cut(text), [(860, 900)], "calm") == 2


def test_overlap_counts_different_words_once_and_needs_some():
    assert overlap("the key the KEY of gold", "Key and gold") == 0.5 and overlap("?!", "x") is None


def test_evidence_of_a_document_is_found_in_the_prompt_wherever_the_document_stands():
    document = "same line\nfirst\nsame line\nsecond\n"
    start = document.rindex("same line")
    assert locate("Read this:\n" + document, document, start, start + 9) == (11 + start, 20 + start)
    assert locate("only same line here", document, start, start + 9) == (5, 14)
    assert locate("something else", document, start, start + 9) is None


def test_what_has_no_evidence_or_none_in_the_prompt_says_so():
    span = {"document_id": "doc-1", "start": 0, "end": 4}
    for one, reason in ((row("text\n\nWhy?"), "no_evidence"), (row("text\n\nWhy?", [span]), "evidence_not_in_prompt"),
                        (row("text\n\nWhy?", evidence_=[[0, 2]]), "no_evidence")):  # fmt: skip
        with pytest.raises(Reject) as error:
            measure(one, {"doc-1": "word"})
        assert error.value.reason == reason
    with pytest.raises(Reject, match="evidence_outside"):
        measure({**row("text\n\nWhy?"), "details": json.dumps({"evidence": [[5, 999]]})}, {})


def test_depth_is_in_the_context_without_the_question():
    found = measure(row("x" * 90 + " evidence.\n\nWhat evidence?", [{"document_id": "d", "start": 0, "end": 9}]),
                    {"d": "evidence."})  # fmt: skip
    assert found["depth"] == pytest.approx(95.5 / 100) and found["overlap"] == 0.5 and found["n_documents"] == 1


def test_a_question_before_its_text_has_no_rank():
    found = measure(row("Which?\n\nlast evidence", [{"document_id": "d", "start": 0, "end": 8}]), {"d": "evidence"})
    assert found["bm25_rank"] is None and found["overlap"] is None and found["depth"] > 0.5


def test_the_stage_measures_evidence_of_both_kinds(tmp_path):
    """details.evidence of verifiable tasks, and the column evidence of long_qa with a verified excerpt."""
    generate = [{"method": "verifiable", "tasks": {"kv_threads": {"count": 3, "tokens": [300]}}},
                {"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10},
                 "verify": {"chunk_tokens": 40}}]  # fmt: skip
    path = recipe(tmp_path, [], [], generate=generate)
    run(path, tmp_path / "ws")
    lines = query(Workspace(tmp_path / "ws"), "SELECT method, n_documents, depth, bm25_rank, n_chunks, scope_tokens "
                  "FROM scores_evidence JOIN samples ON sample_id = scores_evidence.row_id")[1]  # fmt: skip
    assert sorted({line[:2] for line in lines}, key=str) == [("long_qa", 1), ("verifiable", None)]
    assert all(0 < depth < 1 and words > 0 for _, _, depth, _, _, words in lines)
    assert all(rank is None or 1 <= rank <= chunks for _, _, _, rank, chunks, _ in lines)
    states = query(Workspace(tmp_path / "ws"), "SELECT count(*) FROM row_states WHERE stage = 'score.evidence'")[1]
    assert states == query(Workspace(tmp_path / "ws"), "SELECT count(DISTINCT sample_id) FROM samples")[1]
