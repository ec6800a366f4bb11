"""Near-duplicates: speed, and what is found, by class of true similarity, beside other tools on the same corpus.

`python -m benchmarks.duplicates --peers /tmp/peers/bin/python` (`python -m venv /tmp/peers`, then pip install
datatrove[io] spacy rensa datasketch text-dedup xxhash). Corpus: --documents (JSONL with `text`) and the text files
of this machine, 2,000 characters or more, no two alike word for word; in it are planted edited, reformatted and cut
copies. True similarity is computed apart from the tools: sets of runs of five words found by a regular expression.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from filters.curation.candidates import compare, finder, shared
from filters.curation.clusters import ranked, resolve, settle
from filters.curation.minhash import shingles, sign
from filters.curation.text import Text
from filters.curation.words import words_of
from schemas.curation.duplicates import Duplicates

_OWN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_OWN}]|[^\W_{_OWN}]+")
_FOLDERS = ("/usr/share/doc", "/usr/lib/python3.11", "/usr/lib/python3", "/usr/share/perl")
_ENDINGS = {"", ".py", ".txt", ".md", ".rst", ".html", ".pm", ".pod"}
CLASSES = ("J >= .8", "J .7-.8", "J .5-.7", "reformatted", "chapter")


def corpus(documents: Path, megabytes: float) -> list[str]:
    """In a fixed order, each once."""
    seen, result, size = set(), [], 0
    for text in (*_rows(documents), *_files()):
        words = _WORD.findall(text.lower())
        key = hash(tuple(words))
        if len(text) < 2000 or len(words) < 200 or key in seen:
            continue
        seen.add(key)
        result.append(text)
        size += len(text.encode())
        if size > megabytes * 1e6:
            break
    return result


def _rows(documents: Path) -> Iterator[str]:
    for path in sorted(documents.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            yield from (row["text"] for row in map(json.loads, file) if isinstance(row.get("text"), str))


def _files() -> Iterator[str]:
    for folder in _FOLDERS:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in _ENDINGS and path.is_file() and path.stat().st_size < 5_000_000:
                try:
                    yield path.read_text("utf-8")
                except (UnicodeDecodeError, OSError):
                    continue


def planted(texts: list[str], count: int, generator: random.Random) -> list[tuple[int, str, str]]:
    """(number of the original, kind, copy); an original has one copy."""
    usable = [number for number, text in enumerate(texts) if len(_WORD.findall(text)) >= 300]
    chosen = generator.sample(usable, count)
    long = [number for number in usable if len(texts[number]) > 60_000 and number not in set(chosen)]
    result = [(number, "edited", _edited(texts[number], generator)) for number in chosen[: -count // 10]]
    for number in chosen[-count // 10 :]:
        result.append((number, "reformatted", "\n".join(textwrap.wrap(texts[number].upper().replace(",", " ;"), 60))))
    for number in generator.sample(long, min(len(long), count // 5)):
        words = texts[number].split()
        size = min(generator.randrange(1000, 3000), len(words) // 4)
        start = generator.randrange(len(words) - size)
        result.append((number, "chapter", " ".join(words[start : start + size])))
    return result


def _edited(text: str, generator: random.Random) -> str:
    """Words replaced, left out or put in, at a rate that leaves a Jaccard similarity of about .45 to 1."""
    rate, pieces = generator.uniform(0.0005, 0.085), re.split(r"(\s+)", text)
    words = [piece for piece in pieces if piece.strip()]
    for place, piece in enumerate(pieces):
        if piece.strip() and generator.random() < rate:
            other = generator.choice(words)
            pieces[place] = generator.choice([other, "", f"{piece} {other}"])
    return "".join(pieces)


def runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return set(zip(*(words[place:] for place in range(5)), strict=False))


def ours(texts: list[str], threshold: float) -> dict[str, Any]:
    """The whole of it in one process: signatures in batches, grouping, reading pairs, what stays."""
    config = Duplicates(rule="duplicates", threshold=threshold)
    sign([Text("één a b c d e")], 0, config)  # tables
    start = time.process_time()
    columns = sign([Text(text) for text in texts], 0, config)
    signed = time.process_time()
    ids = pa.array([f"{number:08}" for number in range(len(texts))])
    rank = ranked(columns.runs, ids)
    keys = shared(*columns.keys)
    find = finder(lambda: [(keys.documents, keys.hashes)], shared(*columns.samples), columns.sampled, rank, config)
    sets: dict[int, Any] = {}

    def read(pairs: Any) -> Any:
        new = [number for number in np.unique(pairs).tolist() if number not in sets]
        for number, found in zip(new, words_of(texts[number] for number in new), strict=True):
            sets[number] = shingles(found, config.shingle)
        return np.array([compare(sets[one], sets[other]) for one, other in pairs.tolist()])

    pairs = settle(find, read, rank, config)
    table = resolve(pairs, rank, ids, columns.exact, config)
    gone = [row for row in table.to_pylist() if not row["keep"]]
    return {
        "tool": f"longloom, threshold {threshold}",
        "seconds": time.process_time() - start,
        "signing": signed - start,
        "read": pairs.documents.tolist(),
        "dropped": [(int(row["kept_copy_id"]), int(row["id"])) for row in gone],
    }


def peers(python: str, path: Path, tools: list[str]) -> Iterator[dict[str, Any]]:
    script = Path(__file__).with_name("duplicates_peers.py")
    for tool in tools:
        done = subprocess.run([python, str(script), str(path), tool], capture_output=True, text=True)
        if done.returncode:
            print(f"{tool}: {done.stderr[-600:]}", file=sys.stderr)
        yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def clusters(pairs: list[list[int]], count: int) -> list[int]:
    """By number of document: a document of its cluster, the same for all of them."""
    parent = list(range(count))

    def top(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in pairs:
        parent[top(one)] = top(other)
    return [top(number) for number in range(count)]


class Truth:
    """True similarity of pairs, each computed once."""

    def __init__(self, texts: list[str]) -> None:
        self._texts, self._known = texts, dict[tuple[int, int], tuple[float, float]]()

    def __call__(self, one: int, other: int) -> tuple[float, float]:
        """Jaccard similarity, and the share of the shorter that is in the longer."""
        key = min(one, other), max(one, other)
        if key not in self._known:
            first, second = (runs(self._texts[number]) for number in key)
            both, least = len(first & second), min(len(first), len(second))
            self._known[key] = both / max(1, len(first | second)), both / max(1, least)
        return self._known[key]


def kind_of(kind: str, jaccard: float) -> str:
    if kind != "edited":
        return kind
    return next((name for name, least in zip(CLASSES, (0.8, 0.7, 0.5), strict=False) if jaccard >= least), "J < .5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=Path, default=Path("/work/shared/data/documents"))
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--peers", help="the python of an environment with the other tools")
    parser.add_argument("--tools", default="rensa,datasketch,text_dedup,datatrove")
    options = parser.parse_args()
    generator = random.Random(5)
    texts = corpus(options.documents, options.mb)
    before = texts.copy()
    plants = [
        (number, kind, len(texts) + place, copy)
        for place, (number, kind, copy) in enumerate(planted(texts, options.pairs, generator))
    ]
    texts += [copy for *_, copy in plants]
    truth, size = Truth(texts), sum(len(text.encode()) for text in texts) / 1e6
    wanted = [(kind_of(kind, truth(number, copy)[0]), number, copy) for number, kind, copy, _ in plants]
    print(f"{len(texts)} documents, {size:.1f} MB, {len(plants)} planted pairs\n")
    print(
        "| tool | MB per CPU s | " + " | ".join(CLASSES) + " | pairs | alike: J >= .7 or a part |\n" + "|---" * 9 + "|"
    )
    results = [ours(texts, 0.8), ours(texts, 0.7)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.jsonl")
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        results += peers(options.peers, path, options.tools.split(",")) if options.peers else []
    for result in results:
        for what in ("read", "dropped", "pairs"):
            if what in result:
                print(row(result, what, wanted, truth, size, len(texts)))
    print(f"\nsigning alone: {size / results[0]['signing']:.1f} MB per CPU s")
    plain, size = ours(before, 0.8), sum(len(text.encode()) for text in before) / 1e6
    part = sum(len(before[number].encode()) for _, number in plain["dropped"]) / 1e6
    print(
        f"before planting: {size / plain['seconds']:.1f} MB per CPU s; {len(before)} documents, {size:.1f} MB; ", end=""
    )
    print(f"{len(plain['dropped'])} dropped, {part:.1f} MB; {len(plain['read'])} pairs read")


def row(result: dict[str, Any], what: str, wanted: list[Any], truth: Truth, size: float, count: int) -> str:
    pairs = result[what]
    cluster = clusters(pairs, count)
    cells = []
    for name in CLASSES:
        of_class = [cluster[one] == cluster[other] for kind, one, other in wanted if kind == name]
        cells.append(f"{sum(of_class)}/{len(of_class)}")
    some = pairs if len(pairs) <= 4000 else random.Random(1).sample(pairs, 4000)
    right = sum(jaccard >= 0.7 or part >= 0.8 for jaccard, part in (truth(*pair) for pair in some))
    name = result["tool"] + (f", {what}" if "dropped" in result else "")
    speed = f"{size / result['seconds']:.1f}"
    return f"| {name} | {speed} | {' | '.join(cells)} | {len(pairs)} | {right / max(1, len(some)):.3f} |"


if __name__ == "__main__":
    main()
