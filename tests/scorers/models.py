"""Random models of 100 kB for scorers, and the naive way to read them."""

from pathlib import Path
from typing import Any

from tests.engines.tiny import write_tokenizer

SMALL = {
    "vocab_size": 258, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 257,
}  # fmt: skip
# Heads that share keys, heads that do not, attention to a window, and two architectures that change their logits after
# the last layer.
KINDS = {
    "llama-gqa": ("LlamaConfig", {"num_key_value_heads": 2}),
    "llama-mha": ("LlamaConfig", {"num_key_value_heads": 4}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": 16}),
    "gemma2": ("Gemma2Config", {"num_key_value_heads": 2, "head_dim": 16, "final_logit_softcapping": 2.0}),
    "granite": ("GraniteConfig", {"num_key_value_heads": 2, "logits_scaling": 3.0}),
}


def write(folder: Path, kind: str = "llama-gqa", seed: int = 0, **changes: Any) -> Path:
    import torch
    import transformers

    torch.manual_seed(seed)
    name, more = KINDS[kind]
    config = getattr(transformers, name)(**{**SMALL, **more, **changes})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return write_tokenizer(folder)


def naive(model: Any, prompt: list[int], response: list[int]) -> Any:
    """All logits, log-softmax over all of them, then the response's own: float32 (response tokens,)."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *response]], device=model.device)).logits[0].float()
    wanted = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
    return wanted.gather(1, torch.tensor(response, device=model.device)[:, None])[:, 0].cpu()
