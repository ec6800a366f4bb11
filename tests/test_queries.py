"""Every query of docs/queries.md, in a workspace where everything has been made and in one where nothing has."""

import re
from pathlib import Path

import pytest

from flows.cli import main
from pipelines.catalog import query
from pipelines.workspace import Workspace
from tests.scorers.models import write
from tests.scorers.test_scores_end_to_end import SCORES, recipe, run

PAGE = Path(__file__).parent.parent / "docs" / "queries.md"
QUERIES = dict(re.findall(r"^### (\S+)\n.*?^```sql\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S))

# Answered in tests/curation/test_curate_stage.py.
CURATION = ("curation-losses", "ten-dropped", "rule-values", "benchmark-leaks", "largest-clusters")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """All scorers of samples, with tiny models; a selection; a stage with losses."""
    folder = tmp_path_factory.mktemp("queries")
    models = {
        name: write(folder / name, seed=seed, max_position_embeddings=4096)
        for seed, name in enumerate(("long", "short"))
    }
    generate = [{"method": "long_qa", "engine": "long", "per_document": 2, "document_tokens": {"min": 10},
                 "verify": {"chunk_tokens": 40}, "sampling": {"answer": {"max_tokens": 300}}},
                {"method": "verifiable", "tasks": {"kv_threads": {"count": 4, "tokens": [300]}}}]  # fmt: skip
    select = [{"name": "dependent", "context_dependent": {"share": 0.3}},
              {"name": "page", "sql": QUERIES["two-of-three"].rstrip()}]  # fmt: skip
    export = [{"name": "out", "configs": ["sft"], "select": "dependent"}]
    tokenise = [{"name": "chats", "rows": "samples", "tokenizer": "long", "max_tokens": 1000}]
    parts = [{"name": "qa", "methods": ["long_qa"], "share": 1}]
    mix = [{"name": "m", "total_tokens": 1000, "on_shortage": "cap", "sources": parts}]
    path = recipe(folder, models, [*SCORES, {"scorer": "evidence"}], generate=generate, tokenizer="scripted",
                  select=select, tokenise=tokenise, mix=mix, pack=[{"name": "p", "mix": "m", "row_length": 4096}],
                  export=export)  # fmt: skip
    run(path, Workspace(folder / "ws"))
    return Workspace(folder / "ws")


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "manifests").mkdir()
    return Workspace(tmp_path)


def test_the_page_has_all_its_queries():
    text = PAGE.read_text("utf-8")
    assert len(QUERIES) == text.count("```sql") == len(re.findall("^### ", text, re.M)) >= 13


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_where_there_is_something(filled, name):
    assert query(filled, QUERIES[name])[1] or name == "losses" or name in CURATION


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_where_there_is_nothing(empty, name):
    query(empty, QUERIES[name])


def test_the_depth_histogram_counts_every_sample_and_chi_square_is_right(filled):
    bins = [rows for _, rows, _ in query(filled, QUERIES["evidence-depth"])[1]]
    ((total, chi, uneven, enough),) = query(filled, QUERIES["position-bias"])[1]
    assert len(bins) == 10 and sum(bins) == total == query(filled, "SELECT count(*) FROM scores_evidence")[1][0][0]
    assert chi == pytest.approx(sum((n - total / 10) ** 2 / (total / 10) for n in bins), abs=0.01)
    assert uneven == (chi > 16.92) and enough is False


def test_context_dependent_takes_the_highest_of_each_length(filled):
    lines = query(
        filled,
        "SELECT round(log2(prompt_tokens)), avg(cd_doc_lift), any_value(state) FROM scores_context_dependency c "
        "JOIN row_states r ON r.row_id = c.row_id AND r.stage = 'select.dependent' "
        "JOIN samples s ON s.sample_id = c.row_id WHERE cd_doc_lift IS NOT NULL GROUP BY c.row_id, 1",
    )[1]
    for bucket in {line[0] for line in lines}:
        good = [lift for one, lift, state in lines if one == bucket and state == "ok"]
        assert good and min(good) >= max((x for one, x, state in lines if one == bucket and state != "ok"), default=-9)


def test_a_query_of_the_page_is_run_by_its_name(filled, capsys):
    assert main(["sql", "--workspace", str(filled.root), "@who-made-what", "--format", "csv"]) == 0
    assert "verifiable" in capsys.readouterr().out
    assert main(["sql", "--workspace", str(filled.root), "@who-made-wat"]) == 2
    assert "no query 'who-made-wat', did you mean 'who-made-what'?" in capsys.readouterr().err


def test_pages_name_only_queries_that_there_are():
    pages = [PAGE.parent.parent / "README.md", *sorted(PAGE.parent.rglob("*.md"))]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"(?<![\w.])@([a-z]+(?:-[a-z]+)+)", page.read_text("utf-8"))
    }
    assert ("costs.md", "cost-per-sample") in named
    assert [one for one in sorted(named) if one[1] not in QUERIES] == []
