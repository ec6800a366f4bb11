"""Whatever a model answers, to whatever step of whatever method: nothing of it reaches the records, and every row says
why. The recipe with all methods, with engines that answer every request alike."""

import asyncio
import random

import pytest
import yaml

from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.loading import load_recipe
from tests.test_house import ROOT

RECIPE = ROOT / "recipes" / "all_methods.yaml"
WORDS = "".join(random.Random(5).choices("abcdefghij ", k=200_000))
BAD = {
    "empty": "",
    "blank": " \n\t \n",
    "another language": "海边的灯塔在冬天的夜里亮着，渔船慢慢地回到了港口。",
    "refusal": "I'm sorry, but I can't help with that request.",
    "refusal in another language": "很抱歉，我无法回答这个问题。",
    "half JSON": '{"analysis": "It seems that the ans',
    "JSON of another kind": '{"paragraphs": [], "verdict": "maybe", "analysis": 3}',
    "endless repetition": "the same again and again, " * 400,
    "endless characters": "a" * 5000,
    "wrong count": "1. What is the first thing that it says?\n2. What is the second thing?\n7. What is this?",
    "half tags": "<question>What is a list?</question><answer>A list is",
    "200k characters": WORDS,
    "prompt echo": lambda request: request.messages[0].content,
    "end of the prompt": lambda request: request.messages[0].content[-400:],
    "unfinished": "Here is what the text says about it:",
    "nothing but signs": "*** --- *** ??? ***",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The shipped recipe with fewer rows."""
    value = yaml.safe_load(RECIPE.read_text("utf-8"))
    for entry in value["generate"]:
        if "count" in entry:
            entry["count"] = 4
        if entry["method"] == "verifiable":
            entry["tasks"] = entry["tasks"][:1]
    value["documents"][0]["limit"] = 60
    value["instructions"][2]["path"] = str(ROOT / "recipes" / "data" / "minimum_tuning.jsonl")
    value["score"] = []  # no pair is left to score
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), "utf-8")
    return path


@pytest.mark.parametrize("name", BAD)
def test_no_bad_reply_reaches_the_records(recipe, tmp_path, name):
    def reply(request: ChatRequest) -> str:
        text = BAD[name]
        return text(request) if callable(text) else text

    workspace = Workspace(tmp_path)
    asyncio.run(build(recipe, workspace, make_engine=lambda *_: ScriptedEngine(reply)))
    model_free = {"minimum_tuning", "verifiable"}
    assert {method for (method,) in query(workspace, "SELECT DISTINCT method FROM samples")[1]} == model_free
    assert query(workspace, "SELECT * FROM preferences")[1] == []
    stages = query(
        workspace,
        """SELECT stage, count(*) FILTER (state = 'ok'), count(*) FILTER (state <> 'failed' AND reason <> ''), count(*)
        FROM row_states WHERE starts_with(stage, 'generate') GROUP BY stage""",
    )[1]
    asked = {entry.name for entry in load_recipe(recipe).generate if entry.method not in model_free}
    assert {stage.split(".")[1] for stage, *_ in stages} >= asked
    for stage, ok, explained, rows in stages:
        if stage.split(".")[1] in asked:
            assert (stage, ok, explained) == (stage, 0, rows)
