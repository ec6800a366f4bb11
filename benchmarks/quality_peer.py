"""datatrove's four families of quality filters over JSONL, for benchmarks.quality: runs in an environment of its own.

Prints, as JSON, the CPU seconds of each family and, for each text, the reason each family gives (empty: kept).
"""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

FILTERS = {
    "gopher": GopherQualityFilter(),
    "repetition": GopherRepetitionFilter(),
    "c4": C4QualityFilter(),
    "fineweb": FineWebQualityFilter(),
}


def main(path: str) -> None:
    texts = [json.loads(line)["text"] for line in Path(path).read_text("utf-8").splitlines()]
    for one in FILTERS.values():
        one.filter(Document(text="Warm up. " * 60, id="0"))
    seconds = dict.fromkeys(FILTERS, 0.0)
    reasons = []
    for text in texts:  # one text through the chain, as in its pipelines: later filters find its words in a cache
        found = {}
        for name, one in FILTERS.items():
            document = Document(text=text, id="0")
            start = time.process_time()
            result = one.filter(document)
            seconds[name] += time.process_time() - start
            found[name] = "" if result is True else result[1] if isinstance(result, tuple) else "dropped"
        reasons.append(found)
    print(json.dumps({"seconds": seconds, "reasons": reasons}))


if __name__ == "__main__":
    main(sys.argv[1])
