"""Near-duplicates by other tools, in an environment of their own: `python duplicates_peers.py CORPUS TOOL...`.

Reads JSONL rows of `text`, prints a line of JSON for each tool. CPU seconds cover words, signatures and candidate
pairs, not the reading of the file. datatrove 0.10, rensa 0.5, datasketch 2.0, text-dedup 0.4.
"""

import json
import struct
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

Pairs = set[tuple[int, int]]


def shingles(text: str) -> set[str]:
    tokens = text.lower().split()
    return {" ".join(tokens[place : place + 5]) for place in range(len(tokens) - 4)}


def datasketch(texts: list[str]) -> Pairs:
    """As its documentation does it, with the quicker hash that it allows."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index, found = MinHashLSH(threshold=0.8, num_perm=128), set()
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=128, hashfunc=xxhash.xxh32_intdigest)
        sketch.update_batch([one.encode() for one in shingles(text)])
        found |= {(other, number) for other in index.query(sketch)}
        index.insert(number, sketch)
    return found


def rensa(texts: list[str]) -> Pairs:
    from rensa import RMinHash, RMinHashLSH

    index, found = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16), set()
    for number, text in enumerate(texts):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(list(shingles(text)))
        found |= {(other, number) for other in index.query(sketch)}
        index.insert(number, sketch)
    return found


def text_dedup(texts: list[str]) -> Pairs:
    """Its own function for signatures, default settings (threshold .7) but for the quicker hash; grouped its way."""
    import numpy as np
    from text_dedup.minhash import embed_func
    from text_dedup.utils import optimal_param, xxh3_32hash

    bands, rows = optimal_param(0.7, 250, 0.5, 0.5)
    random, prime = np.random.RandomState(42), np.uint64((1 << 61) - 1)
    tables: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(bands)]
    settings = {
        "num_perm": 250, "ngram_size": 5, "min_length": 5, "hash_func": xxh3_32hash, "dtype": np.uint64,
        "hashranges": [(band * rows, (band + 1) * rows) for band in range(bands)],
        "permutations": tuple(random.randint(low, prime, size=(250,), dtype=np.uint64) for low in (1, 0)),
        "max_hash": np.uint32((1 << 32) - 1), "modulo_prime": prime,
    }  # fmt: skip
    for number, text in enumerate(texts):
        for table, band in zip(tables, embed_func(text, number, **settings)["__signatures__"], strict=True):
            table[band].append(number)
    return {(min(one), other) for table in tables for one in table.values() for other in one if other != min(one)}


def datatrove(texts: list[str]) -> Pairs:
    """The first two of its steps, FineWeb's settings: 14 bands of 8."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupSignature
    from loguru import logger

    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        documents = (Document(text=text, id=str(number)) for number, text in enumerate(texts))
        MinhashDedupSignature(output_folder=f"{folder}/signatures").run(documents, 0, 1)
        buckets = MinhashDedupBuckets(input_folder=f"{folder}/signatures", output_folder=f"{folder}/buckets")
        for bucket in range(14):
            buckets.run(None, bucket, 14)
        rows = [
            row
            for path in Path(folder, "buckets").glob("*.dups")
            for row in struct.iter_unpack("<4I", path.read_bytes())
        ]
    return {(one, other) for _, one, _, other in rows}


def main() -> None:
    with Path(sys.argv[1]).open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    for name in sys.argv[2:]:
        tool = {one.__name__: one for one in (datasketch, rensa, text_dedup, datatrove)}[name]
        tool(texts[:3])  # imports, tables, models
        start = time.process_time()
        pairs = tool(texts)
        print(json.dumps({"tool": name, "seconds": time.process_time() - start, "pairs": sorted(pairs)}), flush=True)


if __name__ == "__main__":
    main()
