"""AgentWrite against the tests its specification asks for (agentwrite.md, section 13)."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generators.agentwrite import AgentWrite, parse_plan, plan_schema
from generators.engines.base import ChatRequest, Completion
from generators.engines.scripted import ScriptedEngine
from generators.ledger import Ledger
from generators.runner import Outcome, Runner, Task
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.methods.agentwrite import AgentWrite as Config
from schemas.rows import Instruction
from schemas.states import State
from tests.bad_replies import BAD_REPLIES
from tests.support import WordTokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "agentwrite.yaml"
PLAN = "\n".join(f"Paragraph {n} - Main point: matter {n} - Word count: {300 + n} words" for n in (1, 2, 3))
ROW = Instruction("ins-1", "Write about {{ plan }} and $STEP$ in 900 words.", "tasks", "en")


def is_plan(request: ChatRequest) -> bool:
    return "Another writer will follow your plan" in request.messages[0].content


def run(tmp_path: Path, answer: Callable[[ChatRequest], Any], **changes: Any) -> tuple[Outcome, ScriptedEngine]:
    config = Config.model_validate({"method": "agentwrite", "engine": "w", **changes})
    engine, ledger = ScriptedEngine(answer), Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, 32768, WordTokenizer(), seed=1)
    outcomes = asyncio.run(runner.run(AgentWrite(config), [Task("ins-1#0", ROW)], dict(config.sampling)))
    ledger.close()
    return outcomes[0], engine


def write(request: ChatRequest) -> str:
    """Answers the plan, and for each paragraph a text that names it."""
    if is_plan(request):
        return PLAN
    step = request.messages[0].content.split("describes:\n")[1].split("\n")[0]
    number = int(step.split()[1])
    return f"Paragraph {number}: text number {'abc'[number - 1]} and nothing more"


def test_write_call_i_holds_the_earlier_parts_the_whole_plan_and_its_own_step(tmp_path: Path) -> None:
    outcome, engine = run(tmp_path, write)
    assert outcome.state is State.OK and len(engine.calls) == 1 + 3
    parts = ["text number a and nothing more", "text number b and nothing more", "text number c and nothing more"]
    for i, call in enumerate(engine.calls[1:]):
        prompt = call.messages[0].content
        assert all(part in prompt for part in parts[:i]) and not any(part in prompt for part in parts[i:])
        assert all(line in prompt for line in PLAN.splitlines())
        step = prompt.split("describes:\n")[1].split("\n\n")[0]
        assert step == PLAN.splitlines()[i]
        if i:
            assert prompt.index("\n\n".join(parts[:i])) > 0
    (sample,) = outcome.samples
    assert sample.messages == (("user", ROW.text), ("assistant", "\n\n".join(parts)))


def test_the_instruction_is_filled_in_once_and_literally(tmp_path: Path) -> None:
    _, engine = run(tmp_path, write)
    assert all(ROW.text in call.messages[0].content for call in engine.calls)


def test_a_plan_of_51_lines_yields_no_write_call(tmp_path: Path) -> None:
    long = "\n".join(f"Paragraph {n} - Main point: m - Word count: 300 words" for n in range(1, 52))
    outcome, engine = run(tmp_path, lambda request: long)
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.INVALID_OUTPUT, "plan_too_long", 1)
    assert outcome.samples == []


def test_an_empty_part_ends_the_row_and_a_rerun_calls_only_what_is_missing(tmp_path: Path) -> None:
    first, engine = run(tmp_path, lambda r: " \n" if "matter 2 -" in r.messages[0].content[-400:] else write(r))
    assert (first.state, first.reason, first.samples) == (State.INVALID_OUTPUT, "empty_part", [])
    assert len(engine.calls) == 3
    second, engine = run(tmp_path, write)
    assert (second.state, len(engine.calls)) == (first.state, 0)  # the empty answer stands in the ledger


def test_a_failed_call_ends_the_row_and_a_rerun_continues_there(tmp_path: Path) -> None:
    from generators.engines.base import BadRequest

    def broken(request: ChatRequest) -> Any:
        return BadRequest("no") if "matter 2 -" in request.messages[0].content[-400:] else write(request)

    first, _ = run(tmp_path, broken)
    assert (first.state, first.reason, first.samples) == (State.FAILED, "bad_request", [])
    second, engine = run(tmp_path, write)
    assert (second.state, len(engine.calls)) == (State.OK, 2)


def test_a_part_cut_at_its_limit_is_truncated_never_ok(tmp_path: Path) -> None:
    def cut(request: ChatRequest) -> Any:
        return write(request) if is_plan(request) else Completion("half a", "length", 5, 2, None, 0.0)

    outcome, _ = run(tmp_path, cut)
    assert (outcome.state, outcome.reason, outcome.samples) == (State.TRUNCATED, "truncated_write", [])


def test_refusals_wrong_scripts_and_loops_are_named(tmp_path: Path) -> None:
    def says(text: str) -> Callable[[ChatRequest], str]:
        return lambda request: PLAN if is_plan(request) else text

    assert run(tmp_path / "a", says("I'm sorry, I cannot write that."))[0].state is State.REFUSED
    outcome = run(tmp_path / "f", says("Dear [insert name], the winter was long."))[0]
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "placeholder")
    outcome = run(tmp_path / "d", says("The text has three points:"))[0]
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "unfinished_part")
    outcome = run(tmp_path / "e", says("The task the whole text must fulfill: a letter."))[0]
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "prompt_echo")
    outcome = run(tmp_path / "b", says("这是一段中文。"))[0]
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "wrong_language")
    outcome = run(tmp_path / "c", says("the same eight words are said again always"))[0]
    assert (outcome.state, outcome.reason) == (State.FILTERED, "repetition")


def test_plan_parser_refuses_what_is_no_plan_line() -> None:
    text = (
        "Here is the plan:\n\n1. Paragraph 1 - nothing\n"
        "**Paragraph 1** - Main Point: The sea - it is old - Word Count: 1,200 words\n"
        "Paragraph 2 - Main point: [the shore] - Word count: about 300\n"
        "段落3 - 要点：沙滩 - 字数：400字\n"
        "Paragraph 4 - Main point: broken off - Word cou"
    )
    steps, refused = parse_plan(text)
    assert [(step.index, step.main_point, step.target_words) for step in steps] == [
        (1, "The sea - it is old", 1200),
        (2, "[the shore]", 300),
        (3, "沙滩", 400),
    ]
    assert refused == [
        "Here is the plan:",
        "1. Paragraph 1 - nothing",
        "Paragraph 4 - Main point: broken off - Word cou",
    ]


def test_word_targets_outside_the_range_are_refused(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, write, paragraph_words=[100, 302])
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "plan_target_out_of_range")
    assert outcome.detail == "paragraph 3 asks for 303 words, allowed are 100-302"


def test_details_record_targets_lengths_and_score(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, write)
    details = outcome.samples[0].details
    assert details["required_words"] == details["target_words"] == 900
    assert details["words"] == 18 and details["s_l"] == 0.0
    assert details["parts"] == [{"words": 6, "target_words": 300 + n, "s_l": 0.0} for n in (1, 2, 3)]


def test_a_json_plan_is_asked_for_with_a_schema(tmp_path: Path) -> None:
    plan = json.dumps({"paragraphs": [{"main_point": "the sea in winter", "words": 250}]})
    outcome, engine = run(
        tmp_path,
        lambda r: plan if is_plan(r) else "A text about the sea.",
        plan_format="json",
        paragraph_words=[200, 300],
    )
    assert outcome.state is State.OK
    schema = engine.calls[0].sampling.json_schema
    assert schema is not None and schema["properties"]["paragraphs"]["maxItems"] == 50
    config = Config.model_validate({"method": "agentwrite", "engine": "w", "paragraph_words": [200, 300]})
    assert schema == plan_schema(config)
    assert engine.calls[1].sampling.json_schema is None


def test_two_identical_plan_lines_are_two_calls(tmp_path: Path) -> None:
    twice = "\n".join("Paragraph 1 - Main point: again - Word count: 300 words" for _ in range(2))
    words = iter(["first text", "second text"])
    outcome, engine = run(tmp_path, lambda r: twice if is_plan(r) else next(words))
    assert outcome.samples[0].messages[1][1] == "first text\n\nsecond text"
    assert len(engine.calls) == 3


@pytest.mark.parametrize("name", [*BAD_REPLIES, "instruction", "plan_line", "same_part"])
@pytest.mark.parametrize("step", ["plan", "write"])
@pytest.mark.parametrize("plan_format", ["lines", "json"])
def test_a_bad_reply_ends_the_row_with_a_reason(tmp_path: Path, plan_format: str, step: str, name: str) -> None:
    if step == "write" and name == "half_tag":
        pytest.skip("tags are a format of other methods: a paragraph may hold any")
    if step == "plan" and plan_format == "lines" and name == "plan_line":
        pytest.skip("a plan line is what the plan should be")
    own = {"instruction": ROW.text, "plan_line": PLAN.splitlines()[1], "same_part": "One text about the sea."}
    points = [{"main_point": f"the matter number {n}", "words": 300} for n in (1, 2, 3)]

    def good(request: ChatRequest) -> Any:
        if is_plan(request):
            return PLAN if plan_format == "lines" else json.dumps({"paragraphs": points})
        return write(request)

    def reply(request: ChatRequest) -> Any:
        if is_plan(request) != (step == "plan"):
            return good(request)
        return own[name] if name in own else BAD_REPLIES[name](request)

    outcome, _ = run(tmp_path, reply, plan_format=plan_format)
    assert outcome.state not in (State.OK, State.FAILED) and outcome.reason and outcome.records == []


@pytest.mark.parametrize(
    "paragraph",
    [
        {"words": 300},
        {"main_point": " ", "words": 300},
        {"main_point": "the sea in winter", "words": "many"},
        {"main_point": "the sea in winter", "words": True},
        {"main_point": ["the sea"], "words": 300},
        {"main_point": "half a character: \ud83d", "words": 300},
        "the sea in winter, 300 words",
        None,
    ],
)
def test_a_json_plan_with_a_broken_paragraph_is_none(tmp_path: Path, paragraph: Any) -> None:
    plan = json.dumps({"paragraphs": [{"main_point": "the sea in spring", "words": 250}, paragraph]})
    outcome, engine = run(tmp_path, lambda _: plan, plan_format="json")
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.INVALID_OUTPUT, "plan_not_json", 1)
    infinite = '{"paragraphs": [{"main_point": "the sea in spring", "words": 1e999}]}'
    outcome, _ = run(tmp_path / "b", lambda _: infinite, plan_format="json")
    assert (outcome.state, outcome.reason) == (State.INVALID_OUTPUT, "plan_not_json")


def test_a_plan_in_another_language_is_none(tmp_path: Path) -> None:
    plan = "段落 1 - 主要内容: 海与岸的故事 - 字数: 300"
    outcome, engine = run(tmp_path, lambda _: plan)
    assert (outcome.state, outcome.reason, len(engine.calls)) == (State.INVALID_OUTPUT, "wrong_language", 1)


def test_the_recipe_runs_end_to_end(tmp_path: Path) -> None:
    def reply(request: ChatRequest) -> str:
        seed = "".join(chr(97 + int(digit)) for digit in str(request.sampling.seed))
        if is_plan(request):
            return json.dumps({"paragraphs": [{"main_point": f"the matter of {seed}", "words": 100}]})
        return f"It begins with {seed}. " + " ".join(seed + a + b for a in "abcdefgh" for b in "abcdefgh")

    workspace = Workspace(tmp_path / "workspace")
    manifests = asyncio.run(build(RECIPE, workspace, make_engine=lambda *_: ScriptedEngine(reply, window=4096)))
    assert all(manifest.done for manifest in manifests)
    _, rows = query(workspace, "SELECT method, count(*) FROM samples GROUP BY method")
    assert list(map(tuple, rows)) == [("agentwrite", 5)]  # one asks for 300 words
