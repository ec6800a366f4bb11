"""Context recycling against the tests its specification asks for (context_recycling.md, section 10)."""

import asyncio
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from generators.base import RowSize
from generators.context_recycling import ContextRecycling, eligible, find_gold, read_reply
from generators.engines.base import BadRequest, ChatRequest, Completion
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.passage_pairs import check_pair, draws_on_both
from generators.passages import fitting, locate, numbers_of, paragraphs, split_passages
from generators.runner import Outcome, Runner, Task
from pipelines.build import build
from pipelines.workspace import Workspace
from schemas.loading import load_recipe
from schemas.methods.context_recycling import ContextRecycling as Config
from schemas.rows import Document, Span
from schemas.states import Reject, State
from tests.support import WordTokenizer, recipe

ROOT = Path(__file__).parent.parent
TOWNS = ["Alda", "Berg", "Cole", "Dorn", "Elms", "Frey", "Gorm", "Holt", "Isle", "Jork", "Kent", "Lind"]
PARAGRAPHS = [f"{town} is a town by the river {town}water. Its mayor is called {town}son." for town in TOWNS]
DOCUMENT = Document("doc-1", "\n\n".join(PARAGRAPHS), "texts", "en")
AS_THEY_ARE = {"passage_tokens": {"min": 0, "max": None}, "document_tokens": {"min": 5}}
KNOWN = {
    "question": "Which rivers flow by the two towns of the treaty?",
    "answer": " Holtwater and\nColewater ",
    "evidence": [8, 3],
}


def is_pair(request: ChatRequest) -> bool:
    return "Name what you ask about, so that" in request.messages[0].content


def pair(request: ChatRequest) -> str:
    """A question on the passages a call shows."""
    seen = [town for town in TOWNS if f"{town} is a town" in request.messages[0].content]
    if len(seen) == 2:
        return f" Who is mayor of {seen[0]}, and who of {seen[1]}?\nAnswer: {seen[0]}son"
    return f" Who is the mayor of {seen[0]}?\nAnswer: {seen[0]}son\n"


def run(
    tmp_path: Path,
    reply: Callable[[ChatRequest], Any] = pair,
    *,
    document: Document = DOCUMENT,
    seed: int = 1,
    window: int = 32_768,
    **changes: Any,
) -> tuple[Outcome, ScriptedEngine]:
    config = Config.model_validate({"method": "context_recycling", "engine": "w", **AS_THEY_ARE, **changes})
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / f"{seed}.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=seed)
    (outcome,) = asyncio.run(runner.run(ContextRecycling(config), [Task("doc-1#0", document)], config.steps))
    ledger.close()
    return outcome, engine


def asked(metadata: dict[str, Any], text: str = DOCUMENT.text) -> Document:
    return Document("doc-1", text, "texts", "en", metadata)


def only(outcome: Outcome) -> tuple[str, dict[str, Any]]:
    (sample,) = outcome.samples
    return sample.messages[0][1], sample.details


# ------------------------------------------------------------ the tests of the specification


def test_1_each_demonstration_call_sees_one_passage_and_not_the_test_question(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, document=asked(KNOWN), known={})
    assert len(engine.calls) == 3 and outcome.state is State.OK
    for call in engine.calls:
        prompt = call.messages[0].content
        assert sum(paragraph in prompt for paragraph in PARAGRAPHS) == 1
        assert KNOWN["question"] not in prompt


def test_1_two_passage_calls_see_exactly_their_two(tmp_path: Path) -> None:
    _, engine = run(tmp_path, k=3, two_passage=2)
    seen = [sum(paragraph in call.messages[0].content for paragraph in PARAGRAPHS) for call in engine.calls]
    assert seen[0] == 1 and sorted(seen[1:]) == [1, 2, 2]  # the test question's call comes first


