"""LongPO against the tests its specification asks for (longpo.md, section 10: 1-6 and 10; 7-9 belong to the scorer)."""

import asyncio
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.pairs import is_periodic, is_short, long_words, repeated_words, similarity
from generators.base import RowSize
from generators.documents import draw_chunks
from generators.engines.base import ChatRequest, Completion
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.longpo import LongPO
from generators.prompts import source
from generators.runner import Outcome, Runner, Task
from schemas.methods.longpo import LongPO as Config
from schemas.rows import Document, Preference
from schemas.states import State
from tests.support import WordTokenizer

TEXT = "".join(f"Line {n} tells that room {n} holds exactly {n * 7} chairs.\n" for n in range(120))
DOCUMENT = Document("doc-1", TEXT, "texts", "en")
SMALL = {
    "chunk_tokens": 200,
    "document_tokens": {"min": 300},
    "target_tokens": 4000,
    "sampling": {step: {"max_tokens": 60} for step in ("questions", "chosen", "rejected")},
}


def prompt(request: ChatRequest) -> str:
    return request.messages[0].content


def is_questions(request: ChatRequest) -> bool:
    return "different questions on it" in prompt(request)


def first_room(text: str) -> str:
    """What a chunk is known by: the number of its first room."""
    found = re.search(r"room (\d+)", text)
    assert found is not None
    return found[1]


def questions(request: ChatRequest) -> str:
    room = first_room(prompt(request))
    return "\n".join([f" How many chairs are in room {room}?"] + [f"{n}. Why {n} for {room}, then?" for n in (2, 3, 4)])


def script(chosen: Any = None, rejected: Any = None, ask: Any = questions, document: str = TEXT) -> Any:
    """What a model says: texts, or functions of the request."""

    def reply(request: ChatRequest) -> Any:
        if is_questions(request):
            return ask(request) if callable(ask) else ask
        long = prompt(request).startswith(document.strip("\n"))
        answer = rejected if long else chosen
        if answer is None:
            asked = prompt(request).rpartition("\n\n")[2]
            return f"Nobody can say much about it: {asked.lower()}" if long else f"Seven times as many, for {asked}"
        return answer(request) if callable(answer) else answer

    return reply


def run(
    tmp_path: Path,
    reply: Callable[[ChatRequest], Any],
    document: Document = DOCUMENT,
    window: int = 32768,
    seed: int = 1,
    **changes: Any,
) -> tuple[Outcome, ScriptedEngine]:
    config = Config.model_validate({"method": "longpo", "engine": "w", **SMALL, **changes})
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=seed)
    (outcome,) = asyncio.run(runner.run(LongPO(config), [Task("doc-1#0", document, "doc-1")], dict(config.sampling)))
    ledger.close()
    return outcome, engine


def calls(engine: ScriptedEngine, document: str = TEXT) -> tuple[list[str], list[str], list[str]]:
    """The prompts that asked for questions, for chosen answers and for rejected ones."""
    asked = [prompt(call) for call in engine.calls if is_questions(call)]
    answered = [prompt(call) for call in engine.calls if not is_questions(call)]
    long = [text for text in answered if text.startswith(document.strip("\n"))]
    return asked, [text for text in answered if text not in long], long


# ---------------------------------------------------------------- the algorithm


def test_chosen_reads_the_chunk_alone_and_rejected_the_whole_document_with_the_same_instruction_last(
    tmp_path: Path,
) -> None:
    outcome, engine = run(tmp_path, script())
    _, short, long = calls(engine)
    assert len(outcome.preferences) == len(short) == len(long) == 4
    for pair, one, whole in zip(outcome.preferences, short, long, strict=True):
        chunk = TEXT[pair.details["chunk"]["start"] : pair.details["chunk"]["end"]]
        instruction = pair.details["instruction"]
        assert one == f"{chunk}\n\n{instruction}"
        assert whole == f"{TEXT[:-1]}\n\n{instruction}"  # without the line break at its end
        assert pair.short_prompt == (("user", one),)
        assert pair.chosen == f"Seven times as many, for {instruction}"
        assert pair.rejected == f"Nobody can say much about it: {instruction.lower()}"
    assert outcome.preferences[0].prompt == (("user", long[0]),)
    assert source("longpo", "chosen") == source("longpo", "rejected")


