"""The export configs that hold tokens: `packed`, rows as a trainer reads them, and `tokenised`, samples one by one."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.packing.arrays import offsets, sums
from pipelines.packing.rows import IGNORED, prolong_indices
from pipelines.tokens import learnt_tokens

PACKED = pa.schema(
    [
        ("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())),
        ("position_ids", pa.list_(pa.int32())), ("seq_lengths", pa.list_(pa.int32())),
        ("loss_weights", pa.list_(pa.float32())), ("sample_ids", pa.list_(pa.string())), ("domain", pa.string()),
        ("length", pa.int64()), ("sq_cost", pa.int64()), ("augment", pa.string()),
    ]
)  # fmt: skip
# What ProLong's loader reads from MosaicML streaming: `indices` has the [begin, end) of each document in `input_ids`,
# `mask` is 1 where the loss counts. `indices` are 64 bits wide: the loader subtracts them from 2**32, which numpy
# refuses with 32.
PROLONG = pa.schema(
    [
        ("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("indices", pa.list_(pa.list_(pa.int64()))),
        ("mask", pa.list_(pa.uint8())), ("domain", pa.string()), ("length", pa.int64()),
    ]
)  # fmt: skip
TOKENISED = pa.schema(
    [
        ("id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())),
        ("length", pa.int64()), ("n_loss_tokens", pa.int64()), ("source", pa.string()), ("method", pa.string()),
        ("length_bucket", pa.int64()), ("sq_cost", pa.int64()),
    ]
)  # fmt: skip


def packed(packs: pa.RecordBatch) -> pa.Table:
    """Rows of the table `packs`."""
    return pa.table([packs.column("pack_id" if name == "id" else name) for name in PACKED.names], schema=PACKED)


def prolong(packs: pa.RecordBatch) -> pa.Table:
    """Rows of the table `packs` in ProLong's layout."""
    labels = packs.column("labels")
    indices = [prolong_indices(row.values.to_numpy()) for row in packs.column("seq_lengths")]
    columns = {
        "id": packs.column("pack_id"), "input_ids": packs.column("input_ids"),
        "indices": pa.array(indices, PROLONG.field("indices").type),
        "mask": _like(labels, (labels.flatten().to_numpy() != IGNORED).astype(np.uint8)),
        "domain": packs.column("domain").fill_null(""), "length": packs.column("length"),
    }  # fmt: skip
    return pa.table(columns, schema=PROLONG)


def tokenised(tokens: pa.RecordBatch) -> pa.Table:
    """Rows of the table `tokens`. The first label of each is no target: nothing comes before it."""
    ids, lengths = tokens.column("input_ids"), tokens.column("length").to_numpy()
    labels = np.where(learnt_tokens(ids, tokens.column("loss_mask")), ids.flatten().to_numpy(), np.int32(IGNORED))
    begins = offsets(lengths)
    labels[begins[:-1]] = IGNORED
    columns = {
        "id": tokens.column("row_id"), "input_ids": ids, "labels": _like(ids, labels), "length": lengths,
        "n_loss_tokens": sums(labels != IGNORED, begins), "source": tokens.column("source"),
        "method": tokens.column("method"), "length_bucket": 2 ** np.floor(np.log2(lengths)).astype(np.int64),
        "sq_cost": lengths**2,
    }  # fmt: skip
    return pa.table(columns, schema=TOKENISED)


def _like(lists: pa.ListArray, values: Any) -> pa.ListArray:
    """Other values in lists of the same lengths."""
    begins = offsets(lists.value_lengths().to_numpy()).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(begins), pa.array(values))
