"""Personal data and languages: planted personal data beside datatrove's replacement, what else is found, and speed.

python -m benchmarks.pii [--mb 60] [--data DIR] [--peer PYTHON] [--show 40]

Addresses and numbers of many forms are planted in real documents, each on a line of its own. `--show`: so many of each
kind that the documents have as they are, for people to judge. The peer: see benchmarks.contamination.
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contamination import corpus
from filters.curation.language import Language
from filters.curation.pii import Pii, find
from filters.curation.text import Text
from schemas.curation.language import LanguageConfig
from schemas.curation.pii import PiiConfig

KINDS = ("email", "ip", "phone")
PLANTED = {
    "e-mail": [
        "write to {w}.{v}@mail.{w}{n}.com today",
        "({w}_{n}@{v}.co.uk)",
        "<{w}+{v}@cs.{v}-{n}.edu>",
        "mailto:{w}{n}@{v}{n}.org?subject=x",
        "my address: {w}@{v}{n}.io",
        "{w}{n}@{v}.de, or by post",
    ],
    "IPv4": [
        "from 8.{o}.4.{o} came",
        "(93.184.{o}.{o})",
        "http://52.{o}.{p}.7:8080/x",
        "ping 151.101.{o}.69.",
        "Host: 23.{o}.{p}.1",
    ],
    "phone, US": [
        "call (415) 55{d}-2{e}1",
        "at 212-44{d}-7{e}1.",
        "fax 617.25{d}.1{e}0",
        "1-303-77{d}-8{e}2",
        "+1 650 39{d} 4{e}2",
    ],
    "phone, others": [
        "+49 30 90{e}{d}20",
        "+44 20 7946 {d}9{e}",
        "+33 6 12 34 5{d} {e}",
        "+86 138 {d}0{e} 4567",
        "+34 612 3{e} 67{d}",
    ],
    "no personal data": [
        "version 4.{d}.12.{p}",
        "v8.{d}.4.1 came out",
        "on 192.168.{p}.{d}",
        "ISBN 978-415-55{d}-2{e}1",
        "Chrome/91.{d}.44.{p}",
        "in the range 10,{e}0,{e}5",
        "see section 8.{d}.2.1",
        "order #415-55{d}-2{e}1",
        "git@github.com:{w}/{v}.git",
        "import {w}@{n}.0.1",
        "from 2024-01-0{d} to 2024-02-0{d}",
        "at +{d}0 000 000 people",
        "from 127.0.0.1 or {w}@example.com",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer")
    parser.add_argument("--show", type=int, default=0)
    arguments = parser.parse_args()
    texts = corpus(arguments.data, arguments.mb * 1e6)
    planted(texts, arguments.peer)
    real(texts, arguments.show)
    speed(texts, arguments.peer)


def forms(draw: random.Random, each: int) -> Iterator[tuple[str, str]]:
    """(kind, what is said), `each` times of each form."""
    names = ["ada", "kurt", "lovelace", "godel", "noether", "hopper"]
    for kind, those in PLANTED.items():
        for number in range(each * len(those)):
            values = {
                "w": draw.choice(names),
                "v": draw.choice(names),
                "n": draw.randrange(10, 99),
                "o": draw.randrange(1, 255),
            }
            values |= {"p": draw.randrange(1, 99), "d": draw.randrange(2, 10), "e": draw.randrange(10, 100)}
            yield kind, those[number % len(those)].format(**values)


def put_in(said: str, host: str, draw: random.Random) -> str:
    """On a line of its own in the first half of a document."""
    at = host.find("\n", draw.randrange(len(host) // 2))
    return f"{host[:at]}\n{said}\n{host[at:]}"


def planted(texts: list[str], peer: str | None) -> None:
    draw = random.Random(1)
    hosts = [text for text in texts if 5_000 < len(text) < 60_000]
    cases = list(forms(draw, 20))
    documents = [put_in(said, draw.choice(hosts), draw) for _, said in cases]
    rule = Pii(PiiConfig(rule="pii"))
    cleaned = {"Longloom": [rule.clean(Text(text))[0] for text in documents]}
    if peer:
        cleaned["datatrove"] = ask(peer, documents)["texts"]
    print("| planted | of | should be replaced | " + " | ".join(cleaned) + " |\n|---|---|---|" + "---|" * len(cleaned))
    for kind in PLANTED:
        those = [at for at, case in enumerate(cases) if case[0] == kind]
        gone = {name: [at for at in those if f"\n{cases[at][1]}\n" not in done[at]] for name, done in cleaned.items()}
        wanted = "no" if kind == "no personal data" else "yes"
        print(f"| {kind} | {len(those)} | {wanted} | " + " | ".join(str(len(one)) for one in gone.values()) + " |")
        for name, found in gone.items():
            odd = found if wanted == "no" else sorted(set(those) - set(found))
            print(f"  {name}, wrong:", Counter(cases[at][1] for at in odd).most_common(6)) if odd else None


def real(texts: list[str], show: int) -> None:
    """What the documents have as they are, some of each kind with what is around it."""
    found = [(text, one) for text in texts for one in find(text, KINDS)]
    print("in the documents as they are:", dict(Counter(one.kind for _, one in found)))
    for kind in KINDS:
        those = [(text, one) for text, one in found if one.kind == kind]
        for text, one in random.Random(3).sample(those, min(show, len(those))):
            around = text[max(0, one.start - 40) : one.start], text[one.start : one.end], text[one.end : one.end + 30]
            print(f"  {kind}: {around[0]!r} >>{around[1]}<< {around[2]!r}")


def speed(texts: list[str], peer: str | None) -> None:
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print("| way | documents | MB | MB per CPU s |\n|---|---|---|---|")
    pii, language = Pii(PiiConfig(rule="pii")), Language(LanguageConfig(rule="language"))
    language.judge(Text("loads the model"))
    for name, call in (("personal data", pii.clean), ("language, 32 windows at most", language.judge)):
        start = time.process_time()
        for text in texts:
            call(Text(text))
        print(f"| {name} | {len(texts)} | {megabytes:.1f} | {megabytes / (time.process_time() - start):.1f} |")
    if peer:
        rate = megabytes / ask(peer, texts)["seconds"]
        print(f"| datatrove, personal data | {len(texts)} | {megabytes:.1f} | {rate:.1f} |")


def ask(peer: str, documents: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.json"
        path.write_text(json.dumps({"documents": documents}), "utf-8")
        command = [peer, str(Path(__file__).with_name("leaks_peer.py")), "pii", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
