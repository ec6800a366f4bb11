"""Attention for decoding on a CPU against torch's own, on a random model with grouped heads and left padding."""

import pytest

torch = pytest.importorskip("torch")

from generators.engines.cpu_attention import register  # noqa: E402


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_decoding_gives_the_logits_of_sdpa(key_heads):
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(key_heads)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=key_heads,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, :1] = 0
    logits = []
    for implementation in ("sdpa", register()):
        model.set_attn_implementation(implementation)
        cache, width, steps = DynamicCache(config=config), 5, []
        with torch.inference_mode():
            for part in (ids[:, :width], *(ids[:, n : n + 1] for n in range(width, 9))):
                seen = mask[:, : cache.get_seq_length() + part.shape[1]]
                positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, -part.shape[1] :]
                output = model(
                    input_ids=part, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True
                )
                steps.append(output.logits[:, -1])
        logits.append(torch.stack(steps))
    assert logits[0].shape == (5, 3, 50)
    assert torch.allclose(logits[0], logits[1], atol=1e-5)
