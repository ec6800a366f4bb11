"""The catalog: the views of the Contract, read-only SQL that sees the tables and nothing else, and what must add up."""

import json
import shutil

import duckdb
import pytest

from pipelines.catalog import build_catalog, connect, query
from pipelines.manifest import Manifest, UnitRecord, load_manifest
from pipelines.shards import write_rows
from pipelines.workspace import Workspace
from schemas.errors import UserError
from tests.conftest import run
from tests.support import recipe

CONTRACT = {
    "documents": "document_id, source, text, language, chars, tokens, metadata",
    "document_judgements": "document_id, rule, value, keep, reason",
    "instructions": "instruction_id, text, source, language",
    "samples": (
        "sample_id, method, messages, document_ids, request_ids, language, prompt_tokens, response_tokens, evidence, "
        "details, model, prompt_version, recipe_hash"
    ),
    "preferences": (
        "preference_id, method, prompt, chosen, rejected, short_prompt, ref_chosen_logps, ref_rejected_logps, "
        "document_ids, request_ids, details, model, prompt_version, recipe_hash"
    ),
    "requests": (
        "request_id, row_id, method, step, model, sampling, finish_reason, prompt_tokens, cached_tokens, "
        "completion_tokens, seconds, response"
    ),
    "row_states": "row_id, stage, state, reason, detail",
    "scores_hmg": "row_id",
    "scores_cam": "row_id",
    "scores_gateau": "row_id",
    "scores_context_dependency": "row_id",
    "selected": "row_id, rank, score",
    "packs": "pack_id, input_ids, labels, position_ids, seq_lengths, loss_weights, sample_ids",
    "runs": "run_id, recipe_hash, started, finished, versions",
}
ROWS = {"documents": 4, "instructions": 3, "samples": 15, "requests": 36, "row_states": 41, "runs": 1}


@pytest.fixture
def empty(tmp_path):
    """A workspace in which nothing has been made yet."""
    workspace = Workspace(tmp_path / "empty")
    workspace.manifests.mkdir(parents=True)
    return workspace


def ask(workspace, sql):
    return query(workspace, sql)[1]


def one(workspace, sql):
    ((value,),) = ask(workspace, sql)
    return value


# ---------------------------------------------------------------- views


def test_every_view_has_its_columns_and_rows(built):
    with connect(built) as connection:
        for view, columns in CONTRACT.items():
            cursor = connection.execute(f"SELECT * FROM {view}")
            assert set(columns.split(", ")) <= {column[0] for column in cursor.description}, view
            assert len(cursor.fetchall()) == ROWS.get(view, 0), view


def test_empty_views_have_the_same_columns_and_types(built, empty):
    with connect(built) as full, connect(empty) as connection:
        for view in CONTRACT:
            assert connection.execute(f"FROM {view}").fetchall() == []
            types = connection.execute(f"DESCRIBE {view}").fetchall()
            assert types == full.execute(f"DESCRIBE {view}").fetchall() != []


