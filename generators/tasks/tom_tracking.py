"""Theory-of-mind tracking (LongProc, arXiv 2501.05414): where a thing is, and where people think it is, move by move.

Who is in the room when a thing is moved sees it; nobody else learns of it. One state machine (`World`) makes the trace,
checks an answer and solves the text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split, words
from generators.tasks.shaping import check_range, grow, tagged
from generators.tasks.story_pools import COLOURS, CONTAINERS, ROOMS, THINGS

RULES = (
    "Everybody knows at the start where everything is. Whoever is in a room when a thing is moved there sees it; "
    "nobody else learns of it. All containers are closed, so that entering a room shows nothing."
)
QUESTION = (
    "Follow the {thing}, and where {people} think it is. Write one row for the start (step 0) and one for each step in "
    "which the {thing} is moved, between <trace> and </trace>. A row reads\n"
    "step NUMBER | CONTAINER | {columns}\n"
    "where CONTAINER is where the {thing} is after that step, and behind each name stands the container in which that "
    "person then thinks it is. Name a container by colour and kind, like: {example}."
)
_ENTERS = re.compile(r"^(\d+)\. (\w+) goes to the (\w+)\.$", re.M)
_MOVES = re.compile(r"^(\d+)\. (\w+) moves the (\w+) from the ([\w ]+) to the ([\w ]+)\.$", re.M)
_PUT = re.compile(r"^The (\w+) is in the ([\w ]+)\.$", re.M)
_STANDS = re.compile(r"^(\w+) is in the (\w+)\.$", re.M)
_ASKED = re.compile(r"Follow the (\w+), and where (.+) think it is\.")
_CELL = re.compile(r"(\w+): ([\w ]+)")
Event = tuple[str, ...]  # ("go", person, room) or ("move", person, thing, container)
Row = tuple[int, str, dict[str, str]]  # step, where the thing is, where each asked person thinks it is


@dataclass(slots=True)
class World:
    """`where`: the room of each person. `place`: the container of each thing. `beliefs`: person -> thing -> container,
    of the people whose minds are followed."""

    where: dict[str, str]
    place: dict[str, str]
    beliefs: dict[str, dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.beliefs = {person: dict(self.place) for person in self.where}

    def step(self, event: Event) -> None:
        if event[0] == "go":
            self.where[event[1]] = event[2]
            return
        _, mover, thing, container = event
        self.place[thing] = container
        for person, room in self.where.items():
            if room == self.where[mover]:
                self.beliefs[person][thing] = container


def trace(world: World, events: Iterable[tuple[int, Event]], thing: str, people: list[str]) -> list[Row]:
    """A row for step 0 and for each move of the thing; `events` are (step, event)."""

    def row(step: int) -> Row:
        return step, world.place[thing], {person: world.beliefs[person][thing] for person in people}

    rows = [row(0)]
    for step, event in events:
        world.step(event)
        if event[0] == "move" and event[2] == thing:
            rows.append(row(step))
    return rows


@dataclass(frozen=True)
class TomTracking(VerifiableTask):
    """`moves`: how often the thing asked for is moved, which sets the length of the answer; the prompt's length sets
    the number of steps. `minds`: how many people are followed."""

    name: ClassVar[str] = "tom_tracking"
    moves: Sequence[int] = (6, 20)
    minds: int = 2
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("moves", self.moves, 1, 1000)
        check_range("minds", (self.minds, self.minds), 1, 4)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        house, seed = _House(rng, self.split, self.minds), rng.getrandbits(64)
        # How many steps fit, from the cost of some; then the moves are spread over most of them.
        few, more = (room.tokenizer.count(_build(house, Random(seed), n, []).prompt) for n in (0, 80))
        last = max(0, (room.tokens - few) * 80 // (more - few)) * 4 // 5
        if last < 3 * self.moves[0]:
            raise ValueError(f"{room.tokens} tokens are too few for {self.moves[0]} moves of a thing")
        moves = rng.randint(self.moves[0], min(self.moves[1], last // 3))
        due = sorted(rng.sample(range(1, last - moves), moves))
        return grow(lambda steps, attempt: _build(house, Random(f"{seed} {attempt}"), steps, due), room, due[-1] + 1)

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return read_rows(answer) == _expected(check)

    def corrupt(self, item: Item, rng: Random) -> str:
        rows = _expected(item.check)
        at = rng.randrange(1, len(rows))
        step, place, minds = rows[at]
        person = rng.choice(item.check["people"])
        before = rows[at - 1][2][person]
        if rng.random() < 0.5:
            del rows[at]
        elif minds[person] != before:
            rows[at] = step, place, minds | {person: before}  # took no notice of the move
        elif minds[person] != place:
            rows[at] = step, place, minds | {person: place}  # took the truth for the belief
        else:
            rows[at] = step + 1, place, minds
        return _answer(rows)

    def solve(self, item: Item) -> str:
        asked = _ASKED.search(item.question)
        assert asked is not None
        events: dict[int, Event] = {int(m[1]): ("go", m[2], m[3]) for m in _ENTERS.finditer(item.context)}
        events |= {int(m[1]): ("move", m[2], m[3], m[5]) for m in _MOVES.finditer(item.context)}
        place = {match[1]: match[2] for match in _PUT.finditer(item.context)}
        where = {match[1]: match[2] for match in _STANDS.finditer(item.context)}
        people = re.split(r", | and ", asked[2])
        if asked[1] not in place or not set(people) <= set(where):
            raise ValueError("the text does not say how it starts")
        return _answer(trace(World(where, place), sorted(events.items()), asked[1], people))


def _build(house: "_House", rng: Random, steps: int, due: list[int]) -> Item:
    lines, events = house.story(rng, steps, due)
    context = "\n".join([RULES, *house.start(), *lines])
    told = [(n, event) for n, event in enumerate(events, 1) if house.matters(event)]
    check = {
        "thing": house.thing,
        "people": house.minds,
        "where": house.starts(told),
        "place": house.place[house.thing],
        "events": [[step, *event] for step, event in told],
    }
    rows = _expected(check)
    columns = " | ".join(f"{person}: CONTAINER" for person in house.minds)
    return Item(
        context=context,
        question=QUESTION.format(
            thing=house.thing, people=_listed(house.minds), columns=columns, example=next(iter(house.room_of))
        ),
        answer=_answer(rows),
        check=check,
        evidence=_evidence(context, house, told),
        details={"steps": steps, "moves": len(rows) - 1, "false_beliefs": sum(_false(row) for row in rows)},
    )


class _House:
    """Who and what is where at the start, and what happens then."""

    def __init__(self, rng: Random, split: str, minds: int) -> None:
        self.rooms = rng.sample(ROOMS, 4)
        names = rng.sample([f"{colour} {kind}" for kind in CONTAINERS for colour in COLOURS], 12)
        self.room_of = {name: self.rooms[n % 4] for n, name in enumerate(names)}  # three containers a room
        people = [word.capitalize() for word in words(rng, split, minds + 5)]
        self.at = {person: rng.choice(self.rooms) for person in people}
        self.place = {thing: rng.choice(names) for thing in rng.sample(THINGS, 6)}
        self.thing = rng.choice(sorted(self.place))
        self.minds = rng.sample(sorted(self.at), minds)

    def start(self) -> list[str]:
        inside = [
            f"In the {room} there are the {_listed([name for name, at in self.room_of.items() if at == room], 'the ')}."
            for room in self.rooms
        ]
        put = [f"The {thing} is in the {container}." for thing, container in self.place.items()]
        return [*inside, *put, *(f"{person} is in the {room}." for person, room in self.at.items())]

    def story(self, rng: Random, steps: int, due: list[int]) -> tuple[list[str], list[Event]]:
        """Lines and events of that many steps. From the steps `due` on, somebody moves the thing as soon as there is
        somebody in its room."""
        world, lines, events, waiting = World(dict(self.at), dict(self.place)), list[str](), list[Event](), set(due)
        near = {step - lead for step in due for lead in (1, 2, 3)}  # followed people walk only before a move
        for step in range(1, steps + 1):
            moving = any(one <= step for one in waiting)
            if moving and (movers := self._present(world, self.thing)):
                waiting.remove(min(waiting))
                event = self._move(rng, world, rng.choice(movers), self.thing)
            else:
                event = self._something(rng, world, moving, step in near)
            lines.append(f"{step}. {_told(event, world)}")
            world.step(event)
            events.append(event)
        return lines, events

    def _something(self, rng: Random, world: World, needed: bool, near: bool) -> Event:
        """A walk (where somebody is `needed`, into the room of the thing) or a move of another thing."""
        followed = near and rng.random() < 0.6
        walker = rng.choice(self.minds if followed else [person for person in self.at if person not in self.minds])
        room = self.room_of[world.place[self.thing]]
        if needed:
            return "go", walker, room
        possible = [
            (mover, thing) for thing in self.place if thing != self.thing for mover in self._present(world, thing)
        ]
        if not followed and possible and rng.random() < 0.5:
            return self._move(rng, world, *rng.choice(possible))
        if followed and rng.random() < 0.5 and world.where[walker] != room:
            return "go", walker, room
        return "go", walker, rng.choice([other for other in self.rooms if other != world.where[walker]])

    def _present(self, world: World, thing: str) -> list[str]:
        return [person for person, room in world.where.items() if room == self.room_of[world.place[thing]]]

    def _move(self, rng: Random, world: World, mover: str, thing: str) -> Event:
        room = self.room_of[world.place[thing]]
        here = [name for name, at in self.room_of.items() if at == room and name != world.place[thing]]
        return "move", mover, thing, rng.choice(here)

    def matters(self, event: Event) -> bool:
        """Does the trace depend on it? Moves of the thing, and the ways of the people followed."""
        return event[2] == self.thing if event[0] == "move" else event[1] in self.minds

    def starts(self, told: list[tuple[int, Event]]) -> dict[str, str]:
        """Where the people of these events are at first. The thing never leaves its room, so that whoever moves it is
        there, by a way that is not among the events unless he is followed."""
        room = self.room_of[self.place[self.thing]]
        return {person: room for _, (_, person, *_) in told} | {person: self.at[person] for person in self.minds}


def _told(event: Event, world: World) -> str:
    if event[0] == "go":
        return f"{event[1]} goes to the {event[2]}."
    return f"{event[1]} moves the {event[2]} from the {world.place[event[2]]} to the {event[3]}."


def _listed(names: list[str], article: str = "") -> str:
    *most, last = names
    return f"{f', {article}'.join(most)} and {article}{last}" if most else last


def _evidence(context: str, house: _House, told: list[tuple[int, Event]]) -> tuple[tuple[int, int], ...]:
    """The lines the trace follows from, in their order."""
    lines = {f"{step}." for step, _ in told}
    starts = {f"The {house.thing} is in the {house.place[house.thing]}."}
    starts |= {f"{person} is in the {house.at[person]}." for person in house.minds}
    found, at = [], 0
    for line in context.split("\n"):
        if line in starts or line.partition(" ")[0] in lines:
            found.append((at, at + len(line)))
        at += len(line) + 1
    return tuple(found)


def _expected(check: Mapping[str, Any]) -> list[Row]:
    events = [(int(step), tuple(event)) for step, *event in check["events"]]
    world = World(dict(check["where"]), {check["thing"]: check["place"]})
    return trace(world, events, check["thing"], list(check["people"]))


def _false(row: Row) -> int:
    return sum(mind != row[1] for mind in row[2].values())


def _answer(rows: list[Row]) -> str:
    lines = [
        " | ".join([f"step {step}", place, *(f"{person}: {mind}" for person, mind in minds.items())])
        for step, place, minds in rows
    ]
    return "\n".join(["<trace>", *lines, "</trace>"])


def read_rows(answer: str) -> list[Row] | None:
    """The rows of an answer; None where a line is none, or there is not exactly one trace."""
    rows: list[Row] = []
    for line in (tagged(answer, "trace") or "").splitlines():
        step, *cells = (cell.strip() for cell in line.split("|"))
        minds = [_CELL.fullmatch(cell) for cell in cells[1:]]
        number = re.fullmatch(r"step (\d{1,7})", step)
        if number is None or not cells or not all(minds):
            return None
        believed = {match[1]: match[2].strip() for match in minds if match}
        if len(believed) < len(minds):  # two answers for one person
            return None
        rows.append((int(number[1]), cells[0], believed))
    return rows or None