def test_the_instruction_is_asked_from_the_chunk_alone(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, script())
    asked, _, _ = calls(engine)
    for pair, text in zip(outcome.preferences, asked, strict=True):
        chunk = TEXT[pair.details["chunk"]["start"] : pair.details["chunk"]["end"]]
        assert text.startswith(f"{chunk}\n\n") and re.findall(r"^Line \d+", text, re.MULTILINE) == re.findall(
            r"^Line \d+", chunk, re.MULTILINE
        )
        assert pair.details["instruction"] in [
            f"How many chairs are in room {first_room(chunk)}?",
            *(f"Why {n} for {first_room(chunk)}, then?" for n in (2, 3, 4)),
        ]


def test_chunks_are_runs_of_whole_lines_that_do_not_overlap(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, script())
    spans = [pair.details["chunk"] for pair in outcome.preferences]
    assert len(spans) == 4
    for span in spans:
        chunk = TEXT[span["start"] : span["end"]]
        assert chunk.startswith("Line ") and chunk.endswith(" chairs.") and "\n" in chunk
        assert 150 <= span["tokens"] == len(chunk.split()) <= 200
    ordered = sorted(spans, key=lambda span: span["start"])
    assert all(one["end"] <= other["start"] for one, other in pairwise(ordered))
    again, _ = run(tmp_path / "b", script())
    other, _ = run(tmp_path / "c", script(), seed=2)
    assert [pair.details["chunk"] for pair in again.preferences] == spans
    assert [pair.details["chunk"] for pair in other.preferences] != spans


def test_chunks_come_from_everywhere_and_in_random_order() -> None:
    drawn = [draw_chunks(TEXT, 4, 100, WordTokenizer(), Random(seed)) for seed in range(200)]
    assert len({tuple(sorted(range(4), key=chunks.__getitem__)) for chunks in drawn}) == 24
    starts = sorted(start for chunks in drawn for start, _ in chunks)
    assert starts[0] < 200 and max(end for chunks in drawn for _, end in chunks) > len(TEXT) - 200
    assert max(later - earlier for earlier, later in pairwise(starts)) < len(TEXT) / 20


class Halves(WordTokenizer):
    """Two tokens for each character, as byte-level tokenizers do with rare ones; a cut text has one more."""

    def count(self, text: str) -> int:
        return 2 * len(text) + bool(text)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(n, n + 1) for n in range(len(text)) for _ in range(2)]


