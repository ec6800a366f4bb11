"""Lengths in words, the length a request demands, and how well an answer meets it (LongWriter, arXiv 2408.07055).

A demand is read for training (Minimum Tuning, arXiv 2410.10210): where a text leaves a doubt (two lengths, a range, the
length of each of several parts), there is none.
"""

import re
from collections.abc import Iterator

from filters.numerals import NUMBER, number_value

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]+")
_SPELLED_FROM = 20  # "in two words", "四字成语", "八字" and "十字路口" demand no length

_SPACE = "[ \u00a0\u3000]{0,2}"
_MORE = r"(?:\s?\+|[多余餘来來]| plus| or (?:so|more|less|fewer))?"
_TO = r"(?:[-–—~～－/至到或]+|不超过|不多于|to|and|or|(?:(?:but|and) )?(?:at most|not? more than|up to))"
_LENGTH = rf"(?P<number>{NUMBER}){_MORE}(?P<range>,?{_SPACE}{_TO}{_SPACE}{NUMBER}{_MORE})?"
# What follows "words" or "字" where these are parts of other nouns: word problems, Word files, 字母, 字节, 字符.
_NOUNS = "problem|search|puzzle|game|pair|list|cloud|doc|file|template|table"
_UNIT = (
    rf"(?:{_SPACE}[-‐‑–]?{_SPACE}(?:english )?words?(?![a-z])(?! (?:{_NOUNS}))"
    rf"|{_SPACE}[个個]?(?:字(?![母节節符体體段典幕号號词詞串]|成[语語]|短语)|(?:英[文语語])?[单單][词詞])"
    rf"|{_SPACE}[词詞](?![语語汇彙性典组組条句]))"
)
_DEMANDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        _LENGTH + _UNIT,
        rf"字[数數][^\d，。；,;\n]{{0,10}}?{_LENGTH}(?=\s|$|字|左右|上下|以[上内下]|之[间内]|[，。；,;.)）])",
        rf"(?<![a-z])word (?:count|limit)\W{{0,3}}(?:[a-z]+ ){{0,4}}?{_LENGTH}(?! ?(?:char|page|%))",
    )
)
# Around the length of each of several parts: "each chapter should be 500 words", "每篇400字", "各写1000字", "500字/段".
_EACH_BEFORE = re.compile(
    r"(?<![a-z])(?:each|every|per) (?:[a-z]+ ?[:(,]? ?"
    r"|(?:[a-z]+ ){0,6}(?:be|is|are|has|have|of|with|about|around|approximately|roughly|least|most|over|under|than) ?)$"
    r"|(?:每|各(?![种類类方地国國界位]))[^，。；：！？,\n]{0,8}$",
    re.IGNORECASE,
)
_EACH_AFTER = re.compile(
    r"\s?(?:/\s?[^\W\d]|(?:per|each|apiece|every|a (?:day|week|page|minute)(?! (?:in|of|at|on)))(?![a-z])"
    r"|每|一[篇章段节節])",
    re.IGNORECASE,
)
# "A picture is worth a thousand words"; "the first 500 words" are those of another text.
_OTHERS_BEFORE = re.compile(r"(?<![a-z])(?:worth|says?|speaks?|paints?|tells?|first|last) (?:more than )?$", re.I)
_BEFORE = 80  # characters that are looked at before a number


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
    """The one length a request demands, in words ("1,000 words", "a 1.5k-word essay", "三千字", "字数：800"); a bound
    is one too ("at least 800 words"). None when it names none, two different ones, a range, or that of each part."""
    found = set(_demands(text))
    return found.pop() if len(found) == 1 else None


def _demands(text: str) -> Iterator[int | None]:
    """Every length that a text names; None for one that is not the length of the whole."""
    for pattern in _DEMANDS:
        for match in pattern.finditer(text):
            number, start = match["number"], match.start("number")
            before = text[max(0, start - _BEFORE) : start]
            value = number_value(number)
            spelled = not any(character.isdecimal() for character in number)
            if value == 0 or (value is not None and spelled and value < _SPELLED_FROM and not match["range"]):
                continue
            if _OTHERS_BEFORE.search(before):
                continue
            each = _EACH_BEFORE.search(before) or _EACH_AFTER.match(text, match.end())
            yield None if match["range"] or each else value
