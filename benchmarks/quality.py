"""Rules of quality: speed beside datatrove's filters, how often verdicts differ, and which books each loses.

python -m benchmarks.quality [--mb 60] [--documents DIR] [--peer PYTHON [--peer-mb 3]]

Texts: the documents of a folder (`*.jsonl` with `text` or `document`), Python's own library and help topics, Debian's
documentation. All times are CPU seconds of one core, in this one run. The peer's environment: `python -m venv PEER &&
PEER/bin/pip install datatrove==0.10.1 spacy nltk regex`, then `--peer PEER/bin/python` (its English tokenizer is
spaCy's).
"""

import argparse
import gzip
import json
import pydoc_data.topics
import random
import subprocess
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filters.curation.batch import Batch
from filters.curation.c4 import C4
from filters.curation.fineweb import FineWeb
from filters.curation.gopher import Gopher
from filters.curation.repetition import Repetition
from filters.curation.text import Text
from schemas.curation.quality import C4Config, FineWebConfig, GopherConfig, RepetitionConfig

BATCH = 300_000  # characters
FAMILIES: list[tuple[Any, Any, str]] = [
    (Gopher, GopherConfig, "gopher_quality"),
    (Repetition, RepetitionConfig, "gopher_repetition"),
    (C4, C4Config, "c4"),
    (FineWeb, FineWebConfig, "fineweb_quality"),
]
NAMES = [family.name for family, _, _ in FAMILIES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--documents", type=Path, default=Path("../shared/data/documents"))
    parser.add_argument("--peer")
    parser.add_argument("--peer-mb", type=float, default=3)
    arguments = parser.parse_args()
    sets = corpora(arguments.documents)
    texts = mixture(sets, arguments.mb * 1e6)
    Batch([Text("“")])  # makes the table of characters
    print("| texts | way | MB | tokens | lines | " + " | ".join(NAMES) + " | together, MB per CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    chosen = {f"mixture of {len(texts)}": texts, **{name: sets[name] for name in ("Moby Dick", "chapters", "stories")}}
    for name, those in chosen.items():
        print(speed(name, f"batches of {BATCH}", those, BATCH), flush=True)
    print(speed(f"mixture of {len(texts)}", "one by one", texts, 1))
    print(speed(f"mixture of {len(texts)}", f"batches of {BATCH}, books", texts, BATCH, "books"))
    if arguments.peer:
        sample = mixture(sets, arguments.peer_mb * 1e6)
        compare(sample, arguments.peer)
    lost(sets, arguments.peer)


def corpora(folder: Path) -> dict[str, list[str]]:
    chapters = read(folder / "moby_dick_chapters.jsonl")
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [path for path in sorted(library.rglob("*.py")) if not {"test", "site-packages"} & set(path.parts)]
    return {
        "Moby Dick": ["\n\n".join(chapters)],
        "chapters": chapters,
        "stories": read(folder / "squality_v1-3_train.jsonl"),
        "PEPs": read(folder / "peps_long.jsonl"),
        "Python's help topics": list(pydoc_data.topics.topics.values()),
        "Python's modules": [text for path in modules if (text := path.read_text("utf-8", "replace")).strip()],
        "Debian's documents": list(debian()),
    }


def read(path: Path) -> list[str]:
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [row.get("text") or row["document"] for row in rows]


def debian() -> Iterator[str]:
    """What people wrote to be read: no change logs, logs of tests, tables or sources."""
    for path in sorted(Path("/usr/share/doc").rglob("*")):
        name = path.name.lower().removesuffix(".gz")
        if path.is_file() and not path.is_symlink() and name.endswith((".txt", ".md", ".rst", "readme", "news", "faq")):
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            if len(data) > 1000 and b"\0" not in data:
                yield data.decode("utf-8", "replace")


def mixture(sets: dict[str, list[str]], size: float) -> list[str]:
    """Texts of all sets (chapters as a book only), each once, in a fixed order that mixes them."""
    texts = [text for name, those in sets.items() if name != "chapters" for text in those]
    random.Random(0).shuffle(texts)
    chosen, total = [], 0
    for text in texts:
        if total + len(text) <= size:
            chosen.append(text)
            total += len(text)
    return chosen


def rules(preset: str) -> list[Any]:
    return [family(config(rule=name, preset=preset)) for family, config, name in FAMILIES]


def batches(texts: list[str], size: int) -> Iterator[list[Text]]:
    held: list[Text] = []
    for text in texts:
        held.append(Text(text, language="en"))
        if sum(len(one.text) for one in held) >= size:
            yield held
            held = []
    if held:
        yield held


def speed(name: str, way: str, texts: list[str], size: int, preset: str = "web") -> str:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    seconds: Counter[str] = Counter()
    families = rules(preset)
    for group in batches(texts, size):
        batch = timed(seconds, "tokens", lambda group=group: Batch(group))
        if len(batch):
            timed(seconds, "lines", lambda batch=batch: batch.windows(10_000))
        for family in families:
            timed(seconds, family.name, lambda batch=batch, family=family: family.judge_all(batch))
    parts = " | ".join(f"{1000 * seconds[step] / megabytes:.1f}" for step in ("tokens", "lines", *NAMES))
    return f"| {name} | {way} | {megabytes:.1f} | {parts} | {megabytes / sum(seconds.values()):.1f} |"


def timed(seconds: Counter[str], step: str, call: Any) -> Any:
    start = time.process_time()
    result = call()
    seconds[step] += time.process_time() - start
    return result


def ask_peer(texts: list[str], python: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        file.flush()
        command = [python, str(Path(__file__).with_name("quality_peer.py")), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(texts: list[str], python: str) -> None:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    theirs = ask_peer(texts, python)
    ours = verdicts(texts, "web")
    print(f"\n{len(texts)} texts, {megabytes:.1f} MB, of the mixture\n")
    print(speed(f"{len(texts)} texts", f"batches of {BATCH}", texts, BATCH))
    parts = " | ".join(f"{1000 * theirs['seconds'][name] / megabytes:.1f}" for name in NAMES)
    together = megabytes / sum(theirs["seconds"].values())
    print(f"| {len(texts)} texts | datatrove | {megabytes:.1f} | | | {parts} | {together:.2f} |")
    print("\n| family | both keep | both drop | only we drop | only datatrove drops | our reasons | its reasons |")
    print("|---|---|---|---|---|---|---|")
    for name in NAMES:
        pairs = [(our[name], their[name]) for our, their in zip(ours, theirs["reasons"], strict=True)]
        counts = Counter((not our, not their) for our, their in pairs)
        more = Counter(our[0] for our, their in pairs if our and not their)
        less = Counter(their for our, their in pairs if their and not our)
        cells = [
            counts[True, True],
            counts[False, False],
            counts[False, True],
            counts[True, False],
            say(more),
            say(less),
        ]
        print(f"| {name} | " + " | ".join(map(str, cells)) + " |")


def verdicts(texts: list[str], preset: str) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = []
    families = rules(preset)
    for group in batches(texts, BATCH):
        batch = Batch(group)
        judged = [family.judge_all(batch) for family in families]
        for place in range(len(group)):
            each = zip(NAMES, judged, strict=True)
            found.append({name: [one.reason for one in those[place] if not one.keep] for name, those in each})
    return found


def say(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(4))


def lost(sets: dict[str, list[str]], python: str | None) -> None:
    print("\n| texts | number | datatrove, first 1 MB | web | books | code | reasons as books, as code |")
    print("|---|---|---|---|---|---|---|")
    for name, texts in sets.items():
        cells = ["not run"]
        if python:
            few, size = [], 0
            for text in texts:
                few.append(text)
                size += len(text)
                if size > 1e6:
                    break
            dropped = sum(any(one.values()) for one in ask_peer(few, python)["reasons"])
            cells = [f"{dropped} of {len(few)}"]
        why = []
        for preset in ("web", "books", "code"):
            found = verdicts(texts, preset)
            cells.append(str(sum(any(one.values()) for one in found)))
            why.append(say(Counter(f"{name}.{one[name][0]}" for one in found for name in NAMES if one[name])))
        print(f"| {name} | {len(texts)} | " + " | ".join(cells) + f" | {why[1]}; {why[2]} |", flush=True)


if __name__ == "__main__":
    main()
