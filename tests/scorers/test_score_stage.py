"""The stage score end to end: a recipe, preferences, a tiny model in a process of its own, the view `preferences`."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.chat import encode_pair
from flows.cli import main
from generators import registry
from pipelines.build import build, make_stages, opened
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.planning import make_plan
from pipelines.workspace import Workspace
from schemas.errors import ConservationError, RunError, UserError
from schemas.loading import load_recipe
from tests import support
from tests.scorers.models import naive, write

SCORE = {"scorer": "ref_logps", "engine": "writer", "methods": ["long_qa"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def pairs(monkeypatch):
    monkeypatch.setitem(registry.METHODS, "long_qa", "tests.scorers.pairs:Pairs")


def recipe(folder, model, texts=None, **changes):
    texts = texts or support.texts(4)
    value = {
        "engines": {"writer": {"type": "transformers", "model": str(model), "dtype": "float32"}},
        "documents": [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": texts}],
        "generate": [
            {"method": "long_qa", "engine": "writer", "shard_rows": 2, "document_tokens": {"min": 1}},
        ],
        "score": [SCORE],
        "export": [{"name": "out", "configs": ["preference"]}],
        **changes,
    }  # fmt: skip
    return support.recipe(folder, **value)


def run(path, workspace, **options):
    return asyncio.run(build(path, workspace, make_engine=lambda *_: support.scripted(), **options))


def rows(workspace, sql):
    return query(workspace, sql)[1]


TEXTS = [*support.texts(4), "no short prompt\nhere"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(registry.METHODS, "long_qa", "tests.scorers.pairs:Pairs")
        run(recipe(root, model, TEXTS), Workspace(root / "workspace"))
    return root / "workspace"


@pytest.fixture
def done(tmp_path, model, finished):
    """Recipe and finished workspace, a copy for each test."""
    shutil.copytree(finished, tmp_path / "workspace")
    return recipe(tmp_path, model, TEXTS), Workspace(tmp_path / "workspace")


def scored(workspace):
    """File names and contents of the scores."""
    return {path.name: path.read_bytes() for path in (workspace.root / "tables/scores_ref_logps").glob("*.parquet")}


def test_reference_logps_are_those_of_the_short_prompt_and_not_of_the_long_one(done, model):
    """Specification, test 7."""
    _, workspace = done
    tokenizer = AutoTokenizer.from_pretrained(model)
    direct = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def sums(prompt, chosen, rejected):
        pair = encode_pair(tokenizer, prompt, chosen, rejected)
        return [float(naive(direct, p.prompt, p.response).double().sum()) for p in (pair.chosen, pair.rejected)]

    found = rows(
        workspace,
        "SELECT short_prompt, chosen, rejected, prompt, ref_chosen_logps, ref_rejected_logps FROM preferences "
        "WHERE short_prompt IS NOT NULL",
    )
    assert len(found) == 4
    for short, chosen, rejected, long, *logps in found:
        assert logps == pytest.approx(sums(short, chosen, rejected), abs=1e-3)
        from_long = sums(long, chosen, rejected)
        assert all(abs(one - other) > 0.1 for one, other in zip(logps, from_long, strict=True))


def test_every_preference_with_a_short_prompt_is_a_row_and_others_have_no_numbers(done):
    _, workspace = done
    states = rows(workspace, "SELECT state, count(*) FROM row_states WHERE stage = 'score.ref_logps' GROUP BY ALL")
    assert states == [("ok", 4)]
    assert rows(workspace, "SELECT count(*), count(ref_chosen_logps) FROM preferences") == [(5, 4)]
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps WHERE stage <> 'score.ref_logps'") == [(0,)]
    manifest = load_manifest(workspace.manifest("score.ref_logps"))
    assert manifest.done and manifest.rows_in == 4 and len(manifest.units) == 2  # one for each part of preferences


def test_a_second_run_scores_nothing_and_a_new_document_only_its_own_shard(done, model, tmp_path, monkeypatch):
    path, workspace = done
    before = scored(workspace)
    files = {file: (workspace.root / "tables/scores_ref_logps" / file).stat().st_ino for file in before}
    run(path, workspace)
    recipe(tmp_path, model, [*TEXTS, "One more.\nWith a line."])
    run(path, workspace)
    after = scored(workspace)
    assert len(after) == len(before) + 1 and before.items() <= after.items()
    assert {file: (workspace.root / "tables/scores_ref_logps" / file).stat().st_ino for file in before} == files


def test_changed_settings_that_matter_score_anew_others_do_not_and_exports_follow(done, model, tmp_path):
    path, workspace = done
    units = {name: load_manifest(workspace.manifest(name)).units for name in ("score.ref_logps", "export.out")}
    recipe(tmp_path, model, TEXTS, score=[{**SCORE, "batch_tokens": 100}])
    run(path, workspace, stage="score")
    assert load_manifest(workspace.manifest("score.ref_logps")).units == units["score.ref_logps"]
    recipe(tmp_path, model, TEXTS, score=[{**SCORE, "dtype": "bfloat16"}])
    run(path, workspace, stage="score")
    run(path, workspace, stage="export")
    for name, before in units.items():
        after = load_manifest(workspace.manifest(name)).units
        assert all(after[key].fingerprint != unit.fingerprint for key, unit in before.items())


def test_the_same_inputs_give_the_same_bytes(done, model, tmp_path):
    _, workspace = done
    other = Workspace(tmp_path / "other")
    run(recipe(tmp_path, model, TEXTS), other)
    assert scored(other) == scored(workspace)


def test_limit_bounds_the_rows(tmp_path, model):
    workspace = Workspace(tmp_path / "workspace")
    path = recipe(tmp_path, model)
    run(path, workspace, stage="ingest")
    run(path, workspace, stage="generate")
    run(path, workspace, stage="score", limit=3)
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps") == [(3,)]
    run(path, workspace)
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps") == [(4,)]


def test_what_does_not_fit_the_window_is_over_budget_and_has_no_numbers(tmp_path, model):
    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path, model, ["short\nlines", "x" * 600 + "\nlong"]), workspace)
    assert rows(
        workspace, "SELECT state, reason FROM row_states WHERE stage = 'score.ref_logps' ORDER BY ALL"
    ) == [("ok", ""), ("over_budget", "longer_than_window")]  # fmt: skip
    assert rows(workspace, "SELECT count(*), count(ref_chosen_logps) FROM preferences") == [(2, 1)]


def test_a_preference_made_twice_is_scored_once_and_stands_once_in_the_view(tmp_path, model):
    generate = [
        {"method": "long_qa", "name": name, "engine": "writer", "document_tokens": {"min": 1}} for name in ("a", "b")
    ]
    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path, model, support.texts(2), generate=generate), workspace)
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps") == [(2,)]
    assert rows(workspace, "SELECT count(*), count(ref_chosen_logps) FROM preferences") == [(4, 4)]


def test_a_process_that_dies_ends_the_run_with_one_clear_error_and_the_next_run_goes_on(tmp_path, model, monkeypatch):
    (tmp_path / "site").mkdir()
    killer = (
        "import os, signal, sys\nif 'pipelines.score_worker' in sys.orig_argv: os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "site" / "sitecustomize.py").write_text(killer)
    workspace = Workspace(tmp_path / "workspace")
    path = recipe(tmp_path, model)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path / "site"))
        with pytest.raises(RunError, match="the scoring process for 'tiny' was killed by signal 9, which the system"):
            run(path, workspace)
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps") == [(0,)]
    run(path, workspace)
    assert rows(workspace, "SELECT count(*) FROM scores_ref_logps") == [(4,)]


def test_an_error_inside_the_process_is_named(tmp_path, model):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match=r"scoring with 'broken' failed: \w+.*log: .*scorer-"):
        run(recipe(tmp_path, broken), Workspace(tmp_path / "workspace"))


def test_a_model_without_a_chat_template_is_the_users_fault(tmp_path, model):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="'bare' has no chat template"):
        run(recipe(tmp_path, bare), Workspace(tmp_path / "workspace"))


def test_no_process_stays_and_torch_is_not_in_this_one(tmp_path, model):
    """The run in a fresh interpreter: what it imported, and which children it left."""
    path = recipe(tmp_path, model)
    code = (
        "import asyncio, json, sys, psutil\n"
        "from pathlib import Path\n"
        "from generators import registry\n"
        "registry.METHODS['long_qa'] = 'tests.scorers.pairs:Pairs'\n"
        "from pipelines.build import build\n"
        "from pipelines.workspace import Workspace\n"
        "from tests.support import scripted\n"
        f"recipe, workspace = Path({str(path)!r}), Workspace(Path({str(tmp_path / 'w')!r}))\n"
        "asyncio.run(build(recipe, workspace, make_engine=lambda *_: scripted()))\n"
        "print(json.dumps(['torch' in sys.modules, [c.name() for c in psutil.Process().children(recursive=True)]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [False, []]


def test_a_row_that_gets_no_answer_fails_the_run(tmp_path, model, monkeypatch):
    async def forgetful(self, file, ids):
        for row_id in ids[1:]:
            values = [{"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}]
            yield {"row": row_id, "state": "ok", "reason": "", "detail": "", "values": values}

    monkeypatch.setattr("pipelines.scorer_process.ScorerProcess.score", forgetful)
    with pytest.raises(ConservationError, match=r"stage score\.ref_logps"):
        run(recipe(tmp_path, model), Workspace(tmp_path / "workspace"))


def test_local_engines_are_closed_before_the_scorer_starts(tmp_path, model, monkeypatch):
    events = []

    class Watched(type(support.scripted())):
        async def start(self):
            events.append("engine")
            return await super().start()

        async def close(self):
            events.append("closed")
            await super().close()

    async def work():
        async with opened(
            recipe(tmp_path, model), Workspace(tmp_path / "w"), make_engine=lambda *_: Watched(support.answer)
        ) as (context, engines):
            runner = await engines.runner("writer")
            await runner.engine.start()
            stage = next(stage for stage in make_stages(context.recipe, engines) if stage.name == "score.ref_logps")
            scorer = await engines.scorer(stage._scorer)
            assert events == ["engine", "closed"]
            assert await engines.scorer(stage._scorer) is scorer

    (tmp_path / "w").mkdir()
    asyncio.run(work())


def test_plan_knows_the_stage(done, model, tmp_path):
    path, workspace = done

    async def plans():
        async with opened(path, workspace, make_engine=lambda *_: support.scripted()) as (context, engines):
            return {plan.name: (plan.todo, plan.units) for plan in await make_plan(context, engines)}

    assert asyncio.run(plans())["score.ref_logps"] == (0, 2)
    recipe(tmp_path, model, TEXTS, score=[{**SCORE, "dtype": "bfloat16"}])
    assert asyncio.run(plans())["score.ref_logps"] == (2, 2)


# ---------------------------------------------------------------- what a recipe may say


def refused(tmp_path, model, **changes):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(tmp_path, model, **changes))
    (sentence,) = str(error.value).splitlines()
    return sentence.partition("recipe.yaml: ")[2]


def test_scored_with_another_model_than_it_was_generated_with_is_refused(tmp_path, model):
    """Specification, test 4: in the recipe."""
    engines = {
        "writer": {"type": "transformers", "model": str(model)},
        "other": {"type": "transformers", "model": str(tmp_path / "other")},
        "twin": {"type": "vllm", "model": str(model)},
    }
    score = [{**SCORE, "engine": "other"}]
    assert refused(tmp_path, model, engines=engines, score=score) == (
        "score 'ref_logps': the reference must be the model that wrote the answers: generate 'long_qa' uses engine "
        "'writer', not 'other'"
    )
    load_recipe(recipe(tmp_path, model, engines=engines, score=[{**SCORE, "engine": "twin"}]))


def test_preferences_of_another_model_than_the_scorers_are_refused_before_anything_is_spent(done, model, tmp_path):
    """Specification, test 4: where the recipe cannot tell, by what the generate stage's manifest says."""
    path, workspace = done
    file = workspace.manifest("generate.long_qa")
    manifest = json.loads(file.read_text())
    manifest["settings"]["engine"]["revision"] = "an older one"
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"stage generate.long_qa used scripted \(an older one\), engine 'writer' is"):
        run(path, workspace, stage="score")


