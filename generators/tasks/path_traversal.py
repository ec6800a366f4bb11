"""Path traversal (LongProc, arXiv 2501.05414): follow the only road out of each city until the goal is reached."""

import re
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools2 import invented
from generators.tasks.filling import fill, tagged

ROADS = (
    "A bus runs from {} to {}.",
    "One can take the train from {} to {}.",
    "A ferry sails from {} to {}.",
    "There is a flight from {} to {}.",
)
QUESTION = (
    "The text above lists connections between cities. Each one goes in the stated direction only, and no city has more "
    "than one connection out of it. Starting in {start}, which cities does one pass on the way to {end}? Write every "
    "city of the route, one a line, from {start} to {end}, both included, between <route> and </route>."
)
_ROAD = re.compile(r"from (\w+) to (\w+)\.")
_ASKED = re.compile(r"Starting in (\w+), which cities does one pass on the way to (\w+)\?")
_FEWEST = 3  # steps of a route that is worth asking for


class PathTraversal(VerifiableTask):
    """`steps`: the shortest and the longest route; the prompt's length sets the number of connections, of which the
    route takes at most four fifths."""

    name: ClassVar[str] = "path_traversal"

    def __init__(self, steps: tuple[int, int] = (20, 60)) -> None:
        if not _FEWEST <= steps[0] <= steps[1]:
            raise ValueError(f"steps: {steps[0]} to {steps[1]} is no range from {_FEWEST} up")
        self.steps = steps

    def make(self, rng: Random, room: Room) -> Item:
        taken: set[str] = set()
        trial = [invented(rng, taken) for _ in range(41)]
        cost = room.tokenizer.count("\n".join(_sentence(rng, *pair) for pair in zip(trial, trial[1:], strict=False)))
        task = room.tokenizer.count(QUESTION.format(start=trial[0], end=trial[1]))
        roads = (room.tokens - task) * 40 // cost
        longest = min(self.steps[1], roads * 4 // 5)
        if longest < _FEWEST:
            raise ValueError(f"{room.tokens} tokens hold no route of {_FEWEST} steps")
        steps = rng.randint(min(self.steps[0], longest), longest)
        route = [invented(rng, taken) for _ in range(steps + 1)]
        # Sorted by a number drawn for each road, so that one more road leaves the order of the others alone.
        edges = [(rng.random(), pair, _sentence(rng, *pair)) for pair in zip(route, route[1:], strict=False)]
        others = _others(rng, route, taken, roads + roads // 2 + 20)
        question = QUESTION.format(start=route[0], end=route[-1])

        def context(more: int) -> str:
            return "\n".join(text for _, _, text in sorted(edges + others[: more + 1]))

        more = fill(lambda n: f"{context(n)}\n\n{question}", room, len(others) - 1)
        text = context(more)
        starts = {_pair(match): _line(text, match) for match in _ROAD.finditer(text)}
        return Item(
            context=text,
            question=question,
            answer=_answer(route),
            check={"route": route},
            evidence=tuple(starts[pair] for _, pair, _ in edges),
            details={"steps": steps, "roads": steps + more + 1},
        )

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return read_route(answer) == check["route"]

    def prefix_score(self, check: Mapping[str, Any], answer: str) -> float:
        """Share of the route that stands right at the start of the answer's (LongProc's partial score)."""
        right = 0
        for given, city in zip(read_route(answer), check["route"], strict=False):
            if given != city:
                break
            right += 1
        return right / len(check["route"])

    def corrupt(self, item: Item, rng: Random) -> str:
        route = list(item.check["route"])
        at = rng.randrange(1, len(route) - 1)
        kind = rng.choice(("swapped", "dropped", "wrong turn"))
        if kind == "swapped":
            route[at], route[at + 1] = route[at + 1], route[at]
        elif kind == "dropped":
            del route[at]
        else:
            off = sorted({city for match in _ROAD.finditer(item.context) for city in _pair(match)} - set(route))
            route[at] = rng.choice(off)
        return _answer(route)

    def solve(self, item: Item) -> str:
        roads = dict(_pair(match) for match in _ROAD.finditer(item.context))
        asked = _ASKED.search(item.question)
        assert asked is not None
        route = [asked[1]]
        while route[-1] != asked[2]:
            route.append(roads[route[-1]])
        return _answer(route)


def _others(rng: Random, route: list[str], taken: set[str], count: int) -> list[tuple[float, tuple[str, str], str]]:
    """Roads out of the goal and out of cities beside the route. Every city has one road out at most, so none of them
    opens a second way."""
    beside: list[str] = [invented(rng, taken)]
    pairs = [(route[-1], beside[0])]
    while len(pairs) < count:
        pairs.append((beside[-1], rng.choice(route[:-1] if rng.random() < 0.3 or len(beside) < 2 else beside[:-1])))
        beside.append(invented(rng, taken))
    return [(rng.random(), pair, _sentence(rng, *pair)) for pair in pairs]


def _sentence(rng: Random, start: str, end: str) -> str:
    return rng.choice(ROADS).format(start, end)


def _pair(match: re.Match[str]) -> tuple[str, str]:
    return match[1], match[2]


def _line(text: str, match: re.Match[str]) -> tuple[int, int]:
    return text.rfind("\n", 0, match.start()) + 1, match.end()


def _answer(route: list[str]) -> str:
    return "\n".join(["<route>", *route, "</route>"])


def read_route(answer: str) -> list[str]:
    """The cities of an answer; empty where it holds not exactly one route."""
    return [line.strip() for line in (tagged(answer, "route") or "").splitlines() if line.strip()]
