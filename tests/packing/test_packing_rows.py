"""Rows: labels, positions, borders, padding, and the way back."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.packing import rows as module
from pipelines.packing.arrays import offsets
from pipelines.packing.rows import (
    borders_show,
    columns,
    cu_seqlens,
    make_rows,
    megatron_thd,
    pad_rows,
    prolong_indices,
    unpack,
)
from schemas.packing import Packing
from schemas.tables import TABLES
from tests.packing.packs import pack, split

STRATEGIES = ["none", "bfd", "bfd_split", "next_fit", "wrapped", "length_group"]
sample = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12)


def two_rows(**keys):
    """Samples of 3, 2 and 4 tokens; the first row has two of them."""
    ids, mask = np.arange(10, 19), np.array([1, 1, 1, 1, 1, 1, 0, 1, 1], bool)
    return make_rows(ids, mask, np.array([3, 2, 4]), np.array([0, 2, 3]), **keys)


def test_labels_positions_and_borders_by_hand():
    rows = two_rows()
    assert rows.input_ids.tolist() == list(range(10, 19))
    assert rows.labels.tolist() == [-100, 11, 12, -100, 14, -100, -100, 17, 18]
    assert rows.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert rows.row_tokens.tolist() == [0, 5, 9]
    assert split(rows.seq_lengths.tolist(), rows.row_segments) == [[3, 2], [4]]
    assert {part.dtype for part in (rows.input_ids, rows.labels, rows.position_ids, rows.seq_lengths)} == {
        np.dtype(np.int32)
    }


def test_wrapped_rows_have_no_borders_inside():
    rows = two_rows(borders=False)
    assert rows.labels.tolist() == [-100, 11, 12, 13, 14, -100, -100, 17, 18]
    assert rows.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert split(rows.seq_lengths.tolist(), rows.row_segments) == [[5], [4]]


@given(st.lists(sample, max_size=12), st.sampled_from(STRATEGIES), st.integers(1, 20), st.integers(1, 9), st.booleans())
def test_unpacking_gives_back_every_sample_also_from_padded_rows(samples, strategy, capacity, multiple, each):
    tokens, masks = [[t for t, _ in one] for one in samples], [[m for _, m in one] for one in samples]
    made, rows = pack(tokens, masks, Packing(strategy=strategy, row_length=capacity))
    lost = {number for found in made.lost.values() for number in found.tolist()}
    for packed in (rows, pad_rows(rows, multiple, 77, each and strategy != "wrapped")):
        kept, begins, ids, labels = unpack(packed, made)
        assert kept.tolist() == [number for number in range(len(samples)) if number not in lost]
        assert split(ids.tolist(), begins) == [tokens[number] for number in kept]
        targets = [t if m else -100 for number in kept for t, m in samples[number]]
        assert all(label in (-100, target) for label, target in zip(labels.tolist(), targets, strict=True))


@given(st.lists(sample, max_size=12), st.sampled_from(STRATEGIES))
def test_only_targets_at_the_start_of_segments_are_lost(samples, strategy):
    tokens, masks = [[t for t, _ in one] for one in samples], [[m for _, m in one] for one in samples]
    made, rows = pack(tokens, masks, Packing(strategy=strategy, row_length=7))
    starts = offsets(rows.seq_lengths)[:-1]
    assert (rows.labels[starts] == -100).all()
    flat, begins = np.concatenate([[], *masks]).astype(bool), offsets([len(one) for one in tokens])
    pieces = zip(made.piece_sample, made.piece_start, made.piece_length, strict=True)
    before = np.concatenate([[], *(flat[begins[s] + a : begins[s] + a + n] for s, a, n in pieces)]).astype(bool)
    assert (rows.labels != -100).sum() == before.sum() - before[starts].sum()
    assert [sum(row) for row in split(rows.seq_lengths.tolist(), rows.row_segments)] == np.diff(
        rows.row_tokens
    ).tolist()


def test_a_row_is_padded_with_a_segment_of_its_own():
    rows = pad_rows(two_rows(), 4, 99)
    assert rows.input_ids.tolist() == [10, 11, 12, 13, 14, 99, 99, 99, 15, 16, 17, 18]
    assert rows.labels.tolist() == [-100, 11, 12, -100, 14, -100, -100, -100, -100, -100, 17, 18]
    assert rows.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert split(rows.seq_lengths.tolist(), rows.row_segments) == [[3, 2, 3], [4]]
    assert split(rows.real_lengths.tolist(), rows.row_segments) == [[3, 2, 0], [4]]


def test_megatron_pads_each_piece_and_keeps_both_borders():
    rows = pad_rows(two_rows(), 4, 99, each_piece=True)
    assert rows.input_ids.tolist() == [10, 11, 12, 99, 13, 14, 99, 99, 15, 16, 17, 18]
    assert rows.position_ids.tolist() == [0, 1, 2, 3] * 3
    found = megatron_thd(rows.seq_lengths[:2], rows.real_lengths[:2])
    assert found["cu_seqlens"].tolist() == [0, 3, 5] and found["cu_seqlens_padded"].tolist() == [0, 4, 8]
    assert found["max_seqlen"] == 4 and found["cu_seqlens"].dtype == np.int32


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_borders_of_flash_attention_rise_to_the_total_and_agree_with_prolong(lengths):
    borders, longest = cu_seqlens(np.array(lengths, np.int32))
    assert borders.dtype == np.int32 and type(longest) is int and longest == max(lengths)
    assert borders[0] == 0 and (np.diff(borders) > 0).all() and borders[-1] == sum(lengths)
    assert prolong_indices(np.array(lengths, np.int32)) == list(pairwise(borders.tolist()))


def test_given_positions_are_kept_and_padding_goes_on_with_them():
    positions = np.array([0, 5, 6, 0, 9, 0, 1, 2, 3])
    rows = two_rows(position_ids=positions)
    assert rows.position_ids.tolist() == positions.tolist()
    assert pad_rows(rows, 4, 0, each_piece=True).position_ids.tolist() == [0, 5, 6, 7, 0, 9, 10, 11, 0, 1, 2, 3]


def test_rows_say_whether_positions_alone_show_their_borders():
    assert borders_show(two_rows()).tolist() == [True, True]
    assert borders_show(pad_rows(two_rows(), 4, 0)).tolist() == [True, True]
    skipped = two_rows(position_ids=np.array([0, 1, 2, 0, 9, 0, 1, 2, 3]))
    assert borders_show(skipped).tolist() == [False, True]
    twice = two_rows(position_ids=np.array([0, 1, 2, 0, 1, 0, 1, 0, 1]))
    assert borders_show(twice).tolist() == [True, False]
    starts_later = two_rows(position_ids=np.array([0, 1, 2, 3, 4, 0, 1, 2, 3]))
    assert borders_show(starts_later).tolist() == [False, True]


def test_columns_are_those_of_the_table_packs():
    config = Packing(row_length=6, loss_weights="token", global_batch=2)
    _, rows = pack([[1, 2, 3], [4, 5], [6, 7, 8, 9]], [[1] * 3, [1] * 2, [1] * 4], config)
    table = pa.table(columns(rows))
    assert all(table.schema.field(name).type == TABLES["packs"].field(name).type for name in table.column_names)
    rest = {"stage", "domain", "length", "sq_cost", "pack_id", "sample_ids", "augment"}
    assert set(table.column_names) == set(TABLES["packs"].names) - rest
    assert [len(row["loss_weights"]) for row in table.to_pylist()] == [
        sum(row["seq_lengths"]) for row in table.to_pylist()
    ]


def test_a_part_of_more_tokens_than_arrow_can_count_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 8)
    with pytest.raises(ValueError, match="9 tokens are too many for one part"):
        columns(two_rows())
