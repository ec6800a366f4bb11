"""Confusing facts (LV-Eval, arXiv 2402.05136): one fact in a long text, among others that miss it by a person, a place
or a year.

As there, key phrases are replaced: the facts are written with real names, and every one of these becomes a made-up one
in facts, question, answer and the text around them, so that nothing can be known beforehand or contradict.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.borders import TokenMap, borders
from generators.tasks.pools import check_split, names
from generators.tasks.shaping import Text, check_range, fit
from generators.tasks.story_pools import REAL_PEOPLE, REAL_PLACES, RELATIONS, invented

SHORT = "Answer with the {what} only."
_SLOTS = {"person": "name of the person", "place": "name of the place", "year": "year"}
_FILLING = frozenset(
    ("a", "an", "the", "in", "it", "was", "is", "of", "at", "by", "answer", "year", "name", "person", "place")
)


@dataclass(frozen=True)
class ConfusingFacts(VerifiableTask):
    """`confusers`: how many facts nearly answer the question. Everything but the text around the facts and where in it
    they stand depends on the seed alone: one seed asks the same question at every length."""

    name: ClassVar[str] = "confusing_facts"
    needs_haystack: ClassVar[bool] = True
    same_question: ClassVar[bool] = True
    confusers: int = 4
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("confusers", (self.confusers, self.confusers), 1, 8)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        assert room.haystack is not None
        facts, question, right, wrong, replaced = self._facts(rng)
        depths = [rng.random() for _ in facts]
        around = room.tokenizer.count("\n".join([*facts, question]))
        if room.tokens <= around:
            raise ValueError(f"{room.tokens} tokens are too few for {len(facts)} facts")
        # Nothing in the text may be called like what the facts tell of, but for what is replaced alike.
        hay = replace(_without(room.haystack.text(rng, room.tokens), {right, *replaced.values()}), replaced)
        text = TokenMap(hay, room.tokenizer)
        if not hay.strip():
            raise ValueError("the haystack is empty")

        def build(tokens: int, _: int) -> Item:
            end = text.cut(tokens)
            places = borders(hay, [text.place(depth * text.tokens_at(end)) for depth in depths], end)
            context, spans = _insert(hay[:end], facts, places)
            return Item(
                context=context,
                question=question,
                answer=right,
                check={"answer": right, "question": question},
                evidence=(spans[0],),
                details={
                    "depth": round(spans[0][0] / len(context), 4),
                    "confusers": len(facts) - 1,
                    "near_misses": wrong,
                    "replaced": {old: new for old, new in replaced.items() if new in context},
                },
            )

        return fit(build, room, room.tokens - around, 1.0)

    def _facts(self, rng: Random) -> tuple[list[str], str, str, list[str], dict[str, str]]:
        """The gold fact and its confusers, the question, its answer, the confusers' answers, what was replaced."""
        taken = set[str]()
        people = rng.sample(REAL_PEOPLE, self.confusers + 1)
        places = rng.sample(REAL_PLACES, self.confusers + 1)
        years = [str(year) for year in rng.sample(range(1700, 1950), self.confusers + 1)]
        replaced = dict(zip(people, names(rng, self.split, len(people)), strict=True))
        replaced |= {place: invented(rng, self.split, taken) for place in places}
        template, questions = rng.choice(RELATIONS)
        asked = rng.choice(sorted(_SLOTS))
        gold = {"person": people[0], "place": places[0], "year": years[0]}
        facts, wrong = [gold], []
        known = [slot for slot in _SLOTS if slot != asked]
        rng.shuffle(known)
        for n in range(1, self.confusers + 1):
            other = {"person": people[n], "place": places[n], "year": years[n]}
            changed = known[n % 2]  # one of the two things the question names; the other stays right
            facts.append(gold | {changed: other[changed], asked: other[asked]})
            wrong.append(other[asked])
        question = f"{questions[asked].format(**gold)} {SHORT.format(what=_SLOTS[asked])}"
        return (
            [replace(template.format(**fact), replaced) for fact in facts],
            replace(question, replaced),
            replace(gold[asked], replaced),
            [replace(name, replaced) for name in wrong],
            replaced,
        )

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        """The words of the answer must all be there (LV-Eval's gate); then nothing else may, but words of the question
        and such as "it was in"."""
        right, given = _words(check["answer"]), _words(answer)
        if not set(right) <= set(given):
            return False
        free = (_FILLING | set(_words(check["question"]))) - set(right)
        return [word for word in given if word not in free] == right

    def corrupt(self, item: Item, rng: Random) -> str:
        return str(rng.choice(item.details["near_misses"]))

    def solve(self, item: Item) -> str:
        for template, questions in RELATIONS:
            for asked, form in questions.items():
                found = _pattern(form).match(item.question)
                if found is None:
                    continue
                given = {slot: re.escape(value) for slot, value in found.groupdict().items()}
                (answer,) = {match[asked] for match in _pattern(template, given).finditer(item.context)}
                return str(answer)
        raise ValueError("no such question")


def replace(text: str, phrases: Mapping[str, str]) -> str:
    """The text with whole phrases replaced, all at once."""
    found = "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))
    return re.sub(rf"\b(?:{found})\b", lambda match: phrases[match[0]], text) if phrases else text


def _without(text: str, phrases: set[str]) -> str:
    """The text without the lines that hold one of these."""
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(phrases)))})\b")
    return "".join(line for line in text.splitlines(keepends=True) if found.search(line) is None)


def _insert(text: str, facts: list[str], places: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """The facts put into the text at these places, and where each of them stands then."""
    out, spans, at = Text(), [(0, 0)] * len(facts), 0
    for place, n in sorted(zip(places, range(len(facts)), strict=True)):
        out.add(text[at:place])
        out.add(" " if place and not text[place - 1].isspace() else "")
        spans[n] = out.add(facts[n])
        out.add(" " if place < len(text) and not text[place].isspace() else "")
        at = place
    out.add(text[at:])
    return str(out), spans


def _pattern(form: str, given: Mapping[str, str] | None = None) -> re.Pattern[str]:
    """A template as a pattern: its slots match `given` or anything, under their names."""
    parts = re.split(r"\{(\w+)\}", form)
    values = {"person": r"\w+ \w+", "place": r"\w+", "year": r"\d{4}"} | dict(given or {})
    return re.compile("".join(f"(?P<{p}>{values[p]})" if n % 2 else re.escape(p) for n, p in enumerate(parts)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
