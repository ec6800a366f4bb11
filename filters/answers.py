"""What to look for in a model's answer: leaked labels, refusals, the wrong script. Pure functions on text."""

import re
import unicodedata
from collections import Counter

from filters.lengths import word_count

_DECORATION = r"[\s#>*_]*"
_NUMBER = r"(?:\d+|[一二三四五六七八九十]+)"
# "Paragraph 3:", "**Paragraph 3 - **", "段落3：", "第三段："; "Paragraph 4 of the treaty" is honest text and stays.
_LABEL = re.compile(
    rf"^{_DECORATION}(?:Paragraph\s+{_NUMBER}|段落\s*{_NUMBER}|第\s*{_NUMBER}\s*段)\**\s*(?:[:：.\-–—]+{_DECORATION}|$)",
    re.IGNORECASE,
)
_PLAN_LINE = re.compile(r"\b(?:Main point|主要内容|要点)\s*[:：].*(?:Word count|字数)\s*[:：]", re.IGNORECASE)
_WORD_COUNT = re.compile(  # at the end of a line
    r"[-–—(（\[* ]{0,8}(?:Word count|字数)\** ?[:：] ?\**(?:about |约)?\d[\d,]* ?(?:words|字)?[*)）\].。]{0,4}\s*$",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b\u200c\u2060\ufeff]")  # not U+200D: emoji and Indic scripts need it

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?\s?a?m\s+)?(?:very\s+)?sorry\b|i\s+(?:apologi[sz]e|can(?:no|['’])?t|am\s+(?:unable|not\s+able))\b"
    r"|as\s+an?\s+(?:ai|language\s+model)\b|unfortunately,?\s+i\b|(?:很?抱歉|对不起|作为一个?(?:AI|人工智能|语言模型)|我无法|我不能))",
    re.IGNORECASE,
)
_DANGLING = re.compile(r"\b(?:the|an|of|between|such as|including)$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\[(?:insert\b[^\]\n]{0,60}|the (?:question|answer))\]", re.IGNORECASE)
REFUSAL_WORDS = 60  # a longer answer that opens with an apology is an answer


def strip_labels(text: str) -> str:
    """A cleaner: removes the plan's labels that leaked into written text ("Paragraph 1:", "段落1：", "- Word count: 90
    words" at a line's end), whole plan lines, and invisible characters; nothing else."""
    lines = []
    for line in _INVISIBLE.sub("", text).split("\n"):
        stripped = _WORD_COUNT.sub("", _LABEL.sub("", line, count=1))
        if _PLAN_LINE.search(line) or (stripped != line and not stripped.strip()):
            continue
        lines.append(stripped)
    return "\n".join(lines).strip()


def is_refusal(text: str) -> bool:
    """True for a short answer that opens by declining."""
    return bool(_REFUSAL.match(text)) and word_count(text) <= REFUSAL_WORDS


def folded(text: str) -> str:
    """Without case, white space as single spaces: for comparing texts."""
    return " ".join(text.casefold().split())


def has_placeholder(text: str) -> bool:
    """Does a text hold a place to be filled in, like "[insert name]"?"""
    return bool(_PLACEHOLDER.search(text))


def is_unfinished(text: str) -> bool:
    """True for a text that stops where more must follow: at a comma, a colon, an opening bracket, a word like "the", in
    a code block, in a JSON value that it began with."""
    text = text.strip().rstrip("*_").rstrip()
    if text.startswith(("{", "[")) and any(text.count(a) > text.count(b) for a, b in ("{}", "[]")):
        return True
    if _DANGLING.search(text[-40:]) and word_count(text) >= 5:
        return True
    return text.endswith((",", ":", ";", "(", "[", "，", "：", "；", "、", "（")) or text.count("```") % 2 == 1


def script(text: str, sample: int = 2000) -> str:
    """The script of most of the letters ("latin", "cjk", "cyrillic", ...; "none" without letters). Unlike a language
    detector it is safe on one short sentence. Looks at `sample` letters spread over the text."""
    letters = [character for character in text if character.isalpha()]
    letters = letters[:: max(1, len(letters) // sample)]
    names: Counter[str] = Counter()
    for character in letters:
        name = unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0].lower()
        names["cjk" if name in ("hiragana", "katakana") else name] += 1
    return names.most_common(1)[0][0] if names else "none"
