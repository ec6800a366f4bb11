"""Attention measured in the scorer core against `output_attentions=True` of the same model."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from filters.scorers.attention import NONE, Look, Segments, View, row_weights
from filters.scorers.core import ScorerCore, Tokens
from schemas.errors import UserError
from tests.scorers.models import KINDS, write

SEGMENTS = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    # With weights of the usual size: sharp attention makes float32's own noise larger, however it is computed.
    return {kind: write(root / kind, kind, initializer_range=0.1) for kind in KINDS}


def samples(count=4, longest=60):
    """Random tokens; about half of them are rows, each a group of its own; keys in segments at random, some in none."""
    dice = random.Random(count)
    made = []
    for _ in range(count):
        prompt, response = ([dice.randrange(258) for _ in range(dice.randrange(2, longest))] for _ in range(2))
        length, number, rows = len(prompt) + len(response), 0, []
        for _ in range(length):
            rows.append(number if dice.random() < 0.5 else NONE)
            number += rows[-1] != NONE
        keys = [dice.randrange(-1, SEGMENTS) for _ in range(length)]
        made.append(Tokens(prompt, response, Look(rows, keys, (*tuple((s,) for s in range(SEGMENTS)), (0, 3)))))
    return made


def eager(folder, sample, view, dtype=torch.float32):
    """The same by the naive way: all of the attention, (layers, rows, sets)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([[*sample.prompt, *sample.response]]), output_attentions=True).attentions
    look = sample.look
    result = []
    for layer in view.layers:
        rows = found[layer][0][:, [i for i, group in enumerate(look.rows) if group != NONE]]
        sums = [rows[:, :, [j for j, key in enumerate(look.keys) if key in one]].sum(-1) for one in look.sets]
        stacked = torch.stack(sums, -1)
        result.append(stacked.mean(0) if view.heads == "mean" else stacked.amax(0))
    return torch.stack(result).double()


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("batch_tokens", [1, 4 * 120])
@pytest.mark.parametrize("kind", ["llama-gqa", "llama-mha", "mistral"])
def test_mass_of_rows_agrees_with_eager_attention(folders, kind, batch_tokens, heads):
    """GATEAU, test 4; context dependency, test 5."""
    core = ScorerCore(folders[kind], "float32", "cpu", batch_tokens=batch_tokens, attention=True)
    view, given = View((0, 1), heads), samples()
    for sample, reading in zip(given, core.read(given, view), strict=True):
        expected = eager(folders[kind], sample, view)
        assert reading.attention.shape == (2, sample.look.groups, len(sample.look.sets))
        torch.testing.assert_close(reading.attention, expected, atol=1e-6, rtol=0)


def test_sharp_attention_agrees_too_where_no_noise_comes_from_below(tmp_path):
    """In float64; eager attention rounds its softmax to float32 all the same."""
    folder, view = write(tmp_path / "sharp"), View((0,), "max")
    core = ScorerCore(folder, "float64", "cpu", attention=True)
    given = samples()
    for sample, reading in zip(given, core.read(given, view), strict=True):
        torch.testing.assert_close(reading.attention, eager(folder, sample, view, torch.float64), atol=1e-6, rtol=0)


def test_bfloat16_is_close_to_float32(folders):
    given, view = samples(), View((0, 1), "max")
    exact, rough = (
        ScorerCore(folders["llama-gqa"], dtype, "cpu", attention=True).read(given, view)
        for dtype in ("float32", "bfloat16")
    )
    for one, other in zip(exact, rough, strict=True):
        torch.testing.assert_close(other.attention, one.attention, atol=0.02, rtol=0)


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_many_sets_are_added_up_like_few(folders, monkeypatch, heads):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True)
    given, view = samples(), View((0, 1), heads)
    few = core.read(given, view)
    monkeypatch.setattr("filters.scorers.attention._FEW_SETS", 0)
    for one, other in zip(few, core.read(given, view), strict=True):
        torch.testing.assert_close(one.attention, other.attention, atol=1e-6, rtol=0)


def test_blocks_of_rows_and_groups_of_rows_give_the_same_means(folders, monkeypatch):
    core, view = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True), View((0, 1), "max")
    given = samples()
    single = core.read(given, view)
    grouped = [
        Tokens(s.prompt, s.response, Look([min(r, 0) if i % 3 else min(r, 1) for i, r in enumerate(s.look.rows)],
               s.look.keys, s.look.sets)) for s in given
    ]  # fmt: skip
    monkeypatch.setattr("filters.scorers.attention._BLOCK_BYTES", 4 * 4 * 60 * 3)
    for sample, whole, reading in zip(grouped, single, core.read(grouped, view), strict=True):
        kept = [group for group in sample.look.rows if group != NONE]
        for group in set(kept):
            mine = [i for i, one in enumerate(kept) if one == group]
            torch.testing.assert_close(reading.attention[:, group], whole.attention[:, mine].mean(1), atol=1e-7, rtol=0)