@given(
    st.lists(st.text(alphabet="ab 甲", max_size=30), max_size=30),
    st.integers(1, 8),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.sampled_from([WordTokenizer(), Halves()]),
)
def test_chunks_of_any_text_are_within_the_budget_and_share_no_character(
    lines: list[str], count: int, budget: int, seed: int, tokenizer: WordTokenizer
) -> None:
    text = "\n".join(lines)
    chunks = draw_chunks(text, count, budget, tokenizer, Random(seed))
    tokens = len(tokenizer.offsets(text))
    assert len(chunks) == (min(count, tokens // budget) if tokens > budget else 0)
    ordered = sorted(chunks)
    assert all(0 <= start <= end <= len(text) for start, end in ordered)
    assert all(one[1] <= other[0] for one, other in pairwise(ordered))
    assert all(tokenizer.count(text[start:end]) <= budget for start, end in chunks)
    assert all(text[start:end] == text[start:end].strip("\n") for start, end in chunks)


def test_a_chunk_has_at_most_32k_tokens_and_a_document_at_most_the_turns_that_fit(tmp_path: Path) -> None:
    assert Config(method="longpo", engine="w").turns == 4
    with pytest.raises(ValidationError, match="chunk_tokens\n  Input should be less than or equal to 32768"):
        Config(method="longpo", engine="w", chunk_tokens=32_769)
    short = Document("doc-1", "".join(TEXT.splitlines(keepends=True)[:50]), "texts", "en")  # 500 words: two chunks
    outcome, _ = run(tmp_path, script(document=short.text), document=short)
    assert [pair.details["turns"] for pair in outcome.preferences] == [2, 2]


def test_line_breaks_and_indents_of_the_source_stay(tmp_path: Path) -> None:
    code = "".join(
        f"def f{n}(room {n}):\n    if chairs:\n\n        return {n} * 7  # so it is, as said\n" for n in range(60)
    )
    outcome, _ = run(tmp_path, script(document=code), document=Document("doc-1", code, "texts", "en"))
    assert outcome.state is State.OK
    for pair in outcome.preferences:
        span = pair.details["chunk"]
        assert pair.short_prompt is not None
        assert pair.short_prompt[0][1].startswith(code[span["start"] : span["end"]] + "\n\n")
        assert code.strip("\n") in pair.prompt[0][1]


def test_all_calls_on_the_whole_document_come_after_those_on_chunks(tmp_path: Path) -> None:
    """They share the document in the prefix cache; a chunk in between would push it out."""
    _, engine = run(tmp_path, script())
    whole = [prompt(call).startswith(TEXT[:-1]) for call in engine.calls]
    assert whole == sorted(whole) and sum(whole) == 4


# ---------------------------------------------------------------- the multi-turn form


def test_the_document_stands_once_and_the_history_holds_chosen_answers(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, script())
    history: tuple[tuple[str, str], ...] = ()
    for number, pair in enumerate(outcome.preferences):
        instruction = pair.details["instruction"]
        user = instruction if number else f"{TEXT[:-1]}\n\n{instruction}"
        assert pair.prompt == (*history, ("user", user))
        assert sum(content.count(TEXT[:-1]) for _, content in pair.prompt) == 1
        assert (pair.details["turn"], pair.details["turns"]) == (number, 4)
        assert pair.details["long_tokens"] == sum(len(content.split()) for _, content in pair.prompt)
        history = (*pair.prompt, ("assistant", pair.chosen))
    assert outcome.preferences[0].document_ids == ("doc-1",)


def test_details_tell_how_a_pair_was_made(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, script(), turns=1)
    (pair,) = outcome.preferences
    decoding = {
        "max_tokens": 60, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "stop": [],
    }  # fmt: skip
    assert {**pair.details, "chunk": None, "instruction": None, "filters": None} == {
        "doc": "doc-1", "excerpt": None, "turn": 0, "turns": 1, "chunk": None, "instruction": None,
        "long_tokens": 1200 + len(pair.details["instruction"].split()), "target_tokens": 4000,
        "gen": {"chosen_decoding": decoding, "rejected_decoding": decoding}, "filters": None, "dropped_turns": [],
    }  # fmt: skip
    assert set(pair.details["filters"]) == {"repetition_chosen", "repetition_rejected", "similarity"}
    assert pair.details["filters"]["similarity"] == round(similarity(pair.chosen, pair.rejected), 4)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("window", [1000, 1300, 2000, 32768])
@pytest.mark.parametrize("target", [1414, 1500, 4000])
@pytest.mark.parametrize("lines", [34, 60, 120, 2000])
def test_no_prompt_is_longer_than_the_target_and_the_question_survives(
    tmp_path: Path, window: int, target: int, lines: int
) -> None:
    text = "".join(f"Line {n} tells that room {n} holds exactly {n * 7} chairs.\n" for n in range(lines))
    document = Document("doc-1", text, "texts", "en")
    settings = {"turns": 3, "target_tokens": target}

    def answer(request: ChatRequest) -> str:
        """As long as allowed, and another one for every prompt."""
        return " ".join(f"word{n} of{len(prompt(request))}" for n in range(30))

    outcome, engine = run(tmp_path, script(answer, answer), document, window, max_similarity=0.99, **settings)
    assert outcome.state is State.OK, outcome.detail
    for call in engine.calls:
        assert len(prompt(call).split()) + call.sampling.max_tokens <= window
    instructions = [pair.details["instruction"] for pair in outcome.preferences]
    for pair in outcome.preferences:
        whole = sum(len(content.split()) for _, content in pair.prompt)
        assert whole + len(pair.chosen.split()) + 150 <= target
        assert pair.prompt[-1][1].endswith(pair.details["instruction"])
        asked = [content for role, content in pair.prompt if role == "user"]
        assert all(content.endswith(i) for content, i in zip(asked, instructions, strict=False))
        part = pair.details["excerpt"] or {"start": 0, "end": len(text)}
        chunk = pair.details["chunk"]
        assert part["start"] <= chunk["start"] < chunk["end"] <= part["end"]
        assert pair.prompt[0][1].startswith(text[part["start"] : part["end"]])


def test_a_document_that_is_too_long_is_refused_where_the_recipe_says_so(tmp_path: Path) -> None:
    changes = {"too_long": "reject", "document_tokens": {"min": 300, "max": 500}}
    outcome, engine = run(tmp_path, script(), **changes)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "document_too_long", [])


def test_a_document_that_is_too_short_or_a_window_that_takes_no_more_than_a_chunk(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, script(), document_tokens={"min": 1201})
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "document_too_short", [])
    outcome, engine = run(tmp_path / "b", script(), window=772)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_for_document", [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chunk_tokens": 300}, "document_tokens.min 300 must be more than chunk_tokens 300"),
        ({"target_tokens": 1700}, "target_tokens 1700 leaves 286 tokens for the document beside 4 turns of up to 316"),
        ({"sampling": {"rejected": {"temperature": 1.0}}}, "sampling.chosen and sampling.rejected must be the same"),
        ({"turns": 9}, "less than or equal to 8"),
        ({"step_engines": {"rejected": "other"}}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        Config.model_validate({"method": "longpo", "engine": "w", **SMALL, **changes})


def test_cost_counts_three_calls_for_each_turn_and_the_document_once() -> None:
    config = Config.model_validate({"method": "longpo", "engine": "w", **SMALL})
    cost = LongPO(config).cost([RowSize("doc-1", 1080), RowSize("doc-2", 450), RowSize("doc-3", 200)], 32768)
    assert cost.requests == 3 * (4 + 2)
    assert cost.prompt_tokens == 4 * (350 + 350 + 1230) + 2 * (350 + 350 + 600)
    assert cost.cached_tokens == 4 * 200 + 3 * 1080 + 2 * 200 + 1 * 450
    assert cost.answer_tokens_max == 18 * 60


# ---------------------------------------------------------------- filters

GOOD = "There are seven times as many chairs as the number of the room says."
OTHER = "I found nothing on that matter, it seems."
LOOP = "so it goes on " * 14  # 56 words, of which four are different
LOOPED = "once and only then " + "so it goes on " * 12 + "until nobody knows"  # 48 of 54 words: 0.889
MORE_LOOPED = "once " + "so it goes on " * 13 + "until"  # 52 of 54 words: 0.963
HALF_LOOPED = "once upon a time " + "so it goes on " * 13  # 52 of 56 words: 0.929


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize(
    ("bad", "good", "state", "reason"),
    [
        ("  \n ", None, State.INVALID_OUTPUT, "empty_{}"),
        ("I'm sorry, I can't find that.", "They are sorry that they can't find it.", State.REFUSED, "refused_{}"),
        ("那里有七把椅子，是很多的。", None, State.INVALID_OUTPUT, "wrong_language"),
        ("The chairs in question are:", "The chairs in question are these.", State.INVALID_OUTPUT, "unfinished_{}"),
        ("Ten chair", "Ten chairs.", State.FILTERED, "short_{}"),
        ("It is 42: a 6 by 7.", "It has 42: six by 7.", State.FILTERED, "few_words_{}"),
        ("ten chairs, ten chairs, ten chairs!", "ten chairs, ten chairs and one", State.FILTERED, "periodic_{}"),
        ("once " + LOOP, LOOPED, State.FILTERED, "repetition_{}"),
    ],
)  # fmt: skip
def test_each_rule_on_an_answer_drops_what_it_should_and_nothing_else(
    tmp_path: Path, side: str, bad: str, good: str | None, state: State, reason: str
) -> None:
    other = {"chosen": "rejected", "rejected": "chosen"}[side]
    outcome, _ = run(tmp_path, script(**{side: bad, other: OTHER}), turns=1)
    assert (outcome.state, outcome.reason, outcome.records) == (state, reason.format(side), [])
    if good is not None:
        outcome, _ = run(tmp_path / "good", script(**{side: good, other: OTHER}), turns=1)
        assert outcome.state is State.OK


def test_the_rejected_answer_may_repeat_itself_more_than_the_chosen_one(tmp_path: Path) -> None:
    assert round(repeated_words(HALF_LOOPED), 3) == 0.929 and round(repeated_words(MORE_LOOPED), 3) == 0.963
    outcome, _ = run(tmp_path / "a", script(HALF_LOOPED, OTHER), turns=1)
    assert (outcome.state, outcome.reason) == (State.FILTERED, "repetition_chosen")
    outcome, _ = run(tmp_path / "b", script(OTHER, HALF_LOOPED), turns=1)
    assert outcome.state is State.OK
    outcome, _ = run(tmp_path / "c", script(OTHER, MORE_LOOPED), turns=1)
    assert (outcome.state, outcome.reason) == (State.FILTERED, "repetition_rejected")
    outcome, _ = run(tmp_path / "d", script(OTHER, MORE_LOOPED), turns=1, max_repetition_rejected=1.0)
    assert outcome.state is State.OK


def test_near_equal_answers_are_no_pair(tmp_path: Path) -> None:
    almost = f"  {GOOD.upper()[:-1]}\n"
    outcome, _ = run(tmp_path / "a", script(GOOD, almost), turns=1)
    assert (outcome.state, outcome.reason, outcome.detail.partition("; ")[2]) == (
        State.FILTERED, "similar_answers", "1.000 > 0.9",
    )  # fmt: skip
    outcome, _ = run(tmp_path / "b", script(GOOD, almost), turns=1, max_similarity=1.0)
    assert outcome.state is State.OK
    outcome, _ = run(tmp_path / "c", script(GOOD, GOOD.replace("seven", "eight")), turns=1)
    assert (outcome.state, outcome.reason) == (State.FILTERED, "similar_answers")  # 13 of 14 words
    outcome, _ = run(tmp_path / "d", script(GOOD, GOOD.replace("seven", "eight")), turns=1, max_similarity=0.95)
    assert outcome.state is State.OK


def test_a_prompt_beyond_what_the_short_model_is_trusted_with_is_dropped(tmp_path: Path) -> None:
    text = "".join(f"Line {n} tells that room {n} holds exactly {n * 7} chairs.\n" for n in range(8000))
    changes = {"chunk_tokens": 32_768, "document_tokens": {"min": 40_000}, "target_tokens": 100_000}
    long, ask = Document("doc-1", text, "texts", "en"), " Is it?\n2. Why is it so, then?"
    reply = script(GOOD, OTHER, document=text, ask=ask.replace("Is it", "Is it so"))
    # Whole lines take some tokens off a chunk; these are made of 32768 words, and the question comes on top.
    flat = Document("doc-1", text.replace("\n", " "), "texts", "en")
    reply = script(GOOD, OTHER, document=flat.text, ask=ask.replace("Is it", "Is it so"))
    outcome, engine = run(tmp_path, reply, flat, 200_000, turns=1, questions=2, **changes)
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FILTERED, "short_prompt_too_long", 1)
    reply = script(GOOD, OTHER, document=text, ask=ask.replace("Is it", "Is it so"))
    outcome, engine = run(tmp_path / "b", reply, long, 200_000, turns=1, questions=2, **changes)
    assert (outcome.state, outcome.preferences[0].details["chunk"]["tokens"] > 32_000) == (State.OK, True)


