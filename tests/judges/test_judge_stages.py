"""qa_checks and quality from recipe to table: the real stages, a scripted engine."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import yaml

from generators.engines.scripted import ScriptedEngine
from generators.judges.quality import DIMENSIONS
from generators.ledger import request_key
from pipelines.build import build, opened
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.planning import make_plan
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.tables import TABLES
from tests import support
from tests.crash_driver import in_ledger
from tests.judges.support import says, step_of
from tests.test_bad_replies import BAD
from tests.test_house import ROOT

SCORES = [
    {"scorer": "qa_checks", "engine": "writer", "window_tokens": 40, "chunk_tokens": 20, "shard_rows": 2},
    {"scorer": "quality", "engine": "writer"},
]
RATINGS = json.dumps({"analysis": "read", **dict.fromkeys(DIMENSIONS, 4), "clarity": 5})
STORED = "It means a thing, as the document says."
STAGES = ("score.qa_checks", "score.quality")


def answer(request):
    """A writer whose every answer is the same, and a reader that finds it in the whole text alone."""
    if not is_judged(request):
        usual = support.answer(request)
        return STORED if usual.startswith("It means") else usual
    if (step := step_of(request)) == "quality":
        return RATINGS
    return says(STORED if step == "full" else "unknown")


def is_judged(request):
    try:
        return bool(step_of(request))
    except ValueError:
        return False


def recipe(folder, scores=SCORES, **changes):
    generate = [
        {"method": "long_qa", "engine": "writer", "per_document": 1, "shard_rows": 2, "document_tokens": {"min": 10},
         "verify": {"chunk_tokens": 40}},
        {"method": "agentwrite", "engine": "writer"},
    ]  # fmt: skip
    tasks = [{"name": "tasks", "type": "inline", "licence": "CC0-1.0", "items": ["Write about rain in 300 words."]}]
    return support.recipe(folder, score=scores, generate=generate, instructions=tasks, **changes)


def run(path, workspace, reply=answer):
    engine = ScriptedEngine(reply)
    asyncio.run(build(path, workspace, make_engine=lambda *_: engine))
    return engine


def rows(workspace, sql):
    return query(workspace, sql)[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("judged")
    path, workspace = recipe(root), Workspace(root / "workspace")
    run(path, workspace)
    return path, workspace


def test_every_sample_has_a_state_and_those_judged_a_line_with_all_columns(done):
    _, workspace = done
    states = rows(
        workspace, "SELECT stage, state, reason, count(*) FROM row_states WHERE stage LIKE 'score.%' GROUP BY ALL"
    )
    assert sorted(states) == [
        ("score.qa_checks", "filtered", "no_question", 1),
        ("score.qa_checks", "ok", "", 4),
        ("score.quality", "ok", "", 5),
    ]
    for stage in STAGES:
        table = stage.replace("score.", "scores_")
        assert query(workspace, f"SELECT * FROM {table}")[0] == TABLES[table].names
        assert rows(workspace, f"SELECT DISTINCT stage, judge_model, seed FROM {table}") == [(stage, "scripted", 7)]
        assert load_manifest(workspace.manifest(stage)).done


def test_a_where_on_the_verdict_finds_the_samples(done):
    _, workspace = done
    sql = "SELECT count(*) FROM samples s JOIN scores_qa_checks c ON c.row_id = s.sample_id WHERE verdict = 'pass'"
    assert rows(workspace, sql) == [(4,)]
    columns = "closed_book_acc, random_window_ok, bm25_top1_ok, full_ok, no_evidence_ok, citation_ok, split"
    found = rows(workspace, f"SELECT DISTINCT {columns} FROM scores_qa_checks")
    assert found == [(0.0, False, False, True, False, None, "details.question")]
    versions = rows(workspace, "SELECT DISTINCT prompt_version FROM scores_qa_checks")
    assert versions == [("closed_book:1 part:1 full:1",)]


def test_every_call_of_a_judge_is_in_requests(done):
    _, workspace = done
    found = rows(
        workspace, "SELECT method, step, count(*) FROM requests WHERE stage LIKE 'score.%' GROUP BY ALL ORDER BY ALL"
    )
    assert found == [
        ("qa_checks", "closed_book", 16), ("qa_checks", "full", 12), ("qa_checks", "part", 12),
        ("quality", "quality", 5),
    ]  # fmt: skip


def test_quality_rates_any_sample_and_its_length_where_one_is_demanded(done):
    _, workspace = done
    lines = rows(
        workspace,
        "SELECT s.method, s_q, clarity, required_words, words > 0, s_l IS NULL FROM scores_quality q "
        "JOIN samples s ON s.sample_id = q.row_id ORDER BY s.method, s.sample_id",
    )
    assert lines[0] == ("agentwrite", 79.17, 5, 300, True, False)
    assert set(lines[1:]) == {("long_qa", 79.17, 5, None, True, True)}
    (one,) = rows(workspace, "SELECT s_l, words FROM scores_quality WHERE required_words = 300")
    assert one[0] == pytest.approx(100 * max(0, 1 - (300 / one[1] - 1) / 2), abs=0.01)


def test_a_run_again_does_nothing_and_a_lost_workspace_is_paid_by_the_ledger(done, tmp_path):
    path, workspace = done
    assert run(path, workspace).calls == []
    again = Workspace(tmp_path / "workspace", workspace.ledger)
    engine = run(path, again)
    assert engine.calls == [] and engine.starts == 0
    for table in ("scores_qa_checks", "scores_quality"):
        assert rows(again, f"SELECT * FROM {table} ORDER BY row_id") == rows(
            workspace, f"SELECT * FROM {table} ORDER BY row_id"
        )


def test_a_plan_counts_the_calls_of_samples_that_are_made(done, tmp_path):
    _, workspace = done
    path = recipe(tmp_path, [{**SCORES[0], "methods": ["long_qa"]}])
    shutil.copytree(workspace.root, tmp_path / "workspace")
    assert plan(path, Workspace(tmp_path / "workspace"))["score.qa_checks"].estimate.cost.requests == 0
    (tmp_path / "workspace" / "manifests" / "score.qa_checks.json").unlink()
    estimate = plan(path, Workspace(tmp_path / "workspace"))["score.qa_checks"].estimate
    assert (estimate.rows, estimate.new_rows, estimate.cost.requests) == (4, 4, 4 * 10)
    assert 0 < estimate.cost.cached_tokens < estimate.cost.prompt_tokens


def plan(path, workspace):
    async def made():
        async with opened(path, workspace, make_engine=lambda *_: ScriptedEngine(answer)) as (context, engines):
            return await make_plan(context, engines)

    return {one.name: one for one in asyncio.run(made())}


def test_a_changed_threshold_asks_only_what_the_ledger_lacks(done, tmp_path):
    _, workspace = done
    path = recipe(tmp_path, [{**SCORES[0], "min_f1": 0.9}])
    assert run(path, Workspace(tmp_path / "workspace", workspace.ledger)).calls == []


@pytest.mark.parametrize("name", BAD)
def test_no_bad_reply_of_a_judge_reaches_the_tables(tmp_path, name):
    bad = BAD[name]

    def reply(request):
        if not is_judged(request):
            return answer(request)
        return bad(request) if callable(bad) else bad

    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path), workspace, reply)
    assert rows(workspace, "SELECT count(*) FROM samples") == [(5,)]
    for stage in STAGES:
        assert rows(workspace, f"SELECT * FROM {stage.replace('score.', 'scores_')}") == []
        states = rows(workspace, f"SELECT state, reason FROM row_states WHERE stage = '{stage}'")
        assert len(states) == 5 and all(state not in ("ok", "failed") and reason for state, reason in states)


KILLED = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from generators.engines.scripted import ScriptedEngine
    from pipelines.build import build
    from pipelines.workspace import Workspace
    from tests.judges.test_judge_stages import answer, is_judged

    asked = 0

    def reply(request):
        global asked
        asked += is_judged(request)
        if asked == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(request)

    engine = ScriptedEngine(reply, max_batch=1)
    asyncio.run(build(Path(sys.argv[1]), Workspace(Path(sys.argv[2])), make_engine=lambda *_: engine))
"""


