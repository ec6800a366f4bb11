"""Self-Lengthen, row by row, against the tests its specification asks for (self_lengthen.md, section 10)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filters.length_demand import Demand, chinese_numeral, draw_demand, number_value, states
from filters.lengthening import form_fault, keep_chances, pieces
from filters.lengths import word_count
from filters.near_duplicates import NearDuplicates
from generators.engines.base import ChatRequest, Completion
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.runner import Outcome, Runner, Task
from generators.self_lengthen import Draft, Finished, SelfLengthen, Slot, join
from pipelines.self_lengthen import thinned
from schemas.ids import derive_seed
from schemas.methods.self_lengthen import SelfLengthen as Config
from schemas.rows import Instruction
from schemas.states import State
from tests.lengthen_support import SEEDS, prose, reply, step
from tests.support import WordTokenizer

PARAGRAPHS = [prose(f"initial {n}", 10) for n in range(5)]
ROOTS = {"iteration": 1, "instruction_id": "ins-1", "parents": ["ins-2", "ins-3"]}
REQUEST = "Write about an island in the north."
DRAFT = Draft("sam-1", REQUEST, "\n\n".join(PARAGRAPHS), "longer", "en", ROOTS)
SLOT = Slot({"en": [Instruction(f"ins-{n}", text, "seeds", "en") for n, text in enumerate(SEEDS)]}, 1, "longer")
ASKED = Instruction("ins-1", REQUEST, "longer", "en", {"iteration": 1, "parents": ["ins-2", "ins-3"]})
FINISHED = Finished("sam-1", REQUEST, " ".join(PARAGRAPHS), "longer", "en", ROOTS)


def run(
    tmp_path: Path, row: Any, reply: Callable[[ChatRequest], Any] = reply, window: int = 32768, **changes: Any
) -> tuple[Outcome, ScriptedEngine]:
    steps = ("propose", "judge", "answer", "extend", "rewrite")
    section = {
        "method": "self_lengthen", "engine": "w", "iterations": 1, "length_control": {"words": [10, 500], "step": 10},
        "sampling": {name: {"max_tokens": 2000} for name in steps}, **changes,
    }  # fmt: skip
    config = Config.model_validate(section)
    engine, ledger = ScriptedEngine(reply, window=window), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    (outcome,) = asyncio.run(runner.run(SelfLengthen(config), [Task("row#0", row)], config.steps))
    ledger.close()
    return outcome, engine


def prompt(request: ChatRequest) -> str:
    return request.messages[0].content


# ---------------------------------------------------------------- extension


def test_stage_one_sees_the_first_half_of_the_lines_and_stage_two_all_of_them(tmp_path):
    _, engine = run(tmp_path, DRAFT, micro_iterations=1)
    first, second = engine.calls
    assert [line in prompt(first) for line in PARAGRAPHS] == [True, True, False, False, False]
    assert all(line in prompt(second) for line in PARAGRAPHS)
    assert REQUEST in prompt(first) and REQUEST in prompt(second)


def test_lines_of_one_or_two_paragraphs_are_halved_at_line_breaks(tmp_path):
    text = "\n".join(PARAGRAPHS[:3]) + "\n\n" + PARAGRAPHS[3]
    _, engine = run(tmp_path, Draft("s", REQUEST, text, "longer", "en", ROOTS), micro_iterations=1)
    assert [line in prompt(engine.calls[0]) for line in PARAGRAPHS] == [True, True, False, False, False]


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (7, 4)])
def test_stage_two_continues_the_first_two_thirds_of_what_stage_one_wrote(tmp_path, count, kept):
    parts = [prose(f"head {n}", 30) for n in range(count)]

    def said(request: ChatRequest) -> str:
        return "\n\n".join(parts) if step(request) == "extend" else "\n\n" + prose("rest", 40)

    outcome, engine = run(tmp_path, DRAFT, said, micro_iterations=1)
    head = "\n\n".join(parts[:kept])
    assert engine.calls[1].messages[1].role == "assistant" and engine.calls[1].messages[1].content == head
    assert outcome.samples[0].messages[1][1] == head + "\n\n" + prose("rest", 40)


def test_one_paragraph_leaves_no_head_and_is_not_asked_on(tmp_path):
    outcome, engine = run(tmp_path, DRAFT, lambda r: prose("one", 99), tries={"extend": 2})
    assert [step(call) for call in engine.calls] == ["extend"] * 6  # 2 tries x 3 micro-iterations
    assert (outcome.state, outcome.reason) == (State.FILTERED, "not_extended")
    assert "'empty_head': " in outcome.detail


@pytest.mark.parametrize("bad", ["\n\nno end and", "\n\n" + prose("x", 10) + " " + prose("x", 10), " Too short."])
def test_a_bad_or_shorter_candidate_leaves_the_text_as_it_was(tmp_path, bad):
    """The second micro-iteration starts from the same text; growth below the factor is no success."""

    def said(request: ChatRequest) -> str:
        return "\n\n".join(prose(f"h {n}", 5) for n in range(3)) if step(request) == "extend" else bad

    outcome, engine = run(tmp_path, DRAFT, said, tries={"extend": 1})
    assert (outcome.state, outcome.reason, outcome.samples) == (State.FILTERED, "not_extended", [])
    seconds = [call for call in engine.calls if step(call) == "complete"]
    assert len(seconds) == 3 and len({prompt(call) for call in seconds}) == 1
    assert DRAFT.text in prompt(seconds[0])


def test_growth_of_just_the_factor_is_no_success_and_one_word_more_is(tmp_path):
    def said(words: int) -> Callable[[ChatRequest], str]:
        head = "\n\n".join(prose(f"h {n}", 20) for n in range(3))  # the head has 40 words
        return lambda request: head if step(request) == "extend" else "\n\n" + prose("rest", words - 40)

    assert word_count(DRAFT.text) == 50
    assert run(tmp_path / "a", DRAFT, said(60))[0].reason == "not_extended"
    outcome, _ = run(tmp_path / "b", DRAFT, said(61))
    assert outcome.state is State.OK and outcome.samples[0].details["words_extended"] == 61


def test_a_failed_try_starts_again_from_the_first_text(tmp_path):
    """Micro-iterations grow the text too little for success; the next try does not go on from there."""

    def said(request: ChatRequest) -> str:
        head = "\n\n".join(prose(f"h {n}", 20) for n in range(3))
        return head if step(request) == "extend" else "\n\n" + prose("rest", 12)

    outcome, engine = run(tmp_path, DRAFT, said, tries={"extend": 2})
    seconds = [prompt(call) for call in engine.calls if step(call) == "complete"]
    assert outcome.reason == "not_extended" and outcome.detail.startswith("2 tries (not_extended 2)")
    assert [DRAFT.text in one for one in seconds] == [True, False, False] * 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_what_comes_out_is_longer_by_the_factor_starts_with_its_head_and_passes_check(tmp_path_factory, plan):
    """Whatever a model says: paragraphs, words, an ending or none, a line break or none."""
    calls = [0]

    def said(request: ChatRequest) -> str:
        parts, words, ends, breaks = plan[calls[0] // 2 % len(plan)]
        calls[0] += 1
        text = "\n\n".join(prose(f"{calls[0]} {n}", words) for n in range(parts))
        if step(request) == "extend":
            return text
        return ("\n\n" if breaks else "") + (text if ends else text.rstrip("."))

    outcome, engine = run(tmp_path_factory.mktemp("x"), DRAFT, said, tries={"extend": 2})
    if outcome.state is not State.OK:
        assert outcome.records == []
        return
    (sample,) = outcome.samples
    text = sample.messages[1][1]
    assert word_count(text) > 1.2 * word_count(DRAFT.text) and form_fault(text) is None
    heads = [call.messages[1].content for call in engine.calls if step(call) == "complete"]
    assert any(text.startswith(head) for head in heads)
    assert sample.messages[0] == ("user", REQUEST) and 1 <= sample.details["micro_accepted"] <= 3


def test_no_two_paragraphs_are_glued_together():
    assert join("One ends.", "Two starts.") == "One ends.\n\nTwo starts."
    assert join("One ends.", " Two starts.") == "One ends.\n\nTwo starts."
    assert join("One ends.", "\n\nTwo starts.\n") == "One ends.\n\nTwo starts."
    assert join("## A heading", "\nText.") == "## A heading\nText."
    assert join("It was", " late.") == "It was late."


def test_a_text_that_fills_the_window_keeps_what_it_has_reached(tmp_path):
    outcome, _ = run(tmp_path, DRAFT, window=2000 + 256 + 230)
    assert outcome.state is State.OK and outcome.samples[0].details["micro_accepted"] == 1
    outcome, engine = run(tmp_path / "b", DRAFT, window=2000 + 256 + 10)
    assert (outcome.state, outcome.reason, engine.calls) == (State.OVER_BUDGET, "no_room_to_extend", [])


def test_a_dropped_answer_is_a_row_without_calls(tmp_path):
    outcome, engine = run(tmp_path, Draft("s", REQUEST, "Short.", "longer", "en", ROOTS, dropped=True))
    assert (outcome.state, outcome.reason, engine.calls) == (State.FILTERED, "drop_short", [])


# ---------------------------------------------------------------- instructions and answers


def test_a_third_instruction_is_continued_after_two_of_the_pool_and_judged(tmp_path):
    outcome, engine = run(tmp_path, SLOT)
    ask, judge = engine.calls
    started = ask.messages[1]
    first, second = outcome.samples[0].details["parents"]
    texts = {one.instruction_id: one.text for one in SLOT.pool["en"]}
    assert started.role == "assistant" and started.content == f"1. {texts[first]}\n2. {texts[second]}\n3."
    assert first != second and set(ask.sampling.stop) >= {"\n4.", "---", "\n\n\n"}
    ((_, new),) = outcome.samples[0].messages
    assert prompt(judge).startswith(new + "\n\n")


@pytest.mark.parametrize(("verdict", "taken"), [("yes", 1), ("Yes.", 1), ("no", 0), ("yes, it does", 0), ("", 0)])
def test_only_a_plain_yes_accepts_and_ten_tries_are_made(tmp_path, verdict, taken):
    outcome, engine = run(tmp_path, SLOT, lambda r: verdict if step(r) == "judge" else reply(r))
    assert len(outcome.samples) == taken and len(engine.calls) == (2 if taken else 20)
    assert taken or (outcome.state, outcome.reason) == (State.FILTERED, "judged_unsuited")


def test_an_instruction_has_more_than_3_and_less_than_500_words(tmp_path):
    def ended(words: int) -> State:
        said = lambda r: "Yes" if step(r) == "judge" else " " + prose("i", words)  # noqa: E731
        return run(tmp_path / str(words), SLOT, said, tries={"instruction": 1})[0].state

    assert [ended(words) for words in (3, 4, 499, 500)] == [
        State.INVALID_OUTPUT, State.OK, State.OK, State.INVALID_OUTPUT,
    ]  # fmt: skip


def test_near_duplicates():
    seen = NearDuplicates(0.7)
    assert seen.is_new("Write a long story about a lighthouse keeper and his old dog in winter")
    assert not seen.is_new("Write a LONG story about a lighthouse keeper and his old dog in winter!")
    assert not seen.is_new("Write a long story about a lighthouse keeper and his old dog in summer")
    assert seen.is_new("Write a report about a village library")
    assert seen.is_new("写一篇关于北方小岛的长文") and not seen.is_new("写一篇关于北方小岛的长文。")


def test_an_answer_is_tried_twenty_times_from_the_bare_instruction(tmp_path):
    outcome, engine = run(tmp_path, ASKED, lambda r: "It ends with a comma,")
    assert len(engine.calls) == 20 and len({call.sampling.seed for call in engine.calls}) == 20
    assert {tuple((m.role, m.content) for m in call.messages) for call in engine.calls} == {(("user", REQUEST),)}
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "unfinished_answer")
    outcome, engine = run(tmp_path / "b", ASKED)
    assert outcome.samples[0].details["role"] == "initial" and len(engine.calls) == 1


# ---------------------------------------------------------------- check, drop_short, outlines


def test_check_refuses_repeated_spans_and_open_ends():
    ten = "one two three four five six seven eight nine ten"
    assert form_fault(f"{ten} and then {ten} is said.") == "repeated_span"
    assert form_fault(f"{ten} and then {ten[:-4]} is said.") is None
    chinese = "一二三四五六七八九十甲乙丙"
    assert form_fault(f"{chinese}又{chinese}完。") == "repeated_span"
    assert form_fault(f"{chinese}又{chinese[:-1]}完。") is None
    assert [form_fault(f"It stops here{end}") for end in ",;:-"] == ["open_end"] * 4
    assert [form_fault(f"It stops here{end}") for end in (".", "!", "?", "…", '."', ".)", ".**")] == [None] * 7
    assert form_fault("文章到此为止。") is None and form_fault("文章到此为止，") == "open_end"
    assert form_fault("文章到此为止.") == "open_end" and form_fault("") == "open_end"


def test_check_refuses_talk_about_the_rewriting_and_no_honest_opening():
    assert form_fault("Here is an expanded version of the text:\n\nThe island lies north.") == "meta_talk"
    assert form_fault("Sure! Here's the revised article.\n\nThe island.") == "meta_talk"
    assert form_fault("The island.\n\nThis revised version adds detail.") == "meta_talk"
    assert form_fault("To write a story based on the provided outline, I begin.\n\nThe island.") == "meta_talk"
    assert form_fault("The island.\n\nPlease feel free to change any part of it.") == "meta_talk"
    assert form_fault("The given island lies north.\n\nI hope for a calm sea.") is None
    assert form_fault("以下是扩展后的文章。\n\n北方有一座小岛。") == "meta_talk"
    assert form_fault("Version control began in the seventies.\n\nIn response, teams grew.") is None
    assert form_fault("A paragraph is a unit of thought.\n\nThe revision of the law came late.") is None


def test_drop_short_on_ten_thousand_lengths():
    lengths = list(range(1, 10_001))
    Random(3).shuffle(lengths)
    chances = keep_chances(lengths, ["en"] * len(lengths))
    kept = [derive_seed(1, f"sam-{n}") / 2**31 < chance for n, chance in enumerate(chances)]
    assert not any(keep for length, keep in zip(lengths, kept, strict=True) if length <= 2000)
    assert abs(sum(kept) / len(kept) - 0.595) <= 0.02
    rising = [chance for _, chance in sorted(zip(lengths, chances, strict=True))]
    assert rising == sorted(rising)
    share = [
        sum(k for n, k in zip(lengths, kept, strict=True) if low < n <= low + 2000) for low in range(0, 10000, 2000)
    ]
    assert share == sorted(share)


def test_drop_short_ranks_within_a_language_and_treats_equal_lengths_alike():
    chinese, english = [10, 20, 30], [1000, 2000, 3000]
    both = keep_chances([*chinese, *english], ["zh"] * 3 + ["en"] * 3)
    assert both[:3] == both[3:] == keep_chances(chinese, ["zh"] * 3)
    assert keep_chances([5, 5, 5, 9], ["en"] * 4)[:3] == [0.0] * 3


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_an_outline_is_a_part_of_the_lines_in_their_order(seed, count):
    lines = [f"line {n}" for n in range(count)]
    kept = [line for line in thinned("\n\n".join(lines), 0.8, Random(seed)).splitlines() if line]
    assert [line for line in lines if line in kept] == kept


def test_an_outline_holds_four_fifths_of_the_lines_on_average():
    text = "\n\n".join(f"line {n}" for n in range(20_000))
    assert abs(len(pieces(thinned(text, 0.8, Random(5)))[0]) / 20_000 - 0.8) <= 0.02


# ---------------------------------------------------------------- demands on the length


@settings(max_examples=500)
@given(
    st.integers(2000, 7999), st.sampled_from(["about", "range", "above", "below"]), st.sampled_from([1000, 2000]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_a_demand_holds_for_the_true_length_in_both_languages(words, kind, step, chinese, numerals):
    demand = draw_demand(words, kind, step, (2000, 8000))
    assert demand.holds(words) and demand.numbers <= set(range(2000, 8001, 1000))
    phrase = demand.phrase(chinese, numerals)
    request = f"写一篇关于小岛的文章，{phrase}。" if chinese else f"Write about an island in {phrase}."
    assert states(request, demand)
    # What the words say is what is meant: no demand of another kind or number is stated by them.
    for other in (Demand("above", demand.low or 1, None), Demand("below", None, demand.high or 1)):
        assert other == demand or not states(request, other)


@pytest.mark.parametrize(
    ("request_", "demand", "stated"),
    [
        ("Write no less than 3,000 words on tea.", Demand("above", 3000, None), True),
        ("Write less than 3,000 words on tea.", Demand("above", 3000, None), False),
        ("Write at most 3000 words on tea.", Demand("below", None, 3000), True),
        ("Write a 3000-word essay on tea.", Demand("about", 3000, None), True),
        ("Write more than 3000 words on tea.", Demand("about", 3000, None), False),
        ("Write 2,000-3,000 words on tea.", Demand("range", 2000, 3000), True),
        ("Write at least 2000 but no more than 3000 words on tea.", Demand("range", 2000, 3000), False),
        ("Write 2000 to 3000 words on tea, or 500 words.", Demand("range", 2000, 3000), False),
        ("Write on tea.", Demand("about", 3000, None), False),
        ("写一篇不少于三千字的文章", Demand("above", 3000, None), True),
        ("写一篇少于三千字的文章", Demand("above", 3000, None), False),
        ("写一篇不超过3000字的文章", Demand("below", None, 3000), True),
        ("写一篇超过3000字的文章", Demand("below", None, 3000), False),
        ("写一篇两千到三千字的文章", Demand("range", 2000, 3000), True),
        ("写一篇三千字左右的文章", Demand("about", 3000, None), True),
        ("写一篇三千字以内的文章", Demand("below", None, 3000), True),
    ],
)
def test_whether_a_request_states_a_demand(request_, demand, stated):
    assert states(request_, demand) is stated


@given(st.integers(1, 9999))
def test_chinese_numerals_are_read_as_they_are_written(number):
    assert number_value(chinese_numeral(number)) == number


def test_chinese_numerals():
    written = {
        2000: "两千",
        2500: "两千五百",
        105: "一百零五",
        15: "十五",
        110: "一百一十",
        3020: "三千零二十",
        20: "二十",
    }
    assert {number: chinese_numeral(number) for number in written} == written
    assert number_value("一万二千") == 12_000 and number_value("3千") == 3000


@pytest.mark.parametrize("kind", ["about", "range", "above", "below"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_length_controlled_records_demand_what_is_true(tmp_path, kind, language):
    request, text = (
        (REQUEST, FINISHED.text) if language == "en" else ("写一篇关于小岛的文章。", "海风吹过小岛，" * 9 + "完。")
    )
    row = Finished("sam-1", request, text, "longer", language, ROOTS)
    control = {
        "words": [10, 500],
        "step": 10,
        "kinds": {k: float(k == kind) for k in ("about", "range", "above", "below")},
    }
    outcome, _ = run(tmp_path, row, length_control=control)
    assert outcome.state is State.OK, outcome
    found = outcome.samples[0].details["length_constraint"]
    demand = Demand(found["type"], found["lo"], found["hi"])
    assert demand.holds(word_count(text)) and states(outcome.samples[0].messages[0][1], demand)
    assert outcome.samples[0].messages[1] == ("assistant", text)


def test_a_rewriting_that_says_the_opposite_or_nothing_is_no_record(tmp_path):
    control = {"words": [10, 500], "step": 10, "kinds": {"above": 1, "about": 0, "range": 0, "below": 0}}
    for n, said in enumerate((REQUEST, f"{REQUEST} Use less than 40 words.", f"{REQUEST} Use more than 30 words.")):
        outcome, _ = run(tmp_path / str(n), FINISHED, lambda _, said=said: said, length_control=control)
        assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "demand_not_stated")


# ---------------------------------------------------------------- bad replies

BAD = {
    "empty": "",
    "whitespace": " \n\n \t ",
    "language": "这是一段用中文写成的回答，它与要求的语言不同。\n\n第二段。\n\n第三段。",
    "refusal": "I'm sorry, but I cannot help with that request.",
    "half JSON": '{"text": "Once upon a time there was an island in',
    "repetition": "and so it goes on and on and on. " * 60,
    "echo": None,
    "endless": "x" * 200_000,
    "question": REQUEST,
    "wrong count": "1. One thing.\n2. Another thing.\n3. A third.\n4. A fourth.\n5. A fifth,",
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("row", "at"),
    [
        (SLOT, "propose"), (SLOT, "judge"), (ASKED, "answer"), (DRAFT, "extend"), (DRAFT, "complete"),
        (FINISHED, "rewrite"),
    ],
)  # fmt: skip
def test_bad_replies_leave_no_record(tmp_path, row, at, bad):
    def said(request: ChatRequest) -> Any:
        if step(request) != at:
            return reply(request)
        if bad == "question" and at == "propose":
            return request.messages[1].content.partition("\n")[0][2:]  # the first example
        return prompt(request) if BAD[bad] is None else BAD[bad]

    few = {"tries": {"instruction": 2, "answer": 2, "extend": 2}}
    outcome, engine = run(tmp_path, row, said, **few)
    assert engine.calls and outcome.state is not State.OK and outcome.reason and outcome.records == []


def test_a_cut_answer_is_tried_again_and_never_taken(tmp_path):
    cut = Completion("It goes on.", "length", 5, 3, None, 0.0)
    outcome, engine = run(tmp_path, ASKED, lambda _: cut, tries={"answer": 3})
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.TRUNCATED, "truncated_answer", 3)
