"""Curation on truth: what is planted in one real corpus and found by the whole of it, beside datatrove on the same.

python -m benchmarks.truth --peers PYTHON [--mb 40] [--data ../shared/data] [--folder DIR]

Corpus: Moby Dick, two Chinese books, stories, PEPs and Debian's documents. Planted: near-duplicates, chapters,
questions of benchmarks, personal data, junk. Ours: recipes/curate.yaml with the benchmarks, run by
`pipelines.build.build`. The peer (environment: see benchmarks.quality): its filters, each on the whole corpus, so that
none hides what another would do.
"""

import argparse
import asyncio
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import contamination, duplicates, pii, quality
from pipelines.build import build
from pipelines.catalog import query
from pipelines.sources.rows import normalise
from pipelines.workspace import Workspace

QUESTIONS = {form: contamination.FORMS[form] for form in (
    "as it is", "other line breaks", "upper case", "without punctuation", "typographic", "12 words of it")}  # fmt: skip
SHORT = "question of 5 to 12 words, other line breaks"
CHAPTERS = "chapter of a book, as it is"
PASSAGE = "1,000 to 3,000 words of a document"
BELOW = ("J .5-.7", "J < .5")  # the threshold: no tool is asked for these
EACH = 25  # questions of each form, documents of each kind of junk
FAMILIES = ("gopher", "repetition", "c4", "fineweb", "language")