@pytest.mark.parametrize("two", [0, 1, 3])
def test_2_evidence_of_a_demonstration_is_what_its_call_saw(tmp_path: Path, two: int) -> None:
    outcome, engine = run(tmp_path, two_passage=two)
    _, details = only(outcome)
    shown = [
        [n for n, paragraph in enumerate(PARAGRAPHS, 1) if paragraph in call.messages[0].content]
        for call in engine.calls
    ]
    assert [details["gold_evidence"], *(demo["evidence"] for demo in details["demonstrations"])] == shown
    numbers = [number for numbers in shown for number in numbers]
    assert len(set(numbers)) == len(numbers) and set(numbers) <= set(range(1, 13))
    assert sum(len(demo["evidence"]) == 2 for demo in details["demonstrations"]) == two
    for demo in details["demonstrations"]:
        assert f"Evidence: [{', '.join(map(str, demo['evidence']))}]\nAnswer: {demo['answer']}" in only(outcome)[0]
        starts = [DOCUMENT.text.index(PARAGRAPHS[number - 1]) for number in demo["evidence"]]
        assert demo["depth"] == [round(start / len(DOCUMENT.text), 4) for start in starts]


def test_3_the_final_prompt_holds_each_passage_once_with_ascending_numbers(tmp_path: Path) -> None:
    prompt, _ = only(run(tmp_path)[0])
    assert all(prompt.count(paragraph) == 1 for paragraph in PARAGRAPHS)
    numbered = re.findall(r"^Passage (\d+): (.*)$", prompt, re.MULTILINE)
    assert numbered == [(str(n), paragraph) for n, paragraph in enumerate(PARAGRAPHS, 1)]


def test_4_instruction_then_passages_then_demonstrations_then_the_open_question(tmp_path: Path) -> None:
    prompt, details = only(run(tmp_path)[0])
    demonstrations = [prompt.index(f"Question: {demo['question']}\n") for demo in details["demonstrations"]]
    order = [prompt.index("in square brackets"), prompt.index("Passage 1:"), prompt.index(PARAGRAPHS[-1])]
    order += [*demonstrations, prompt.index(f"Question: {details['question']}\n")]
    assert order == sorted(order) and len(demonstrations) == 3
    assert prompt.endswith(f"\n\nQuestion: {details['question']}\nEvidence:")


@pytest.mark.parametrize(("long", "known", "made"), [(2, True, 2), (3, True, 3), (9, True, 3), (3, False, 2)])
def test_5_as_many_demonstrations_as_eligible_passages_at_most_k(
    tmp_path: Path, long: int, known: bool, made: int
) -> None:
    """A question that is made takes one of the eligible passages."""
    short = [f"{town} is a town." for town in TOWNS[long:]]
    text = "\n\n".join([*PARAGRAPHS[:long], *short])
    outcome, engine = run(tmp_path, document=asked(KNOWN, text), **({"known": {}} if known else {}), exclude_gold=False)
    _, details = only(outcome)
    assert len(details["demonstrations"]) == made
    assert not any(paragraph in call.messages[0].content for call in engine.calls for paragraph in short)


def test_6_the_same_seed_gives_the_same_bytes_and_another_one_other_passages(tmp_path: Path) -> None:
    one, again, other = run(tmp_path / "a")[0], run(tmp_path / "b")[0], run(tmp_path, seed=2)[0]
    assert one.samples == again.samples
    sources = [[demo["evidence"] for demo in only(outcome)[1]["demonstrations"]] for outcome in (one, other)]
    assert sources[0] != sources[1]


def test_7_no_demonstration_is_drawn_from_a_gold_passage_or_the_overlap_is_marked(tmp_path: Path) -> None:
    all_but_two = {**KNOWN, "evidence": [n for n in range(1, 13) if n not in (5, 9)]}
    _, details = only(run(tmp_path / "a", document=asked(all_but_two), known={})[0])
    assert sorted(demo["evidence"] for demo in details["demonstrations"]) == [[5], [9]]
    assert details["overlap_gold"] is False
    _, details = only(run(tmp_path / "b", document=asked(all_but_two), known={}, exclude_gold=False)[0])
    assert len(details["demonstrations"]) == 3 and details["overlap_gold"] is True
    unknown = asked({"question": KNOWN["question"]})
    _, details = only(run(tmp_path / "c", document=unknown, known={}, emit="prompt")[0])
    assert details["overlap_gold"] is None and details["gold_evidence"] is None


