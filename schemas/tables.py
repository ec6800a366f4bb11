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
    # The documents that curation lets through; `original_id`: the document before cleaners changed it.
    "curated": _schema(document_id=_S, original_id=_S, source=_S),
    # What is needed to find documents that are alike: filters/curation/minhash.py. Ids are those of the originals.
    "signatures": _schema(
        document_id=_S, runs=_I, exact=pa.uint64(), sampled=pa.int32(), keys=pa.list_(pa.uint64()),
        samples=pa.list_(pa.uint64()),
    ),
    # Documents with near-duplicates or parts in others. `kept_copy_id` names the cluster.
    "duplicates": _schema(
        document_id=_S, keep=pa.bool_(), reason=_S, kept_copy_id=_S, cluster_size=_I, jaccard=_F, known_share=_F
    ),
    # What a document shares with one text of a benchmark's item (file:row): a line for each pair with a hit.
    "contamination": _schema(
        document_id=_S, benchmark=_S, item=_S, field=_S, hits=_I, covered=_F, longest_run=_I, contaminated=pa.bool_()
    ),
    # What looked implausible: a rule that takes most of a source, a cluster that holds much of it.
    "curation_alarms": _schema(source=_S, rule=_S, documents=_I, of=_I, share=_F, text=_S),
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
    "selected": _schema(row_id=_S, rank=_I, score=_F, stage=_S),
    # loss_mask: which tokens are learnt; null: all. `kind`: document or sample.
    "tokens": _schema(
        row_id=_S, stage=_S, kind=_S, source=_S, method=_S, length=_I, loss_tokens=_I,
        input_ids=pa.list_(pa.int32()), loss_mask=pa.list_(pa.bool_()),
    ),
    # What a mix draws, in the order of training: a line for each use of a row of `tokens`.
    "mixture": _schema(row_id=_S, stage=_S, place=_I, source=_S, epoch=_I, length=_I),
    # Plan and reality of each source of a mix; pipelines/mixing/report.py says what the columns mean.
    "mixtures": _schema(
        stage=_S, source=_S, planned_share=_F, real_share=_F, planned_tokens=_I, tokens=_I, missing_tokens=_I,
        rows=_I, epochs=_F, group_epochs=pa.list_(_F), available_rows=_I, available_tokens=_I, too_short_rows=_I,
        too_short_tokens=_I, too_long_rows=_I, too_long_tokens=_I,
    ),
    "mixture_lengths": _schema(
        stage=_S, source=_S, tokens_from=_I, available_rows=_I, available_tokens=_I, rows=_I, tokens=_I
    ),
    # domain: the source of all samples in the row, null where there are several. augment: what was done to it, JSON.
    "packs": _schema(
        stage=_S, domain=_S, length=_I, sq_cost=_I, pack_id=_S, input_ids=pa.list_(pa.int32()),
        labels=pa.list_(pa.int32()), position_ids=pa.list_(pa.int32()), seq_lengths=pa.list_(pa.int32()),
        loss_weights=pa.list_(pa.float32()), sample_ids=STRINGS, augment=JSON,
    ),
    # What a packing comes to, for each length of its rows; pipelines/packing/report.py says what the columns mean.
    "packings": _schema(
        stage=_S, strategy=_S, row_length=_I, rows=_I, lower_bound=_I, tokens_in=_I, tokens_out=_I, tokens_dropped=_I,
        samples_in=_I, samples_dropped=_I, samples_cut=_I, efficiency=_F, samples_per_row=_F, packing_factor=_F,
        sq_cost_max=_I, sq_cost_median=_F,
    ),
    "runs": _schema(
        run_id=_S, recipe=_S, recipe_hash=_S, started=pa.timestamp("us", "UTC"),
        finished=pa.timestamp("us", "UTC"), status=_S, versions=JSON,
    ),
}  # fmt: skip

_B, _FS = pa.bool_(), pa.list_(pa.float64())
_FAR = {"ds": _F, "du": _F, "n_windows": _I, "n_tokens": _I, "window_tokens": _I, "layer": _I, "model": _S}