def test_faults_of_a_score_entry_are_named(tmp_path, model):
    server = {"writer": {"type": "openai", "model": "m", "base_urls": ["http://127.0.0.1:1/v1"], "tokenizer": "m"}}
    assert refused(tmp_path, model, score=[{**SCORE, "engine": "writter"}]) == (
        "score 'ref_logps': no engine 'writter' under 'engines', did you mean 'writer'?"
    )
    assert "score name 'ref_logps' is used twice" in refused(tmp_path, model, score=[SCORE, SCORE])
    assert refused(tmp_path, model, score=[SCORE, {**SCORE, "name": "again"}]) == (
        "score 'again' and 'ref_logps' score the same preferences"
    )
    assert "is a server" in refused(tmp_path, model, engines=server)
    assert "is for engines that are servers" in refused(tmp_path, model, score=[{**SCORE, "model": "x"}])
    assert "no step under 'generate' has the method 'long_q', did you mean 'long_qa'?" in refused(
        tmp_path, model, score=[{**SCORE, "methods": ["long_q"]}]
    )
    assert "score[0]: scorer 'ref_logp' is unknown, did you mean 'ref_logps'?" in refused(
        tmp_path, model, score=[{**SCORE, "scorer": "ref_logp"}]
    )
    assert "score[0].dtyp: unknown key, did you mean 'dtype'?" in refused(tmp_path, model, score=[{**SCORE, "dtyp": 1}])


