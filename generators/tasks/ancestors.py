"""Chains of parents and grandparents in shuffled sentences (the ancestral trace of NeedleBench, arXiv 2407.11963).

Here the questions also ask for people inside a chain (the published ones only run from end to end), the sentences are
joined with spaces, and other families fill the text to its length.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split, names
from generators.tasks.shaping import Text, check_choices, check_range, grow, normal

KINDS = ("eldest", "youngest", "ancestor", "descendant", "distance")
# By generations between elder and younger: sentences as (before, between, after), and whether the elder comes first.
_SENTENCES = {
    1: ((True, "", " is a parent of ", "."), (False, "", " is a child of ", "."),
        (True, "Among the children of ", " is ", ".")),
    2: ((True, "", " is a grandparent of ", "."), (False, "", " is a grandchild of ", "."),
        (True, "Among the grandchildren of ", " is ", ".")),
}  # fmt: skip
_NAME = r"([A-Z][a-z]+ [A-Z][a-z]+)"
_READ = [
    (generations, elder_first, re.compile(before + _NAME + between + _NAME + r"\."))
    for generations, forms in _SENTENCES.items()
    for elder_first, before, between, _ in forms
]
_INTRO = "The sentences above tell who descends from whom; a parent is one generation above a child."
_NAME_ONLY = "Answer with the name only."
_QUESTIONS = {
    "eldest": "Which person in the text is the earliest ancestor of {a}?",
    "youngest": "Which person in the text is the last descendant of {a}?",
    "ancestor": "Which ancestor of {a} is exactly {n} generations above {a}?",
    "descendant": "Which descendant of {a} is exactly {n} generations below {a}?",
    "distance": "How many generations above {b} is {a}? Answer with the number only.",
}

Link = tuple[str, str, int]  # elder, younger, generations


@dataclass(frozen=True)
class Ancestors(VerifiableTask):
    """`people`: how many a family's chain has, the one asked about and those that fill the text."""

    name: ClassVar[str] = "ancestors"
    kinds: Sequence[str] = KINDS
    people: Sequence[int] = (3, 16)
    split: str = "train"

    def __post_init__(self) -> None:
        check_choices("kinds", self.kinds, KINDS)
        check_range("people", self.people, 3, 512)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        kind, people = rng.choice(self.kinds), rng.randint(*self.people)
        weights = [rng.randint(1, 2) for _ in range(people - 1)]
        a, b = sorted(rng.sample(range(people), 2))
        seed = rng.getrandbits(64)

        def build(sentences: int, attempt: int) -> Item:
            return self._build(Random(f"{seed} {attempt}"), kind, weights, a, b, sentences)

        return grow(build, room, least=len(weights))

    def _build(self, rng: Random, kind: str, weights: list[int], a: int, b: int, sentences: int) -> Item:
        chain, others = self._families(rng, weights, sentences - len(weights))
        links = [(chain[n], chain[n + 1], weight) for n, weight in enumerate(weights)]
        needed = links[:b] if kind == "eldest" else links[a:] if kind == "youngest" else links[a:b]
        mixed = [*links, *others]
        rng.shuffle(mixed)
        text, spans = Text(), dict[Link, tuple[int, int]]()
        for n, link in enumerate(mixed):
            if n:
                text.add(" ")
            spans[link] = text.add(_sentence(link, rng))
        generations = sum(weights[a:b])
        first = chain[a] if kind in ("youngest", "descendant", "distance") else chain[b]
        answer = {
            "eldest": chain[0], "youngest": chain[-1], "ancestor": chain[a], "descendant": chain[b],
            "distance": str(generations),
        }[kind]  # fmt: skip
        asked = _QUESTIONS[kind].format(a=first, b=chain[b], n=generations)
        if generations == 1:
            asked = asked.replace("1 generations", "1 generation")
        return Item(
            context=str(text),
            question=f"{_INTRO} {asked}" + ("" if kind == "distance" else f" {_NAME_ONLY}"),
            answer=answer,
            check={"answer": answer},
            evidence=tuple(spans[link] for link in (reversed(needed) if kind in ("eldest", "ancestor") else needed)),
            details={
                "kind": kind, "people": len(chain), "steps": len(needed), "generations": sum(n for *_, n in needed),
                "sentences": len(mixed),
            },
        )  # fmt: skip

    def _families(self, rng: Random, weights: list[int], sentences: int) -> tuple[list[str], list[Link]]:
        """The chain that is asked about, and links of other families: as many as are wanted."""
        sizes, room = list[int](), sentences
        while room > 0:
            sizes.append(min(rng.randint(*self.people), room + 1))
            room -= sizes[-1] - 1
        drawn = names(rng, self.split, len(weights) + 1 + sum(sizes))
        chain, used, others = drawn[: len(weights) + 1], len(weights) + 1, list[Link]()
        for size in sizes:
            family = drawn[used : used + size]
            used += size
            others += [(family[n], family[n + 1], rng.randint(1, 2)) for n in range(size - 1)]
        return chain, others

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return normal(answer) == normal(check["answer"])

    def corrupt(self, item: Item, rng: Random) -> str:
        """Another person of the same line, or of the text; a number that is off by one or two."""
        if item.answer.isdigit():
            right = int(item.answer)
            return str(rng.choice([n for n in range(max(1, right - 2), right + 3) if n != right]))
        near: list[str] = [
            name for start, end in item.evidence for name in re.findall(_NAME, _bare(item.context[start:end]))
        ]
        return rng.choice([name for name in dict.fromkeys(near) if name != item.answer])

    def solve(self, item: Item) -> str:
        elders, youngers = dict[str, tuple[str, int]](), dict[str, tuple[str, int]]()
        for generations, elder_first, form in _READ:
            for one, other in form.findall(item.context):
                elder, younger = (one, other) if elder_first else (other, one)
                elders[younger], youngers[elder] = (elder, generations), (younger, generations)
        for kind, form_text in _QUESTIONS.items():
            pattern = re.escape(form_text.partition("Answer")[0].strip())
            pattern = pattern.replace(r"\{a\}", "(?P<a>.+?)", 1).replace(r"\{a\}", "(?P=a)")
            pattern = pattern.replace(r"\{b\}", "(?P<b>.+?)").replace(r"\{n\}\ generations", r"(?P<n>\d+) generations?")
            found = re.search(pattern, item.question.removeprefix(_INTRO))
            if found is not None:
                return _walk(kind, found.groupdict(), elders, youngers)
        raise ValueError("no such question")


def _walk(kind: str, asked: dict[str, str], elders: dict[str, Any], youngers: dict[str, Any]) -> str:
    steps = elders if kind in ("eldest", "ancestor") else youngers
    passed, person = 0, asked["a"]
    if person not in steps:
        raise ValueError(f"the text does not say it of {person}")
    wanted = int(asked["n"]) if "n" in asked else None
    while person in steps and passed != wanted and person != asked.get("b"):
        person, generations = steps[person]
        passed += generations
    if (wanted is not None and passed != wanted) or ("b" in asked and person != asked["b"]):
        raise ValueError("the text breaks off before that person")
    return str(passed if kind == "distance" else person)


def _sentence(link: Link, rng: Random) -> str:
    elder, younger, generations = link
    elder_first, before, between, after = rng.choice(_SENTENCES[generations])
    one, other = (elder, younger) if elder_first else (younger, elder)
    return f"{before}{one}{between}{other}{after}"


def _bare(sentence: str) -> str:
    return re.sub(r"^Among the \w+ of ", "", sentence)
