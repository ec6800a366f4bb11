"""The stage select: who is picked and why not, what an export makes of it, and what is done again."""

import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.select import Candidate, pick, share_of
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.tables import TABLES
from tests import support
from tests.conftest import run

TASKS = {"kv_threads": {"count": 4, "tokens": [300, 700]}, "ancestors": {"count": 4, "tokens": [300]}}
SELECT = [
    {"name": "late", "top": {"by": "evidence.depth", "share": 0.5, "per": "length"}},
    {"name": "long", "top": {"by": "prompt_tokens", "count": 3}},
    {"name": "query", "sql": "SELECT row_id, depth AS score FROM scores_evidence WHERE depth > 0.5"},
]


def recipe(folder: Path, select=SELECT, export=None, **changes) -> Path:
    generate = [{"method": "verifiable", "tasks": TASKS},
                {"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10}}]  # fmt: skip
    export = [{"name": "out", "configs": ["sft"], "select": "late"}] if export is None else export
    values = {"tokenizer": "scripted", "generate": generate, "score": [{"scorer": "evidence"}], "select": select}
    return support.recipe(folder, **{**values, "export": export, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select")
    run(recipe(folder), folder / "ws")
    return folder


@pytest.fixture
def done(tmp_path, finished):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def ask(folder, sql):
    return query(Workspace(folder / "ws"), sql)[1]


def three(*scores):
    return [Candidate(name, score) for name, score in zip("abcdef", scores, strict=False)]


def test_the_highest_are_picked_and_equal_ones_by_their_id():
    for candidates in (three(1.0, 2.0, 1.0), three(1.0, 2.0, 1.0)[::-1]):
        picked, lost = pick(candidates, lambda size: 2, None)
        assert [one.row_id for one in picked] == ["b", "a"] and lost == {"c": "below_cut"}


def test_a_cap_makes_room_for_the_next_in_rank():
    rows = [("a", 5, "d1"), ("b", 4, "d1"), ("c", 3, "d1"), ("d", 2, "d2"), ("e", 1, "d3")]
    candidates = [Candidate(name, score, None, (document,)) for name, score, document in rows]
    picked, lost = pick(candidates, lambda size: 3, 1)
    assert [one.row_id for one in picked] == ["a", "d", "e"] and lost == {"b": "cap", "c": "cap"}


def test_a_row_of_several_documents_counts_for_each_and_one_of_none_for_none():
    candidates = [
        Candidate("a", 3, None, ("x", "y")),
        Candidate("b", 2, None, ("y",)),
        Candidate("c", 1),
        Candidate("d", 0),
    ]
    picked, lost = pick(candidates, lambda size: size, 1)
    assert [one.row_id for one in picked] == ["a", "c", "d"] and lost == {"b": "cap"}


@pytest.mark.parametrize(
    "share, rows, picks", [(0.3, 10, 3), (0.3, 100, 30), (0.1, 3, 1), (0.5, 5, 3), (1.0, 7, 7), (0.7, 10, 7)]
)
def test_a_share_is_rounded_up_but_not_by_float_noise(share, rows, picks):
    assert share_of(share, rows) == picks


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("gh"), st.sampled_from("xyz")), max_size=30),
    st.floats(0.01, 1), st.integers(1, 4), st.randoms(),
)  # fmt: skip
def test_every_candidate_is_picked_or_has_a_reason_in_any_order(rows, share, cap, random):
    candidates = [Candidate(f"r{n:02}", score, group, (doc,)) for n, (score, group, doc) in enumerate(rows)]
    picked, lost = pick(candidates, lambda size: share_of(share, size), cap)
    assert sorted([one.row_id for one in picked] + list(lost)) == [one.row_id for one in candidates]
    for doc in "xyz":
        assert sum(one.caps == (doc,) for one in picked) <= cap
    for group in "gh":
        size = sum(one.group == group for one in candidates)
        assert sum(one.group == group for one in picked) <= share_of(share, size)
    shuffled = random.sample(candidates, len(candidates))
    assert pick(shuffled, lambda size: share_of(share, size), cap) == (picked, lost)


def test_selections_stand_side_by_side_and_every_sample_has_a_state_in_each(done):
    assert TABLES["selected"].names[:3] == ["row_id", "rank", "score"]
    (samples,) = ask(done, "SELECT count(DISTINCT sample_id) FROM samples")[0]
    for name in ("late", "long", "query"):
        manifest = load_manifest(Workspace(done / "ws").manifest(f"select.{name}"))
        assert manifest.rows_in == samples == sum(manifest.states.values())
        ranks = ask(done, f"SELECT rank, score FROM selected WHERE stage = 'select.{name}' ORDER BY rank")
        assert [rank for rank, _ in ranks] == list(range(1, manifest.states["ok"] + 1))
        assert [score for _, score in ranks] == sorted((score for _, score in ranks), reverse=True)
    assert len(ask(done, "FROM selected WHERE stage = 'select.long'")) == 3


def test_half_of_each_length_is_picked_and_rows_without_a_score_say_so(done):
    lines = ask(
        done,
        "SELECT round(log2(prompt_tokens)), r.state, r.reason, e.depth FROM row_states r "
        "JOIN samples s ON s.sample_id = r.row_id LEFT JOIN scores_evidence e ON e.row_id = r.row_id "
        "WHERE r.stage = 'select.late'",
    )
    assert {line[2] for line in lines} == {"", "below_cut", "no_score"}
    assert all((line[3] is None) == (line[2] == "no_score") for line in lines)
    for bucket in {line[0] for line in lines}:
        scored = [line for line in lines if line[0] == bucket and line[3] is not None]
        good = [line[3] for line in scored if line[1] == "ok"]
        assert len(good) == math.ceil(len(scored) / 2)
        assert min(good, default=1) >= max((line[3] for line in scored if line[1] != "ok"), default=0)


def test_a_query_selects_what_it_returns(done):
    wanted = ask(done, "SELECT row_id FROM scores_evidence WHERE depth > 0.5")
    assert sorted(ask(done, "SELECT row_id FROM selected WHERE stage = 'select.query'")) == sorted(wanted)
    reasons = ask(done, "SELECT DISTINCT reason FROM row_states WHERE stage = 'select.query' AND state <> 'ok'")
    assert reasons == [("not_in_query",)]


def test_null_and_nan_are_never_selected(done):
    sql = "SELECT sample_id AS row_id, CASE WHEN prompt_tokens > 400 THEN 'nan'::DOUBLE END AS score FROM samples"
    run(recipe(done, [{"name": "late", "sql": sql}]), done / "ws")
    assert ask(done, "FROM selected") == []
    assert ask(done, "SELECT DISTINCT state, reason FROM row_states WHERE stage = 'select.late'") == [
        ("filtered", "no_score")
    ]


def test_ascending_picks_the_lowest_and_keeps_the_number_as_it_is(done):
    run(recipe(done, [{"name": "late", "top": {"by": "prompt_tokens", "count": 2, "ascending": True}}]), done / "ws")
    lowest = ask(done, "SELECT prompt_tokens FROM samples ORDER BY prompt_tokens LIMIT 2")
    assert ask(done, "SELECT score::BIGINT FROM selected ORDER BY rank") == lowest


def test_an_export_holds_only_its_selection_and_the_card_says_so(done):
    (file,) = (done / "ws" / "exports" / "out" / "sft").glob("*.parquet")
    ids = pq.read_table(file).column("id").to_pylist()
    assert sorted(ids) == sorted(one for (one,) in ask(done, "SELECT row_id FROM selected WHERE stage = 'select.late'"))
    states = dict(ask(done, "SELECT reason, count(*) FROM row_states WHERE stage = 'export.out' GROUP BY 1"))
    (samples,) = ask(done, "SELECT count(*) FROM samples")[0]
    assert states == {"": len(ids), "not_selected": samples - len(ids)}
    card = (done / "ws" / "exports" / "out" / "README.md").read_text()
    assert f"Rows of the selection `late`: {len(ids)} of {samples}." in card


def test_a_changed_selection_does_the_export_again_and_nothing_before_it(done):
    def written():
        return {path.name: path.stat().st_mtime_ns for path in (done / "ws" / "tables").glob("*/part-*.parquet")
                if not path.name.startswith(("part-select", "part-export", "part-run"))}  # fmt: skip

    before, late = written(), (done / "ws" / "manifests" / "select.long.json").read_text()
    changed = [{"name": "late", "top": {"by": "evidence.depth", "count": 1}}, *SELECT[1:]]
    run(recipe(done, changed), done / "ws")
    assert written() == before and (done / "ws" / "manifests" / "select.long.json").read_text() == late
    (file,) = (done / "ws" / "exports" / "out" / "sft").glob("*.parquet")
    assert pq.read_table(file).num_rows == 1


NO_ENTRY = "select 'late': no score entry and no number of samples has the name"


@pytest.mark.parametrize(
    "select, sentence",
    [
        ({"top": {"by": "evidense.depth", "count": 1}}, f"{NO_ENTRY} 'evidense', did you mean 'evidence'?"),
        ({"top": {"by": "evidence.dept", "count": 1}}, "score 'evidence' has no number 'dept', did you mean 'depth'?"),
        ({"top": {"by": "evidence", "count": 1}}, "score 'evidence' has many numbers: name one (evidence.COLUMN)"),
        ({"top": {"by": "prompt_tokens"}}, "select[0].top: needs either 'share' or 'count', not both"),
        ({}, "select[0]: needs one of 'top', 'context_dependent' and 'sql'"),
        ({"context_dependent": {}}, f"{NO_ENTRY} 'context_dependency'"),
        ({"rows": "preferences", "sql": "SELECT 1"}, "'late' selects preferences, for the config 'preference', not"),
    ],
)
def test_faults_are_named_when_the_recipe_is_read(tmp_path, select, sentence):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(tmp_path, [{"name": "late", **select}]))
    assert sentence in str(error.value)


