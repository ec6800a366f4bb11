"""Path traversal (LongProc, arXiv 2501.05414): follow the only road out of each city until the goal is reached."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split
from generators.tasks.shaping import Text, check_range, grow, tagged
from generators.tasks.story_pools import invented

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


@dataclass(frozen=True)
class PathTraversal(VerifiableTask):
    """`steps`: the shortest and the longest route; the prompt's length sets the number of connections, of which the
    route takes at most four fifths."""

    name: ClassVar[str] = "path_traversal"
    steps: Sequence[int] = (20, 60)
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("steps", self.steps, _FEWEST, 10_000)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        seed, taken = rng.getrandbits(64), set[str]()
        roads = self._roads(rng, room)
        longest = min(self.steps[1], roads * 4 // 5)
        if longest < _FEWEST:
            raise ValueError(f"{room.tokens} tokens hold no route of {_FEWEST} steps")
        steps = rng.randint(min(self.steps[0], longest), longest)
        route = [invented(rng, self.split, taken) for _ in range(steps + 1)]

        def build(others: int, attempt: int) -> Item:
            return self._build(Random(f"{seed} {attempt}"), route, set(taken), others)

        return grow(build, room, least=1)

    def _roads(self, rng: Random, room: Room) -> int:
        """About how many connections the prompt has room for."""
        trial = self._build(rng, ["Trialton", "Trialby"], set(), 40)
        tokens = room.tokenizer.count(trial.context)
        return (room.tokens - room.tokenizer.count(trial.question)) * 41 // tokens

    def _build(self, rng: Random, route: list[str], taken: set[str], others: int) -> Item:
        way = list(itertools.pairwise(route))
        pairs = [*way, *self._others(rng, route, taken, others)]
        rng.shuffle(pairs)
        text, spans = Text(), dict[tuple[str, str], tuple[int, int]]()
        for n, pair in enumerate(pairs):
            text.add("\n" if n else "")
            spans[pair] = text.add(rng.choice(ROADS).format(*pair))
        return Item(
            context=str(text),
            question=QUESTION.format(start=route[0], end=route[-1]),
            answer=_answer(route),
            check={"route": route},
            evidence=tuple(spans[pair] for pair in way),
            details={"steps": len(way), "roads": len(pairs)},
        )

    def _others(self, rng: Random, route: list[str], taken: set[str], count: int) -> list[tuple[str, str]]:
        """Roads out of the goal and out of cities beside the route. Every city has one road out, so none of them opens
        a second way."""
        beside = [invented(rng, self.split, taken)]
        pairs = [(route[-1], beside[0])]
        while len(pairs) < count:
            ends = route[:-1] if rng.random() < 0.3 or len(beside) == 1 else beside[:-1]
            pairs.append((beside[-1], rng.choice(ends)))
            beside.append(invented(rng, self.split, taken))
        return pairs

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return read_route(answer) == list(check["route"])

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
            if route[-1] not in roads or len(route) > len(roads):
                raise ValueError(f"no way from {asked[1]} to {asked[2]}")
            route.append(roads[route[-1]])
        return _answer(route)


def _pair(match: re.Match[str]) -> tuple[str, str]:
    return match[1], match[2]


def _answer(route: list[str]) -> str:
    return "\n".join(["<route>", *route, "</route>"])


def read_route(answer: str) -> list[str]:
    """The cities of an answer; empty where it holds not exactly one route."""
    return [line.strip() for line in (tagged(answer, "route") or "").splitlines() if line.strip()]
