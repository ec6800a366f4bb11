"""A random two-layer Llama and its tokenizer, made on the spot: a model folder like any other, of 100 kB."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def write_tokenizer(folder: Path, template: str | None = CHATML, **settings: str) -> Path:
    """Every byte is a token; ids 256 and 257 are ChatML's two special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[1], "model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def write_model(folder: Path, hidden_size: int = 64) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=hidden_size,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # larger than usual: distributions that are not flat
        bos_token_id=None,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(folder)