def test_each_row_sums_to_one_and_nothing_goes_to_later_positions(folders):
    """GATEAU, test 4."""
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True)
    length = 40
    ids = [random.Random(1).randrange(258) for _ in range(length)]
    look = Look(range(length), range(length), (*tuple((j,) for j in range(length)), tuple(range(length))))
    (reading,) = core.read([Tokens(ids, [], look)], View((0, 1)))
    for layer in reading.attention:
        torch.testing.assert_close(layer[:, -1], torch.ones(length, dtype=torch.float64), atol=1e-5, rtol=0)
        assert bool((layer[:, :-1].triu(1) == 0).all())


def test_stopping_early_gives_the_same_numbers_and_computes_no_layer_above(folders):
    """Context dependency, test 5."""
    core, given = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True), samples()
    whole = core.read(given, View((0,), "max"))
    passes = []
    core._decoder.layers[1].register_forward_hook(lambda *_: passes.append(1))
    early = core.read(given, View((0,), "max"), logps=False)
    assert passes == []
    for one, other in zip(early, whole, strict=True):
        assert one.logps.shape == (0,)
        torch.testing.assert_close(one.attention, other.attention, atol=0, rtol=0)
    assert core.read(given)[0].attention is None  # and nothing stays behind in the layers


def test_measuring_changes_no_log_probability(folders):
    given = samples()
    plain = ScorerCore(folders["llama-gqa"], "float32", "cpu").read(given)
    watched = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True).read(given, View((0, 1)))
    for one, other in zip(plain, watched, strict=True):
        torch.testing.assert_close(one.logps, other.logps, atol=0, rtol=0)


def test_a_sample_without_rows_or_segments_has_empty_numbers(folders):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu", attention=True)
    nothing, no_rows = Tokens([1, 2], [3]), Tokens([1, 2], [3], Look([NONE] * 3, [0, 0, 0], ((0,),)))
    shapes = [tuple(r.attention.shape) for r in core.read([nothing, no_rows], View((1,)))]
    assert shapes == [(1, 0, 0), (1, 0, 1)]


def test_attention_that_is_computed_otherwise_is_refused(folders):
    core = ScorerCore(folders["gemma2"], "float32", "cpu", attention=True)
    with pytest.raises(UserError, match="softcap, which cannot be measured"):
        core.read(samples(1), View((0,)))


def test_a_masked_row_attends_to_what_its_mask_leaves():
    query, key = torch.randn(4, 2, 8), torch.randn(2, 5, 8)
    places = torch.tensor([2, 4])
    mask = torch.tensor([[True, True, True, False, False], [False, False, True, True, True]])
    boolean = row_weights(query, key, mask, places, 0.5)
    assert bool((boolean[:, 1, :2] == 0).all()) and bool((boolean[:, 0, 3:] == 0).all())
    additive = torch.zeros(2, 5).masked_fill(~mask, torch.finfo(torch.float32).min)
    torch.testing.assert_close(row_weights(query, key, additive, places, 0.5), boolean)


def test_the_best_head_is_chosen_for_every_row_anew():
    """Context dependency, test 1: the hand case."""
    weights = torch.tensor(
        [[[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.4, 0.4]], [[0.3, 0.3, 0.2, 0.2], [0.05, 0.05, 0.5, 0.4]]]
    )
    labels, union = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0], [0.0]])
    best = Segments(labels, union).mass(weights, "max")[:, 0]
    torch.testing.assert_close(best, torch.tensor([0.6, 0.2]))
    assert float(best.mean()) == pytest.approx(0.4)  # not .35, the best of the heads' means


def test_sets_that_grow_never_lose_mass_and_fewer_heads_never_gain_it():
    """Context dependency, test 2."""
    weights = torch.randn(6, 7, 9, generator=torch.Generator().manual_seed(3)).softmax(-1)
    every = torch.arange(9)
    union = torch.tril(torch.ones(9, 9)).T  # set n: keys 0 to n
    mass = Segments(every, union).mass(weights, "max")
    assert bool((mass.diff(dim=1) >= 0).all()) and bool((mass >= 0).all())
    torch.testing.assert_close(mass[:, -1], torch.ones(7))
    assert bool((Segments(every, torch.zeros(9, 1)).mass(weights, "max") == 0).all())
    assert bool((Segments(every, union).mass(weights[:3], "max") <= mass).all())
