"""datatrove's decontamination and PII replacement, for benchmarks.contamination and benchmarks.pii: runs in an
environment of its own. Prints JSON as its last line."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils.text import ngrams, simplify_text


def contamination(asked: dict[str, Any]) -> dict[str, Any]:
    """13-grams; every text of an item as its indexer takes labels (the indexer itself wants lighteval)."""
    config = NGramsDecontConfig(n_grams=13)
    with tempfile.TemporaryDirectory() as folder:
        one = NGramsDecontFilter(folder, config)
        hashes = set()
        for item in asked["items"]:
            tokens = one.tokenizer.word_tokenize(simplify_text(item, config.norm_config))
            hashes.update(map(one.hash_func, map(" ".join, ngrams(tokens, config.n_grams))))
        array = np.array(list(hashes), dtype=config.hash_config.np_descr)
        array.tofile(str(Path(folder) / "items.index.hashes"))
        one.load_index_hashes()
    start = time.process_time()
    found = [one.filter(Document(text=text, id="0")) is not True for text in asked["documents"]]
    return {"found": found, "seconds": time.process_time() - start}


def pii(asked: dict[str, Any]) -> dict[str, Any]:
    one = PIIFormatter()
    start = time.process_time()
    texts = [one.format(text) for text in asked["documents"]]
    return {"texts": texts, "seconds": time.process_time() - start}


if __name__ == "__main__":
    answer = {"contamination": contamination, "pii": pii}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text("utf-8")))
    print(json.dumps(answer))