def test_numbers_of_pairs() -> None:
    assert similarity("The door is red.", "the  DOOR is red") == similarity("", "") == 1.0
    assert similarity("a beats b", "b beats a") == pytest.approx(1 / 3)  # the same words in another order
    assert similarity("It is 41.", "It is 42.") == pytest.approx(2 / 3)
    assert similarity("门是红的", "门是黑的") == 0.75
    assert repeated_words("one two One three") == 0.5 and repeated_words("") == 0.0
    assert repeated_words("门是红的，门是黑的") == pytest.approx(2 / 6)  # pairs of characters
    assert [long_words(text) for text in ("an ox 1234", "red ox", "The red ox", "红门", "红门开了")] == [0, 1, 2, 1, 2]
    assert [is_short(text) for text in ("ten chairs", "ten chairs.", "门是红的了", "门是红的了吗")] == [True, False] * 2
    assert is_periodic("abcabcabc") and is_periodic("a b a b a b") and is_periodic("one two,\none two one two - one!")
    assert not is_periodic("abcabc") and not is_periodic("a b a b") and not is_periodic("abcabcabd")
    assert not is_periodic("")


@given(st.text(alphabet="ab 1", min_size=1, max_size=12), st.integers(3, 6), st.text(max_size=30))
def test_repeats_are_periodic_and_numbers_stay_in_their_range(piece: str, times: int, other: str) -> None:
    if piece.split():
        assert is_periodic(piece * times)
    for text in (piece * times, other):
        assert 0.0 <= repeated_words(text) <= 1.0 and similarity(text, text) == 1.0
        assert 0.0 <= similarity(text, other) <= 1.0


