"""Exams in which some given answers are wrong: name the wrong ones (LongIns, arXiv 2406.17588).

`gist`: the instruction of a kind of question stands once, above all of them. `list`: it stands in every question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.exam_questions import SUBJECTS, gold
from generators.tasks.pools import check_split
from generators.tasks.shaping import Text, check_choices, grow, normal, numbers

FORMS = ("gist", "list")
_ASK = (
    "Above is an exam with the answers that a student gave. Which answers are wrong? Answer with the numbers of these "
    "questions only, in ascending order, separated by commas."
)
_LINE = re.compile(r"^(\d+)\. (.+?) Answer given: (.+)$", re.MULTILINE)
_AGAIN = 8  # draws of a question that has been asked already


@dataclass(frozen=True)
class Exam(VerifiableTask):
    """`wrong`: share of answers that are wrong, at least one. `mixed`: share of exams with questions of all
    `subjects` (these are of the form `list`: an instruction in every question); the others keep to one."""

    name: ClassVar[str] = "exam"
    forms: Sequence[str] = FORMS
    subjects: Sequence[str] = tuple(sorted(SUBJECTS))
    wrong: float = 0.1
    mixed: float = 0.2
    split: str = "train"

    def __post_init__(self) -> None:
        check_choices("forms", self.forms, FORMS)
        check_choices("subjects", self.subjects, SUBJECTS)
        for name, share in (("wrong", self.wrong), ("mixed", self.mixed)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: a share from 0 to 1, not {share!r}")
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        mixed = rng.random() < self.mixed
        subjects = list(self.subjects) if mixed else [rng.choice(self.subjects)]
        form = "list" if mixed else rng.choice(self.forms)
        seed = rng.getrandbits(64)

        def build(items: int, attempt: int) -> Item:
            return self._build(Random(f"{seed} {attempt}"), subjects, form, items)

        # Twice every subject at least: a wrong answer is the right one to another question of its subject.
        return grow(build, room, least=max(5, 2 * len(subjects)))

    def _build(self, rng: Random, subjects: list[str], form: str, items: int) -> Item:
        asked = self._questions(rng, subjects, items)
        given = [answer for _, _, answer in asked]
        wrong = self._wrong(rng, asked)
        for place, answer in wrong.items():
            given[place] = answer
        text = Text()
        if form == "gist":
            text.add(f"{SUBJECTS[subjects[0]].instruction}\n\n")
        spans = []
        for n, (subject, question, _) in enumerate(asked):
            if n:
                text.add("\n")
            instruction = f"{SUBJECTS[subject].instruction} " if form == "list" else ""
            spans.append(text.add(f"{n + 1}. {instruction}{question} Answer given: {given[n]}"))
        answer = ", ".join(str(place + 1) for place in sorted(wrong))
        return Item(
            context=str(text),
            question=_ASK,
            answer=answer,
            check={"numbers": [str(place + 1) for place in sorted(wrong)]},
            evidence=tuple(spans[place] for place in sorted(wrong)),
            details={
                "form": form, "subject": subjects[0] if len(subjects) == 1 else "mixed", "items": items,
                "wrong": len(wrong),
            },
        )  # fmt: skip

    def _questions(self, rng: Random, subjects: list[str], items: int) -> list[tuple[str, str, str]]:
        """(subject, question, right answer), all of this split; none twice where the subject has enough."""
        order = [subjects[n % len(subjects)] for n in range(items)]
        rng.shuffle(order)
        asked, seen = [], set[str]()
        for subject in order:
            for _ in range(_AGAIN):
                question = SUBJECTS[subject].ask(rng, self.split)
                if question not in seen:
                    break
            seen.add(question)
            asked.append((subject, question, gold(subject, question)))
        return asked

    def _wrong(self, rng: Random, asked: list[tuple[str, str, str]]) -> dict[int, str]:
        """Place -> a wrong answer; spread evenly: one place in each of equal parts."""
        answers: dict[str, list[str]] = {}
        for subject, _, right in asked:
            answers.setdefault(subject, []).append(right)
        count = min(len(asked), max(1, round(self.wrong * len(asked))))
        wrong = {}
        for part in range(count):
            place = rng.randrange(part * len(asked) // count, (part + 1) * len(asked) // count)
            subject, question, right = asked[place]
            offered = question.split(", ") if SUBJECTS[subject].among else answers[subject]
            wrong[place] = self._other(rng, subject, right, offered)
        return wrong

    def _other(self, rng: Random, subject: str, right: str, offered: list[str]) -> str:
        """One of the offered answers that is not the right one; where all are alike, that of a fresh question."""
        for _ in range(64):
            if normal(answer := rng.choice(offered)) != normal(right):
                return answer
        while normal(answer := gold(subject, SUBJECTS[subject].ask(rng, self.split))) == normal(right):
            pass
        return answer

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        return sorted(numbers(answer)) == sorted(check["numbers"])

    def corrupt(self, item: Item, rng: Random) -> str:
        """One wrong answer missed, one right answer blamed, or both."""
        wrong = [int(n) for n in item.check["numbers"]]
        right = [n for n in range(1, item.details["items"] + 1) if n not in wrong]
        kind = rng.choice(["missed", "blamed", "both"]) if len(wrong) > 1 else rng.choice(["blamed", "both"])
        if not right:
            kind = "missed"
        if kind != "blamed":
            wrong.remove(rng.choice(wrong))
        if kind != "missed":
            wrong.append(rng.choice(right))
        return ", ".join(map(str, sorted(wrong)))

    def solve(self, item: Item) -> str:
        found = []
        for number, question, given in _LINE.findall(item.context):
            # In the form `gist` the instruction stands above all questions only.
            subject = next(
                name
                for text in (question, item.context)
                for name in SUBJECTS
                if text.startswith(SUBJECTS[name].instruction)
            )
            bare = question.removeprefix(SUBJECTS[subject].instruction).strip()
            if normal(gold(subject, bare)) != normal(given):
                found.append(number)
        return ", ".join(found)
