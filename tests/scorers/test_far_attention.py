"""LongAttn: mass on far keys against the formula for uniform attention and against eager attention."""

import random
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.attention import NONE, Look, View
from filters.scorers.core import ScorerCore, Tokens
from filters.scorers.far_attention import FarAttention, window_starts
from filters.scorers.pool import standardised
from schemas.errors import UserError
from schemas.states import State
from tests.scorers.models import write
from tests.scorers.test_long_range import with_bos

LENGTH, FAR = 48, 12


def text(length=LENGTH, seed=0):
    return "".join(random.Random(seed).choices("abcdefgh ,.", k=length))


def far_attention(folder, layer=0, window=LENGTH):
    core = ScorerCore(folder, "float32", "cpu", attention=True)
    return FarAttention(AutoTokenizer.from_pretrained(folder), core, "tiny", {"window_tokens": window, "layer": layer})


def found(scorer, *texts):
    return [lines for _, lines in scorer.score([{"document_id": f"doc-{n}", "text": t} for n, t in enumerate(texts)])]


def eager_rows(folder, ids, layer, far=FAR):
    """For each row the mean over heads of its mass on keys at a distance of `far` or more."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        weights = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions[layer][0].double()
    return weights.tril(-far).sum(-1).mean(0)


def test_uniform_attention_gives_the_formula(tmp_path):
    """Specification, test 6: DS = mean of max(0, i - k + 1) / (i + 1), DU = minus its variance."""
    folder = write(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    model.save_pretrained(folder)
    rows = [max(0, i - FAR + 1) / (i + 1) for i in range(LENGTH)]
    for layer in (0, 1):
        ((line,),) = found(far_attention(folder, layer), text())
        assert line["ds"] == pytest.approx(statistics.fmean(rows), abs=1e-6)
        assert line["du"] == pytest.approx(-statistics.pvariance(rows), abs=1e-6)


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("kind", ["llama-gqa", "llama-mha", "mistral"])
def test_ds_and_du_agree_with_eager_attention(tmp_path, kind, layer):
    """Heads that share keys, heads that do not, and attention to a window of 16 tokens."""
    folder = write(tmp_path, kind, initializer_range=0.1)
    document = text(2 * LENGTH)  # windows at 0, 24 and 48
    ((line,),) = found(far_attention(folder, layer), document)
    ids = AutoTokenizer.from_pretrained(folder)(document)["input_ids"]
    rows = [eager_rows(folder, ids[start : start + LENGTH], layer) for start in (0, 24, 48)]
    assert line["ds"] == pytest.approx(statistics.fmean(float(one.mean()) for one in rows), abs=1e-6)
    assert line["du"] == pytest.approx(-statistics.fmean(float(one.var(correction=0)) for one in rows), abs=1e-6)
    assert line["ds"] > 0.01 and line["du"] < -1e-5
    assert (line["n_windows"], line["n_tokens"], line["layer"]) == (3, 2 * LENGTH, layer % 2)


def test_far_leaves_out_the_near_keys_of_each_row_in_every_set(tmp_path, monkeypatch):
    """Blocks of 3 rows, rows and keys that count for nothing, a `far` beside none in one batch."""
    monkeypatch.setattr("filters.scorers.attention._BLOCK_BYTES", 4 * 4 * LENGTH * 3)
    folder = write(tmp_path, initializer_range=0.1)
    ids = [random.Random(1).randrange(256) for _ in range(LENGTH)]
    rows, keys = [NONE if i % 5 == 0 else i for i in range(LENGTH)], [i % 3 - 1 for i in range(LENGTH)]
    looks = [Look(rows, keys, ((0,), (1,), (0, 1)), far) for far in (0, FAR)]
    core = ScorerCore(folder, "float32", "cpu", attention=True)
    readings = core.read([Tokens(ids, [], look) for look in looks], View((1,), "max"), logps=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        weights = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions[1][0].double()
    for look, reading in zip(looks, readings, strict=True):
        seen = weights.tril(-look.far)
        expected = [seen[:, :, [k for k, key in enumerate(keys) if key in one]].sum(-1).amax(0) for one in look.sets]
        expected = torch.stack(expected, -1)
        expected[[i for i in range(LENGTH) if i % 5 == 0]] = 0
        torch.testing.assert_close(reading.attention[0], expected[: max(rows) + 1], atol=1e-6, rtol=0)


def test_nothing_above_the_layer_is_computed(tmp_path):
    scorer, passes = far_attention(write(tmp_path)), []
    scorer._core._decoder.layers[1].register_forward_hook(lambda *_: passes.append(1))
    found(scorer, text())
    assert passes == []


def test_a_bos_is_one_of_the_windows_tokens(tmp_path):
    folder = with_bos(write(tmp_path, initializer_range=0.1))
    document = text(LENGTH - 1)
    ((line,),) = found(far_attention(folder), document)
    ids = AutoTokenizer.from_pretrained(folder)(document)["input_ids"]
    assert ids[0] == 256 and len(ids) == LENGTH
    assert line["ds"] == pytest.approx(float(eager_rows(folder, ids, 0).mean()), abs=1e-6)


def test_a_document_shorter_than_a_window_has_no_number(tmp_path):
    """Specification, test 6: null, not 0."""
    (one,) = found(far_attention(write(tmp_path)), text(LENGTH - 1))
    assert (one.state, one.reason, one.detail) == (State.FILTERED, "too_short", "47 tokens, 48 wanted")


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="layer 2: the model has layers 0 to 1"):
        far_attention(write(tmp_path), 2)


def test_windows_as_published():
    """In thousands: 32 to 64 front and back, 64 to 96 front, middle and back, above alternately from both ends."""
    assert window_starts(32, 32) == [0]
    assert window_starts(50, 32) == [0, 18]
    assert window_starts(64, 32) == [0, 16, 32]
    assert window_starts(90, 32) == [0, 29, 58]
    assert window_starts(130, 32) == [0, 32, 66, 98]
    assert window_starts(170, 32) == [0, 32, 64, 106, 138]


@given(tokens=st.integers(1, 900), length=st.integers(1, 60))
def test_windows_lie_inside_and_leave_less_than_one_unread(tokens, length):
    if tokens < length:
        return
    starts = window_starts(tokens, length)
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == tokens - length
    read = {place for start in starts for place in range(start, start + length)}
    assert tokens - len(read) < length


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), seed=st.integers(0, 9))
def test_z_scores_have_mean_0_and_deviation_1_and_do_not_depend_on_the_order(values, seed):
    scores = standardised(values)
    if len(set(values)) == 1:
        assert scores == [0] * len(values)
    if statistics.pstdev(values) > max(1e-100, 1e-6 * max(map(abs, values))):
        assert statistics.fmean(scores) == pytest.approx(0, abs=1e-6)
        assert statistics.pstdev(scores) == pytest.approx(1, abs=1e-6)
    order = random.Random(seed).sample(range(len(values)), len(values))
    assert standardised([values[n] for n in order]) == [scores[n] for n in order]
    assert standardised([]) == []