# ---------------------------------------------------------------- turns that fail


def failing(bad: dict[int, Any], document: str = TEXT) -> Callable[[ChatRequest], Any]:
    """Chosen answers, of which some by number are bad."""
    seen: list[str] = []

    def chosen(request: ChatRequest) -> Any:
        seen.append(prompt(request))
        return bad.get(len(seen) - 1, f"Seven times as many, for {first_room(prompt(request))}, that is.")

    return chosen


def test_the_good_turns_of_a_document_stay_and_the_others_are_told(tmp_path: Path) -> None:
    cut = Completion("It is a", "length", 9, 3, None, 0.0)
    outcome, engine = run(tmp_path, script(failing({0: cut, 2: "I cannot help with that."})))
    assert outcome.state is State.OK and [pair.details["turn"] for pair in outcome.preferences] == [0, 1]
    assert len(calls(engine)[2]) == 2  # nobody pays for the long answer of a turn that is lost
    first, second = outcome.preferences
    assert first.details["dropped_turns"] == second.details["dropped_turns"]
    assert [(turn["state"], turn["reason"]) for turn in first.details["dropped_turns"]] == [
        ("truncated", "truncated_chosen"), ("refused", "refused_chosen"),
    ]  # fmt: skip
    spans = [pair.details["chunk"] for pair in outcome.preferences]
    spans += [turn["chunk"] for turn in first.details["dropped_turns"]]
    assert len({span["start"] for span in spans}) == 4
    assert TEXT[:-1] in first.prompt[0][1] and second.prompt[:1] == first.prompt  # the document moves up


