"""Does a text hold an answer, however its case, spacing and punctuation differ? Pure functions on text."""

import re
import unicodedata

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def fold(text: str) -> str:
    """Words and numbers in lower case with one space between them; each CJK character is a word of its own."""
    return " ".join(_TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))


def holds(text: str, answer: str) -> bool:
    """Do the folded words of `answer` stand in `text`, in a row? An answer without any word is held by no text."""
    folded = fold(answer)
    return bool(folded) and f" {folded} " in f" {fold(text)} "