def test_8_the_parser_reads_evidence_and_answer_and_never_takes_a_missing_list_for_an_empty_one() -> None:
    assert read_reply("[6, 18]\nParis, in May", 20) == ((6, 18), "Paris, in May")
    assert read_reply(" Evidence: [18,6,6]\nAnswer: Paris [sic]\nin May ", 20) == ((6, 18), "Paris [sic]\nin May")
    for bad, reason in [
        ("Paris", "no_evidence_list"),
        ("[]\nParis", "no_evidence_list"),
        ("The evidence is [6].\nParis", "no_evidence_list"),
        ("[6, eighteen]\nParis", "no_evidence_list"),
        ("[6 18] Paris", "no_evidence_list"),
        ("6, 18\nParis", "no_evidence_list"),
        ("", "no_evidence_list"),
        ("[6]", "empty_answer"),
        ("[6]\nAnswer: ", "empty_answer"),
        ("[0]\nParis", "unknown_passage"),
        ("[21]\nParis", "unknown_passage"),
        (f"[{'9' * 5000}]\nParis", "unknown_passage"),
    ]:
        with pytest.raises(Reject) as caught:
            read_reply(bad, 20)
        assert (caught.value.state, caught.value.reason) == (State.INVALID_OUTPUT, reason), bad


@given(st.text(max_size=60) | st.from_regex(r"\s*\[[0-9, ]{0,9}\]\s?.{0,9}", fullmatch=True))
def test_8_the_parser_gives_existing_numbers_and_an_answer_or_a_reason(reply: str) -> None:
    try:
        numbers, answer = read_reply(reply, 7)
    except Reject as reject:
        assert reject.state is State.INVALID_OUTPUT and reject.reason
    else:
        assert numbers == tuple(sorted(set(numbers))) and numbers and set(numbers) <= set(range(1, 8))
        assert answer and answer == answer.strip()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_9_the_context_is_not_repeated(tmp_path: Path, k: int) -> None:
    prompt, details = only(run(tmp_path, k=k)[0])
    blocks = re.findall(r"Question: .*\nEvidence: \[.*\]\nAnswer: .*", prompt)
    assert len(blocks) == len(details["demonstrations"]) == k
    count = WordTokenizer().count
    assert count(prompt) <= details["context_tokens"] + k * max(map(count, blocks)) + 100


def test_10_the_target_is_evidence_then_the_unchanged_answer(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path / "a", document=asked(KNOWN), known={})
    (sample,) = outcome.samples
    assert sample.messages[1] == ("assistant", f"[3, 8]\n{KNOWN['answer']}")
    starts = [DOCUMENT.text.index(PARAGRAPHS[n]) for n in (2, 7)]
    assert sample.evidence == tuple(
        Span("doc-1", start, start + len(PARAGRAPHS[n])) for start, n in zip(starts, (2, 7), strict=True)
    )
    (sample,) = run(tmp_path / "b", question_passages=2)[0].samples
    (first, second), town = sample.details["gold_evidence"], sample.details["answer"]
    assert sample.messages[1][1] == f"[{first}, {second}]\n{town}" and 1 <= first < second <= 12


# ------------------------------------------------------------ passages


@given(
    st.text(alphabet="ab .。!\n\u3000甲X", max_size=300),
    st.integers(0, 12),
    st.integers(1, 15) | st.none(),
)
def test_passages_leave_out_white_space_only_and_keep_to_their_limit(text: str, low: int, high: int | None) -> None:
    passages = split_passages(text, WordTokenizer(), low, high)
    last = 0
    for number, passage in enumerate(passages, 1):
        assert passage.number == number and text[passage.start : passage.end] == passage.text
        assert text[last : passage.start].strip() == "" and passage.text == passage.text.strip() != ""
        assert high is None or passage.tokens <= high
        last = passage.end
    assert text[last:].strip() == ""
    for one, two in pairwise(passages):  # nothing that could have been joined was not
        joined = WordTokenizer().count(text[one.start : two.end])
        assert one.tokens >= low or (high is not None and joined > high)


