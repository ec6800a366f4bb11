"""One Arrow schema per table. Every table is a folder of Parquet parts that all have exactly this schema."""

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SPANS = pa.list_(pa.struct([("document_id", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))
STRINGS = pa.list_(pa.string())
JSON = pa.string()  # a JSON document in canonical form; DuckDB reads it with ->> and json_extract


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, type_) for name, type_ in columns.items()])


_S, _I, _F = pa.string(), pa.int64(), pa.float64()

TABLES: dict[str, pa.Schema] = {
    # text is normalised only as far as ingest says: BOM and NUL removed, line ends as \n.
    "documents": _schema(
        document_id=_S, source=_S, text=_S, language=_S, chars=_I, tokens=_I, metadata=JSON
    ),
    "document_judgements": _schema(document_id=_S, rule=_S, value=_F, keep=pa.bool_(), reason=_S),
    "instructions": _schema(instruction_id=_S, text=_S, source=_S, language=_S, metadata=JSON),
    # evidence: character spans [start, end) of the document's text as it stands in `documents`.
    "samples": _schema(
        sample_id=_S, row_id=_S, stage=_S, method=_S, messages=MESSAGES, document_ids=STRINGS,
        request_ids=STRINGS, source=_S, language=_S, prompt_tokens=_I, response_tokens=_I, evidence=SPANS,
        details=JSON, loss_on_prompt=pa.bool_(), model=_S, prompt_version=_S, recipe_hash=_S,
    ),
    "preferences": _schema(
        preference_id=_S, row_id=_S, stage=_S, method=_S, prompt=MESSAGES, chosen=MESSAGES, rejected=MESSAGES,
        short_prompt=MESSAGES, document_ids=STRINGS, request_ids=STRINGS, source=_S, language=_S, details=JSON,
        model=_S, prompt_version=_S, recipe_hash=_S,
    ),
    # What a method trains its own models on, on the way; no data for others.
    "training": _schema(
        training_id=_S, row_id=_S, stage=_S, role=_S, iteration=_I, messages=MESSAGES, language=_S, details=JSON
    ),
    # One line for each use of a ledger entry by a row.
    "requests": _schema(
        request_id=_S, row_id=_S, stage=_S, method=_S, step=_S, model=_S, sampling=JSON, finish_reason=_S,
        prompt_tokens=_I, cached_tokens=_I, completion_tokens=_I, seconds=_F, response=_S, prompt=JSON, engine=_S,
    ),
    "row_states": _schema(row_id=_S, stage=_S, state=_S, reason=_S, detail=_S),
    "selected": _schema(row_id=_S, rank=_I, score=_F),
    "packs": _schema(
        pack_id=_S, input_ids=pa.list_(pa.int32()), labels=pa.list_(pa.int32()),
        position_ids=pa.list_(pa.int32()), seq_lengths=pa.list_(pa.int32()),
        loss_weights=pa.list_(pa.float32()), sample_ids=STRINGS,
    ),
    "runs": _schema(
        run_id=_S, recipe=_S, recipe_hash=_S, started=pa.timestamp("us", "UTC"),
        finished=pa.timestamp("us", "UTC"), status=_S, versions=JSON,
    ),
}  # fmt: skip

# Score tables exist from the start, so that queries over them answer with no rows instead of an error.
# What a scorer adds beside row_id is in its method page.
for _name, _columns in {
    "scores_hmg": ["hmg", "nll_short", "nll_long"],
    "scores_cam": ["cam"],
    "scores_gateau": ["gateau", "rank"],
    "scores_context_dependency": ["score"],
    "scores_ref_logps": ["ref_chosen_logps", "ref_rejected_logps"],
}.items():
    TABLES[_name] = pa.schema(
        [pa.field("row_id", _S), pa.field("stage", _S)] + [pa.field(column, _F) for column in _columns]
    )
