"""Many-label classification by examples (the rounds of LIConBench, arXiv 2404.02060).

A round holds one example of every label, in an order of its own, so that no label stands last by rule. The labels and
the words that decide are made up: the label of the message asked about can only be learned from the examples.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split, words
from generators.tasks.shaping import Text, check_range, grow, normal

_WORDS = 4  # that point to a label, each to one only
_MESSAGES = (
    "Hello, my {word} stopped working {when}, what should I do about it?",
    "Could you tell me {when} whether the {word} can still be changed?",
    "I asked about the {word} {when}, and nobody has answered.",
    "We would like to order another {word}, if possible {when}.",
    "Please explain to me how the {word} is meant to be used {when}.",
    "My {person} told me {when} that the {word} is not needed any more.",
    "The {word} that came {when} is not the one my {person} asked for.",
    "Is it true that the {word} will cost more {when}?",
    "My {person} lost the {word} {when}, can it be replaced?",
    "Who looks after the {word} {when} while my {person} is away?",
)
_WHEN = (
    "today", "yesterday", "this morning", "last night", "last week", "on Monday", "on Tuesday", "on Wednesday",
    "on Thursday", "on Friday", "at noon", "in the evening", "during the holidays", "in March", "in June", "in October",
    "before lunch", "after the storm", "over the weekend", "two days ago",
)  # fmt: skip
_PERSON = (
    "brother", "sister", "mother", "father", "uncle", "aunt", "neighbour", "colleague", "friend", "teacher", "doctor",
    "landlord", "cousin", "manager", "partner", "student",
)  # fmt: skip
_EXAMPLE = re.compile(r"^Message: (.+)\nLabel: (.+)$", re.MULTILINE)
_ASK = (
    "Which label does the next message get? The examples above show how messages are labelled. Answer with the label "
    "only.\n\nMessage: {message}\nLabel:"
)


@dataclass(frozen=True)
class LabelRounds(VerifiableTask):
    """`labels`: how many there are, drawn between the two; fewer where two rounds of them would not fit."""

    name: ClassVar[str] = "label_rounds"
    targets: ClassVar[tuple[str, ...]] = ("answer", "citations", "passages")  # its evidence has several lines
    labels: Sequence[int] = (20, 170)
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("labels", self.labels, 2, 170)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        wanted = rng.randint(*self.labels)
        drawn = words(rng, self.split, wanted * (_WORDS + 1))
        labels = drawn[:wanted]
        keys = {label: drawn[wanted + n * _WORDS : wanted + (n + 1) * _WORDS] for n, label in enumerate(labels)}
        seed = rng.getrandbits(64)

        def build(examples: int, attempt: int) -> Item:
            few = max(2, min(wanted, examples // 2))
            return _build(Random(f"{seed} {attempt}"), {label: keys[label] for label in labels[:few]}, examples)

        return grow(build, room, least=4)

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return normal(answer) == normal(check["label"])

    def corrupt(self, item: Item, rng: Random) -> str:
        """Another label: half of the time the one seen last, which models favour."""
        seen = [label for _, label in _EXAMPLE.findall(item.context)]
        others: list[str] = [label for label in dict.fromkeys(reversed(seen)) if label != item.answer]
        return others[0] if rng.random() < 0.5 else rng.choice(others)

    def solve(self, item: Item) -> str:
        """By the word that stands in the message and in examples of one label only."""
        labels: dict[str, set[str]] = {}
        for message, label in _EXAMPLE.findall(item.context):
            for word in _parts(message):
                labels.setdefault(word, set()).add(label)
        asked = item.question.rpartition("Message: ")[2].removesuffix("\nLabel:")
        usual = {word for form in (*_MESSAGES, *_WHEN, *_PERSON) for word in _parts(form)}
        found = [labels.get(word, set()) for word in sorted(_parts(asked) - usual)]
        if len(found) != 1 or len(found[0]) != 1:
            raise ValueError("no example tells the label")
        return found[0].pop()


def _build(rng: Random, keys: Mapping[str, Sequence[str]], examples: int) -> Item:
    """`examples` in whole rounds but for the first, which holds what is left over."""
    labels, used = list(keys), set[str]()
    text, spans = Text(), list[tuple[str, str, tuple[int, int]]]()
    for start in range(examples % len(labels) - len(labels), examples, len(labels)):
        order = rng.sample(labels, len(labels))
        for label in order[-start:] if start < 0 else order:
            word = rng.choice(keys[label])
            if spans:
                text.add("\n\n")
            span = text.add(f"Message: {_message(rng, word, used)}\nLabel: {label}")
            spans.append((label, word, span))
    # Any example may be the one that tells: so it stands anywhere in the text, whatever its round.
    label, word, _ = rng.choice(spans)
    evidence = [span for _, other, span in spans if other == word]
    last = max(n for n, (other, _, _) in enumerate(spans) if other == label)
    return Item(
        context=str(text),
        question=_ASK.format(message=_message(rng, word, used)),
        answer=label,
        check={"label": label},
        evidence=tuple(evidence),
        details={
            "labels": len(labels), "rounds": round(examples / len(labels), 2), "examples": examples,
            "examples_since_label": examples - 1 - last, "examples_that_tell": len(evidence),
        },
    )  # fmt: skip


def _message(rng: Random, word: str, used: set[str]) -> str:
    """A message about the word that is not in `used` yet."""
    while True:
        message = rng.choice(_MESSAGES).format(word=word, when=rng.choice(_WHEN), person=rng.choice(_PERSON))
        if message not in used:
            used.add(message)
            return message


def _parts(message: str) -> set[str]:
    return set(re.findall(r"[a-z]+", message.lower()))
