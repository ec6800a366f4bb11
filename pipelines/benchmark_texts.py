"""The benchmarks that a rule of contamination names: their rows, and the index made of them, once for all workers."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from filters.curation.benchmark_index import Passage, build_index, passages
from pipelines.code_version import code_version
from pipelines.sources.files import find_files, shown
from pipelines.sources.jsonl import objects
from pipelines.sources.parquet import first_line
from pipelines.sources.rows import BadRow, wrong
from schemas.curation.contamination import Benchmark, MatchConfig
from schemas.errors import UserError
from schemas.ids import digest

_PATTERNS = ("*.jsonl", "*.json", "*.jsonl.gz", "*.json.gz", "*.jsonl.zst", "*.json.zst", "*.parquet")


def benchmark_facts(config: MatchConfig, base_dir: Path) -> list[Any]:
    """What the index depends on. Raises UserError where a file is not there."""
    files = [
        [one.name, list(one.fields), [[shown(file, base_dir), file.stat().st_size, file.stat().st_mtime_ns] for file in
                                      _files(one, base_dir)]]
        for one in config.benchmarks
    ]  # fmt: skip
    code = code_version(
        "filters/curation/benchmark_index.py", "filters/curation/words.py", "pipelines/benchmark_texts.py"
    )
    return [files, config.ngram, config.short_words, config.boilerplate, code]


def built_index(config: MatchConfig, base_dir: Path, folder: Path) -> Path:
    """The folder of the index below `folder`; made where it is not there. Raises UserError for a row that cannot be
    read, or a benchmark in which no row has the fields."""
    final = folder / digest(benchmark_facts(config, base_dir))[:16]
    if not final.exists():
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        items = (item for one in config.benchmarks for item in _items(one, base_dir))
        build_index(items, config.ngram, config.short_words, config.boilerplate, temporary)
        temporary.rename(final)
    return final


def _files(benchmark: Benchmark, base_dir: Path) -> list[Path]:
    return find_files(benchmark, benchmark.path, base_dir, _PATTERNS)


def _items(benchmark: Benchmark, base_dir: Path) -> Iterator[Passage]:
    found = 0
    for file in _files(benchmark, base_dir):
        name = shown(file, base_dir)
        for location, row in _rows(benchmark, file, name):
            texts = passages(benchmark.name, location, row, benchmark.fields)
            found += bool(texts)
            yield from texts
    if not found:
        raise UserError(
            f"benchmark {benchmark.name!r}: no row of {benchmark.path} has a text under {', '.join(benchmark.fields)}"
        )


def _rows(benchmark: Benchmark, file: Path, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix == ".parquet":
        number = 0
        try:
            for batch in pq.ParquetFile(file).iter_batches(1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", row
        except (pa.ArrowException, OSError) as error:
            raise wrong(benchmark, f"{name} cannot be read as Parquet: {first_line(error)}") from error
        return
    for location, row in objects(file, name):
        if isinstance(row, BadRow):
            raise UserError(f"{location}: {row.reason}: {row.detail}")
        yield location, row