def test_paragraphs_are_joined_and_cut_between_sentences() -> None:
    text = "A heading\n\nOne two three. Four five six.\nSeven eight nine ten.\n \n\nLast words"
    found = [passage.text for passage in split_passages(text, WordTokenizer(), 3, 6)]
    assert found == ["A heading", "One two three. Four five six.", "Seven eight nine ten.\n \n\nLast words"]
    found = [passage.text for passage in split_passages(text, WordTokenizer(), 0, None)]
    assert found == ["A heading", "One two three. Four five six.\nSeven eight nine ten.", "Last words"]


def test_a_text_without_any_border_is_cut_too() -> None:
    found = split_passages("word " * 1000, WordTokenizer(), 64, 256)
    assert [passage.tokens for passage in found] == [256, 256, 256, 232]


def test_two_chinese_sentences_make_a_passage_eligible() -> None:
    text = "下雨了。没有人来。\n\n下雨了\n\n一个句子。"
    assert [p.number for p in eligible(split_passages(text, WordTokenizer(), 0, None))] == [1]


def test_of_a_repeated_passage_no_number_is_the_evidence() -> None:
    text = "It rained. It snowed.\n\nA lone one. And more.\n\nIt rained.  It snowed!"
    assert [p.number for p in eligible(split_passages(text, WordTokenizer(), 0, None))] == [2]


def test_what_does_not_fit_is_left_off_at_the_end_and_numbers_stay(tmp_path: Path) -> None:
    passages = split_passages(DOCUMENT.text, WordTokenizer(), 0, None)
    assert fitting(passages, 63) == passages[:3] and fitting(passages, 62) == passages[:2]
    outcome, engine = run(tmp_path, document_tokens={"min": 5, "max": 140}, k=10)
    prompt, details = only(outcome)
    assert details["passages_left_off"] == 6 and len(details["passages"]) == 6
    assert PARAGRAPHS[5] in prompt and "Passage 7:" not in prompt
    assert {n for demo in details["demonstrations"] for n in demo["evidence"]} <= set(range(1, 7))
    assert not any(paragraph in call.messages[0].content for call in engine.calls for paragraph in PARAGRAPHS[6:])


def test_a_round_trip_leaves_room_for_it_in_the_window(tmp_path: Path) -> None:
    sampling = {"demonstrate": {"max_tokens": 50}, "answer": {"max_tokens": 100}}
    outcome, engine = run(tmp_path, answering, window=922, round_trip=True, sampling=sampling)
    assert outcome.state is State.OK and only(outcome)[1]["passages_left_off"] == 7
    outcome, engine = run(tmp_path / "b", answering, window=800, round_trip=True, sampling=sampling)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])


# ------------------------------------------------------------ known questions


@pytest.mark.parametrize(
    ("evidence", "numbers"),
    [
        (3, (3,)),
        ([8, 3], (3, 8)),
        ("mayor is called  Holtson.", (8,)),
        (["river Alda", PARAGRAPHS[11], 2], (1, 2, 12)),
        ("Aldason.\n\nBerg is", (1, 2)),
    ],
)
def test_gold_evidence_as_numbers_or_as_text(evidence: Any, numbers: tuple[int, ...]) -> None:
    passages = split_passages(DOCUMENT.text, WordTokenizer(), 0, None)
    assert find_gold(evidence, DOCUMENT.text, passages) == numbers


@pytest.mark.parametrize("evidence", [0, 13, True, "no such words", "is a town", " ", 1.5, [3, None], {"a": 1}])
def test_gold_evidence_that_is_nowhere_or_in_several_places_is_refused(evidence: Any) -> None:
    passages = split_passages(DOCUMENT.text, WordTokenizer(), 0, None)
    with pytest.raises(Reject, match="gold_not_located"):
        find_gold(evidence, DOCUMENT.text, passages)


