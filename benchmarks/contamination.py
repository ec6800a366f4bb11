"""Decontamination: which planted benchmark items are found, and the speed against 10,000 snippets, beside datatrove.

python -m benchmarks.contamination [--mb 60] [--data DIR] [--peer PYTHON [--peer-mb 2]]

Items of real benchmarks (`DIR/benchmarks`) are planted, each in a document of its own, with other line breaks, case and
punctuation, or in parts; each in the middle of a real document. All times are CPU seconds of one core, in this one run.
The peer's environment: `python -m venv PEER && PEER/bin/pip install datatrove==0.10.1 spacy nltk regex orjson`.
"""

import argparse
import gzip
import json
import random
import re
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filters.curation.benchmark_index import Passage, build_index, passages
from filters.curation.contamination import Contamination, Excision
from filters.curation.text import Text
from filters.curation.words import words
from schemas.curation.contamination import ContaminationConfig, ExcisionConfig

FIELDS = {
    "gsm8k_test.jsonl": ("question", "answer"),
    "HumanEval.jsonl.gz": ("prompt", "canonical_solution"),
    "mt_bench_question.jsonl": ("turns",),
    "longbench_write.jsonl": ("prompt",),
    "longwrite_ruler.jsonl": ("prompt",),
    "self_lengthen_LonGen.jsonl": ("query",),
    "self_instruct_user_oriented_252.jsonl": ("instruction", "instances"),
}
SNIPPETS = 10_000


def rewrapped(text: str) -> str:
    spaced = text.split()
    return "\n> ".join(" ".join(spaced[at : at + 6]) for at in range(0, len(spaced), 6))


def part(size: int) -> Callable[[str], str]:
    """So many words from the middle, where there are more."""

    def cut(text: str) -> str:
        found = words(text)
        start = (len(found) - size) // 2
        return text[found.starts[start] : found.ends[start + size - 1]]

    return cut


def every_eighth(text: str) -> str:
    found, pieces, at = words(text), [], 0
    for number in range(7, len(found), 8):
        pieces += [text[at : found.starts[number]], "otherwise"]
        at = int(found.ends[number])
    return "".join([*pieces, text[at:]])


