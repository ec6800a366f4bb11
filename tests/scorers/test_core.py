"""The scorer core against the naive reading of the same model."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from filters.scorers.core import Reading, ScorerCore, Tokens, batches
from schemas.errors import UserError
from schemas.states import Reject, State
from tests.scorers.models import KINDS, naive, write


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: write(root / kind, kind) for kind in KINDS}


def samples(count=6, longest=60):
    dice = random.Random(count)

    def ids(least):
        return [dice.randrange(258) for _ in range(dice.randrange(least, longest))]

    return [Tokens(ids(1), ids(0 if n == 2 else 1)) for n in range(count)]


@pytest.mark.parametrize("batch_tokens", [1, 4 * 120])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_agree_with_full_logits(folders, kind, batch_tokens):
    model = AutoModelForCausalLM.from_pretrained(folders[kind], dtype=torch.float32)
    core = ScorerCore(folders[kind], "float32", "cpu", batch_tokens=batch_tokens)
    given = samples()
    readings = core.read(given)
    for sample, reading in zip(given, readings, strict=True):
        assert isinstance(reading, Reading) and reading.logps.dtype == torch.float32
        expected = naive(model, sample.prompt, sample.response)
        assert reading.logps.shape == (len(sample.response),)
        torch.testing.assert_close(reading.logps, expected, atol=1e-5, rtol=0)
        assert reading.sum() == pytest.approx(float(expected.double().sum()), abs=1e-4)


def test_a_response_without_tokens_has_no_numbers(folders):
    (reading,) = ScorerCore(folders["llama-gqa"], "float32", "cpu").read([Tokens([1, 2], [])])
    assert reading.logps.shape == (0,) and reading.sum() == 0.0


def test_rows_go_through_the_head_in_blocks_and_only_response_rows_do(folders, monkeypatch):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu")
    monkeypatch.setattr(core, "_block_rows", 7)
    widths = []
    head = core.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[:-1].numel()))
    passes = []
    core._decoder.layers[0].register_forward_hook(lambda *_: passes.append(1))
    given = samples()
    readings = core.read(given)
    assert max(widths) == 7 and sum(widths) == sum(len(sample.response) for sample in given)
    assert len(passes) == 1  # one batch, one pass through the layers
    whole = ScorerCore(folders["llama-gqa"], "float32", "cpu").read(given)
    for one, other in zip(readings, whole, strict=True):
        torch.testing.assert_close(one.logps, other.logps, atol=1e-5, rtol=0)


def test_the_model_is_as_before_after_a_reading(folders):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu")
    ids = torch.tensor([[1, 2, 3]])
    before = core.model(input_ids=ids).logits
    core.read(samples())
    torch.testing.assert_close(core.model(input_ids=ids).logits, before, atol=0, rtol=0)


def test_bfloat16_is_close_to_float32(folders):
    given = samples()
    exact = ScorerCore(folders["llama-gqa"], "float32", "cpu").read(given)
    rough = ScorerCore(folders["llama-gqa"], "bfloat16", "cpu").read(given)
    for one, other in zip(exact, rough, strict=True):
        assert other.logps.dtype == torch.float32
        torch.testing.assert_close(other.logps, one.logps, atol=0.5, rtol=0.05)


def test_what_does_not_fit_the_window_is_over_budget_and_the_rest_is_read(folders):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu", window=10)
    fits, too_long = Tokens([1] * 5, [2] * 5), Tokens([1] * 5, [2] * 6)
    reject, reading = core.read([too_long, fits])
    assert isinstance(reading, Reading)
    assert (reject.state, reject.reason) == (State.OVER_BUDGET, "longer_than_window")
    assert reject.detail == "11 tokens, the model's window is 10"


def test_out_of_memory_halves_the_batch_and_goes_on(folders, monkeypatch):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu")
    given = samples(7)
    expected = core.read(given)
    longest = max(len(sample) for sample in given)
    sizes, real = [], core._read_batch

    def tight(batch, *asked):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(batch[0]) == longest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(batch, *asked)

    monkeypatch.setattr(core, "_read_batch", tight)
    readings = core.read(given)
    assert sizes[0] == 7 and 1 in sizes
    for sample, one, other in zip(given, readings, expected, strict=True):
        if len(sample) == longest:
            assert isinstance(one, Reject) and (one.state, one.reason) == (State.OVER_BUDGET, "out_of_memory")
        else:
            torch.testing.assert_close(one.logps, other.logps, atol=1e-5, rtol=0)


def test_other_errors_are_not_taken_for_memory(folders, monkeypatch):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu")

    def broken(batch, *asked):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(core, "_read_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        core.read(samples(2))


def test_numbers_that_are_not_finite_are_no_scores(folders):
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu")
    with torch.no_grad():
        core.model.get_output_embeddings().weight[3] = float("nan")
    (reject,) = core.read([Tokens([1], [2])])
    assert (reject.state, reject.reason) == (State.INVALID_OUTPUT, "not_finite")


def test_batches_are_of_similar_length_and_within_the_limit():
    lengths = [5, 100, 7, 30, 6, 31]
    assert list(batches([0, 1, 2, 3, 4, 5], lengths, 62)) == [[1], [5, 3], [2, 4, 0]]
    assert list(batches([], lengths, 62)) == []


def test_an_adapter_changes_the_numbers_as_peft_does(folders, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(folders["llama-gqa"], dtype=torch.float32)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(folders["llama-gqa"], dtype=torch.float32)
    reference = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    core = ScorerCore(folders["llama-gqa"], "float32", "cpu", adapter=tmp_path / "adapter")
    plain = ScorerCore(folders["llama-gqa"], "float32", "cpu")
    given = samples(2)
    for sample, one, without in zip(given, core.read(given), plain.read(given), strict=True):
        torch.testing.assert_close(one.logps, naive(reference, sample.prompt, sample.response), atol=1e-5, rtol=0)
        assert not torch.allclose(one.logps, without.logps, atol=1e-2)


def test_an_adapter_of_virtual_tokens_is_refused(folders, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(folders["llama-gqa"], dtype=torch.float32)
    get_peft_model(base, PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="virtual tokens"):
        ScorerCore(folders["llama-gqa"], "float32", "cpu", adapter=tmp_path)