@pytest.mark.parametrize(
    ("metadata", "state", "reason"),
    [
        ({}, State.FILTERED, "no_known_question"),
        ({**KNOWN, "question": " "}, State.FILTERED, "no_known_question"),
        ({**KNOWN, "answer": ["a"]}, State.FILTERED, "known_answer_no_text"),
        ({**KNOWN, "answer": None}, State.FILTERED, "known_question_incomplete"),
        ({**KNOWN, "evidence": []}, State.FILTERED, "known_question_incomplete"),
        ({**KNOWN, "evidence": 99}, State.FILTERED, "gold_not_located"),
        ({**KNOWN, "evidence": 12}, State.OVER_BUDGET, "gold_left_off"),
    ],
)
def test_a_known_question_that_cannot_be_used_asks_no_model(
    tmp_path: Path, metadata: dict[str, Any], state: State, reason: str
) -> None:
    outcome, engine = run(tmp_path, document=asked(metadata), known={}, document_tokens={"max": 140})
    assert (outcome.state, outcome.reason, outcome.records, engine.calls) == (state, reason, [], [])


def test_prompt_records_have_no_assistant_turn(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path / "a", emit="both")
    sft, prompt = outcome.samples
    assert [role for role, _ in sft.messages] == ["user", "assistant"] and sft.details["kind"] == "sft"
    assert prompt.messages == sft.messages[:1] and prompt.details["kind"] == "prompt"
    assert {**prompt.details, "kind": "sft"} == sft.details and prompt.evidence == sft.evidence
    no_answer = asked({"question": KNOWN["question"]})
    outcome, engine = run(tmp_path / "b", document=no_answer, known={}, emit="prompt", round_trip=True)
    (sample,) = outcome.samples
    assert len(sample.messages) == 1 and sample.details["kind"] == "prompt" and sample.evidence == ()
    assert sample.details["answer"] is None and sample.details["round_trip"] is False
    assert len(engine.calls) == 3  # nothing to compare an answer with


def test_settings_that_contradict_each_other_are_refused() -> None:
    base = {"method": "context_recycling", "engine": "w"}
    with pytest.raises(ValidationError, match="two_passage 4 is more than the 3"):
        Config.model_validate({**base, "two_passage": 4})
    with pytest.raises(ValidationError, match=r"needs known\.answer"):
        Config.model_validate({**base, "known": {"answer": None}})


# ------------------------------------------------------------ filters


def checked(question: str, answer: str, *sources: str, **changes: Any) -> str:
    """The reason a pair is refused for, or nothing."""
    config = Config.model_validate({"method": "context_recycling", "engine": "w", **changes})
    try:
        check_pair(question, answer, sources, config)
    except Reject as reject:
        return reject.reason
    return ""


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who is the mayor of Alda?", "Aldason", ""),
        ("Who is the mayor of Alda?", "is called  ALDASON!", ""),
        ("Who is the mayor of Alda?", "Bergson", "answer_not_in_passage"),
        ("Who is the mayor of Alda?", "son", "answer_not_in_passage"),  # a piece of a word
        ("Who is the mayor of Alda?", "...", "empty_answer"),
        ("What does this passage say of Alda?", "Aldason", "question_points_at_passage"),
        ("In the given text, who is mayor?", "Aldason", "question_points_at_passage"),
        ("Who is mayor according to the author?", "Aldason", "question_points_at_passage"),
        ("By which river is the town of Alda?", "Alda", "answer_in_question"),
        ("Who is the mayor of Alda?", "Who is the mayor of Alda?", "answer_in_question"),
        ("Who is\nthe mayor of Alda?", "Aldason", "not_one_line"),
        ("Mayor?", "Aldason", "no_question"),
        ("What is the difference between", "a", "unfinished_question"),  # as a small model really said
        ("谁是这个城市的市长？", "Aldason", "wrong_language"),
        ("Who is the mayor of Alda?", "阿尔达", "wrong_language"),
        ("Who is the mayor of Alda?", "", "empty_answer"),
        ("Who is the mayor of Alda?", "I am sorry, I cannot say.", "refused_answer"),
        ("Who is the mayor of Alda?", "mayor is called:", "unfinished_answer"),
    ],
)
def test_pairs_that_would_be_bad_demonstrations(question: str, answer: str, reason: str) -> None:
    assert checked(question, answer, PARAGRAPHS[0]) == reason


def test_an_answer_in_the_passage_exactly_or_in_any_writing() -> None:
    question, answer = "Who is the mayor of Alda?", "is called aldason"
    assert checked(question, answer, PARAGRAPHS[0], extractive="normalised") == ""
    assert checked(question, answer, PARAGRAPHS[0], extractive="exact") == "answer_not_in_passage"
    assert checked(question, "called Aldason.", PARAGRAPHS[0], extractive="exact") == ""
    assert checked(question, "Mister Aldason", PARAGRAPHS[0], extractive="free") == ""