def test_the_catalog_file_alone_is_enough_for_other_programs(built):
    build_catalog(built)
    with duckdb.connect(str(built.catalog), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM samples").fetchall() == [(15,)]


def test_columns_named_json_hold_json(built):
    for view, column in (("samples", "details"), ("requests", "sampling"), ("runs", "versions")):
        for (text,) in ask(built, f"SELECT {column} FROM {view}"):
            assert isinstance(json.loads(text), dict)
    assert (
        one(built, "SELECT DISTINCT json_extract(sampling, '$.max_tokens') FROM requests WHERE step = 'plan'") == "4096"
    )


def test_preferences_join_the_logps_of_the_reference_model(empty):
    root = empty.root
    preferences = [{"preference_id": name, "method": "longpo", "details": "{}"} for name in ("pre-a", "pre-b")]
    scores = [{"row_id": "pre-b", "stage": "s", "ref_chosen_logps": -1.5, "ref_rejected_logps": -2.5}]
    parts = write_rows(root, "preferences", "u", preferences) + write_rows(root, "scores_ref_logps", "u", scores)
    Manifest("generate.p", "r", units={"u": UnitRecord("f", parts, 0, {})}).save(empty.manifest("generate.p"))
    assert ask(empty, "SELECT preference_id, ref_chosen_logps, ref_rejected_logps FROM preferences ORDER BY ALL") == [
        ("pre-a", None, None),
        ("pre-b", -1.5, -2.5),
    ]


def test_a_part_that_no_manifest_names_does_not_exist(empty):
    write_rows(empty.root, "samples", "killed", [{"sample_id": "sam-1"}])
    assert ask(empty, "SELECT * FROM samples") == []


def test_a_moved_workspace_works(built, tmp_path):
    first, moved = Workspace(tmp_path / "first"), Workspace(tmp_path / "it's here; now")
    shutil.copytree(built.root, first.root)
    assert one(first, "SELECT count(*) FROM samples") == 15
    first.root.rename(moved.root)
    assert one(moved, "SELECT count(*) FROM samples") == 15


def test_a_folder_that_is_no_workspace(tmp_path):
    with pytest.raises(UserError) as caught:
        connect(Workspace(tmp_path))
    assert str(caught.value) == f"{tmp_path}: holds no manifests; run a recipe with this --workspace first"
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_gone_is_named_and_the_next_run_makes_it_anew(tmp_path):
    workspace = Workspace(tmp_path / "w")
    path = recipe(tmp_path)
    run(path, workspace.root)
    (gone,) = workspace.root.glob("tables/samples/part-generate.long_qa-00001-*")
    gone.unlink()
    with pytest.raises(UserError) as caught:
        query(workspace, "SELECT 1")
    assert str(caught.value) == f"{gone}: is gone, and a manifest names it; run the recipe again to make it anew"
    run(path, workspace.root)
    assert one(workspace, "SELECT count(*) FROM samples") == 15


# ---------------------------------------------------------------- read-only


def files(workspace):
    """All files but the catalog, which every query writes anew."""
    paths = [path for path in workspace.root.rglob("*") if path.is_file() and path != workspace.catalog]
    return {path: path.read_bytes() for path in paths}


ONE_SELECT = "the query must be one SELECT, WITH, FROM, DESCRIBE, SUMMARIZE or SHOW; the catalog is read-only"
DISABLED = "file system operations are disabled by configuration"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x(a INT)",
        "CREATE TEMP TABLE x(a INT)",
        "CREATE OR REPLACE VIEW samples AS SELECT 1",
        "CREATE SECRET s (TYPE s3)",
        "INSERT INTO runs SELECT * FROM runs",
        "DELETE FROM runs",
        "DROP VIEW samples",
        "COPY samples TO '{root}/tables/samples.csv'",
        "COPY (SELECT 1) TO '{part}' (FORMAT parquet)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}' (FORMAT parquet)",
        "PREPARE p AS COPY (SELECT 1) TO '{part}'",
        "EXPORT DATABASE '{root}/tables/dump'",
        "ATTACH '{root}/tables/other.db'",
        "ATTACH ':memory:' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{root}/tables/x.duckdb_extension'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET allowed_directories",
        "PRAGMA threads = 1",
        "SET VARIABLE x = 1",
        "CHECKPOINT",
        "SELECT 1; DROP VIEW samples",
        "SELECT 1; SELECT 2",
        "",
        " ; ",
        "-- nothing",
    ],
)
def test_only_one_select_is_taken(built, sql):
    before = files(built)
    part = next(path for path in before if path.parent.name == "samples")
    with pytest.raises(UserError) as caught:
        query(built, sql.format(root=built.root, part=part))
    assert str(caught.value) == ONE_SELECT
    assert files(built) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (COPY (SELECT 1) TO '{part}' (FORMAT parquet)) SELECT 1",
        "WITH x AS MATERIALIZED (COPY (SELECT 1) TO '{part}' (FORMAT parquet)) FROM x",
        "FROM (WITH x AS (COPY (SELECT 1) TO '{part}' (FORMAT parquet)) FROM x)",
        "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{part}'' (FORMAT parquet)) FROM x')",
        "WITH x AS (INSERT INTO runs SELECT * FROM runs RETURNING *) FROM x",
    ],
)
def test_a_select_that_would_write_fails(built, sql):
    before = files(built)
    part = next(path for path in before if path.parent.name == "samples")
    with pytest.raises(UserError, match=r"^the query failed: "):
        query(built, sql.format(part=part))
    assert files(built) == before


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("read_csv", "/etc/passwd"),
        ("read_text", "/etc/passwd"),
        ("read_blob", "/proc/self/environ"),
        ("glob", "/etc/*"),
        ("read_json", "{root}/manifests/ingest.json"),
        ("read_text", "{root}/tables/../manifests/ingest.json"),
        ("read_text", "{root}/tables-of-another/x.txt"),
        ("read_blob", "{root}/ledger.sqlite"),
        ("read_parquet", "https://example.com/x.parquet"),
        ("read_parquet", "s3://bucket/x.parquet"),
        ("sniff_csv", "/etc/passwd"),
    ],
)
def test_no_file_but_the_tables_can_be_read(built, table, path):
    path = path.format(root=built.root)
    with pytest.raises(UserError) as caught:
        query(built, f"SELECT * FROM {table}('{path}')")
    assert str(caught.value) == f'the query failed: Permission Error: Cannot access file "{path}" - {DISABLED}'