def test_killed_amid_the_checks_it_pays_no_recorded_call_twice_and_writes_the_same(done, tmp_path):
    _, whole = done
    path, workspace = recipe(tmp_path), Workspace(tmp_path / "workspace")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(workspace.root)]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    recorded = in_ledger(workspace.ledger)
    engine = run(path, workspace)
    asked = {request_key(engine.identity, call) for call in engine.calls}
    judged = rows(workspace, "SELECT DISTINCT request_id FROM requests WHERE stage LIKE 'score.%'")
    assert asked and asked.isdisjoint(recorded) and len(asked) == len(engine.calls)
    assert len(recorded & {key for (key,) in judged}) >= 10  # else nothing could have been paid twice
    for table in ("scores_qa_checks", "scores_quality"):
        assert rows(workspace, f"SELECT * FROM {table} ORDER BY row_id") == rows(
            whole, f"SELECT * FROM {table} ORDER BY row_id"
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": "wrter"}, "did you mean 'writer'"),
        ({"judge": "nobody"}, "no engine 'nobody'"),
        ({"methods": ["longqa"]}, "did you mean 'long_qa'"),
        ({"sampling": {"whole": {"max_tokens": 5}}}, "whole"),
    ],
)
def test_recipes_that_cannot_work_are_refused(tmp_path, change, told):
    with pytest.raises(UserError, match=told):
        load_recipe(recipe(tmp_path, [{**SCORES[0], **change}]))


def test_the_shipped_recipe_runs(tmp_path):
    path = ROOT / "recipes" / "qa_checks.yaml"
    value = yaml.safe_load(path.read_text("utf-8"))
    value["generate"][0]["count"] = 2
    copy = tmp_path / "recipe.yaml"
    copy.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")

    def reply(request):
        if "one question per line, numbered" in request.messages[0].content:
            return " What is a list?\n2. What is a name?\n3. What is a scope?"
        return answer(request)

    workspace = Workspace(tmp_path / "workspace")
    run(copy, workspace, reply)
    assert rows(workspace, "SELECT verdict, count(*) FROM scores_qa_checks GROUP BY 1") == [("pass", 2)]
    assert rows(workspace, "SELECT count(*) FROM scores_quality") == [(2,)]