# Score tables exist from the start, so that queries over them answer with no rows instead of an error. docs/scoring.md
# says what their columns mean. `row_id` is the sample's or preference's id, `stage` the score entry.
for _name, _columns in {
    "scores_ref_logps": {"ref_chosen_logps": _F, "ref_rejected_logps": _F},
    # One line for each answer of a sample.
    "scores_context_dependency": {
        "turn_index": _I, "cd_score": _F, "cd_baseline": _F, "cd_lift": _F,
        **{f"cd_{part}{form}": _F for part in ("doc", "question", "system", "own") for form in ("", "_lift")},
        "cd_layer": _I, "cd_probe": _S, "cd_heads": _I, "n_user_tok": _I, "n_resp_tok": _I,
        **{f"n_{part}_tok": _I for part in ("doc", "question", "system", "own")},
        "truncated": _B, "n_windows": _I, "windows": _S, "cd_flag": _B, "threshold": _F, "split": _S,
        "scorer_version": _S,
    },
    # What hmg, loss_drop and likelihood are made of: one line for each sample and reading.
    "readings_nll": {
        "n_ctx": _I, "n_read": _I, "n_resp": _I, "nll": _F, "truncated": _B, "model": _S, "scorer_version": _S,
    },
    "scores_hmg": {
        "hmg": _F, "hmg_raw": _F, "nll_short": _F, "nll_long": _F, "ppl_short": _F, "ppl_long": _F, "n_ctx": _I,
        "n_ctx_short": _I, "n_resp": _I, "norm": _S, "pool_id": _S, "model_short": _S, "model_long": _S,
        "surrogate": _B, "truncated": _B, "scorer_version": _S,
    },
    "scores_loss_drop": {
        "loss_drop": _F, "nll_with": _F, "nll_without": _F, "n_ctx": _I, "n_read": _I, "n_resp": _I, "model": _S,
        "truncated": _B, "scorer_version": _S,
    },
    # The lists have an element for each model, in the order of the recipe.
    "scores_likelihood": {
        "mean_logp": _F, "logps": _FS, "models": STRINGS, "n_resp": pa.list_(_I), "truncated": _B, "scorer_version": _S,
    },
    "scores_cam": {
        "cam": _F, "cas": _F, "n_ctx": _I, "n_resp": _I, "seg_len": _I, "n_seg": _I, "n_scored": _I, "seg_nll": _FS,
        "seg_attn": _FS, "importance": _S, "direction": _S, "layers": pa.list_(_I), "model": _S, "truncated": _B,
        "scorer_version": _S,
    },
    # Where in the prompt the evidence stands and how hard it is to find; no model. Words of filters/matching.
    "scores_evidence": {
        "scope_tokens": _I, "n_spans": _I, "scope_share": _F, "span_extent": _F, "mean_gap": _F, "n_documents": _I,
        "depth": _F, "bm25_rank": _I, "n_chunks": _I, "overlap": _F, "scorer_version": _S,
    },
    "scores_gateau": {
        "score": _F, "rank": _I, "hmg": _F, "cam": _F, "hmg_rank": _F, "cam_rank": _F, "alpha": _F, "pool_id": _S,
        "scorer_version": _S,
    },
    # Of documents: row_id is the document's id.
    "scores_long_range": {
        "lds_score": _F, "n_pairs": _I, "n_kept": _I, "strength": _F, "distance": _F, "specificity": _F, "n_chunks": _I,
        "n_tokens": _I, "window_tokens": _I, "chunk_tokens": _I, "lds_model": _S, "scorer_version": _S,
    },
    "readings_far_attention": {**_FAR, "scorer_version": _S},
    "scores_far_attention": {"score": _F, **_FAR, "pool_id": _S, "scorer_version": _S},
    "scores_coherence_gain": {
        "coherence_gain": _F, "nll_near": _F, "nll_far": _F, "window_gains": _FS, "n_windows": _I, "n_tokens": _I,
        "tail_tokens": _I, "near_tokens": _I, "far_tokens": _I, "model": _S, "scorer_version": _S,
    },
    # Made by asking a model; a check that was not made is NULL.
    "scores_qa_checks": {
        "verdict": _S, "label": _S, "answer_tokens": _I, "closed_book_acc": _F, "closed_book_f1": _FS,
        "random_window_ok": _B, "random_window_f1": _F, "bm25_top1_ok": _B, "bm25_top1_f1": _F, "full_ok": _B,
        "full_f1": _FS, "agreement": _F, "no_evidence_ok": _B, "no_evidence_f1": _F, "citation_ok": _B,
        "unread": STRINGS, "split": _S, "judge_model": _S, "prompt_version": _S, "seed": _I, "scorer_version": _S,
    },
    "scores_quality": {
        "s_q": _F, "relevance": _I, "accuracy": _I, "coherence": _I, "clarity": _I, "breadth_and_depth": _I,
        "reading_experience": _I, "s_l": _F, "required_words": _I, "words": _I, "judge_model": _S,
        "prompt_version": _S, "seed": _I, "scorer_version": _S,
    },
}.items():  # fmt: skip
    TABLES[_name] = _schema(row_id=_S, stage=_S, **_columns)