def test_an_unknown_selection_of_an_export_is_named(tmp_path):
    with pytest.raises(UserError, match="export 'out': no selection 'lat' under 'select', did you mean 'late'"):
        load_recipe(recipe(tmp_path, export=[{"name": "out", "configs": ["sft"], "select": "lat"}]))


@pytest.mark.parametrize(
    "sql, sentence",
    [
        ("SELECT row_id, dept AS score FROM scores_evidence", "the query failed"),
        ("SELECT row_id FROM scores_evidence", "must return the columns row_id and score, not row_id"),
        ("COPY (SELECT 1) TO '/tmp/longloom-select-x'", "must be one SELECT"),
        ("SELECT content AS row_id, 1 AS score FROM read_text('/etc/passwd')", "the query failed"),
        ("SELECT row_id, 1 AS score FROM samples", "which is no sample"),
        ("SELECT sample_id AS row_id, unnest([1, 2]) AS score FROM samples", "with two different scores"),
        ("SELECT sample_id AS row_id, method AS score FROM samples", "is no number"),
    ],
)
def test_a_wrong_query_names_its_entry(done, sql, sentence):
    path = recipe(done, [{"name": "late", "sql": sql}])
    with pytest.raises(UserError) as error:
        run(path, done / "ws", stage="select")
    assert str(error.value).startswith("select 'late': ") and sentence in str(error.value)


