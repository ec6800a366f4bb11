"""Parts that a disk has damaged: found, put aside, and made anew by the next run as any part that is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards import open_part
from pipelines.workspace import Workspace
from schemas.errors import UserError


def is_cut(path: Path) -> bool:
    """Was a Parquet file cut off? Reads its footer only, so a damaged page is not seen."""
    try:
        pq.read_metadata(path)
    except pa.ArrowInvalid:
        return True
    return False


def put_aside(path: Path) -> Path:
    """Kept under a name that no table has: whoever wants to look into it can."""
    return path.rename(path.with_name(f"{path.name}.damaged"))


@contextmanager
def damage_named(workspace: Workspace) -> Iterator[None]:
    """Where reading fails inside, `verify` looks for the part that is damaged. Errors with another cause pass."""
    import duckdb

    try:
        yield
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, say; damage has no number
            raise
        verify(workspace)
        raise


def verify(workspace: Workspace) -> int:
    """Reads all Parquet files of tables and exports, checksums included; returns how many. Damaged ones are put aside,
    and a UserError names them. Call under the lock. DuckDB does not look at checksums: what it reads may be wrong
    without a word."""
    names = ("tables/*/part-*.parquet", "exports/[!.]*/*/*.parquet")
    paths = sorted(path for name in names for path in workspace.root.glob(name))
    damaged = [put_aside(path) for path in paths if _is_damaged(path)]
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise UserError(
            f"{damaged[0].with_suffix('')}{more}: is damaged and has been put aside as *.damaged; run the recipe again "
            "to make it anew"
        )
    return len(paths)


def _is_damaged(path: Path) -> bool:
    try:
        with open_part(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except pa.ArrowException:
        return True
    except OSError as error:
        return error.errno is None
    return False
