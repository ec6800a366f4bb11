"""Packed rows in what reads them: a model's attention, and the collators of TRL and transformers."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from pipelines.packing.rows import columns, cu_seqlens, pad_rows, unpack
from schemas.packing import Packing
from tests.packing.packs import pack, split


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    tokens = [rng.integers(1, 50, n).tolist() for n in (9, 4, 17, 6, 1, 12, 3)]
    return tokens, [[place >= len(one) // 3 for place in range(len(one))] for one in tokens]


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False, **inputs).logits[0]


def packed_logits(model, rows, borders):
    """All rows' logits, end to end. `borders`: how the model learns of them."""
    found = []
    for row in columns_of(rows):
        inputs = {}
        if borders == "position_ids":
            inputs = {"position_ids": torch.tensor([row["position_ids"]])}
        elif borders == "cu_seqlens":  # as the variable-length kernels read them, by a mask
            marks = torch.zeros(len(row["input_ids"]), dtype=torch.int64)
            marks[torch.from_numpy(cu_seqlens(np.array(row["seq_lengths"]))[0][:-1]).long()] = 1
            number = marks.cumsum(0)
            mask = (number[:, None] == number[None]).tril()[None, None]
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
            inputs = {"attention_mask": mask, "position_ids": torch.tensor([row["position_ids"]])}
        found.append(logits(model, row["input_ids"], **inputs))
    return torch.cat(found)


def columns_of(rows):
    lists = {name: column.to_pylist() for name, column in columns(rows).items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def apart(model, tokens, made):
    """The logits of the pieces, each forwarded alone, end to end in the order of the rows."""
    pieces = zip(made.piece_sample, made.piece_start, made.piece_length, strict=True)
    return torch.cat([logits(model, tokens[s][a : a + n]) for s, a, n in pieces])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("borders", ["position_ids", "cu_seqlens"])
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "next_fit"])
def test_a_packed_forward_has_the_logits_of_its_samples_forwarded_alone(model, samples, strategy, borders, attention):
    model.set_attn_implementation(attention)
    made, rows = pack(*samples, Packing(strategy=strategy, row_length=18 if strategy != "bfd_split" else 7))
    assert len(made.row_offsets) - 1 < len(made.piece_sample)  # something is packed
    assert (packed_logits(model, rows, borders) - apart(model, samples[0], made)).abs().max() < 1e-4


def test_padding_changes_no_logits(model, samples):
    model.set_attn_implementation("sdpa")
    made, rows = pack(*samples, Packing(row_length=24))
    for each_piece in (False, True):
        padded = pad_rows(rows, 8, 0, each_piece)
        real = np.concatenate([np.arange(n) < m for n, m in zip(padded.seq_lengths, padded.real_lengths, strict=True)])
        found = packed_logits(model, padded, "position_ids")[torch.from_numpy(real)]
        assert (found - apart(model, samples[0], made)).abs().max() < 1e-4


@pytest.mark.parametrize("borders", ["position_ids", "cu_seqlens"])
def test_wrapped_rows_do_not_have_the_logits_of_their_samples(model, samples, borders):
    model.set_attn_implementation("sdpa")
    made, rows = pack(*samples, Packing(strategy="wrapped", row_length=18))
    assert (packed_logits(model, rows, borders) - apart(model, samples[0], made)).abs().max() > 0.1


def test_weighted_rows_have_the_loss_of_their_samples_forwarded_alone(model, samples):
    """The mean over samples, of each its mean over targets, from rows that a plain loop sums and averages."""
    model.set_attn_implementation("sdpa")
    _, rows = pack(*samples, Packing(row_length=24, loss_weights="sample", global_batch=8))
    found = 0.0
    for row in columns_of(rows):
        out = logits(model, row["input_ids"], position_ids=torch.tensor([row["position_ids"]]))
        losses = torch.nn.functional.cross_entropy(out[:-1], torch.tensor(row["labels"])[1:], reduction="none")
        found += float((losses * torch.tensor(row["loss_weights"])[1:]).sum()) / len(columns_of(rows))
    means = []
    for tokens, mask in zip(*samples, strict=True):
        labels = torch.tensor([t if m else -100 for t, m in zip(tokens, mask, strict=True)])[1:]
        if (labels != -100).any():
            means.append(float(torch.nn.functional.cross_entropy(logits(model, tokens)[:-1], labels)))
    assert len(means) == 6 and found == pytest.approx(np.mean(means), rel=1e-5)


def unpacked(samples, made, rows):
    """The samples in the order of the rows, each for itself."""
    kept, begins, ids, labels = unpack(rows, made)
    place = {sample: number for number, sample in enumerate(kept.tolist())}
    ids, labels = split(ids.tolist(), begins), split(labels.tolist(), begins)
    return [{"input_ids": ids[place[s]], "labels": labels[place[s]]} for s in made.piece_sample.tolist()]


def test_trls_collator_makes_of_rows_what_it_makes_of_their_samples(samples):
    made, rows = pack(*samples, Packing(row_length=24))
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collator([{k: row[k] for k in ("input_ids", "labels", "seq_lengths")} for row in columns_of(rows)])
    alone = collator(unpacked(samples, made, rows))
    assert set(batch) == set(alone)
    assert all(torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(alone[key])) for key in batch)
    assert_as_ours(batch, rows)


def test_transformers_collator_makes_of_the_samples_what_our_rows_are(samples):
    made, rows = pack(*samples, Packing(row_length=24))
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    assert_as_ours(collator(unpacked(samples, made, rows)), rows)


def assert_as_ours(batch, rows):
    """A batch of all rows flattened."""
    for name in ("input_ids", "labels", "position_ids"):
        assert batch[name][0].tolist() == getattr(rows, name).tolist(), name
    borders, longest = cu_seqlens(rows.seq_lengths)
    assert batch["cu_seq_lens_q"].tolist() == borders.tolist() and batch["max_length_q"] == longest
