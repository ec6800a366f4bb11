"""The stage export: a folder that `datasets.load_dataset(DIR, CONFIG)` reads offline, with a dataset card."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.card import is_export, write_card
from pipelines.code_version import code_version
from pipelines.curated import curated_documents, curation
from pipelines.damage import is_cut
from pipelines.files import sync
from pipelines.indicator import marked_answers, with_indicator
from pipelines.manifest import UnitRecord
from pipelines.pairs import LONGPO, PREFERENCE, conversations, reference_logps, score_units, with_logps
from pipelines.select import selected_ids
from pipelines.shards import write_rows
from pipelines.stages import Context, Stage, Unit
from schemas.errors import UserError
from schemas.ids import digest
from schemas.recipe import Export
from schemas.states import State
from schemas.tables import MESSAGES, SPANS, STRINGS

BATCH_ROWS = 64  # documents are long: a batch of 64 x 64k tokens is some 16 MB

SCHEMAS = {
    "sft": pa.schema(
        [
            ("id", pa.string()), ("messages", MESSAGES), ("method", pa.string()), ("source", pa.string()),
            ("language", pa.string()), ("prompt_tokens", pa.int64()), ("response_tokens", pa.int64()),
            ("document_ids", STRINGS), ("evidence", SPANS), ("details", pa.string()),
            ("loss_on_prompt", pa.bool_()), ("model", pa.string()),
        ]
    ),
    "preference": PREFERENCE,
    "longpo": LONGPO,
    "documents": pa.schema(
        [
            ("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("language", pa.string()),
            ("chars", pa.int64()), ("tokens", pa.int64()), ("metadata", pa.string()),
        ]
    ),
}  # fmt: skip
_TABLE = {
    "sft": ("samples", "sample_id"),
    "preference": ("preferences", "preference_id"),
    "documents": ("documents", "document_id"),
}


class ShardWriter:
    """Parquet files of about `shard_bytes` each, named `<config>/train-00000-of-00002.parquet` once all are written."""

    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int) -> None:
        self.folder, self.rows = folder, 0
        self._schema, self._shard_bytes = schema, shard_bytes
        self._paths: list[Path] = []
        self._writer: Any = None
        self._sink: Any = None

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:  # `datasets` cannot read a row group without rows
            return
        if self._writer is None:
            self._begin_shard()
        self._writer.write_table(table)
        self.rows += table.num_rows
        if self._sink.tell() >= self._shard_bytes:
            self._end_shard()

    def _begin_shard(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._paths.append(self.folder / f"{len(self._paths):05d}.parquet")
        self._sink = self._paths[-1].open("wb")
        self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            sync(self._paths[-1])
            self._writer = self._sink = None

    def close(self) -> list[Path]:
        """An empty dataset still gets one file with its columns: readers find zero rows. (`datasets` does so with
        streaming=True only; else it says that the split "corresponds to no data".)"""
        if not self._paths:
            self._begin_shard()
        self._end_shard()
        total = len(self._paths)
        return [
            path.rename(path.with_name(f"train-{n:05d}-of-{total:05d}.parquet")) for n, path in enumerate(self._paths)
        ]


class ExportStage(Stage):
    """One entry of the recipe's `export` list: one unit, done anew when anything upstream has changed. `makers`: the
    stages that made records, or scores of records."""

    def __init__(self, config: Export, makers: list[str]) -> None:
        self.config, self._makers = config, makers
        self.name = f"export.{config.name}"

    def settings(self, context: Context) -> dict[str, Any]:
        code = code_version("pipelines/export.py", "pipelines/pairs.py", "pipelines/card.py", "pipelines/indicator.py")
        return {**self.config.model_dump(mode="json"), "code": code}

    def units(self, context: Context) -> list[Unit]:
        # Whole records: rows that failed and now went well change what a unit wrote, not its fingerprint.
        upstream = {
            stage: [asdict(unit) for unit in context.upstream(stage).units.values()]
            for stage in ("ingest", *curation(context.recipe), *self._makers)
        }
        for stage, units in score_units(context.workspace).items():
            upstream.setdefault(stage, [asdict(unit) for unit in units])
        # The card prints the whole recipe.
        fingerprint = digest([self.settings(context), context.recipe_hash, upstream])
        return [Unit("all", fingerprint)]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        final = self.folder(context)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        states: list[dict[str, Any]] = []
        counts: dict[str, int] = {}
        for config in self.config.configs:
            writer = ShardWriter(temporary / config, SCHEMAS[config], self.config.shard_size)
            for table, left_out in self._tables(config, context):
                writer.write(table)
                states += [_state_row(self.name, row_id, config) for row_id in table.column("id").to_pylist()]
                states += [_state_row(self.name, row_id, reason=reason) for row_id, reason in left_out]
                context.progress.advance(table.num_rows + len(left_out))
            writer.close()
            counts[config] = writer.rows
        stages = ["ingest", *curation(context.recipe), *self._makers]
        write_card(temporary, self.config, stages, counts, context)
        replace_folder(temporary, final)
        parts = write_rows(context.workspace.root, "row_states", f"{self.name}-{unit.key}", states)
        ended = Counter(state["state"] for state in states)
        return UnitRecord(unit.fingerprint, parts, len(states), dict(sorted(ended.items())))

    def folder(self, context: Context) -> Path:
        return context.workspace.exports / self.config.name

    def intact(self, record: UnitRecord, context: Context) -> bool:
        folder = self.folder(context)
        written = (folder / "README.md").exists() and all(_complete(folder / config) for config in self.config.configs)
        return super().intact(record, context) and written

    def _tables(self, config: str, context: Context) -> Iterator[tuple[pa.Table, list[tuple[str, str]]]]:
        """Batches in the export's schema, each with the ids of rows that the recipe leaves out, and why."""
        logps = reference_logps(context.workspace) if config in ("preference", "longpo") else {}
        if config == "longpo":
            for stage in self._makers:
                for documents in conversations(context.upstream(stage), context.workspace, logps, BATCH_ROWS):
                    yield documents, []
            return
        table, id_column = _TABLE[config]
        parts, curated = [part for stage in self._makers for part in context.upstream(stage).parts(table)], None
        if config == "documents":
            parts, curated = curated_documents(context)
        schema = SCHEMAS[config]
        kept: list[tuple[str, str, pa.Array]] = []  # column, reason of those left out, what it must be one of
        if config != "documents" and self.config.methods is not None:
            kept.append(("method", "method_not_exported", pa.array(self.config.methods)))
        if config != "documents" and self.config.select is not None:
            chosen = pa.array(selected_ids(context, self.config.select), pa.string())
            kept.append((id_column, "not_selected", chosen))
        indicator = self.config.indicator if config == "sft" else None
        marks = {} if indicator is None else marked_answers(indicator, context)
        for part in parts:
            for batch in pq.ParquetFile(context.workspace.root / part.file).iter_batches(BATCH_ROWS):
                left_out: list[tuple[str, str]] = []
                if curated is not None:  # what curation took has its reason there
                    batch = batch.filter(pa.array([one in curated for one in batch[id_column].to_pylist()]))
                for column, reason, values in kept:
                    wanted = pc.is_in(batch.column(column), values)
                    left_out += [(one, reason) for one in batch.filter(pc.invert(wanted))[id_column].to_pylist()]
                    batch = batch.filter(wanted)
                if config == "preference":
                    yield with_logps(batch, logps), left_out
                else:
                    columns = [batch.column(id_column if name == "id" else name) for name in schema.names]
                    if indicator is not None:
                        place = schema.get_field_index("messages")
                        columns[place] = with_indicator(columns[0], columns[place], indicator, marks)
                    yield pa.table(columns, schema=schema), left_out


