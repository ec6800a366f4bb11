"""Lengths in words, the length a request demands, and how well an answer meets it (LongWriter, arXiv 2408.07055)."""

import re

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]+")
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1_000, "万": 10_000}
_NUMBER_OF_WORDS = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?:\s+|-)words?\b", re.IGNORECASE)
_NUMBER_OF_CHARACTERS = re.compile(
    r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?|[零一二三四五六七八九两十百千]+)\s*([百千万]?)\s*个?字"
)


def words(text: str) -> list[str]:
    """Each CJK character and each run of other letters is a word; digits and punctuation are none."""
    return _WORD.findall(text)


def word_count(text: str) -> int:
    return len(words(text))


def length_score(required: int, produced: int) -> float:
    """S_l in 0..100: 100 when `produced` words equal `required`; 0 from four times as many and from a third as many
    (LongWriter, section 2). An empty answer scores 0. ValueError when `required` is not positive."""
    if required <= 0:
        raise ValueError(f"required words must be positive, not {required}")
    if produced <= 0:
        return 0.0
    if produced > required:
        return 100 * max(0.0, 1 - (produced / required - 1) / 3)
    return 100 * max(0.0, 1 - (required / produced - 1) / 2)


def required_words(text: str) -> int | None:
    """The one length a request demands, in words ("1,000 words", "1000-word", "三千字", "2万字"). None when it names no
    length or two different ones."""
    found = {int(match[1].replace(",", "")) for match in _NUMBER_OF_WORDS.finditer(text)}
    for match in _NUMBER_OF_CHARACTERS.finditer(text):
        found.add(int(_chinese_number(match[1]) * _CHINESE_UNITS.get(match[2], 1)))
    found.discard(0)
    return found.pop() if len(found) == 1 else None


def _chinese_number(text: str) -> float:
    if text[0].isdigit():  # full-width digits too
        return float(text.replace(",", ""))
    total, digit = 0, 0
    for character in text:
        if character in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[character]
        else:
            total += (digit or 1) * _CHINESE_UNITS[character]
            digit = 0
    return total + digit
