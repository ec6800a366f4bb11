"""Does a text hold an answer, however its case, spacing and punctuation differ? Pure functions on text."""

import re
import unicodedata
from collections import Counter

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_NUMBER = r"(?<![\w.,])-?\d++(?:[.,]\d++)*+(?!\w)"  # 5 is neither -5 nor 3.5
_TOKEN = re.compile(rf"[{_CJK}]|{_NUMBER}|[^\W_{_CJK}]+")


def fold(text: str) -> str:
    """Words and numbers in lower case with one space between them; each CJK character is a word of its own."""
    return " ".join(_TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))


def holds(text: str, answer: str) -> bool:
    """Do the folded words of `answer` stand in `text`, in a row? An answer without any word is held by no text."""
    folded = fold(answer)
    return bool(folded) and f" {folded} " in f" {fold(text)} "


def token_f1(text: str, answer: str) -> float:
    """Harmonic mean of precision and recall of folded words, each as often as it stands (SQuAD's measure, with articles
    kept). 0 where either has none."""
    one, other = Counter(fold(text).split()), Counter(fold(answer).split())
    return 2 * (one & other).total() / (one.total() + other.total()) if one and other else 0.0
