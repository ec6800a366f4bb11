"""Reading the sources of a recipe: one module a type, imported when a recipe uses it."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.sources.rows import BadRow, Input, SourceRow, wrong
from schemas.sources import AnySource, Fields

__all__ = ["BadRow", "Input", "SourceRow", "inputs", "read"]

_MODULES = {
    "jsonl": "pipelines.sources.jsonl",
    "parquet": "pipelines.sources.parquet",
    "text": "pipelines.sources.text",
    "huggingface": "pipelines.sources.huggingface",
    "repository": "pipelines.sources.repository",
    "python": "pipelines.sources.python_docs",
    "inline": "pipelines.sources.inline",
}


def inputs(source: AnySource, base_dir: Path) -> list[Input]:
    """The files that `read` will read, in its order: the fingerprint of the source, with the recipe's part.

    `base_dir` is the recipe's folder. Raises UserError, naming source and file or column, for whatever is
    missing or unreadable; reads no more than heads and footers.
    """
    if "location" in getattr(source, "fields", Fields()).metadata:
        raise wrong(source, "metadata cannot have a column 'location': file and row are kept under that name")
    found: list[Input] = _module(source).inputs(source, base_dir)
    return found


def read(source: AnySource, base_dir: Path, files: Sequence[Path] = ()) -> Iterator[SourceRow | BadRow]:
    """All rows of a source, good and bad, one at a time, in an order that depends on the files alone. `files`: read
    only these, the paths of some of its inputs."""
    module = _module(source)
    rows: Iterator[SourceRow | BadRow] = module.read(source, base_dir, *((files,) if files else ()))
    return rows


def _module(source: AnySource) -> Any:
    return import_module(_MODULES[source.type])