def test_a_document_without_a_good_turn_ends_as_its_first_turn_and_tells_all_reasons(tmp_path: Path) -> None:
    bad = {0: "I cannot help with that.", 1: "", 2: "Ten chair", 3: "I cannot help."}
    outcome, engine = run(tmp_path, script(failing(bad)))
    assert (outcome.state, outcome.reason, outcome.records) == (State.REFUSED, "refused_chosen", [])
    assert outcome.detail == (
        "turns dropped: refused_chosen, empty_chosen, short_chosen, refused_chosen; I cannot help with that."
    )
    assert len(calls(engine)[2]) == 0


def test_the_same_instruction_twice_in_one_document_is_dropped(tmp_path: Path) -> None:
    ask = " What is said of it?\n2. WHAT is  said of it?\n3. What is said of it?\n4. what is said of it?"
    outcome, _ = run(tmp_path, script(ask=ask))
    (pair,) = outcome.preferences
    assert [turn["reason"] for turn in pair.details["dropped_turns"]] == ["repeated_instruction"] * 3


def test_questions_on_this_passage_mean_nothing_to_a_reader_of_the_whole_document(tmp_path: Path) -> None:
    on_passage = [" What does the passage say?", "2. Why is THIS text so?", "3. What is the text above on?"]
    outcome, engine = run(tmp_path / "a", script(ask="\n".join([*on_passage, "4. An excerpt of what?"])), turns=1)
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.FILTERED, "question_on_passage", 1)
    outcome, _ = run(tmp_path / "b", script(ask="\n".join([*on_passage, "4. How many chairs are there?"])), turns=1)
    assert outcome.preferences[0].details["instruction"] == "How many chairs are there?"
    text = TEXT.replace("room", "passage")  # a document that has passages of its own
    outcome, _ = run(
        tmp_path / "c",
        script(GOOD, OTHER, ask=" Which passage is it?", document=text),
        Document("doc-1", text, "texts", "en"),
        turns=1,
        questions=1,
    )
    assert outcome.preferences[0].details["instruction"] == "Which passage is it?"