@pytest.mark.parametrize("question", ["本文的市长是谁？", "这段话说谁是市长？", "文中的市长是谁？", "上述城市在哪里？"])
def test_chinese_pairs(question: str) -> None:
    passage = "北京的市长是王明。他住在河边。"
    assert checked("北京的市长是谁？", "王明", passage) == ""
    assert checked("北京的市长是谁？", "李明", passage) == "answer_not_in_passage"
    pointed = question != "上述城市在哪里？"  # of the text's things one may ask
    assert checked(question, "王明", passage) == ("question_points_at_passage" if pointed else "")


def test_a_pair_from_two_passages_draws_on_both() -> None:
    first, second = PARAGRAPHS[:2]
    assert checked("Who is mayor of Alda, and who of Berg?", "Aldason", first, second) == ""
    assert checked("Who is the mayor of Alda?", "Aldason", first, second) == "one_passage_only"
    assert not draws_on_both("Who is mayor?", first, second)


def test_a_question_asked_before_is_a_failed_call(tmp_path: Path) -> None:
    known = asked({**KNOWN, "question": "who is  the mayor of BERG"})
    outcome, _ = run(tmp_path, document=known, known={}, k=10, exclude_gold=False)
    _, details = only(outcome)
    assert details["failed_calls"] == {"duplicate_question": 1}
    assert len(details["demonstrations"]) == 10 and [2] not in [d["evidence"] for d in details["demonstrations"]]


# ------------------------------------------------------------ failed calls


def test_a_failed_call_is_counted_and_another_passage_tried(tmp_path: Path) -> None:
    calls: list[int] = []

    def second_fails(request: ChatRequest) -> Any:
        calls.append(1)
        return Completion(" Who", "length", 5, 1, None, 0.0) if len(calls) == 2 else pair(request)

    outcome, engine = run(tmp_path, second_fails)
    _, details = only(outcome)
    assert details["failed_calls"] == {"truncated_demonstrate": 1} and len(details["demonstrations"]) == 3
    assert len({call.messages[0].content for call in engine.calls}) == 5


def test_failed_calls_end_the_row_after_the_limit(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, lambda request: "nothing", max_failures=4)
    assert (outcome.state, outcome.reason, outcome.records) == (State.INVALID_OUTPUT, "demonstrations_failed", [])
    assert len(engine.calls) == 5 and outcome.detail.startswith("no_pair 5")


def test_an_error_of_the_engine_is_not_tried_away(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, lambda request: BadRequest("no"))
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FAILED, "bad_request", 1)


def test_documents_without_enough_passages(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path / "a", lambda request: "nothing", document=asked({}, "\n\n".join(PARAGRAPHS[:2])))
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.INVALID_OUTPUT, "demonstrations_failed", 2)
    outcome, engine = run(tmp_path / "b", document=asked({}, "only one sentence here"), document_tokens={"min": 1})
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "too_few_passages", [])
    outcome, engine = run(tmp_path / "c", document=asked({}, PARAGRAPHS[0]))
    assert (outcome.state, outcome.reason, outcome.records) == (State.FILTERED, "too_few_passages", [])
    outcome, engine = run(tmp_path / "d", document_tokens={"min": 5000})
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "document_too_short", [])


# ------------------------------------------------------------ the round trip


def answering(request: ChatRequest) -> str:
    """Pairs, and to the final prompt the right evidence and answer."""
    prompt = request.messages[0].content
    if is_pair(request):
        return pair(request)
    (town,) = re.findall(r"mayor of (\w+)\?\nEvidence:$", prompt)
    return f"[{TOWNS.index(town) + 1}]\nAnswer: {town}SON."


def test_a_round_trip_asks_the_recorded_prompt_and_keeps_what_agrees(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, answering, round_trip=True)
    prompt, details = only(outcome)
    assert engine.calls[-1].messages[0].content == prompt and engine.calls[-1].sampling.temperature == 0
    assert engine.calls[-1].sampling.stop == ("\nQuestion:",) and details["round_trip"] is True
    assert outcome.samples[0].messages[1][1] == f"[{details['gold_evidence'][0]}]\n{details['answer']}"


