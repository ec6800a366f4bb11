"""Look-ups and threads through a JSON object of UUID pairs (Needle Threading, arXiv 2411.05000; no generator there)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split, uuid
from generators.tasks.shaping import Text, check_choices, check_range, grow, normal, normal_list

KINDS = ("single", "multiple", "conditional", "thread", "threads")
MARKS = "*#@%&"
_PAIR = '"{}": "{}"'
_INTRO = "The text above is a JSON object of key-value pairs."
_ONE = "Answer with the value only."
_MANY = "Answer with the values only, separated by commas, in the order of the keys asked for."
_FOLLOW = (
    "Start at a key; wherever a value is itself a key of the object, go on with the value of that key, until a value "
    "is no key."
)


@dataclass(frozen=True)
class KvThreads(VerifiableTask):
    """`values`: how many keys a `multiple` or `conditional` task asks for. Both kinds of threads lay `threads`
    threads of `length` pairs; `thread` asks for the end of one, `threads` for those of all. A forward thread goes on
    further down the text, a backward one further up. All are drawn between their bounds, and lowered (never below
    the first) until they take at most half of the text."""

    name: ClassVar[str] = "kv_threads"
    kinds: Sequence[str] = KINDS
    directions: Sequence[str] = ("forward", "backward")
    values: Sequence[int] = (2, 6)
    threads: Sequence[int] = (2, 5)
    length: Sequence[int] = (2, 8)
    split: str = "train"

    def __post_init__(self) -> None:
        check_choices("kinds", self.kinds, KINDS)
        check_choices("directions", self.directions, ("forward", "backward"))
        check_range("values", self.values, 2, 100)
        check_range("threads", self.threads, 2, 50)
        check_range("length", self.length, 2, 100)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        kind, direction = rng.choice(self.kinds), rng.choice(self.directions)
        values, threads, length = (rng.randint(*some) for some in (self.values, self.threads, self.length))
        count = threads if kind.startswith("thread") else 1 if kind == "single" else values
        if not kind.startswith("thread"):
            length, direction = 1, ""
        most = room.tokens // (2 * room.tokenizer.count(_PAIR.format(uuid(rng, self.split), uuid(rng, self.split))))
        least = self.threads[0] if kind.startswith("thread") else min(count, self.values[0])
        while count * length > most and (length > self.length[0] or count > least):
            if length > self.length[0]:
                length -= 1
            else:
                count -= 1
        seed = rng.getrandbits(64)

        def build(pairs: int, attempt: int) -> Item:
            return self._build(Random(f"{seed} {attempt}"), kind, direction, count, length, pairs)

        return grow(build, room, least=count * length)

    def _build(self, rng: Random, kind: str, direction: str, count: int, length: int, pairs: int) -> Item:
        keys = [uuid(rng, self.split) for _ in range(pairs)]
        values = [uuid(rng, self.split) for _ in range(pairs)]
        threads = _places(rng, pairs, count, length, direction)
        for thread in threads:
            for here, there in pairwise(thread):
                values[here] = keys[there]
        mark = rng.choice(MARKS)
        if kind == "conditional":
            threads.sort()  # its answer is in the order of the text
            for (place,) in threads:
                cut = rng.randrange(1, 36)
                keys[place] = keys[place][:cut] + mark + keys[place][cut:]
        text = Text()
        text.add("{\n")
        spans = []
        for n, (key, value) in enumerate(zip(keys, values, strict=True)):
            spans.append(text.add(_PAIR.format(key, value)))
            text.add(",\n" if n < pairs - 1 else "\n}")
        asked = threads[:1] if kind == "thread" else threads
        ends = [values[thread[-1]] for thread in asked]
        starts = [f'"{keys[thread[0]]}"' for thread in asked]
        return Item(
            context=str(text),
            question=f"{_INTRO} {_question(kind, starts, mark)}",
            answer=", ".join(ends),
            check={"values": ends, "any_order": kind == "conditional"},
            evidence=tuple(spans[place] for thread in asked for place in thread),
            details={
                "kind": kind, "pairs": pairs, "asked": len(asked), "direction": direction or None,
                "threads": count if direction else None, "thread_length": length if direction else None,
            },
        )  # fmt: skip

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        given, right = normal_list(answer), list(check["values"])
        return sorted(given) == sorted(right) if check["any_order"] else given == right

    def corrupt(self, item: Item, rng: Random) -> str:
        """The value of another pair in place of one asked for; of a thread, most often one that stops too early."""
        wrong = list(item.check["values"])
        place = rng.randrange(len(wrong))
        others = list(dict.fromkeys(re.findall(r': "([^"]+)"', item.context)))
        near = [item.context[start:end].split('"')[3] for start, end in item.evidence]
        found = [value for value in (near if rng.random() < 0.8 else others) if value not in wrong]
        wrong[place] = rng.choice(found or [value for value in others if value not in wrong] or [uuid(rng, self.split)])
        return ", ".join(wrong)

    def solve(self, item: Item) -> str:
        pairs: dict[str, str] = dict(re.findall(r'"([^"]+)": "([^"]+)"', item.context))
        marked = re.search(r"holds the character (.) ", item.question)
        if marked is not None:
            return ", ".join(value for key, value in pairs.items() if marked[1] in key)
        found = []
        for key in re.findall(r'"([^"]+)"', item.question):
            if key not in pairs:
                raise ValueError(f"the text has no key {key}")
            value = pairs[key]
            while _FOLLOW in item.question and value in pairs:
                value = pairs[value]
            found.append(normal(value))
        return ", ".join(found)


def _places(rng: Random, pairs: int, count: int, length: int, direction: str) -> list[list[int]]:
    """Disjoint places for `count` threads of `length` pairs each, in the order they are followed."""
    places = rng.sample(range(pairs), count * length)
    threads = [places[n * length : (n + 1) * length] for n in range(count)]
    return [sorted(thread, reverse=direction == "backward") for thread in threads]


def _question(kind: str, starts: list[str], mark: str) -> str:
    if kind == "single":
        return f"What is the value of the key {starts[0]}? {_ONE}"
    if kind == "multiple":
        return f"What are the values of these keys: {', '.join(starts)}? {_MANY}"
    if kind == "conditional":
        return (
            f"What are the values of all keys in which stands the character {mark} ? Each such key holds the character "
            f"{mark} once. Answer with the values only, separated by commas."
        )
    if kind == "thread":
        return f"{_FOLLOW} At which value do you end from the key {starts[0]}? {_ONE}"
    return f"{_FOLLOW} At which values do you end from these keys: {', '.join(starts)}? {_MANY}"