def test_a_servers_answers_are_scored_with_the_weights_that_the_entry_names(tmp_path, model):
    engines = {
        "writer": {
            "type": "openai", "model": "served", "base_urls": ["http://127.0.0.1:1/v1"], "tokenizer": str(model),
            "max_model_len": 512,
        }
    }  # fmt: skip
    path = recipe(tmp_path, model, engines=engines, score=[{**SCORE, "model": str(model)}])
    assert yaml.safe_load(path.read_text())["score"][0]["model"] == str(model)
    workspace = Workspace(tmp_path / "workspace")
    run(path, workspace)
    assert rows(workspace, "SELECT count(*), count(ref_chosen_logps) FROM preferences") == [(4, 4)]
    assert len(list(workspace.logs.glob("scorer-*.log"))) == 1


def test_the_scorers_process_ends_when_its_parent_is_killed(tmp_path, model):
    """The parent dies while the process waits for a job, with the pipe held open by someone else."""
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'pipelines.score_worker', str(os.getpid())],\n"
        "    stdin=sys.stdin, stdout=subprocess.DEVNULL, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen([sys.executable, "-c", code], **options) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        worker.wait(timeout=30)  # raises TimeoutExpired if it stays


def test_check_and_status_know_the_stage(done, model, tmp_path, capsys):
    _, workspace = done
    engines = {"writer": {"type": "transformers", "model": str(model), "max_model_len": 4096}}
    path = recipe(tmp_path, model, TEXTS, engines=engines)
    for command, expected in (["check", str(path)], "score 'ref_logps': model tiny"), (["status"], "score.ref_logps"):
        assert main([*command, "--workspace", str(workspace.root)]) == 0
        assert expected in capsys.readouterr().out
