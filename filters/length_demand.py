"""A demand on the length that a given text fulfils, in numbers and words, and whether a request states just that."""

import math
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["about", "range", "above", "below"]
ABOUT = 0.2  # "about n words" is fulfilled within this share of n (LongGen, the paper's benchmark)
_DIGITS = "零一二三四五六七八九"
_VALUE = {digit: value for value, digit in enumerate(_DIGITS)} | {"两": 2, "〇": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?[百千万]?|[{_DIGITS}两〇十百千万]+)"
_SPAN = r"(?:-|–|—|~|～|到|至|和|\s+(?:to|and|or)\s+)"
_LENGTH = re.compile(
    rf"({_NUMBER})(?:\s*(?:words?|个?字))?(?:\s*{_SPAN}\s*({_NUMBER}))?(?:\s*|-)(?:words?\b|个?字)", re.IGNORECASE
)
# Longest first: "no less than" is a lower bound although it holds "less than".
_BOUND = re.compile(
    r"(?P<lower>no(?:t)? (?:less|fewer) than|more than|longer than|at least|exceed\w*|over|above|beyond|minimum|min\.|"
    r"不少于|不低于|超出|多于|大于|至少|以上|(?<!不)超过)"
    r"|(?P<upper>no(?:t)? (?:more|longer) than|(?:not|n['’]t) exceed\w*|less than|fewer than|shorter than|under|below|"
    r"at most|up to|maximum|max\.|不超过|不多于|少于|低于|小于|至多|最多|以内|以下)",
    re.IGNORECASE,
)
_NEAR = 24  # characters before and after a length in which a bound belongs to it


@dataclass(frozen=True, slots=True)
class Demand:
    """`low` alone: about or above; `high` alone: below; both: a range. In words."""

    kind: Kind
    low: int | None
    high: int | None

    @property
    def numbers(self) -> set[int]:
        return {number for number in (self.low, self.high) if number is not None}

    def holds(self, words: int) -> bool:
        """Does a text of that many words do what is asked?"""
        low, high = self.low or 0, self.high or math.inf
        if self.kind == "about":
            return (1 - ABOUT) * low <= words <= (1 + ABOUT) * low
        if self.kind == "range":
            return low <= words <= high
        return low < words < high

    def phrase(self, chinese: bool, numerals: bool) -> str:
        """The demand in English or Chinese, for Chinese with Chinese numerals on demand."""
        if not chinese:
            low, high = (None if n is None else f"{n:,}" for n in (self.low, self.high))
            return {
                "about": f"about {low} words",
                "range": f"between {low} and {high} words",
                "above": f"more than {low} words",
                "below": f"less than {high} words",
            }[self.kind]
        low, high = (
            None if n is None else chinese_numeral(n) if numerals and n < 10_000 else str(n)
            for n in (self.low, self.high)
        )
        return {
            "about": f"约{low}字",
            "range": f"{low}字到{high}字",
            "above": f"多于{low}字",
            "below": f"少于{high}字",
        }[self.kind]


def draw_demand(words: int, kind: Kind, step: int, bounds: tuple[int, int]) -> Demand:
    """A demand of that kind, in multiples of `step` within `bounds`, that a text of `words` words fulfils. Where none
    of that kind is true (3,000 words are not "more than 3,000"), a range around the length."""
    assert bounds[0] <= words <= bounds[1]

    def clipped(number: int) -> int:
        return min(max(number, bounds[0]), bounds[1])

    floor, ceiling = words // step * step, -(-words // step) * step
    wanted = {
        "about": Demand("about", clipped(round(words / step) * step), None),
        "range": Demand("range", clipped(floor), clipped(ceiling if ceiling > floor else floor + step)),
        "above": Demand("above", clipped((words - 1) // step * step), None),
        "below": Demand("below", None, clipped(floor + step)),
    }
    chosen = wanted[kind] if wanted[kind].holds(words) else wanted["range"]
    assert chosen.holds(words)
    return chosen


def states(request: str, demand: Demand) -> bool:
    """Does a request name just the numbers of a demand as its length, and no bound that means something else?"""
    named: set[int] = set()
    bounds: set[str] = set()
    for match in _LENGTH.finditer(request):
        named |= {number_value(number) for number in match.groups() if number}
        around = request[max(0, match.start() - _NEAR) : match.end() + _NEAR]
        bounds |= {bound.lastgroup or "" for bound in _BOUND.finditer(around)}
    allowed: dict[Kind, tuple[set[str], ...]] = {
        "about": (set(),), "range": (set(), {"lower", "upper"}), "above": ({"lower"},), "below": ({"upper"},),
    }  # fmt: skip
    return named == demand.numbers and bounds in allowed[demand.kind]


def chinese_numeral(number: int) -> str:
    """1 to 9999 as it is written, e.g. 2500 -> 两千五百, 105 -> 一百零五."""
    assert 0 < number < 10_000
    text, gap = "", False
    for unit, sign in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, unit)
        if digit:
            text += ("零" if gap and text else "") + ("两" if digit == 2 and unit >= 100 else _DIGITS[digit]) + sign
            gap = False
        else:
            gap = True
    return text.removeprefix("一") if text.startswith("一十") else text


def number_value(text: str) -> int:
    """The value of `2,500`, `2千`, `两千五百` or `一万二千`."""
    match = re.fullmatch(r"([\d,]+(?:\.\d+)?)([百千万]?)", text)
    if match:
        return round(float(match[1].replace(",", "")) * _UNITS.get(match[2], 1))
    total, part, digit = 0, 0, 0
    for sign in text:
        if sign in _VALUE:
            digit = _VALUE[sign]
        elif sign == "万":
            total, part, digit = (part + digit) * 10_000, 0, 0
        else:
            part, digit = part + (digit or 1) * _UNITS[sign], 0
    return total + part + digit
