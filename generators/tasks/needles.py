"""Needles in a haystack: one fact, several, or a chain of them (NeedleBench, arXiv 2407.11963).

Needles stand at sentence borders only, never inside a sentence; other needles of the same kind that nobody asks for
stand beside them, so that the form of a needle does not give the answer away.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.borders import TokenMap, borders
from generators.tasks.facts import BETWEEN, FACTS, HAND_ON, LANGUAGES, QUESTIONS, things
from generators.tasks.pools import check_split, names
from generators.tasks.shaping import check_choices, check_range, fit, normal, normal_list

KINDS = ("single", "multiple", "chained")
_TRIES = 8  # draws of facts whose names the haystack does not hold
_SLACK = 64  # tokens of haystack more than are needed: the end is cut at a sentence


@dataclass(frozen=True)
class _Plan:
    """Needles to insert: the first `needed` of them hold the answer, in the order they are needed."""

    needles: list[str]
    needed: int
    question: str
    answers: list[str]
    names: list[str]  # must not stand in the haystack


@dataclass(frozen=True)
class Needles(VerifiableTask):
    """`needles`: how many a `multiple` or `chained` task needs. `others`: needles nobody asks for. `depths`: in
    percent of the text, one of them for each needle; without them depths are spread flat over the whole text."""

    name: ClassVar[str] = "needles"
    needs_haystack: ClassVar[bool] = True
    kinds: Sequence[str] = KINDS
    needles: Sequence[int] = (2, 5)
    others: int = 2
    depths: Sequence[float] | None = None
    language: str = "en"
    split: str = "train"

    def __post_init__(self) -> None:
        check_choices("kinds", self.kinds, KINDS)
        check_range("needles", self.needles, 2, 50)
        check_range("others", (self.others, self.others), 1, 50)
        if self.depths is not None and not (self.depths and all(0 <= depth <= 100 for depth in self.depths)):
            raise ValueError(f"depths: a list of numbers from 0 to 100, not {self.depths!r}")
        if self.language not in LANGUAGES:
            raise ValueError(f"language is one of {', '.join(LANGUAGES)}, not {self.language!r}")
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        assert room.haystack is not None
        kind, count = rng.choice(self.kinds), rng.randint(*self.needles)
        plan = self._plan(rng, kind, count)
        taken = sum(room.tokenizer.count_many([*plan.needles, plan.question]))
        if taken > room.tokens // 2:
            raise ValueError(f"no task of {room.tokens} tokens: needles and question take {taken}")
        text = TokenMap(room.haystack.text(rng, room.tokens - taken + _SLACK), room.tokenizer)
        if not text.text:
            raise ValueError("the haystack is empty")
        for _ in range(_TRIES):
            if not any(name in text.text for name in plan.names):
                break
            plan = self._plan(rng, kind, count)
        else:
            raise ValueError("the haystack holds the names of the needles")
        depths = self._depths(rng, len(plan.needles))

        def build(tokens: int, _: int) -> Item:
            return self._build(text, tokens, plan, depths, kind)

        return fit(build, room, room.tokens - taken, per_unit=1.0, least=1)

    def _plan(self, rng: Random, kind: str, count: int) -> _Plan:
        return self._chain(rng, count) if kind == "chained" else self._facts(rng, count if kind == "multiple" else 1)

    def _facts(self, rng: Random, count: int) -> _Plan:
        fact = rng.choice(FACTS[self.language])
        subjects = fact.subjects(rng, self.split, count + self.others)
        values: list[str] = []
        while len(values) < len(subjects):
            if (value := fact.value(rng, self.split)) not in values:
                values.append(value)
        asks = BETWEEN[self.language].join(fact.asks.format(subject=subject) for subject in subjects[:count])
        return _Plan(
            [fact.sentence.format(subject=s, value=v) for s, v in zip(subjects, values, strict=True)],
            count,
            QUESTIONS[self.language]["one" if count == 1 else "many"].format(asks=asks),
            values[:count],
            subjects,
        )

    def _chain(self, rng: Random, count: int) -> _Plan:
        """A thing goes through `count` hands; another one through other hands."""
        people = names(rng, self.split, count + self.others + 2, self.language)
        thing, other = things(rng, self.split, 2, self.language)
        form = HAND_ON[self.language]
        chain, rest = people[: count + 1], people[count + 1 :]
        needles = [
            form.format(giver=giver, thing=what, taker=taker)
            for line, what in ((chain, thing), (rest, other))
            for giver, taker in pairwise(line)
        ]
        question = QUESTIONS[self.language]["chain"].format(first=chain[0], thing=thing)
        return _Plan(needles, count, question, [chain[-1]], [*people, thing, other])

    def _depths(self, rng: Random, count: int) -> list[float]:
        """Shares of the text: one in each of `count` equal parts, in any order."""
        if self.depths is not None:
            return [rng.choice(self.depths) / 100 for _ in range(count)]
        return [(part + rng.random()) / count for part in rng.sample(range(count), count)]

    def _build(self, text: TokenMap, tokens: int, plan: _Plan, depths: list[float], kind: str) -> Item:
        end = text.cut(tokens)
        places = borders(text.text, [text.place(depth * text.tokens_at(end)) for depth in depths], end)
        between = "" if self.language == "zh" else " "
        order = sorted(range(len(places)), key=lambda n: (places[n], n))
        context, spans = text.text[:end], dict[int, tuple[int, int]]()
        for n in reversed(order):  # from the last to the first: so no place moves that is still needed
            before, after = context[: places[n]], context[places[n] :]
            lead = between if before and not before[-1].isspace() else ""
            tail = between if after and not after[0].isspace() else ""
            if before.endswith("\n") and after[:1] == " ":  # before indented lines: a paragraph of its own
                tail = "\n\n"
            context = f"{before}{lead}{plan.needles[n]}{tail}{after}"
            grown = len(lead) + len(plan.needles[n]) + len(tail)
            spans = {other: (low + grown, high + grown) for other, (low, high) in spans.items()}
            spans[n] = (places[n] + len(lead), places[n] + len(lead) + len(plan.needles[n]))
        return Item(
            context=context,
            question=plan.question,
            answer=("，" if self.language == "zh" else ", ").join(plan.answers),
            check={"answers": plan.answers},
            evidence=tuple(spans[n] for n in range(plan.needed)),
            details={
                "kind": kind, "needles": plan.needed, "others": len(plan.needles) - plan.needed,
                "depths_asked": [round(depth, 4) for depth in depths[: plan.needed]],
            },
        )  # fmt: skip

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return normal_list(answer) == [normal(one) for one in check["answers"]]

    def corrupt(self, item: Item, rng: Random) -> str:
        """What another needle says in place of what was asked; of a chain, someone who had the thing before."""
        answers = list(item.check["answers"])
        if item.details["kind"] == "chained":
            return rng.choice([person for person, *_ in self._handed_on(item) if person not in answers])
        values = [value for fact in FACTS[self.language] for _, value in _said(item.context, fact.parts)]
        answers[rng.randrange(len(answers))] = rng.choice([value for value in values if value not in answers])
        return ", ".join(answers)

    def _handed_on(self, item: Item) -> list[tuple[str, str, str]]:
        """(giver, thing, taker) of all needles in the text."""
        name = r"[\u4e00-\u9fff]{3}" if self.language == "zh" else "[A-Z][a-z]+ [A-Z][a-z]+"
        thing = rf"{name}的怀表" if self.language == "zh" else "[A-Z][a-z]+ lantern"
        form = re.escape(HAND_ON[self.language])
        for field, pattern in (("giver", name), ("thing", thing), ("taker", name)):
            form = form.replace(rf"\{{{field}\}}", f"({pattern})")
        return re.findall(form, item.context)

    def solve(self, item: Item) -> str:
        chain = QUESTIONS[self.language]["chain"]
        handed = self._handed_on(item)
        for giver, thing, _ in handed:
            if item.question == chain.format(first=giver, thing=thing):
                holders = {one: taker for one, what, taker in handed if what == thing}
                holder = giver
                while holder in holders:
                    holder = holders[holder]
                return holder
        found: list[tuple[int, str]] = []
        for fact in FACTS[self.language]:
            for subject, value in _said(item.context, fact.parts):
                if (place := item.question.find(fact.asks.format(subject=subject))) >= 0:
                    found.append((place, value))
        if not found:
            raise ValueError("the text does not say it")
        return ("，" if self.language == "zh" else ", ").join(value for _, value in sorted(found))


def _said(context: str, parts: tuple[str, str]) -> list[tuple[str, str]]:
    """(subject, value) of all needles of one kind of fact."""
    before, after = (re.escape(part) for part in parts)
    subject = r"([\u4e00-\u9fff]{3})" if "。" in parts[1] else "([A-Z][a-z]+ [A-Za-z]+)"
    return re.findall(before.replace(r"\{subject\}", subject) + r"(\w+)" + after, context)
