"""Exam questions whose answers are computed from the question's own words, so that no answer can be wrong."""

import calendar
import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from generators.tasks.pools import in_split, words

_UNITS = {
    "kilometres": ("metres", 1000), "metres": ("centimetres", 100), "kilograms": ("grams", 1000),
    "hours": ("minutes", 60), "minutes": ("seconds", 60), "days": ("hours", 24), "weeks": ("days", 7),
    "litres": ("millilitres", 1000), "tonnes": ("kilograms", 1000), "dozens": ("pieces", 12),
}  # fmt: skip
_MONTHS = list(calendar.month_name)
_ROMAN = [
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
    (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
]  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """`ask` draws a question of a split; `answer` works it out from its text. `among`: the answer is one of the parts
    of the question, and so must a wrong one be."""

    instruction: str
    ask: Callable[[Random, str], str]
    answer: Callable[[str], str]
    among: bool = False


def gold(subject: str, question: str) -> str:
    """The right answer."""
    return SUBJECTS[subject].answer(question)


def _integers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def _in_split(draw: Callable[[Random], str]) -> Callable[[Random, str], str]:
    """Draws of questions without words: those of the split."""

    def ask(rng: Random, split: str) -> str:
        while not in_split(question := draw(rng), split):
            pass
        return question

    return ask


def _ask_alphabet(rng: Random, split: str) -> str:
    return ", ".join(words(rng, split, 3))


def _ask_sum(rng: Random) -> str:
    a, b = rng.randint(12, 999), rng.randint(12, 999)
    if rng.random() < 0.5:
        return f"{a} + {b}"
    return f"{max(a, b)} - {min(a, b)}"


def _answer_sum(text: str) -> str:
    a, b = _integers(text)
    return str(a + b if "+" in text else a - b)


def _answer_product(text: str) -> str:
    a, b = _integers(text)
    return str(a * b)


def _ask_units(rng: Random) -> str:
    unit = rng.choice(sorted(_UNITS))
    return f"{rng.randint(2, 400)} {unit} in {_UNITS[unit][0]}"


def _answer_units(text: str) -> str:
    (amount,) = _integers(text)
    unit, factor = _UNITS[text.split()[1]]
    return f"{amount * factor} {unit}"


def _ask_weekday(rng: Random) -> str:
    day = datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(73_000))
    return f"{day.day} {_MONTHS[day.month]} {day.year}"


def _date(text: str) -> datetime.date:
    day, month, year = text.split()
    return datetime.date(int(year), _MONTHS.index(month), int(day))


def _ask_days_later(rng: Random) -> str:
    return f"{_ask_weekday(rng)}, {rng.randint(2, 60)} days later"


def _answer_days_later(text: str) -> str:
    start, _, later = text.partition(", ")
    day = _date(start) + datetime.timedelta(days=_integers(later)[0])
    return f"{day.day} {_MONTHS[day.month]} {day.year}"


def _ask_letter(rng: Random, split: str) -> str:
    return f"letter {rng.randint(1, 4)} of {words(rng, split, 1)[0]}"  # the shortest made-up words have four


def _answer_letter(text: str) -> str:
    _, place, _, word = text.split()
    return word[int(place) - 1]


def _answer_roman(text: str) -> str:
    (number,), letters = _integers(text), ""
    for value, symbol in _ROMAN:
        letters += symbol * (number // value)
        number %= value
    return letters


SUBJECTS = {
    "sums": Subject("Work out the result.", _in_split(_ask_sum), _answer_sum),
    "products": Subject(
        "Multiply the two numbers.",
        _in_split(lambda rng: f"{rng.randint(3, 99)} x {rng.randint(3, 99)}"),
        _answer_product,
    ),
    "units": Subject(
        "Convert the amount.",
        _in_split(_ask_units),
        _answer_units,
    ),
    "weekdays": Subject(
        "Name the day of the week.",
        _in_split(_ask_weekday),
        lambda text: calendar.day_name[_date(text).weekday()],
    ),
    "dates": Subject("Name the date that is meant.", _in_split(_ask_days_later), _answer_days_later),
    "largest": Subject(
        "Name the largest of the numbers.",
        _in_split(lambda rng: ", ".join(str(rng.randint(100, 9999)) for _ in range(4))),
        lambda text: str(max(_integers(text))),
        among=True,
    ),
    "alphabet": Subject(
        "Name the word that comes first in the alphabet.",
        _ask_alphabet,
        lambda text: min(text.split(", ")),
        among=True,
    ),
    "letters": Subject("Name the letter of the word.", _ask_letter, _answer_letter),
    "roman": Subject(
        "Write the number in Roman numerals.", _in_split(lambda rng: str(rng.randint(11, 3999))), _answer_roman
    ),
}
