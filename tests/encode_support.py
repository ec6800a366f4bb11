"""A small byte-level tokenizer with a chat template, trained on the spot, and texts that tokenizers stumble over."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LESSON = (  # merges across everything a cut touches, were it not for the pre-tokeniser
    "the end. the end,\n\n the\n\nend\n\n and   1,000 words' worth; it's a_b(c) = x1 + 22;\n    return self.x\r\n"
    "ÉTÉ été 中文。中文 1中 a中 don’t “quoted” --- ... !!\n\t x\u200b \u00a0 <think>no</think> <|im_end|> "
) * 4


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE_TOKENIZERS = {
    "gpt2": byte_level(True),
    "smollm": sequence({"type": "Digits", "individual_digits": True}, byte_level(True)),
    "llama3": sequence(split(LLAMA3), byte_level(False)),
    "o200k": sequence(split(O200K), byte_level(False)),
    "deepseek": sequence(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level(False)),
}


def save(
    folder: Path, kind: str = "gpt2", template: str | None = CHATML, normalizer: str | None = None, words: int = 500
) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

    spec = json.loads(Tokenizer(models.BPE()).to_str()) | {"pre_tokenizer": PRE_TOKENIZERS[kind]}
    spec["decoder"] = byte_level(True)
    spec["normalizer"] = None if normalizer is None else {"type": normalizer}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    trainer = trainers.BpeTrainer(
        vocab_size=words, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([LESSON], trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<|im_start|>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
        "pad_token": "<|im_end|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


_ATOMS = [
    *(" ", "  ", "\n", "\r\n", "\t", "\x00", "\x0b", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\u200b"),
    *("\ufeff", "a", "Z", "the", "end", "'s", "'S", "'", "’", "ſ", "İ", "1", "22", "3000", "٣", "½", "é", "e\u0301"),
    *("\u0301", "ß", "ﬁ", "\ufffd", "<think>"),
    *("中", "中文", "。", "ひ", "각", "\u1100\u1161", "की", "👩‍👩‍👧", "🏳️‍🌈", "𝒳", "\U000323b0", "\U0010ffff", "\ufdd0"),
    *(".", ",", "!", "--", "...", "_", "(", ");", "//", "\\", '"', "=", "#", "`", "</think>", "<|im_end|>", "<|im_"),
]  # fmt: skip
ANY = st.characters(exclude_categories=["Cs"])
NASTY = st.lists(st.sampled_from(_ATOMS) | ANY, max_size=40).map("".join)
