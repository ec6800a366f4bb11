"""Parts of benchmarks in documents, found and cut out. Shares and runs are counted by hand."""

import json
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.curation.benchmark_index import BenchmarkIndex, build_index, passages
from filters.curation.contamination import Contamination, Excision, report
from filters.curation.text import Judgement, Text
from filters.curation.words import words
from schemas.curation.contamination import ContaminationConfig, ExcisionConfig

ITEM = [f"w{letter}{number}" for letter in "abcde" for number in range(8)]  # 40 words
BENCHMARKS = [{"name": "bench", "path": "x.jsonl", "fields": ["question"]}]
FILLER = [f"filler{number}" for number in range(2000)]


@pytest.fixture
def rule(tmp_path):
    def make(questions, kind=Contamination, boilerplate=10, **options):
        rows = [{"question": one} if isinstance(one, str) else one for one in questions]
        found = [
            passage
            for number, row in enumerate(rows)
            for passage in passages("bench", str(number), row, ["question", "context"])
        ]
        folder = tmp_path / f"index{len(list(tmp_path.iterdir()))}"
        build_index(found, options.get("ngram", 13), 5, boilerplate, folder)
        config, name = {
            Contamination: (ContaminationConfig, "contamination"),
            Excision: (ExcisionConfig, "contamination_excise"),
        }[kind]
        titles = options.pop("titles", {})
        named = [{**BENCHMARKS[0], "name": name, "titles": those} for name, those in titles.items()]
        made = config(rule=name, benchmarks=named or BENCHMARKS, index=str(folder), boilerplate=boilerplate, **options)
        return kind(made)

    return make


def around(*words):
    return " ".join([*FILLER[:50], *words, *FILLER[50:100]])


def numbers(rule, text):
    return [(one.hits, one.covered, one.longest_run, one.contaminated) for one in rule.pairs(Text(text))]


def test_thirteen_words_are_found_across_line_breaks_case_and_punctuation_and_twelve_are_not(rule):
    one = rule([" ".join(ITEM)])
    thirteen = ",\n ".join(word.upper() for word in ITEM[5:18]) + "!"
    assert numbers(one, around(thirteen)) == [(1, 13 / 40, 13, True)]
    assert not one.judge(Text(around(thirteen)))[0].keep
    assert numbers(one, around(*ITEM[5:17])) == []
    assert one.judge(Text(around(*ITEM[5:17])))[0].keep


def test_a_run_of_22_words_is_10_ngrams_and_the_covered_share_is_that_of_the_item(rule):
    assert numbers(rule([" ".join(ITEM)]), around(*ITEM[:22])) == [(10, 22 / 40, 22, True)]


def test_the_longest_run_is_the_longest_and_not_the_sum(rule):
    text = around(*ITEM[:15], "between", *ITEM[15:34])
    assert numbers(rule([" ".join(ITEM)]), text) == [(3 + 7, 34 / 40, 19, True)]


def test_with_8_words_short_runs_are_kept_unless_they_cover_half_of_the_item(rule):
    one = rule([" ".join(ITEM)], ngram=8)
    assert numbers(one, around(*ITEM[:10])) == [(3, 10 / 40, 10, False)]
    half = around(*ITEM[:10], "x", *ITEM[10:20], "y", *ITEM[20:30])
    assert numbers(one, half) == [(9, 30 / 40, 10, True)]


def test_a_question_of_5_words_is_found_as_a_whole_and_one_of_4_is_not_looked_for(rule):
    one = rule(["Who wrote the second book?", "Who wrote this book?"])
    assert numbers(one, around("who wrote\nTHE second", "book")) == [(1, 1.0, 5, True)]
    assert numbers(one, around("Who wrote the second book", "who wrote the second", "book")) == [(2, 1.0, 5, True)]
    assert numbers(one, around("Who wrote the second page")) == []
    assert numbers(one, around("Who wrote this book?")) == []
    assert numbers(one, "Who wrote the second book") == [(1, 1.0, 5, True)]
    assert numbers(one, "Who wrote the second") == []


def test_short_texts_that_are_not_the_question_are_not_looked_for(rule):
    assert (
        numbers(rule([{"question": " ".join(ITEM), "context": "in the year of our lord"}]), "in the year of our lord")
        == []
    )


