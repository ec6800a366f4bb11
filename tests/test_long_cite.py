"""LongCite's coarse-to-fine citations against what their recipe asks for (extras.md, section 3)."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.bm25 import BM25
from generators.base import RowSize
from generators.citations import number_sentences, parse_citations, sentence_spans, strip_citations, strip_numbers
from generators.engines.base import BadRequest, ChatRequest
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.long_cite import LongCite, around, read_marks, read_spans, retrieve, split_chunks, split_statements
from generators.runner import Outcome, Runner, Task
from pipelines.build import build
from pipelines.workspace import Workspace
from schemas.methods.long_cite import LongCite as Config
from schemas.rows import Document
from schemas.states import Reject, State
from tests.support import WordTokenizer

ROOT = Path(__file__).parent.parent
ANIMALS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]
TEXT = " ".join(f"The {animal} of the garden is number {n} there." for n, animal in enumerate(ANIMALS))
DOCUMENT = Document("doc-1", TEXT, "texts", "en")
QUESTIONS = " What is in it?\n2. What is b?\n3. What is c?\n4. What is d?\n5. What is e?"
ANSWER = "The cat is number two.  It lives well.\nThe lynx is the last."
MARKED = "The cat is number two.[{cat}]  It lives well.\nThe lynx is the last. [{lynx}][{lynx}]"


def step(request: ChatRequest) -> str:
    prompt = request.messages[0].content
    for name, phrase in {
        "questions": "questions that a reader could put",
        "chunks": "Repeat the answer letter by letter",
        "sentences": "Which of the numbered sentences",
    }.items():
        if phrase in prompt:
            return name
    return "answer"


def cite(request: ChatRequest) -> str:
    """A model that answers every step well."""
    prompt = request.messages[0].content
    match step(request):
        case "questions":
            return QUESTIONS
        case "answer":
            return ANSWER
        case "chunks":
            snippets = re.findall(r"Snippet \[(\d+)\]\n(.*)", prompt)
            number = {name: n for n, text in snippets for name in ("cat", "lynx") if f"The {name} " in text}
            return MARKED.format_map({"cat": 1, "lynx": 1, **number})
    animal = "cat" if "answer to it: The cat" in prompt else "lynx"
    (number,) = re.findall(rf"<C(\d+)>The {animal} ", prompt)
    return json.dumps({"spans": [{"first": int(number), "last": int(number)}]})


def instead(**replies: Any) -> Callable[[ChatRequest], Any]:
    return lambda request: replies[step(request)] if step(request) in replies else cite(request)


def run(
    tmp_path: Path, reply: Callable[[ChatRequest], Any] = cite, document: Document = DOCUMENT, **changes: Any
) -> tuple[Outcome, ScriptedEngine]:
    base = {"method": "long_cite", "engine": "w", "document_tokens": {"min": 10}, "chunk_tokens": 9}
    config = Config.model_validate({**base, **changes})
    engine, ledger = ScriptedEngine(reply), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, 32_768, WordTokenizer(), seed=1)
    (outcome,) = asyncio.run(runner.run(LongCite(config), [Task("doc-1#0", document)], config.steps))
    ledger.close()
    return outcome, engine


def test_stripping_the_tags_gives_back_the_answer_and_all_cited_sentences_exist(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path)
    (sample,) = outcome.samples
    prompt, target = (content for _, content in sample.messages)
    assert strip_citations(target) == ANSWER == sample.details["answer"]
    assert target == (
        "<statement>The cat is number two.<cite>[3-3]</cite></statement>  "
        "<statement>It lives well.<cite></cite></statement>\n"
        "<statement>The lynx is the last.<cite>[12-12]</cite></statement>"
    )
    assert parse_citations(target, sample.details["sentences"])
    numbered, _, rest = prompt.partition("\n\nAnswer the question")
    assert strip_numbers(numbered) == TEXT and numbered == number_sentences(TEXT)
    assert rest.endswith(f"Question: {sample.details['question']}")
    assert [TEXT[e.start : e.end] for e in sample.evidence] == [
        "The cat of the garden is number 2 there.",
        "The lynx of the garden is number 11 there.",
    ]
    assert [step(call) for call in engine.calls] == ["questions", "answer", "chunks", "sentences", "sentences"]
    assert sample.details["cited_share"] == 0.6667


def test_an_excerpt_is_cited_by_its_own_numbers_and_its_places_in_the_document(tmp_path: Path) -> None:
    lines = Document("doc-1", TEXT.replace(". ", ".\n"), "texts", "en")
    reply = instead(
        answer="It is number one.",
        chunks="It is number one.[1]",
        sentences=json.dumps({"spans": [{"first": 1, "last": 2}]}),
    )
    outcome, _ = run(tmp_path, reply, document=lines, document_tokens={"min": 10, "max": 40})
    (sample,) = outcome.samples
    start = sample.details["excerpt"]["start"]
    assert start > 0 and sample.evidence[0].start == start
    for number, span in enumerate(sample.evidence, 1):
        assert f"<C{number}>{lines.text[span.start : span.end]}" in sample.messages[0][1]


@pytest.mark.parametrize(("statements", "each"), [(1, 10), (4, 10), (5, 8), (9, 5), (40, 1), (100, 1)])
def test_each_statement_retrieves_its_share_of_forty_chunks(statements: int, each: int) -> None:
    assert min(10, math.ceil(40 / statements)) == each
    chunks = [f"word{n} same" for n in range(statements * 20)]
    texts = [f"word{n * 20} same" for n in range(statements)]
    found = retrieve(texts, chunks)
    assert found == sorted(set(found)) and {n * 20 for n in range(statements)} <= set(found)
    assert len(retrieve(["same"] * statements, chunks)) == each  # the same chunks for all: each once


def test_bm25_prefers_rare_words_and_short_texts_and_leaves_out_what_shares_none() -> None:
    index = BM25(["the cat", "the dog and the cat and the hen", "the the the", "a lynx", "北京的市长", ""])
    assert index.top("The cat?", 9) == [0, 1, 2]
    assert index.top("LYNX", 9) == [3] and index.top("zebra", 9) == [] and index.top("市长", 9) == [4]
    assert BM25([]).top("x", 3) == [] and BM25(["", "!"]).top("x", 3) == []


@given(st.text(alphabet="ab .\n", max_size=200), st.integers(1, 9))
def test_chunks_are_the_text(text: str, tokens: int) -> None:
    chunks = split_chunks(text, tokens, WordTokenizer())
    assert "".join(text[start:end] for start, end in chunks) == text
    assert all(WordTokenizer().count(text[start:end]) <= tokens for start, end in chunks)


@given(st.text(alphabet="aB .!?。\n", min_size=1, max_size=80).map(str.strip).filter(bool), st.data())
def test_marks_put_into_an_answer_are_read_at_their_statements(answer: str, data: st.DataObject) -> None:
    statements = split_statements(answer)
    assert "".join(statements) == answer
    wanted = [data.draw(st.lists(st.integers(1, 30), max_size=4, unique=True)) for _ in statements]
    marked = ""
    for statement, numbers in zip(statements, wanted, strict=True):
        bare = statement.rstrip()
        marked += bare + "".join(f"[{n}]" for n in numbers) + statement[len(bare) :]
    assert read_marks(marked, answer, statements, 30) == wanted


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("One. Two. Three.", [[], [], []]),
        ("One [1]. Two. [2] Three.[3] [1]", [[1], [2], [3, 1]]),
        ("One.[2][2][1] Two. Three.", [[2, 1], [], []]),
        ("One.[1]Two. Three.", "answer_changed"),
        ("One. [1]Two. Three.", "answer_changed"),
        ("One. Two.[1] three.", "answer_changed"),
        ("One. Two.[1]", "answer_changed"),
        ("Here it is: One. Two. Three.", "answer_changed"),
        ("One.[0] Two. Three.", "unknown_snippet"),
        ("One.[4] Two. Three.", "unknown_snippet"),
        ("[1] One. Two. Three.", "unknown_snippet"),
        ("", "answer_changed"),
    ],
)
def test_an_answer_that_changed_by_one_byte_is_refused(reply: str, found: Any) -> None:
    try:
        assert read_marks(reply, "One. Two. Three.", ["One. ", "Two. ", "Three."], 3) == found
    except Reject as reject:
        assert (reject.state, reject.reason) == (State.INVALID_OUTPUT, found)


def test_chunks_are_widened_by_one_on_both_sides() -> None:
    sentences, chunks = sentence_spans(TEXT), split_chunks(TEXT, 9, WordTokenizer())
    assert len(chunks) == len(sentences) == 12  # each chunk is one sentence
    assert around([5], chunks, sentences) == [5, 6, 7]
    assert around([0, 11, 5], chunks, sentences) == [1, 2, 5, 6, 7, 11, 12]
    halves = split_chunks(TEXT, 5, WordTokenizer())
    assert around([1], halves, sentences) == [1, 2]  # half sentences are shown whole


def test_spans_outside_of_what_was_shown_are_refused() -> None:
    def spans(*pairs: tuple[Any, Any]) -> str:
        return json.dumps({"spans": [{"first": first, "last": last} for first, last in pairs]})

    assert read_spans(spans(), [5, 6]) == ()
    assert read_spans(spans((5, 6), (9, 9), (5, 6)), [5, 6, 7, 9]) == ((5, 6), (9, 9))
    for bad in [(4, 5), (7, 9), (6, 5), (9, 10**12), (-1, 5)]:
        with pytest.raises(Reject, match="unknown_sentence"):
            read_spans(spans(bad), [5, 6, 7, 9])
    for reply in [
        "",
        "[]",
        "{}",
        '{"spans": [], "x": "\\ud800"}',
        '{"spans": 5}',
        '{"spans": [5]}',
        spans(("5", 6)),
        spans((True, 6)),
        spans((5.0, 6)),
    ]:
        with pytest.raises(Reject, match="spans_not_json"):
            read_spans(reply, [1, 5, 6])


def test_at_most_five_chunks_are_followed_and_three_spans_kept(tmp_path: Path) -> None:
    shown: list[str] = []

    def generous(request: ChatRequest) -> str:
        if step(request) == "answer":
            return "All of the garden is there."
        if step(request) == "chunks":
            return "All of the garden is there.[9][1][2][3][4][7]"
        if step(request) == "sentences":
            shown.append(request.messages[0].content)
            return json.dumps({"spans": [{"first": n, "last": n} for n in (10, 1, 2, 3)]})
        return cite(request)

    outcome, _ = run(tmp_path, generous)
    (sample,) = outcome.samples
    assert re.findall(r"<C(\d+)>", shown[0]) == ["1", "2", "3", "4", "5", "8", "9", "10"]
    assert sample.messages[1][1].endswith("<cite>[10-10][1-1][2-2]</cite></statement>")


def test_answers_with_too_few_cited_statements_are_dropped(tmp_path: Path) -> None:
    nothing = json.dumps({"spans": []})
    outcome, _ = run(tmp_path / "a", instead(sentences=nothing))
    assert (outcome.state, outcome.reason, outcome.records) == (State.FILTERED, "few_citations", [])
    outcome, engine = run(tmp_path / "b", instead(chunks=ANSWER), min_cited=0)
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FILTERED, "few_citations", 3)
    six = "The cat is one. It is two. It is three. It is four. It is five. It is six."
    marked = six.replace("one.", "one.[1]")
    span = json.dumps({"spans": [{"first": 1, "last": 1}]})
    outcome, _ = run(tmp_path / "c", instead(answer=six, chunks=marked, sentences=span))
    assert (outcome.state, outcome.detail) == (State.FILTERED, "0.17 of 6 statements are cited")
    outcome, _ = run(tmp_path / "d", instead(answer=six, chunks=marked, sentences=span), min_cited=0.16)
    assert outcome.state is State.OK


def test_texts_that_hold_marks_themselves_are_refused(tmp_path: Path) -> None:
    marks = Document("doc-1", TEXT + " See <C7> there.", "texts", "en")
    outcome, engine = run(tmp_path / "a", document=marks)
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "document_holds_marks", [])
    for number, answer in enumerate(["The cat is number two [2].", "The <cite> tag is for works."]):
        outcome, _ = run(tmp_path / f"b{number}", instead(answer=answer))
        assert (outcome.state, outcome.reason) == (State.FILTERED, "answer_holds_marks")


BAD = {
    "empty": "",
    "white space": " \n\t ",
    "refusal": "I'm sorry, but I cannot help with that.",
    "half JSON": '{"spans": [{"first": 1, "last',
    "wrong language": "这是一个关于花园的回答。",
    "loop": "the cat of the garden is number two there and " * 60,
    "200k": "x" * 200_000,
    "the question": "What is in it?",
    "wrong count": "1. What is a?\n2. What is b?\n3. What is c?\n4. What is d?\n5. What is e?\n6. What is f?",
}
ECHO = {
    "questions": "Think of 5 different questions that a reader could put and that the text answers",
    "answer": TEXT[-150:] + "\n\n" + "What is in it?",
    "chunks": "Repeat the answer letter by letter, and behind each of its sentences put the numbers",
    "sentences": "Which of the numbered sentences show that this statement is true? Name the smallest runs",
}


@pytest.mark.parametrize("bad", [*BAD, "echo"])
@pytest.mark.parametrize("at", ["questions", "answer", "chunks", "sentences"])
def test_bad_replies_at_each_step_end_the_row_with_a_reason(tmp_path: Path, at: str, bad: str) -> None:
    # What passes for an answer fails at the next step: the model that cites says something else.
    outcome, _ = run(tmp_path, instead(**{at: BAD.get(bad, ECHO[at])}))
    assert outcome.state in (State.INVALID_OUTPUT, State.REFUSED, State.FILTERED, State.TRUNCATED), outcome.detail
    assert outcome.reason and outcome.records == []


def test_an_error_of_the_engine_ends_the_row_as_failed(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, instead(sentences=BadRequest("no")))
    assert (outcome.state, outcome.reason, outcome.records) == (State.FAILED, "bad_request", [])


@given(st.sampled_from(["questions", "answer", "chunks", "sentences"]), st.text(max_size=60))
def test_no_reply_is_an_error_in_the_program(tmp_path_factory: pytest.TempPathFactory, at: str, reply: str) -> None:
    outcome, _ = run(tmp_path_factory.mktemp("fuzz"), instead(**{at: reply}))
    assert outcome.state not in (State.FAILED, State.OK), outcome.detail


def on_any_text(request: ChatRequest) -> str:
    """Cites the first snippet and the first sentence shown for an answer from the document's own first words."""
    prompt = request.messages[0].content
    match step(request):
        case "questions":
            return " What is this about?\n2. What is that about?\n3. What is it all about?"
        case "answer":
            return " ".join(re.findall(r"\w+", prompt)[:12]) + "."
        case "chunks":
            return prompt.partition("\n\nAnswer:\n")[2].partition("\n\n")[0] + "[1]"
    number = int(re.findall(r"<C(\d+)>", prompt)[0])
    return json.dumps({"spans": [{"first": number, "last": number}]})


def test_the_recipe_runs_from_end_to_end(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    path = ROOT / "recipes" / "long_cite.yaml"
    asyncio.run(build(path, workspace, make_engine=lambda *_: ScriptedEngine(on_any_text)))
    rows = pq.ParquetDataset(workspace.exports / "long-cite" / "sft").read().to_pylist()
    assert len(rows) > 15
    for row in rows:
        details = json.loads(row["details"])
        target = row["messages"][1]["content"]
        assert strip_citations(target) == details["answer"] and parse_citations(target, details["sentences"])


def test_cost_counts_the_calls_of_a_row() -> None:
    config = Config.model_validate({"method": "long_cite", "engine": "w"})
    cost = LongCite(config).cost([RowSize("a", 5000), RowSize("a", 5000)], 32_768)
    assert cost.requests == 2 * (2 + 1 + 5)
    assert cost.cached_tokens == 3 * 5000  # both answers, and the second row's questions
