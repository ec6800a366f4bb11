"""Rows as trainers read them: labels, positions and borders, and back to samples.

A row is one or more segments, each of which attends to itself alone. A segment is a piece of a sample; a wrapped row is
one segment, whatever is in it. Documents that must see each other (UtK, ICLM) are one sample here, before packing.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pipelines.packing.arrays import Array, offsets, ranges, sums
from pipelines.packing.plan import Plan

IGNORED = -100  # a label that no loss is computed on
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows end to end: row r has the tokens from row_tokens[r] to before row_tokens[r + 1], its segments likewise."""

    input_ids: Array  # int32 (tokens,)
    labels: Array  # int32 (tokens,): of this token, so trainers shift them
    position_ids: Array  # int32 (tokens,)
    seq_lengths: Array  # int32 (segments,): with padding, so they sum up to the row
    real_lengths: Array  # int32 (segments,): without it; 0 for a segment of padding alone
    row_segments: Array  # int64 (rows + 1,)
    loss_weights: Array | None = None  # float32 (tokens,), 0 where there is no label: shift them with the labels

    @property
    def row_tokens(self) -> Array:
        """int64 (rows + 1,)"""
        borders: Array = offsets(self.seq_lengths)[self.row_segments]
        return borders


def make_rows(
    input_ids: Array,
    loss_mask: Array,
    piece_lengths: Array,
    row_offsets: Array,
    *,
    borders: bool = True,
    position_ids: Array | None = None,
) -> Rows:
    """`input_ids` and `loss_mask` (tokens,): those of the pieces, end to end; row r has the pieces row_offsets[r] to
    before row_offsets[r + 1]. `borders`: False for wrapped rows. `position_ids` (tokens,): default from 0 in each
    segment.

    The first token of a segment is never a target: the token before it is another sample's.
    """
    lengths, row_segments = piece_lengths, row_offsets
    if not borders:
        lengths, row_segments = sums(piece_lengths, row_offsets), np.arange(len(row_offsets))
    assert lengths.sum() == len(input_ids) == len(loss_mask)
    labels = np.where(loss_mask, input_ids, IGNORED).astype(np.int32)
    labels[offsets(lengths)[:-1]] = IGNORED
    if position_ids is None:
        position_ids = ranges(np.zeros_like(lengths), lengths)
    sizes = lengths.astype(np.int32)
    return Rows(input_ids.astype(np.int32), labels, position_ids.astype(np.int32), sizes, sizes, row_segments)


def pad_rows(rows: Rows, multiple: int, pad_id: int, each_piece: bool = False) -> Rows:
    """Rows whose lengths are multiples of a number, or whose segments' are (Megatron's THD layout with context
    parallelism). The padding of a row is a segment of its own; a segment's own goes on with its positions."""
    assert np.array_equal(rows.seq_lengths, rows.real_lengths), "padded twice"
    real, row_segments = rows.seq_lengths.astype(np.int64), rows.row_segments
    padded = -(-real // multiple) * multiple
    if not each_piece:
        missing = -np.diff(rows.row_tokens) % multiple
        short = np.flatnonzero(missing)
        padded = np.insert(real, row_segments[short + 1], missing[short])
        real = np.insert(real, row_segments[short + 1], 0)
        row_segments = row_segments + offsets(missing > 0)
    place = ranges(offsets(padded)[:-1], real)
    total = int(padded.sum())
    input_ids, labels = np.full(total, pad_id, np.int32), np.full(total, IGNORED, np.int32)
    begins = np.zeros_like(real)
    begins[real > 0] = rows.position_ids[(offsets(real)[1:] - 1)[real > 0]] + 1 - real[real > 0]
    position_ids = ranges(begins, padded).astype(np.int32)  # right in the padding
    input_ids[place], labels[place], position_ids[place] = rows.input_ids, rows.labels, rows.position_ids
    weights = None if rows.loss_weights is None else np.zeros(total, np.float32)
    if weights is not None:
        weights[place] = rows.loss_weights
    sizes = padded.astype(np.int32), real.astype(np.int32)
    return Rows(input_ids, labels, position_ids, *sizes, row_segments, weights)


def unpack(rows: Rows, plan: Plan) -> tuple[Array, Array, Array, Array]:
    """The way back: samples (n,) in rising order, where each begins (n + 1,), and the input_ids and labels of all.
    Labels of the first tokens of segments are lost."""
    real = ranges(offsets(rows.seq_lengths)[:-1], rows.real_lengths)
    order = np.lexsort((plan.piece_start, plan.piece_sample))
    lengths = plan.piece_length[order]
    index = real[ranges(offsets(plan.piece_length)[:-1][order], lengths)]
    samples, first = np.unique(plan.piece_sample[order], return_index=True)
    begins = offsets(lengths)[np.append(first, len(lengths))]
    return samples, begins, rows.input_ids[index], rows.labels[index]


def columns(rows: Rows) -> dict[str, pa.Array]:
    """The columns of the table `packs` that are lists of numbers. ValueError where a part of the table would hold 2^31
    tokens or more: offsets of Arrow's lists are 32 bits wide."""
    if len(rows.input_ids) > _MOST:
        raise ValueError(f"{len(rows.input_ids)} tokens are too many for one part of a table: write fewer rows at once")
    tokens, segments = (pa.array(part.astype(np.int32)) for part in (rows.row_tokens, rows.row_segments))
    found = {"input_ids": rows.input_ids, "labels": rows.labels, "position_ids": rows.position_ids}
    if rows.loss_weights is not None:
        found["loss_weights"] = rows.loss_weights
    lists = {name: pa.ListArray.from_arrays(tokens, values) for name, values in found.items()}
    return {**lists, "seq_lengths": pa.ListArray.from_arrays(segments, rows.seq_lengths)}


def borders_show(rows: Rows) -> Array:
    """bool (rows,): do the positions alone tell a trainer where segments begin? transformers takes the places where a
    row's least position is (FlashAttention), or where positions do not rise by 1 (masks). Where positions skip (PoSE),
    pass cu_seqlens."""
    starts = np.zeros(len(rows.position_ids), bool)
    starts[offsets(rows.seq_lengths)[:-1]] = True
    tokens = np.diff(rows.row_tokens)
    least = np.minimum.reduceat(rows.position_ids, rows.row_tokens[:-1]) if len(tokens) else tokens
    jumps = np.diff(rows.position_ids, prepend=rows.position_ids[:1]) != 1
    wrong = (starts != (rows.position_ids == np.repeat(least, tokens))) | (starts < jumps)
    shown: Array = sums(wrong, rows.row_tokens) == 0
    return shown


def cu_seqlens(seq_lengths: Array) -> tuple[Array, int]:
    """Of one row, as FlashAttention takes them: borders of the segments, int32 (segments + 1,), and the longest."""
    return offsets(seq_lengths).astype(np.int32), int(np.max(seq_lengths, initial=0))


def megatron_thd(seq_lengths: Array, real_lengths: Array) -> dict[str, Array | int]:
    """Of one row, for Megatron's PackedSeqParams with qkv_format thd: borders without padding and with it."""
    with_padding, longest = cu_seqlens(seq_lengths)
    return {"cu_seqlens": cu_seqlens(real_lengths)[0], "cu_seqlens_padded": with_padding, "max_seqlen": longest}


def prolong_indices(seq_lengths: Array) -> list[tuple[int, int]]:
    """Of one row, ProLong's `indices`: first token and end of each segment."""
    return list(pairwise(offsets(seq_lengths).tolist()))