@dataclass(frozen=True, slots=True)
class Plant:
    """`document`: the number of the document that has it, or is it. `of`: that of the original of a copy. `text`: what
    was put in. `wanted`: it should be found."""

    family: str
    kind: str
    document: int
    of: int = -1
    text: str = ""
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool said, as numbers of documents. `dropped`: duplicates, each with those it is said to be like.
    `texts`: after personal data was replaced."""

    quality: dict[int, str]
    dropped: dict[int, list[int]]
    contaminated: set[int]
    texts: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=40)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peers", required=True)
    parser.add_argument("--folder", type=Path, help="keep corpus and workspace there")
    arguments = parser.parse_args()
    texts, good, plants = corpus(arguments.data, arguments.mb * 1e6)
    print(f"{len(texts)} documents, {sum(len(one.encode()) for one in texts) / 1e6:.1f} MB, {len(plants)} planted\n")
    with tempfile.TemporaryDirectory(prefix="longloom-truth-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        mine = ours(texts, arguments.data / "benchmarks", folder)
        theirs = peer(texts, arguments.data / "benchmarks", folder, arguments.peers)
    report(texts, good, plants, {"Longloom": mine, "datatrove": theirs})


def corpus(data: Path, size: float) -> tuple[list[str], dict[str, list[int]], list[Plant]]:
    """Texts; numbers of those known to be good, by kind; what is planted in or among them."""
    draw = random.Random(11)
    sets = quality.corpora(data / "documents")
    chapters = [quality.read(data / "documents" / name) for name in ("d2l_zh.jsonl", "rust_book_zh.jsonl")]
    chapters.append(sets["chapters"])
    whole = ["\n\n".join(map(normalise, those)) for those in chapters]
    sets = {"Chinese books": whole[:2], **{name: sets[name] for name in ("Moby Dick", "stories", "PEPs")},
            "Debian's documents": sets["Debian's documents"]}  # fmt: skip
    texts: dict[str, int] = {}
    good: dict[str, list[int]] = {}
    held = 0
    for name, those in sets.items():
        for text in map(normalise, those):
            if text not in texts and held + len(text) <= size:
                held += len(text)
                good.setdefault(name, []).append(len(texts))
                texts[text] = len(texts)
    found = list(texts)
    english = [number for name, those in good.items() if name != "Chinese books" for number in those]
    hosts = [number for number in english if 3_000 < len(found[number]) < 60_000]
    draw.shuffle(hosts)
    plants = [*questions(found, hosts, data / "benchmarks", draw), *personal(found, hosts, draw)]
    plants += copies(found, [*hosts, *(one for one in english if len(found[one]) >= 60_000)], draw)
    for book, those in enumerate(chapters):
        long = [text for text in map(normalise, those) if len(duplicates._WORD.findall(text)) >= 300]
        for text in draw.sample(long, EACH):
            plants.append(Plant("duplicates", CHAPTERS, len(found), texts[whole[book]]))
            found.append(text)
    for kind, make in JUNK.items():
        for _ in range(EACH):
            plants.append(Plant("junk", kind, len(found)))
            found.append(make(draw, found[draw.choice(english)]))
    return found, good, plants


def questions(texts: list[str], hosts: list[int], folder: Path, draw: random.Random) -> Iterator[Plant]:
    """Each in a document of its own, which is taken from `hosts`."""
    sizes = [(len(contamination.words(one.text)), one.text) for one in contamination.real_passages(folder) if one.whole]
    long = draw.sample([text for size, text in sizes if size >= 24], EACH * len(QUESTIONS))
    planted = [(list(QUESTIONS)[at % len(QUESTIONS)], text) for at, text in enumerate(long)]
    planted += [(SHORT, text) for text in draw.sample([text for size, text in sizes if 5 <= size < 13], EACH)]
    for form, text in planted:
        change, wanted = QUESTIONS.get(form, (contamination.rewrapped, True))
        number, said = hosts.pop(), change(text)
        host = texts[number]
        at = host.find(" ", draw.randrange(len(host) // 2))
        texts[number] = f"{host[:at]} {said} {host[at:]}"
        yield Plant("questions", form, number, text=said, wanted=wanted)


def personal(texts: list[str], hosts: list[int], draw: random.Random) -> Iterator[Plant]:
    for kind, said in pii.forms(draw, 5):
        number = hosts.pop()
        texts[number] = pii.put_in(said, texts[number], draw)
        yield Plant("personal data", kind, number, text=said, wanted=kind != "no personal data")


def copies(texts: list[str], hosts: list[int], draw: random.Random) -> Iterator[Plant]:
    of = [texts[number] for number in hosts]
    for place, kind, copy in duplicates.planted(of, min(200, len(of) // 2), draw):
        jaccard = duplicates.Truth([of[place], copy])(0, 1)[0]
        kind = PASSAGE if kind == "chapter" else duplicates.kind_of(kind, jaccard)
        yield Plant("duplicates", kind, len(texts), hosts[place], wanted=kind not in BELOW)
        texts.append(copy)


def _loop(draw: random.Random, text: str) -> str:
    words = text.split()
    start = draw.randrange(max(1, len(words) - 80))
    return "\n\n".join([" ".join(words[start : start + 80])] * 40)


def _numbers(draw: random.Random, text: str) -> str:
    return "\n".join(" ".join(f"{draw.uniform(-100, 100):.3f}" for _ in range(8)) for _ in range(200))


def _menu(draw: random.Random, text: str) -> str:
    words = ["Home", "About us", "Contact", "Login", "Share", "Next", "Previous", "Read more", "Help", "Cart", "Menu"]
    return "\n".join(draw.choice(words) for _ in range(300))


JUNK: dict[str, Callable[[random.Random, str], str]] = {
    "80 words, 40 times": _loop,
    "table of numbers": _numbers,
    "menus of web pages": _menu,
}


def ours(texts: list[str], benchmarks: Path, folder: Path) -> Found:
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "n": number}) + "\n" for number, text in enumerate(texts))
    rules = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "curate.yaml").read_text("utf-8"))["curate"][
        "rules"
    ]
    rules[0]["keep"].append("zh")
    named = [
        {"name": name.split(".")[0].lower(), "path": str((benchmarks / name).absolute()), "fields": list(fields)}
        for name, fields in contamination.FIELDS.items()
    ]
    rules.insert(-2, {"rule": "contamination", "benchmarks": named})
    source = {"name": "corpus", "type": "jsonl", "path": "corpus.jsonl", "fields": {"metadata": ["n"]}}
    path, workspace = folder / "recipe.yaml", Workspace(folder / "workspace")
    path.write_text(yaml.safe_dump({"name": "truth", "documents": [source], "curate": {"rules": rules}}), "utf-8")
    asyncio.run(build(path, workspace))

    def ask(sql: str) -> list[Any]:
        return query(workspace, sql)[1]

    number = dict(ask("SELECT document_id, (metadata->>'n')::INT FROM documents"))
    assert len(ask("SELECT * FROM row_states WHERE stage = 'curate.rules'")) == len(texts)
    cleaned = dict(ask("SELECT (metadata->>'n')::INT, text FROM documents WHERE metadata->>'cleaned_from' IS NOT NULL"))
    bad = ask("SELECT document_id, rule FROM document_judgements WHERE NOT keep ORDER BY ALL")
    families = {number[one]: rule for one, rule in bad if rule.split(".")[0] in FAMILIES}
    gone = ask("SELECT d.document_id, d.kept_copy_id FROM duplicates d JOIN row_states s ON s.row_id = d.document_id "
               "WHERE s.stage = 'curate.corpus' AND s.state = 'filtered'")  # fmt: skip
    return Found(
        families,
        {number[one]: [number[kept]] for one, kept in gone},
        {number[one] for one, rule in bad if rule.startswith("contamination")},
        [cleaned.get(place, text) for place, text in enumerate(texts)],
    )


def peer(texts: list[str], benchmarks: Path, folder: Path, python: str) -> Found:
    """Stock limits of Gopher (quality and repetition); 14 x 8 MinHash; 13-grams; its PII formatter."""
    reasons = quality.ask_peer(texts, python)["reasons"]
    [pairs] = duplicates.peers(python, folder / "corpus.jsonl", ["datatrove"])
    of = duplicates.clusters(pairs["pairs"], len(texts))
    like: dict[int, list[int]] = {}
    for one, other in pairs["pairs"]:
        like.setdefault(one, []).append(other)
        like.setdefault(other, []).append(one)
    items = [one.text for one in contamination.real_passages(benchmarks)]
    return Found(
        {
            at: one["gopher"] or one["repetition"]
            for at, one in enumerate(reasons)
            if one["gopher"] or one["repetition"]
        },
        {at: like[at] for at, first in enumerate(of) if first != at},  # of each cluster one stays
        {at for at, found in enumerate(contamination.ask(python, folder, items, texts)["found"]) if found},
        pii.ask(python, texts)["texts"],
    )


def report(texts: list[str], good: dict[str, list[int]], plants: list[Plant], tools: dict[str, Found]) -> None:
    """The table, then what was wrong."""
    print("| kind | planted | " + " | ".join(f"{name} found | precision" for name in tools) + " |")
    print("|---|---|" + "---|---|" * len(tools))
    truth = duplicates.Truth(texts)
    alike = {name: [_alike(truth, one, others) for one, others in tool.dropped.items()] for name, tool in tools.items()}
    for family in dict.fromkeys(one.family for one in plants):
        those = [one for one in plants if one.family == family]
        for kind in dict.fromkeys(one.kind for one in sorted(those, key=lambda one: (not one.wanted, one.kind))):
            of = [one for one in those if one.kind == kind]
            cells = [f"{sum(found(one, tool) for one in of)} |" for tool in tools.values()]
            print(
                f"| {family}: {kind}{'' if of[0].wanted else ' (not to be found)'} | {len(of)} | {' | '.join(cells)} |"
            )
        cells = []
        for name, tool in tools.items():
            right = sum(found(one, tool) for one in those if one.wanted)
            every = sum(found(one, tool) for one in those)
            if family == "questions":
                every = len(tool.contaminated)
            elif family == "duplicates":
                right, every = sum(alike[name]), len(alike[name])
            elif family == "junk":
                every += len(tool.quality.keys() & {number for numbers in good.values() for number in numbers})
            cells.append(f"{right} of {every} | {right / max(1, every):.3f}")
        print(f"| **{family}: right of all found** | | {' | '.join(cells)} |")
    for name, numbers in good.items():
        cells = [f"{len(tool.quality.keys() & set(numbers))} |" for tool in tools.values()]
        print(f"| books lost to web limits: {name} | {len(numbers)} | {' | '.join(cells)} |")
    for name, tool in tools.items():
        print(f"\n{name}:")
        wrong(texts, good, plants, tool)


def _alike(truth: duplicates.Truth, number: int, others: list[int]) -> bool:
    """Five-word runs: Jaccard similarity of .7, or .8 of the shorter in the longer."""
    return any(jaccard >= 0.7 or part >= 0.8 for jaccard, part in (truth(number, other) for other in others))


def found(plant: Plant, tool: Found) -> bool:
    if plant.family == "duplicates":  # not both stay
        return plant.document in tool.dropped or plant.of in tool.dropped
    if plant.family == "personal data":
        return not re.search(rf"^{re.escape(plant.text)}$", tool.texts[plant.document], re.MULTILINE)
    return plant.document in (tool.contaminated if plant.family == "questions" else tool.quality)


def wrong(texts: list[str], good: dict[str, list[int]], plants: list[Plant], tool: Found) -> None:
    """What was missed or taken without reason, for people to look at: some of each kind."""
    shown: dict[str, list[str]] = {}
    for one in plants:
        if one.wanted != found(one, tool) and one.kind not in BELOW:
            what = f"{'missed' if one.wanted else 'wrong'}: {one.family}, {one.kind}"
            shown.setdefault(what, []).append(one.text or texts[one.document])
    planted = {one.document: one for one in plants}
    for name, numbers in good.items():
        for number in sorted(tool.quality.keys() & set(numbers)):
            shown.setdefault(f"lost: {name}, {tool.quality[number]}", []).append(texts[number])
    for number in sorted(tool.contaminated):
        one = planted.get(number)
        if one is None or one.family != "questions":
            kind = one.kind if one else next(name for name, numbers in good.items() if number in numbers)
            shown.setdefault(f"no question, contaminated: {kind}", []).append(texts[number])
    for what, those in shown.items():
        print(f"  {what} {len(those)}: {', '.join(repr(text[:50]) for text in those[:4])}")


if __name__ == "__main__":
    main()