@pytest.mark.parametrize(
    ("spoil", "state", "reason"),
    [
        (lambda text: text.replace("SON", "dottir"), State.FILTERED, "round_trip_disagrees"),
        (lambda text: re.sub(r"\d+", lambda m: str(int(m[0]) % 12 + 1), text), State.FILTERED, "round_trip_disagrees"),
        (lambda text: re.sub(r"\[\d+\]", "[1, 2]", text), State.FILTERED, "round_trip_disagrees"),
        (lambda text: text.partition("\n")[2], State.INVALID_OUTPUT, "no_evidence_list"),
        (lambda text: "[99]\nx", State.INVALID_OUTPUT, "unknown_passage"),
    ],
)
def test_what_does_not_come_back_the_same_is_no_record(
    tmp_path: Path, spoil: Callable[[str], str], state: State, reason: str
) -> None:
    def reply(request: ChatRequest) -> str:
        return pair(request) if is_pair(request) else spoil(answering(request))

    outcome, _ = run(tmp_path, reply, round_trip=True)
    assert (outcome.state, outcome.reason, outcome.records) == (state, reason, [])


# ------------------------------------------------------------ bad replies, and the whole pipeline

BAD = {
    "empty": "",
    "white space": " \n\t ",
    "refusal": "I'm sorry, but I cannot help with that.",
    "half a reply": " Who is the mayor of Al",
    "half JSON": '{"question": "Who is the mayor of Al',
    "no label": " Who is the mayor of Alda?\nAldason",
    "two pairs": " Who is the mayor?\nAnswer: town\nQ: Who is it?\nAnswer: town",
    "wrong language": " 谁是这个城市的市长？\nAnswer: 王明",
    "loop": f" {'Who is the mayor of this town? ' * 40}\nAnswer: {'a town by the river ' * 60}",
    "200k": f" Who is the mayor of the town?\nAnswer: {'x' * 200_000}",
    "bare 200k": "x" * 200_000,
    "many lines": "\n" * 200_000,
    "empty fields": " \nAnswer: ",
    "only an answer": "\nAnswer: town",
    "refusal in form": " I cannot ask about it.\nAnswer: sorry",
    "the question": " Who is the mayor of it?\nAnswer: Who is the mayor of it?",
    "echo": "The question ends with a question mark and must be clear",
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_replies_at_the_demonstration_step_end_the_row_with_a_reason(tmp_path: Path, bad: str) -> None:
    outcome, _ = run(tmp_path, lambda request: BAD[bad])
    assert outcome.state in (State.INVALID_OUTPUT, State.REFUSED, State.FILTERED, State.TRUNCATED)
    assert outcome.reason == "demonstrations_failed" and outcome.records == []


@pytest.mark.parametrize("bad", [*BAD, "the test question", "the prompt"])
def test_bad_replies_at_the_round_trip_end_the_row_with_a_reason(tmp_path: Path, bad: str) -> None:
    def reply(request: ChatRequest) -> str:
        prompt = request.messages[0].content
        if is_pair(request):
            return pair(request)
        special = {"the test question": prompt.rpartition("Question: ")[2], "the prompt": prompt[-300:]}
        return special.get(bad) or BAD[bad]

    outcome, _ = run(tmp_path, reply, round_trip=True)
    assert outcome.state in (State.INVALID_OUTPUT, State.TRUNCATED) and outcome.reason and outcome.records == []


@given(st.text(max_size=80) | st.builds(lambda q, a: f" {q}\nAnswer: {a}", st.text(), st.text()))
def test_no_reply_is_an_error_in_the_program(tmp_path_factory: pytest.TempPathFactory, reply: str) -> None:
    outcome, _ = run(tmp_path_factory.mktemp("fuzz"), lambda request: reply)
    assert outcome.state is not State.FAILED, outcome.detail
    assert outcome.state is not State.OK and outcome.records == []


@given(st.text(max_size=20), st.text(alphabet="ab \n", max_size=80))
def test_locate_finds_a_text_whatever_its_white_space(wanted: str, text: str) -> None:
    for start, end in locate(wanted, text):
        assert text[start:end].split() == wanted.split()
    where = locate(" ".join(text.split()), text)
    assert len(where) == (1 if text.strip() else 0)
    passages = split_passages(text, WordTokenizer(), 0, None)
    assert [numbers_of(span, passages) for span in paragraphs(text)] == [(p.number,) for p in passages]


def on_any_text(request: ChatRequest) -> str:
    """A question that names words of its passage, and the passage's beginning as the answer."""
    source = request.messages[0].content.rpartition("\n\nWrite one question ")[0]
    answer = " ".join(re.findall(r"\w+", source)[:2])
    words = sorted(set(re.findall(r"[A-Za-z]{4,}", source)) - set(answer.split()))
    return f" What is it about: {', '.join(words[:9])}?\nAnswer: {answer}"


def test_the_recipe_runs_from_end_to_end(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "context_recycling.yaml"
    (entry,) = load_recipe(path).generate
    workspace = Workspace(tmp_path / "workspace")
    asyncio.run(build(path, workspace, make_engine=lambda *_: ScriptedEngine(on_any_text)))
    rows = pq.ParquetDataset(workspace.exports / "context-recycling" / "sft").read().to_pylist()
    parts = sorted((workspace.root / "tables" / "row_states").rglob("*.parquet"))
    states = [row for part in parts for row in pq.read_table(part).to_pylist() if row["stage"] == "generate.recycled"]
    assert len(states) == entry.count and sum(row["state"] == "ok" for row in states) == len(rows) > 30
    texts = {
        row["id"]: row["text"]
        for row in pq.read_table(workspace.exports / "context-recycling" / "documents").to_pylist()
    }
    for row in rows:
        details = json.loads(row["details"])
        (span,), text = row["evidence"], texts[row["document_ids"][0]]
        assert details["answer"] in re.sub(r"\W+", " ", text[span["start"] : span["end"]])
        assert row["messages"][1]["content"] == f"{details['gold_evidence']}\n{details['answer']}"
        assert (
            f"Passage {details['gold_evidence'][0]}: {text[span['start'] : span['end']]}"
            in row["messages"][0]["content"]
        )


def test_questions_of_a_data_set_go_through_the_pipeline(tmp_path: Path) -> None:
    rows = [
        {"text": DOCUMENT.text, "q": KNOWN["question"], "a": "Holtwater", "gold": [PARAGRAPHS[7], 3]},
        {"text": DOCUMENT.text + "\n\nA last line.", "q": KNOWN["question"], "a": "Holtwater"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    source = {"name": "qa", "type": "jsonl", "path": "data.jsonl", "fields": {"metadata": ["q", "a", "gold"]}}
    names = {"question": "q", "answer": "a", "evidence": "gold"}
    entry = {"method": "context_recycling", "engine": "writer", "known": names, **AS_THEY_ARE}
    path = recipe(tmp_path, documents=[{**source, "licence": "CC0-1.0"}], generate=[entry])
    workspace = Workspace(tmp_path / "workspace")
    asyncio.run(build(path, workspace, make_engine=lambda *_: ScriptedEngine(pair)))
    (row,) = pq.ParquetDataset(workspace.exports / "out" / "sft").read().to_pylist()
    assert row["messages"][1]["content"] == "[3, 8]\nHoltwater"
    assert json.loads(row["details"])["question_from"] == "metadata"


def test_cost_counts_the_calls_of_a_row() -> None:
    def requests(**changes: Any) -> tuple[int, int]:
        config = Config.model_validate({"method": "context_recycling", "engine": "w", **changes})
        cost = ContextRecycling(config).cost([RowSize("a", 5000), RowSize("a", 5000)], 32_768)
        return cost.requests, cost.prompt_tokens

    assert requests() == (8, 8 * (160 + 150))
    assert requests(known={}) == (6, 6 * (160 + 150))
    assert requests(two_passage=1) == (8, 8 * (160 + 150) + 2 * 160)
    assert requests(round_trip=True) == (10, 8 * (160 + 150) + 2 * (5000 + 180 + 150))
