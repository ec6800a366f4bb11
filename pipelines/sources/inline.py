"""Texts written in the recipe itself. They are part of the recipe, so there is no file to name."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.sources.rows import BadRow, Input, SourceRow, make_row
from schemas.sources import InlineSource


def inputs(source: InlineSource, base_dir: Path) -> list[Input]:
    return []


def read(source: InlineSource, base_dir: Path) -> Iterator[SourceRow | BadRow]:
    for number, text in enumerate(source.items, 1):
        yield make_row(text, f"inline:{number}")
