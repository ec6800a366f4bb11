"""A haystack of plain sentences, and tokenizers to measure with."""

import os
import re
from functools import cache
from pathlib import Path
from random import Random

from generators.models import load_tokenizer
from generators.tasks.base import Item, Room
from schemas.errors import UserError
from tests.support import WordTokenizer

WORDS = WordTokenizer()


class CharTokenizer:
    """A token a character: for Chinese, which has no spaces."""

    def count(self, text: str) -> int:
        return len(text)

    def count_many(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return [(n, n + 1) for n in range(len(text))]


class Prose:
    """A haystack: numbered lines of one to three sentences, some with a blank line before them. No end to it."""

    def text(self, rng: Random, tokens: int) -> str:
        lines, held = list[str](), 0
        while held <= tokens + 30:
            n = rng.randrange(10**6)
            parts = rng.randint(1, 3)
            line = " ".join(f"Sentence {part} of line {n} says one thing or two." for part in range(parts))
            lines.append(line if n % 7 else f"\n{line}")
            held += 10 * parts
        return "\n".join(lines)

    passage = text


class ChineseProse:
    def text(self, rng: Random, tokens: int) -> str:
        return "\n".join(f"这是第{rng.randrange(10**6)}句话，说了一两件事。后面还有一句。" for _ in range(tokens // 15))


@cache
def bpe():
    """A real byte-level BPE tokenizer, trained here on Python's own topics."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([topics[key] for key in sorted(topics)], trainer)

    from generators.models import _FileTokenizer

    return _FileTokenizer(made)


@cache
def cl100k():
    """tiktoken's cl100k_base where its file is at hand, else None. Nothing is downloaded."""
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        return None
    try:
        return load_tokenizer("tiktoken:cl100k_base", Path())
    except UserError:
        return None


def room(tokens: int, tokenizer=WORDS) -> Room:
    return Room(tokens, tokenizer, Prose())


def without_evidence(item: Item) -> Item:
    """The same task, with what its answer needs cut out of the context."""
    context = item.context
    for start, end in sorted(set(item.evidence), reverse=True):
        context = context[:start] + context[end:]
    return Item(re.sub(r"[ \t]+\n", "\n", context), item.question, item.answer, item.check)