def test_a_context_of_many_items_is_one_text_and_no_boilerplate(rule):
    rows = [{"question": f"question number {n} about the text", "context": " ".join(ITEM)} for n in range(20)]
    assert len(rule(rows).pairs(Text(around(*ITEM)))) == 20


def test_ngrams_of_many_different_texts_are_boilerplate(rule):
    head = "answer the following question about the text and give only the letter of the answer"
    questions = [f"{head} number {n} {' '.join(FILLER[n * 20 : n * 20 + 20])}" for n in range(12)]
    assert numbers(rule(questions), head) == []
    assert len(numbers(rule(questions, boilerplate=12), head)) == 12
    assert numbers(rule(questions), " ".join(FILLER[:20]))[0][3]


def test_hits_lie_across_the_blocks_of_a_long_text(rule, monkeypatch):
    monkeypatch.setattr("filters.curation.benchmark_index._BLOCK", 16)
    one = rule([" ".join(ITEM), "Who wrote the second book?"])
    for shift in range(20):
        text = " ".join([*FILLER[:shift], *ITEM[:22], *FILLER[20:30], "who wrote the second book"])
        assert numbers(one, text) == [(10, 22 / 40, 22, True), (1, 1.0, 5, True)]


def test_removing_and_running_again_gives_no_hits(rule):
    text = " ".join([*FILLER[:500], *ITEM, *FILLER[500:1000], *ITEM[3:20], *FILLER[1000:1500]])
    one = rule([" ".join(ITEM)], Excision)
    cleaned, found = one.clean(Text(text))
    assert one.pairs(Text(cleaned)) == [] and one.clean(Text(cleaned))[0] == cleaned
    assert found[0].value == 1 and all(judgement.keep for judgement in found)
    for piece in cleaned.split("\n\n"):
        assert piece in text and len(piece) >= 200
    for start, end in ((0, 500), (500, 1000), (1000, 1500)):  # the margins and no more
        whole = " ".join(FILLER[start:end])
        assert len(whole) - 450 < max(len(piece) for piece in cleaned.split("\n\n") if piece in whole) < len(whole)


def test_pieces_that_join_to_a_new_match_are_cut_again(rule):
    text = " ".join([*FILLER[:100], *ITEM[:10], *ITEM[20:40], *ITEM[10:20], *FILLER[100:200]])
    one = rule([" ".join(ITEM), " ".join(ITEM[:20])], Excision, margin=0, min_piece=0)
    cleaned, _ = one.clean(Text(text))
    assert one.pairs(Text(cleaned)) == [] and "filler99" in cleaned


def test_what_is_cut_too_often_or_to_nothing_goes(rule):
    one = rule([" ".join(ITEM)], Excision)
    cleaned, found = one.clean(Text(" ".join(ITEM)))
    assert cleaned == "" and (found[-1].keep, found[-1].reason) == (False, "nothing_left")
    often = " ".join(word for n in range(11) for word in [*ITEM[:20], *FILLER[n * 150 : n * 150 + 150]])
    assert one.clean(Text(often))[1][-1].reason == "too_many_pieces"


def test_a_clean_text_stays_as_it_is(rule):
    for text in ("", " \n", "...", "\u200b\u202e", around("nothing here")):
        cleaned, found = rule([" ".join(ITEM)], Excision).clean(Text(text))
        assert cleaned == text and [(one.rule, one.value) for one in found] == [("contamination.texts", 0)]


def test_a_text_that_repeats_itself_gives_no_flood_of_hits(rule):
    one = rule(["la " * 1000], ngram=13)
    assert numbers(one, "la " * 100_000) == [(99_988, 16 / 1000, 16, True)]


def test_an_index_without_texts_finds_nothing_and_rules_go_to_workers(rule):
    assert pickle.loads(pickle.dumps(rule(["a b"]))).pairs(Text(around(*ITEM))) == []


TITLES = {"squad": ["SQuAD"], "gsm8k": ["gsm8k", "openai/grade-school-math"], "book": ["The White Whale"]}


