"""The catalog: `catalog.duckdb`, views over the Parquet parts that manifests name. Derived, rebuilt at any time."""

import errno
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.files import atomic_path
from pipelines.manifest import load_manifest
from pipelines.workspace import Workspace
from schemas.errors import RunError, UserError
from schemas.tables import TABLES

# DuckDB is imported by the functions that use it: whatever Prefect's threads still hold when Python ends would keep a
# module-level import alive, and DuckDB then prints a screenful about leaked references.
if TYPE_CHECKING:
    import duckdb

_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.uint64(): "UBIGINT",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.bool_(): "BOOLEAN",
}


def build_catalog(workspace: Workspace) -> list[Path]:
    """Write the catalog anew. Every view of the Contract exists, with no rows where nothing has been made. Returns the
    parts that a manifest names and that are gone: the next run makes them anew."""
    import duckdb

    parts: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(workspace.manifests.glob("*.json")):
        manifest = load_manifest(path)
        for unit in manifest.units.values() if manifest is not None else ():
            for part in unit.parts:
                parts[part.table].append(workspace.root / part.file)
    parts["runs"] = sorted((workspace.root / "tables" / "runs").glob("part-*.parquet"))
    gone = [file for files in parts.values() for file in files if not file.exists()]
    parts = {table: [file for file in files if file not in gone] for table, files in parts.items()}
    with atomic_path(workspace.catalog) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            with duckdb.connect(str(temporary)) as connection:
                _create_views(connection, parts)
        except duckdb.Error as error:
            for number in (errno.ENOSPC, errno.EDQUOT):  # whatever kind of error it is
                if os.strerror(number) in str(error):
                    raise OSError(number, os.strerror(number), str(workspace.catalog)) from error
            raise
    return gone


def _create_views(connection: "duckdb.DuckDBPyConnection", parts: dict[str, list[Path]]) -> None:
    for table, schema in TABLES.items():
        name = "preference_rows" if table == "preferences" else table
        connection.execute(f"CREATE VIEW {name} AS {_select(schema, parts.get(table, []))}")
    connection.execute(
        "CREATE VIEW preferences AS SELECT p.*, s.ref_chosen_logps, s.ref_rejected_logps "
        "FROM preference_rows p LEFT JOIN scores_ref_logps s ON s.row_id = p.preference_id"
    )


def _select(schema: pa.Schema, files: list[Path]) -> str:
    if files:
        return f"SELECT * FROM read_parquet([{', '.join(_quote(str(file)) for file in files)}])"
    columns = ", ".join(f'CAST(NULL AS {_sql_type(field.type)}) AS "{field.name}"' for field in schema)
    return f"SELECT {columns} WHERE false"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"{_sql_type(type_.value_type)}[]"
    if pa.types.is_struct(type_):
        fields = ", ".join(f'"{field.name}" {_sql_type(field.type)}' for field in type_)
        return f"STRUCT({fields})"
    if pa.types.is_timestamp(type_):
        return "TIMESTAMPTZ"
    return _TYPES[type_]


def connect(workspace: Workspace) -> "duckdb.DuckDBPyConnection":
    """A read-only connection that sees this workspace's tables and no other file, network or extension.

    The catalog is rebuilt first, so a moved workspace or a running job is no problem. UserError without a workspace.
    """
    import duckdb

    if not workspace.manifests.is_dir():
        raise UserError(f"{workspace.root}: holds no manifests; run a recipe with this --workspace first")
    try:
        gone = build_catalog(workspace)
        if gone:
            raise UserError(f"{gone[0]}: is gone, and a manifest names it; run the recipe again to make it anew")
    except (OSError, duckdb.IOException) as error:
        if not workspace.catalog.exists():  # a read-only folder is fine as long as it has a catalog
            why = error.strerror if isinstance(error, OSError) and error.strerror else _one_line(error)
            raise RunError(f"{workspace.catalog}: cannot be written: {why}") from error
    except duckdb.Error as error:
        raise UserError(f"{_one_line(error)}; run the recipe again to make it anew") from error
    connection = duckdb.connect(str(workspace.catalog), read_only=True)
    connection.execute(f"SET allowed_directories = [{_quote(str(workspace.root / 'tables') + '/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def query(workspace: Workspace, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one query. UserError with what DuckDB says when the query is wrong or would write."""
    with connect(workspace) as connection:
        return _ask(connection, sql)


def check_query(sql: str) -> list[str]:
    """The column names of a query, asked of empty views: what is wrong with it shows before there is any row. UserError
    as by `query`."""
    import duckdb

    with duckdb.connect() as connection:
        _create_views(connection, {})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return _ask(connection, sql)[0]


def _ask(connection: "duckdb.DuckDBPyConnection", sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    import duckdb

    try:
        _must_only_read(connection, sql)
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        raise UserError(f"the query failed: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).partition("\n\nLINE ")[0].split())  # without the picture of the place


def _must_only_read(connection: "duckdb.DuckDBPyConnection", sql: str) -> None:
    """A directory that may be read may also be written: COPY TO would reach the tables, so only SELECT goes."""
    import duckdb

    statements = connection.extract_statements(sql)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise UserError(
            "the query must be one SELECT, WITH, FROM, DESCRIBE, SUMMARIZE or SHOW; the catalog is read-only"
        )
    # WITH x AS (COPY ... TO ...) counts as SELECT too. DuckDB refuses it anywhere but at the top level.
    connection.execute(f"EXPLAIN SELECT * FROM query({_quote(sql)})")