def test_no_file_is_read_by_its_name_alone(built):
    with pytest.raises(
        UserError, match=r"^the query failed: Catalog Error: Table with name /etc/passwd does not exist!"
    ):
        query(built, "SELECT * FROM '/etc/passwd'")


def test_python_variables_are_no_tables(built):
    with pytest.raises(UserError, match=r"^the query failed: Catalog Error: Table with name workspace does not exist!"):
        query(built, "SELECT * FROM workspace")


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELEC 1", 'the query failed: Parser Error: syntax error at or near "SELEC"'),
        (
            "SELECT * FROM sampels",
            'the query failed: Catalog Error: Table with name sampels does not exist! Did you mean "samples"?',
        ),
        ("SELECT 'a'::INT", "the query failed: Conversion Error: Could not convert string 'a' to INT32"),
    ],
)
def test_a_wrong_query_is_told_in_one_sentence(built, sql, sentence):
    with pytest.raises(UserError) as caught:
        query(built, sql)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("FROM range(2)", [(0,), (1,)]),
        ("VALUES (1), (2);", [(1,), (2,)]),
        ("WITH x AS (SELECT 1 AS a) SELECT a FROM x -- a comment", [(1,)]),
        ("SELECT stage FROM row_states GROUP BY stage ORDER BY stage DESC LIMIT 1", [("ingest",)]),
        ("PIVOT samples ON method IN ('agentwrite', 'long_qa') USING count(*) GROUP BY model", [("scripted", 3, 12)]),
    ],
)
def test_queries_that_read(built, sql, rows):
    assert ask(built, sql) == rows


# ---------------------------------------------------------------- what must add up


def test_rows_in_are_the_rows_of_all_states_of_each_stage(built):
    manifests = {path.stem: load_manifest(path) for path in built.manifests.glob("*.json")}
    assert {name: one.rows_in for name, one in manifests.items()} == {
        "ingest": 7, "generate.long_qa": 12, "generate.agentwrite": 3, "export.out": 19,
    }  # fmt: skip
    counted = ask(built, "SELECT stage, state, count(*) FROM row_states GROUP BY ALL")
    assert sorted(counted) == sorted(
        (name, state, n) for name, one in manifests.items() for state, n in one.states.items()
    )
    assert one(built, "SELECT count(*) - count(DISTINCT (stage, row_id, detail)) FROM row_states") == 0


def test_every_request_of_a_sample_is_among_the_requests_of_its_row(built):
    used = "SELECT row_id, unnest(request_ids) AS request_id FROM samples"
    assert one(built, f"SELECT count(*) FROM ({used})") == 36
    assert ask(built, f"({used}) EXCEPT SELECT row_id, request_id FROM requests") == []
    assert ask(built, f"SELECT row_id, request_id FROM requests EXCEPT ({used})") == []


def test_every_document_of_a_sample_is_among_the_documents(built):
    used = "SELECT unnest(document_ids) AS document_id FROM samples"
    assert one(built, f"SELECT count(*) FROM ({used})") == 12
    assert ask(built, f"({used}) EXCEPT SELECT document_id FROM documents") == []


def test_every_row_of_a_generator_comes_from_a_row_of_ingest(built):
    made = "SELECT split_part(row_id, '#', 1) FROM row_states WHERE starts_with(stage, 'generate')"
    assert ask(built, f"{made} EXCEPT SELECT row_id FROM row_states WHERE stage = 'ingest'") == []


def test_ids_are_unique(built):
    for view, column in (("documents", "document_id"), ("instructions", "instruction_id"), ("samples", "sample_id")):
        assert one(built, f"SELECT count(*) - count(DISTINCT {column}) FROM {view}") == 0