def test_a_wrong_query_is_wrong_input_for_the_command_line(done, capsys):
    path = recipe(done, [{"name": "late", "sql": "SELECT row_id FROM sampels"}])
    assert main(["plan", str(path), "--workspace", str(done / "ws")]) == 2
    assert "select 'late': the query failed" in capsys.readouterr().err


def test_preferences_are_selected_by_their_own_ids(tmp_path, built):
    folder = tmp_path
    select = [
        {"name": "best", "rows": "preferences", "sql": "SELECT preference_id AS row_id, 1 AS score FROM preferences"}
    ]
    path = recipe(folder, select, [{"name": "out", "configs": ["preference"], "select": "best"}])
    run(path, folder / "ws")
    card = (folder / "ws" / "exports" / "out" / "README.md").read_text()
    assert "Rows of the selection `best`: 0 of 0." in card


def test_the_recipe_of_this_stage_loads_and_its_queries_are_right(tmp_path):
    """With the words of the test's tokenizer and without the scorer that needs a real model it also runs."""
    path = Path(__file__).parent.parent / "recipes" / "select.yaml"
    load_recipe(path)
    value = yaml.safe_load(path.read_text())
    value["score"] = value["score"][:1]
    value["select"] = [one for one in value["select"] if one["name"] == "spread"]
    value["export"][0]["select"] = "spread"
    value["tokenizer"], value["engines"]["probe"]["model"] = "scripted", "scripted"
    run(support.recipe(tmp_path, **{"instructions": [], **value}), tmp_path / "ws")
    ((picked, ids),) = ask(tmp_path, "SELECT count(*), count(DISTINCT row_id) FROM selected")
    assert 0 < picked == ids <= 12
