"""Spinning the Golden Thread (LongGenBench, arXiv 2409.02076): a long text in numbered units, some of which must
mention given things.

Its answer is put together from templates and meets every demand: it proves that the task can be done and that the
checker works, but it is no prose to train on. Use the prompts, and `check_text` to choose among texts a model wrote.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.scenarios import SCENARIOS, Scenario
from generators.tasks.shaping import TOLERANCE, check_range

DEMANDS = {
    "once": "{unit} {first} mentions the {thing}.",
    "range": "Each one from {unit} {first} to {unit} {last} mentions the {thing}.",
    "periodic": "{unit} {first} and every {step}th one after it, up to the last, mentions the {thing}.",
}
RULES = (
    "Write {count} of them, from {unit} 1 to {unit} {count}, in this order and leaving none out. Begin each one with "
    "its heading on a line of its own, like\n=== {unit} 1 ===\nand write at least {words} words below each heading. "
    "Heed these demands, and use the words for what is to be mentioned as they stand here:"
)
_HEADING = re.compile(r"^[ \t]*=== *(\w+) (\d{1,6}) *===[ \t]*$", re.M)
_RULES = re.compile(r"from (\w+) 1 to \w+ (\d+),.* at least (\d+) words", re.S)
_DEMAND = {
    "once": re.compile(r"- \w+ (?P<first>\d+) mentions the (?P<thing>.+)\."),
    "range": re.compile(r"- Each one from \w+ (?P<first>\d+) to \w+ (?P<last>\d+) mentions the (?P<thing>.+)\."),
    "periodic": re.compile(
        r"- \w+ (?P<first>\d+) and every (?P<step>\d+)th one after it, up to the last, mentions the (?P<thing>.+)\."
    ),
}
_DRAWS = 1000
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Demand:
    """Units first, first + step, ... up to last mention the thing."""

    kind: str
    thing: str
    first: int
    last: int
    step: int = 1

    @property
    def units(self) -> range:
        return range(self.first, self.last + 1, self.step)


@dataclass(frozen=True)
class GoldenThread(VerifiableTask):
    """`room.tokens` is the length of the answer. `unit_words`: the least words of a unit. `once`, `ranges`, `periodic`:
    how many demands of each kind."""

    name: ClassVar[str] = "golden_thread"
    targets: ClassVar[tuple[str, ...]] = ("answer",)
    measures: ClassVar[Literal["prompt", "answer"]] = "answer"
    unit_words: int = 100
    once: Sequence[int] = (2, 4)
    ranges: Sequence[int] = (1, 2)
    periodic: Sequence[int] = (1, 2)

    def __post_init__(self) -> None:
        check_range("unit_words", (self.unit_words, self.unit_words), 10, 2000)
        for name in ("once", "ranges", "periodic"):
            check_range(name, getattr(self, name), 0, 4)

    def make(self, rng: Random, room: Room) -> Item:
        scenario, seed = rng.choice(SCENARIOS), rng.getrandbits(64)
        few = _text(scenario, 4, self.unit_words, [], Random(seed), 0)
        count = round(room.tokens * 4 / room.tokenizer.count(few) * 0.93)  # the demands come on top
        if count < 6:
            raise ValueError(f"{room.tokens} tokens hold only {count} units of {self.unit_words} words")
        demands = self._demands(rng, scenario, count)
        question = _question(scenario, count, self.unit_words, demands)
        answer = _fitted(
            room,
            lambda n, more: _text(scenario, count, self.unit_words, demands, Random(f"{seed} {n}"), more),
            sentence=room.tokenizer.count(" ".join(scenario.sentence(rng) for _ in range(20))) / 20,
        )
        return Item(
            context="",
            question=question,
            answer=answer,
            check={
                "unit": scenario.unit,
                "count": count,
                "words": self.unit_words,
                "demands": [[one.kind, one.thing, one.first, one.last, one.step] for one in demands],
            },
            details={"templated": True, "scenario": scenario.name, "units": count, "demands": len(demands)},
        )

    def _demands(self, rng: Random, scenario: Scenario, count: int) -> list[Demand]:
        """Demands of which no unit has two: where two would meet, all are drawn again. ValueError: that never works
        out, there are too few units."""
        bounds = {"once": self.once, "range": self.ranges, "periodic": self.periodic}
        for _ in range(_DRAWS):
            kinds = [kind for kind, (least, most) in bounds.items() for _ in range(rng.randint(least, most))]
            things = rng.sample(scenario.things, len(kinds))
            demands = [_draw(rng, kind, thing, count) for kind, thing in zip(kinds, things, strict=True)]
            units = [n for demand in demands if demand is not None for n in demand.units]
            if None not in demands and len(set(units)) == len(units):
                rng.shuffle(demands)
                return [demand for demand in demands if demand is not None]
        raise ValueError(f"{count} units of {self.unit_words} words are too few for so many demands")

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        found = check_text(check, answer)
        whole = found["completion"] == found["accuracy"] == found["long_enough"] == 1
        return bool(whole and found["in_order"] and not found["extra"])

    def corrupt(self, item: Item, rng: Random) -> str:
        """A unit is left out, or does not mention what it should."""
        demanded = [(n, demand[1]) for demand in item.check["demands"] for n in _demand(demand).units]
        if not demanded or rng.random() < 0.5:
            gone = rng.randint(1, item.check["count"])
            kept = [body for n, body in _units(item.answer, item.check["unit"]) if n != gone]
            numbers = [n for n in range(1, item.check["count"] + 1) if n != gone]
            return _join(item.check["unit"], dict(zip(numbers, kept, strict=True)))
        at, thing = rng.choice(demanded)
        units = dict(_units(item.answer, item.check["unit"]))
        units[at] = units[at].replace(thing, "usual things")
        return _join(item.check["unit"], units)

    def solve(self, item: Item) -> str:
        """A text that does what the prompt says; there is more than one."""
        rules = _RULES.search(item.question)
        assert rules is not None
        count, words = int(rules[2]), int(rules[3])
        units = {n: ["and", *["so", "on"] * (words // 2)] for n in range(1, count + 1)}
        for line in item.question.splitlines():
            for form in _DEMAND.values():
                if found := form.fullmatch(line):
                    known = found.groupdict()
                    first = int(known["first"])
                    last = int(known.get("last") or (count if "step" in known else first))
                    for n in range(first, last + 1, int(known.get("step") or 1)):
                        units[n].append(f"with the {known['thing']}")
        return _join(rules[1], {n: " ".join(body) for n, body in units.items()})


def check_text(check: Mapping[str, Any], text: str) -> dict[str, Any]:
    """How well a text does what a golden-thread prompt asks (`check` is that of its Item).

    `completion`: share of the units that are there, exactly once. `accuracy`: share of (demand, unit) pairs met; those
    of units that are missing are not. `long_enough`: share of all units that are there and have the words asked for.
    `in_order`: the headings count from 1 up. `extra`: how many units nobody asked for. `unmet`: [thing, unit] of the
    demands not met.
    """
    found = list(_units(text, check["unit"]))
    numbers = [n for n, _ in found]
    units = {n: body for n, body in found if 1 <= n <= check["count"] and numbers.count(n) == 1}
    asked = [(demand[1], n) for demand in check["demands"] for n in _demand(demand).units]
    unmet = [[thing, n] for thing, n in asked if not _mentions(units.get(n, ""), thing)]
    return {
        "completion": len(units) / check["count"],
        "accuracy": 1 - len(unmet) / len(asked) if asked else 1.0,
        "long_enough": sum(len(body.split()) >= check["words"] for body in units.values()) / check["count"],
        "in_order": numbers == list(range(1, len(numbers) + 1)),
        "extra": sum(not 1 <= n <= check["count"] for n in numbers),
        "unmet": unmet,
    }


def _mentions(text: str, thing: str) -> bool:
    return re.search(rf"\b{re.escape(thing)}\b", " ".join(text.split()), re.IGNORECASE) is not None


def _demand(values: Sequence[Any]) -> Demand:
    kind, thing, first, last, step = values
    return Demand(kind, thing, first, last, step)


def _units(text: str, unit: str) -> Iterator[tuple[int, str]]:
    """Number and body of each unit, as they stand."""
    headings = [match for match in _HEADING.finditer(text) if match[1].casefold() == unit.casefold()]
    ends = [match.start() for match in headings[1:]] + [len(text)]
    for match, end in zip(headings, ends, strict=False):
        yield int(match[2]), text[match.end() : end].strip()


def _join(unit: str, units: Mapping[int, str]) -> str:
    return "\n\n".join(f"=== {unit} {n} ===\n{body}" for n, body in units.items())


def _draw(rng: Random, kind: str, thing: str, count: int) -> Demand | None:
    """A demand at random; None: there are too few units for one."""
    if kind == "once":
        first = rng.randint(1, count)
        return Demand(kind, thing, first, first)
    if kind == "range":
        length = rng.randint(3, 7)
        if length > count // 3:
            return None
        first = rng.randint(1, count - length + 1)
        return Demand(kind, thing, first, first + length - 1)
    if count < 8:
        return None
    step = rng.choice([step for step in range(4, 31) if step % 10 not in (1, 2, 3) and step <= count // 2])
    return Demand(kind, thing, rng.randint(1, step), count, step)


def _question(scenario: Scenario, count: int, words: int, demands: list[Demand]) -> str:
    rules = RULES.format(unit=scenario.unit, count=count, words=words)
    lines = [
        "- "
        + DEMANDS[one.kind].format(unit=scenario.unit, first=one.first, last=one.last, step=one.step, thing=one.thing)
        for one in demands
    ]
    return "\n".join([f"{scenario.task} {rules}", *lines])


def _text(scenario: Scenario, count: int, words: int, demands: list[Demand], rng: Random, more: int) -> str:
    """Units of sentences from templates, each of at least `words` words; `more` further sentences spread over them."""
    units = {}
    for n in range(1, count + 1):
        body = [scenario.mention.format(thing=one.thing) for one in demands if n in one.units]
        extra = more * n // count - more * (n - 1) // count
        while (missing := sum(len(sentence.split()) for sentence in body) < words) or extra > 0:
            body.append(scenario.sentence(rng))
            extra -= not missing
        units[n] = " ".join(body)
    return _join(scenario.unit, units)


def _fitted(room: Room, text: Callable[[int, int], str], sentence: float) -> str:
    """A text of about `room.tokens` tokens: text(n, more) is the n-th try with `more` sentences on top, of about that
    many tokens each. ValueError: none is within 2%."""
    more = 0
    for n in range(_TRIES):
        made = text(n, more)
        off = room.tokenizer.count(made) - room.tokens
        if abs(off) <= room.tokens * TOLERANCE:
            return made
        more = max(0, more - round(off / sentence))
    raise ValueError(f"no text of {room.tokens} tokens: the nearest is {off:+d} off")