def exported_rows(folder: Path) -> dict[str, int]:
    """Config -> how many rows a finished export holds of it."""
    return {
        config: sum(pq.read_metadata(path).num_rows for path in (folder / config).glob("train-*.parquet"))
        for config in SCHEMAS
        if (folder / config).is_dir()
    }


def _complete(folder: Path) -> bool:
    """Does a config have all the files that their names (`...-of-00002.parquet`) promise, to their ends?"""
    paths = list(folder.glob("train-*-of-*.parquet"))
    return bool(paths) and len(paths) == int(paths[0].stem.rpartition("-")[2]) and not any(map(is_cut, paths))


def _state_row(stage: str, row_id: str, config: str = "", reason: str = "") -> dict[str, Any]:
    """`reason`: why the row was left out."""
    state = State.FILTERED if reason else State.OK
    return {"row_id": row_id, "stage": stage, "state": state.value, "reason": reason, "detail": config}


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in the place of the old one. After a crash in between, the stage is simply done again."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def copy_export(folder: Path, to: Path) -> None:
    """Copy a finished export. UserError when `to` holds anything that is no part of an export of Longloom's."""
    names = {path.name for path in to.iterdir()} if to.is_dir() else set()
    if to.exists() and (not to.is_dir() or (names and not is_export(to))):
        raise UserError(f"{to}: exists and is no export; name a new or empty folder with --to")
    foreign = sorted(names - {"README.md", *SCHEMAS})
    if foreign:  # a .git, say: the folder is replaced as a whole
        raise UserError(f"{to}: holds {foreign[0]!r} beside an export; name a new or empty folder with --to")
    final = to.resolve()
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder, temporary)
    replace_folder(temporary, final)
