"""Whole numbers as people write them in English and Chinese: "1,000", "1.5k", "two thousand", "三千五", "1万5千"."""

import re
from fractions import Fraction

_UNITS = {
    "十": 10, "百": 100, "千": 1_000, "万": 10_000, "萬": 10_000, "k": 1_000, "w": 10_000,
    "hundred": 100, "thousand": 1_000,
}  # fmt: skip
_GROUPS = ("万", "萬", "w", "thousand")  # multiply all that stands before them: "two hundred thousand", "十五万"
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ENGLISH = {
    **{word: value for value, word in enumerate(_ONES.split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), 2)},
}
_CHINESE = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2, "兩": 2}
_VALUES = {**_ENGLISH, **_CHINESE, "a": 1}

_WORD = "|".join(sorted((*_ENGLISH, "hundred", "thousand"), reverse=True))
_HAN = "零〇一二三四五六七八九两兩十百千万萬"
_DIGITS = r"(?<!\d)(?<!\d[.,])(?:\d{1,3}(?:,\d{3})+|\d{1,9}(?:\.\d{1,3})?)(?!\d|[.,]\d)"
# Twenty pieces at most, none given back: no text takes long to read. "几百", "上千" and "百" alone say no number;
# "第三" and "前500" count something else.
_FIGURES = (
    rf"(?<![A-Za-z第前{_HAN}])(?:{_DIGITS}|[零〇一二三四五六七八九两兩]|(?<![几幾数數])十)"
    rf"(?:[ \u3000]?(?:{_DIGITS}|[{_HAN}]|[kw](?![a-z]))){{0,19}}+(?:[ -](?:hundred|thousand)(?![a-z]))?+"
)
_SPELLED = (
    rf"(?<![A-Za-z-])(?:a(?=[ -](?:hundred|thousand))|(?:{_WORD})(?<!hundred)(?<!thousand))(?![a-z])"
    rf"(?:[ -](?:and (?!(?:{_WORD}) (?:hundred|thousand)))?(?:{_WORD})(?![a-z])){{0,9}}+"
)
NUMBER = rf"(?:{_FIGURES}|{_SPELLED})"  # a pattern, for re.IGNORECASE
_PIECE = re.compile(rf"\d[\d,.]*|{_WORD}|\w")


def number_value(number: str) -> int | None:
    """The value of what NUMBER matched; None where that is no one whole number: "两三千" is two or three thousand."""
    total = section = Fraction(0)
    digit: Fraction | None = None
    last, zero = 0, False
    for piece in _PIECE.findall(number.lower().replace(" and ", " ")):
        if (unit := _UNITS.get(piece)) is not None:
            if piece in _GROUPS:
                total, section = total + (section + (digit or 0)) * unit, Fraction(0)
            else:
                section += (1 if digit is None else digit) * unit
            digit, last = None, unit
        elif piece in ("零", "〇"):
            zero = True
        elif not (piece[0].isdecimal() or piece in _VALUES):
            return None
        else:
            value = Fraction(piece.replace(",", "")) if piece[0].isdecimal() else Fraction(_VALUES[piece])
            if digit is not None and not (piece in _ENGLISH and 20 <= digit <= 90 and 0 < value < 10):
                return None
            digit = value + (digit or 0)
    if digit is not None and digit < 10 and last >= 100 and not zero and not number.isascii():
        digit *= last // 10  # 一千五 is 1500
    total += section + (digit or 0)
    return int(total) if total.denominator == 1 else None