@pytest.mark.parametrize(
    ("metadata", "value", "reason"),
    [
        ({"title": "The  White—WHALE, second edition"}, 1, "book"),
        ({"url": "https://github.com/openai/grade-school-math/blob/master/x"}, 1, "gsm8k"),
        ({"location": "data/GSM8K_test.jsonl:3", "tags": [{"set": "squad"}]}, 2, "squad"),
        ({"title": "A squadron of white whales", "location": "gsm8ks.txt:1"}, 0, ""),
        ({"title": "The White", "kind": "Whale"}, 0, ""),
        ({"licence": "as SQuAD", "n": 8}, 0, ""),
        ({}, 0, ""),
    ],
)
def test_metadata_that_name_a_benchmark_are_found_by_whole_words(rule, metadata, value, reason):
    text = Text(around("nothing"), metadata=json.dumps(metadata))
    wanted = Judgement("contamination.title", value, not value, reason)
    assert rule(["x"], titles=TITLES).judge(text)[-1] == wanted
    assert rule(["x"], Excision, titles=TITLES).clean(text) == (
        text.text,
        [Judgement("contamination.texts", 0), wanted],
    )


def test_without_titles_nothing_is_said_of_them_and_hits_are_counted_once(rule):
    one = rule([" ".join(ITEM), " ".join([*ITEM, "more"])])
    found = one.judge(Text(around(*ITEM[:22]), metadata='{"title": "bench"}'))
    assert [(one.rule, one.value) for one in found] == [
        ("contamination.texts", 2), ("contamination.hits", 10), ("contamination.covered", 22 / 40),
        ("contamination.longest_run", 22),
    ]  # fmt: skip


def test_lists_and_objects_count_with_all_their_texts():
    row = {"question": "q", "options": ["a", {"text": "b", "n": 1}], "none": None}
    found = passages("bench", "3", row, ["question", "options", "none", "missing"])
    assert [(one.field, one.text, one.whole) for one in found] == [("question", "q", True), ("options", "a\nb", False)]


def test_the_report_counts_items_once():
    def row(document, benchmark, item, bad=True):
        return {"document_id": document, "benchmark": benchmark, "item": item, "contaminated": bad}

    rows = [row("d2", "a", "1"), row("d1", "a", "1"), row("d1", "a", "2"), row("d3", "a", "3", False)]
    assert report(rows, {"b": (5, 5), "a": (4, 3)}) == [
        {"benchmark": "a", "items": 4, "looked_for": 3, "items_hit": 2, "share": 0.5, "documents": ["d1", "d2"]},
        {"benchmark": "b", "items": 5, "looked_for": 5, "items_hit": 0, "share": 0.0, "documents": []},
    ]


def test_what_is_too_short_to_be_looked_for_is_counted(tmp_path):
    found = [
        passage
        for number, text in enumerate(["one two", "who wrote the second book", " ".join(ITEM)])
        for passage in passages(
            "bench", str(number), {"question": text, "answer": "four words or so"}, ["question", "answer"]
        )
    ]
    build_index(found, 13, 5, 10, tmp_path)
    assert BenchmarkIndex(tmp_path).counts == {"bench": (3, 2)}


def test_an_ngram_that_a_text_says_twice_breaks_no_run(rule):
    item = [*ITEM[:20], *ITEM[:20], *ITEM[20:]]
    assert numbers(rule([" ".join(item)]), around(*item)) == [(48, 1.0, 60, True)]


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), min_size=5, max_size=40))
def test_shared_ngrams_are_those_of_a_slow_count(document, item):
    """The numbers of a text of three different words against all pairs of n-grams (n = 5)."""
    with TemporaryDirectory() as folder:
        say = " ".join(f"w{one}" for one in item)
        build_index(passages("bench", "0", {"q": say}, ["q"]), 5, 5, 10, Path(folder))
        hits = BenchmarkIndex(Path(folder)).hits(words(" ".join(f"w{one}" for one in document)))
    wanted = {
        (at, to)
        for at in range(len(document) - 4)
        for to in range(len(item) - 4)
        if document[at : at + 5] == item[to : to + 5]
    }
    found = set(zip(hits.first.tolist(), hits.place.tolist(), strict=True))
    assert found <= wanted and {at for at, _ in found} == {at for at, _ in wanted}
