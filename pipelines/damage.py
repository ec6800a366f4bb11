"""Parts that a disk has damaged: found, put aside, and made anew by the next run as any part that is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
    """Where reading fails inside, every part is read as a whole, and damaged ones are put aside: a UserError names
    them. Errors that have another cause pass. What a flipped bit leaves readable is not noticed: parts have no
    checksums."""
    import duckdb

    try:
        yield
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, say; damage has no number
            raise
        damaged = [path for path in sorted(workspace.root.glob("tables/*/part-*.parquet")) if _is_damaged(path)]
        if not damaged:
            raise
        for path in damaged:
            put_aside(path)
        more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
        raise UserError(
            f"{damaged[0]}{more}: is damaged and has been put aside as *.damaged; run the recipe again to make it anew"
        ) from error


def _is_damaged(path: Path) -> bool:
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            file.read_row_group(group)
    except pa.ArrowException:
        return True
    except OSError as error:
        return error.errno is None
    return False
