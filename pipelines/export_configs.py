"""What the configs of an export hold: for each a schema, and a function that reads its rows from the tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.curated import curated_documents
from pipelines.export_tokens import PACKED, PROLONG, TOKENISED, packed, prolong, tokenised
from pipelines.indicator import marked_answers, with_indicator
from pipelines.pairs import LONGPO, PREFERENCE, conversations, reference_logps, with_logps
from pipelines.select import selected_ids
from pipelines.shards import Part, open_part
from pipelines.stages import Context
from pipelines.styles import LeftOut, styled, styled_schema
from schemas.export import Export
from schemas.tables import MESSAGES, SPANS, STRINGS

BATCH_ROWS = 64  # documents are long: a batch of 64 x 64k tokens is some 16 MB

SFT = pa.schema(
    [
        ("id", pa.string()), ("messages", MESSAGES), ("method", pa.string()), ("source", pa.string()),
        ("language", pa.string()), ("prompt_tokens", pa.int64()), ("response_tokens", pa.int64()),
        ("document_ids", STRINGS), ("evidence", SPANS), ("details", pa.string()),
        ("loss_on_prompt", pa.bool_()), ("model", pa.string()),
    ]
)  # fmt: skip
DOCUMENTS = pa.schema(
    [
        ("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("language", pa.string()),
        ("chars", pa.int64()), ("tokens", pa.int64()), ("metadata", pa.string()),
    ]
)  # fmt: skip

Tables = Iterator[tuple[pa.Table, list[LeftOut]]]  # each with the rows that the recipe leaves out


@dataclass(frozen=True, slots=True)
class Reading:
    """One export that reads the tables of a workspace. `makers`: the stages that made records."""

    export: Export
    makers: list[str]
    context: Context

    def made(self, table: str) -> list[Part]:
        return [part for stage in self.makers for part in self.context.upstream(stage).parts(table)]

    def batches(self, parts: list[Part]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            yield from open_part(self.context.workspace.root / part.file).iter_batches(BATCH_ROWS)

    def groups(self, parts: list[Part]) -> Iterator[pa.RecordBatch]:
        """Row group by row group: rows of tokens may be very long, and their groups are small."""
        for part in parts:
            file = open_part(self.context.workspace.root / part.file)
            for group in range(file.num_row_groups):
                yield from file.iter_batches(BATCH_ROWS, [group])

    def chosen(self, table: str, id_column: str) -> Iterator[tuple[pa.RecordBatch, list[LeftOut]]]:
        """Records by the methods and the selection that the export names."""
        kept: list[tuple[str, str, pa.Array]] = []  # column, reason of those left out, what it must be one of
        if self.export.methods is not None:
            kept.append(("method", "method_not_exported", pa.array(self.export.methods)))
        if self.export.select is not None:
            ids = pa.array(selected_ids(self.context, self.export.select), pa.string())
            kept.append((id_column, "not_selected", ids))
        for batch in self.batches(self.made(table)):
            left_out: list[LeftOut] = []
            for column, reason, values in kept:
                wanted = pc.is_in(batch.column(column), values)
                others = batch.filter(pc.invert(wanted))[id_column]
                left_out += [LeftOut(one, reason) for one in others.to_pylist()]
                batch = batch.filter(wanted)
            yield batch, left_out


def _as(batch: pa.RecordBatch, schema: pa.Schema, id_column: str) -> pa.Table:
    return pa.table([batch.column(id_column if name == "id" else name) for name in schema.names], schema=schema)


def _samples(reading: Reading) -> Tables:
    indicator, style = reading.export.indicator, reading.export.style
    marks = {} if indicator is None else marked_answers(indicator, reading.context)
    for batch, left_out in reading.chosen("samples", "sample_id"):
        table = _as(batch, SFT, "sample_id")
        if indicator is not None:
            marked = with_indicator(table["id"], table["messages"], indicator, marks)
            table = table.set_column(SFT.get_field_index("messages"), SFT.field("messages"), marked)
        if style != "messages":
            table, others = styled(table, style)
            left_out += others
        yield table, left_out


def _preferences(reading: Reading) -> Tables:
    logps = reference_logps(reading.context.workspace)
    for batch, left_out in reading.chosen("preferences", "preference_id"):
        yield with_logps(batch, logps), left_out


def _conversations(reading: Reading) -> Tables:
    logps = reference_logps(reading.context.workspace)
    for stage in reading.makers:
        found = conversations(reading.context.upstream(stage), reading.context.workspace, logps, BATCH_ROWS)
        yield from ((table, []) for table in found)


def _documents(reading: Reading) -> Tables:
    parts, curated = curated_documents(reading.context)
    for batch in reading.batches(parts):
        if curated is not None:  # what curation took has its reason there
            batch = batch.filter(pa.array([one in curated for one in batch["document_id"].to_pylist()], pa.bool_()))
        yield _as(batch, DOCUMENTS, "document_id"), []


def _packed(reading: Reading) -> Tables:
    rows = prolong if reading.export.format == "mds" else packed
    for batch in reading.groups(reading.made("packs")):
        yield rows(batch), []


def _tokenised(reading: Reading) -> Tables:
    for batch in reading.groups(reading.made("tokens")):
        yield tokenised(batch), []


class Config(NamedTuple):
    schema: pa.Schema
    tables: Callable[[Reading], Tables]


CONFIGS = {
    "sft": Config(SFT, _samples),
    "preference": Config(PREFERENCE, _preferences),
    "longpo": Config(LONGPO, _conversations),
    "documents": Config(DOCUMENTS, _documents),
    "packed": Config(PACKED, _packed),
    "tokenised": Config(TOKENISED, _tokenised),
}


def schema_of(config: str, export: Export) -> pa.Schema:
    """Of the config's rows in this export."""
    if config == "packed" and export.format == "mds":
        return PROLONG
    schema = CONFIGS[config].schema
    return styled_schema(schema, export.style) if config == "sft" and export.style != "messages" else schema