FORMS: dict[str, tuple[Callable[[str], str], bool]] = {  # and whether they contaminate
    "as it is": (str, True),
    "other line breaks": (rewrapped, True),
    "upper case": (str.upper, True),
    "without punctuation": (lambda text: re.sub(r"[^\w\s]", " ", text), True),
    "typographic": (lambda text: text.replace("'", "’").replace(". ", " … ").replace(" ", "\u00a0 "), True),
    "20 words of it": (part(20), True),
    "12 words of it": (part(12), False),
    "every 8th word another": (every_eighth, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer")
    parser.add_argument("--peer-mb", type=float, default=2)
    arguments = parser.parse_args()
    texts = corpus(arguments.data, arguments.mb * 1e6)
    found = real_passages(arguments.data / "benchmarks")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quality(texts, found, folder, arguments.peer)
        speed(texts, folder, arguments.peer, arguments.peer_mb)


def corpus(data: Path, size: float) -> list[str]:
    """Documents, Python's own library, what Debian's packages say of themselves; each once, mixed, in a fixed order."""
    texts = [
        row.get("text") or row["document"] for path in sorted((data / "documents").iterdir()) for row in rows(path)
    ]
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    files += [path for path in Path("/usr/share/doc").rglob("*") if path.is_file() and not path.is_symlink()]
    for path in sorted(files):
        data_ = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(data_) > 1000 and b"\0" not in data_:
            texts.append(data_.decode("utf-8", "replace"))
    texts = list(dict.fromkeys(texts))
    random.Random(0).shuffle(texts)
    chosen, total = [], 0
    for text in texts:
        if total + len(text) <= size:
            chosen.append(text)
            total += len(text)
    return chosen


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def real_passages(folder: Path) -> list[Passage]:
    return [
        passage
        for name, fields in FIELDS.items()
        for number, row in enumerate(rows(folder / name))
        for passage in passages(name.split(".")[0], str(number), row, fields)
    ]


def quality(texts: list[str], found: list[Passage], folder: Path, peer: str | None) -> None:
    """Plants questions; prints what is found of each form, and which documents without any are said to have some."""
    draw = random.Random(1)
    questions = [one.text for one in found if one.whole and len(words(one.text)) >= 24]
    prose = [text for text in texts if 5_000 < len(text) < 60_000]
    documents, forms = [], []
    chosen = draw.sample(questions, min(len(questions), 40 * len(FORMS)))
    short = [one.text for one in found if one.whole and 5 <= len(words(one.text)) < 13]
    planted = [(list(FORMS)[at % len(FORMS)], text) for at, text in enumerate(chosen)]
    planted += [("question of 5 to 12 words, other line breaks", text) for text in draw.sample(short, 40)]
    clean = [(None, "")] * 300
    for (form, text), host in zip([*planted, *clean], draw.choices(prose, k=len(planted) + 300), strict=True):
        said = text if form is None else FORMS[form][0](text) if form in FORMS else rewrapped(text)
        at = host.find(" ", draw.randrange(len(host) // 2))
        documents.append(f"{host[:at]} {said} {host[at:]}" if form else host)
        forms.append(form)
    index = folder / "items"
    build_index(found, 13, 5, 10, index)
    rule = rule_of(index)
    verdicts = {"Longloom": [not rule.judge(Text(text))[0].keep for text in documents]}
    if peer:
        verdicts["datatrove"] = ask(peer, folder, [one.text for one in found], documents)["found"]
    print("| planted | of | should be found | " + " | ".join(verdicts) + " |\n|---|---|---|" + "---|" * len(verdicts))
    for form in dict.fromkeys(forms):
        those = [at for at, one in enumerate(forms) if one == form]
        counts = " | ".join(str(sum(verdict[at] for at in those)) for verdict in verdicts.values())
        wanted = "no" if form is None else "yes" if form not in FORMS or FORMS[form][1] else "no"
        print(f"| {form or 'nothing'} | {len(those)} | {wanted} | {counts} |")
    wrong = [at for at, one in enumerate(forms) if verdicts["Longloom"][at] and not (one in FORMS and FORMS[one][1])]
    for at in wrong:
        for pair in rule.pairs(Text(documents[at])):
            if pair.contaminated and forms[at] is None:
                print(f"  in a document without: {pair}")
    excise = Excision(ExcisionConfig(**section(index, "contamination_excise")))
    again = [rule.judge(Text(excise.clean(Text(text))[0]))[0].value for text in documents]
    print(f"after excision: {sum(map(bool, again))} documents with hits")


def speed(texts: list[str], folder: Path, peer: str | None, peer_mb: float) -> None:
    """10,000 snippets of words as the corpus has them, but in no order of it."""
    draw = random.Random(2)
    vocabulary = [word for text in draw.sample(texts, 200) for word in re.findall(r"\w+", text[:20_000])]
    snippets = [" ".join(draw.choices(vocabulary, k=60)) for _ in range(SNIPPETS)]
    start = time.process_time()
    build_index([Passage("made", str(n), "q", one, True) for n, one in enumerate(snippets)], 13, 5, 10, folder / "made")
    print(f"index of {SNIPPETS} snippets: {time.process_time() - start:.1f} CPU s")
    start = time.process_time()
    rule = rule_of(folder / "made")
    rule.judge(Text("word “word”"))  # makes the table of characters
    print(f"loaded in {time.process_time() - start:.2f} CPU s (a table of characters is made, too)")
    sample, total = [], 0.0
    for text in texts:
        if total < peer_mb * 1e6:
            sample.append(text)
            total += len(text.encode())
    print("| way | documents | MB | MB per CPU s |\n|---|---|---|---|")
    for those in (texts, sample):
        megabytes = sum(len(text.encode()) for text in those) / 1e6
        start = time.process_time()
        for text in those:
            rule.judge(Text(text))
        seconds = time.process_time() - start
        print(f"| Longloom | {len(those)} | {megabytes:.1f} | {megabytes / seconds:.1f} |", flush=True)
    if peer:
        seconds = ask(peer, folder, snippets, sample)["seconds"]
        print(f"| datatrove | {len(sample)} | {megabytes:.1f} | {megabytes / seconds:.2f} |")


def section(index: Path, rule: str) -> dict[str, Any]:
    return {"rule": rule, "index": str(index), "benchmarks": [{"name": "b", "path": "b", "fields": ["question"]}]}


def rule_of(index: Path) -> Contamination:
    return Contamination(ContaminationConfig(**section(index, "contamination")))


def ask(peer: str, folder: Path, items: list[str], documents: list[str]) -> dict[str, Any]:
    path = folder / "peer.json"
    path.write_text(json.dumps({"items": items, "documents": documents}), "utf-8")
    command = [peer, str(Path(__file__).with_name("leaks_peer.py")), "contamination", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
