"""A deterministic stand-in for a language model that answers the prompts of all methods, and small recipes."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine


class WordTokenizer:
    """Tokens are words split at whitespace, as the scripted engine counts them."""

    def count(self, text: str) -> int:
        return len(text.split())

    def count_many(self, texts: list[str]) -> list[int]:
        return [self.count(text) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]


def answer(request: ChatRequest) -> str:
    """What the stand-in says: depends on nothing but the request."""
    prompt = request.messages[0].content
    mark = hashlib.sha256(repr((request.messages, request.sampling.seed)).encode()).hexdigest()[:8]
    word = "".join(chr(ord("a") + int(digit, 16)) for digit in mark)
    if "Write the plan as one line per paragraph" in prompt:
        return "\n".join(
            f"Paragraph {n} - Main point: the {word} matter, part {n} - Word count: {200 + n} words" for n in (1, 2, 3)
        )
    if "Now write the next paragraph only" in prompt:
        return f"Paragraph 1: Here is the tale of {word}, told at some length and without haste."
    if "one question per line, numbered" in prompt:
        return " " + "\n".join(f"{n}. What does {word} mean in part {n}?"[0 if n > 1 else 3 :] for n in range(1, 6))
    if "between <question> and </question>" in prompt:
        return f"What does {word} mean in it?</question>\n<answer>It means {word}.</answer>"
    if 'Return JSON with the one key "question"' in prompt:
        return json.dumps({"question": f"What does {word} mean in it?"})
    if '"verdict", which is' in prompt:
        return json.dumps({"analysis": f"seen {word}", "verdict": "correct"})
    return f"It means {word}, as the document says."


# A tokenizer.json with WordTokenizer's tokens, so that the pipeline can load the model "scripted" as any other.
WORDS = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
}  # fmt: skip


def recipe(folder: Path, **changes: Any) -> Path:
    """A small recipe over inline texts in `folder`; `changes` replace top-level keys. Its engine is to be replaced by
    `scripted`, its tokenizer is real."""
    value: dict[str, Any] = {
        "name": "small",
        "seed": 7,
        "documents": [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": texts(4)}],
        "instructions": [
            {
                "name": "tasks", "type": "inline", "licence": "CC0-1.0",
                "items": [f"Write about the number {n} at length." for n in range(3)],
            }
        ],
        "engines": {"writer": {"type": "auto", "model": "scripted", "max_model_len": 32768}},
        "generate": [
            {
                "method": "long_qa", "engine": "writer", "per_document": 3, "shard_rows": 4,
                "document_tokens": {"min": 10},
            },
            {"method": "agentwrite", "engine": "writer", "shard_rows": 2},
        ],
        "export": [{"name": "out"}],
    }  # fmt: skip
    value.update(changes)
    (folder / "scripted").mkdir(parents=True, exist_ok=True)
    (folder / "scripted" / "tokenizer.json").write_text(json.dumps(WORDS), "utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")
    return path


def texts(count: int, words: int = 120) -> list[str]:
    return [
        "\n".join(f"Line {line} of text {n} says a thing or two." for line in range(words // 10)) for n in range(count)
    ]


def scripted(**options: Any) -> ScriptedEngine:
    return ScriptedEngine(answer, **options)