def test_an_instruction_must_leave_room_for_the_document(tmp_path: Path) -> None:
    longest = " ".join(f"{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(257)) + "?"
    steps = {"questions": {"max_tokens": 300}, "chosen": {"max_tokens": 60}, "rejected": {"max_tokens": 60}}
    changes = {"turns": 1, "questions": 1, "sampling": steps}
    outcome, _ = run(tmp_path / "a", script(GOOD, OTHER, f" {longest}"), **changes)
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "instruction_too_long")
    outcome, _ = run(tmp_path / "b", script(GOOD, OTHER, f" {longest.partition(' ')[2]}"), **changes)
    assert outcome.state is State.OK


def test_an_answer_longer_than_its_tokens_must_not_break_the_target(tmp_path: Path) -> None:
    """A server may count with another tokenizer than the recipe's."""
    text = "all that " + " ".join(chr(97 + n // 26) + chr(97 + n % 26) for n in range(400))
    long = Completion(text, "stop", 9, 60, None, 0.0)
    outcome, _ = run(tmp_path, script(long, OTHER), turns=1, target_tokens=1670)
    assert (outcome.state, outcome.reason) == (State.FILTERED, "longer_than_target")


def test_what_no_other_turn_would_survive_ends_the_row(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, script(failing({0: ValueError("a bug")})))
    assert (outcome.state, outcome.reason, outcome.records) == (State.FAILED, "error_ValueError", [])
    assert len(engine.calls) == 2


def echo(request: ChatRequest) -> str:
    return prompt(request)[-400:]


def question_itself(request: ChatRequest) -> str:
    return prompt(request).rpartition("\n\n")[2]


BAD: dict[str, Any] = {
    "empty": "",
    "white space": " \n\t \n",
    "wrong language": "这里有七把椅子。\n2. 那里也有七把椅子。\n3. 为什么有七把椅子？\n4. 谁有七把椅子？",
    "refusal": "I'm sorry, I can't help with that.",
    "half JSON": '{"questions": ["What is',
    "endless repetition": "and so it goes on and on " * 4000,
    "short repetition": "and on and on and on and on and on and on",
    "wrong count": " What is one?\n2. What is two?",
    "prompt echo": echo,
    "200k characters": "x" * 200_000,
    "question itself": question_itself,
    "punctuation": "... --- ... !!!",
    "cut": Completion("It is a", "length", 9, 60, None, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (step, kind)
        for step in ("questions", "chosen", "rejected")
        for kind in BAD
        if step == "questions" or kind not in ("half JSON", "wrong count")  # an answer may be any text
    ],
)
def test_bad_replies_at_any_step_leave_a_reason_and_no_record(tmp_path: Path, step: str, kind: str) -> None:
    reply = script(**{"ask" if step == "questions" else step: BAD[kind]})
    outcome, _ = run(tmp_path, reply)
    assert outcome.state not in (State.OK, State.FAILED) and outcome.reason and outcome.records == []
    assert outcome.detail.startswith("turns dropped: ")


@settings(max_examples=60)
@given(st.lists(st.text(max_size=200), min_size=1, max_size=6), st.integers(0, 3))
def test_any_replies_at_all_end_in_a_state_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, replies: list[str], good: int
) -> None:
    def answer(request: ChatRequest) -> str:
        return replies[len(prompt(request)) % len(replies)]

    steps = [{"ask": answer}, {"chosen": answer}, {"rejected": answer}, {"chosen": answer, "rejected": answer}]
    outcome, _ = run(tmp_path_factory.mktemp("fuzz"), script(**steps[good]))
    assert outcome.state is not State.FAILED, outcome.detail
    assert (outcome.state is State.OK) == bool(outcome.records) and (outcome.state is State.OK) != bool(outcome.reason)
    for pair in outcome.preferences:
        assert isinstance(pair, Preference) and pair.chosen.strip() and pair.rejected.strip()
        assert similarity(pair.chosen, pair.rejected) <= 0.9 and json.dumps(pair.details)
